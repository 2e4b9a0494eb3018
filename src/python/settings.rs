//! What short-lived processes report: the settings of a configuration file of gunicorn's, which is
//! a program, and whether an application can be loaded.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::body::sealed;
use super::launch::{Launcher, bundle};
use super::marshal::Marshal;
use super::options::Options;
use super::pool::StartError;

/// What a configuration file sets.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Settings {
    /// The names that were asked for and that the file has, and then those that it has in vain.
    pub values: Vec<(String, Value)>,
    /// Whether the file lets gevent replace the modules that block.
    pub is_patched: bool,
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Python's `None`.
    None,
    /// A bool.
    Bool(bool),
    /// A string, a number or the path of a class.
    Text(String),
    /// Several of these.
    List(Vec<String>),
    /// A function, which only Python can call.
    Function,
    /// Anything else, as Python writes it.
    Other(String),
    /// The name is no setting; that which is meant perhaps, or nothing.
    Unknown(String),
}

/// Executes the file of [`Options::config`] in a process, and returns its settings of these
/// `names`. Nothing if no file is given.
///
/// # Errors
/// When the process cannot be started, or the file fails: then its traceback stands on standard
/// error.
pub fn read_settings(options: &Options, names: &[&str]) -> Result<Settings, StartError> {
    let Some(location) = &options.config else {
        return Ok(Settings::default());
    };
    let (reported, status) = ask(options, "settings", |config| {
        config.text("location");
        config.text(location);
        config.text("names");
        config.list(names.len());
        for name in names {
            config.text(name);
        }
    })?;
    parse(&reported).ok_or(StartError::Ended(status))
}

/// Loads the application in a process, which then ends. Returns its interface and the class of the
/// workers that would run it.
///
/// # Errors
/// When the process cannot be started, or the application cannot be loaded: then the reason stands
/// on standard error.
pub fn check(options: &Options) -> Result<String, StartError> {
    let (reported, _) = ask(options, "check", |config| options.write(config))?;
    Ok(String::from_utf8_lossy(&reported).into_owned())
}

/// What a process reports that runs the module `entry`, and its exit status.
fn ask(
    options: &Options,
    entry: &str,
    config: impl FnOnce(&mut Marshal),
) -> Result<(Vec<u8>, ExitStatus), StartError> {
    let (mut output, input) = io::pipe()?;
    let bundle = bundle(entry, |out| {
        config(out);
        out.text("pipe");
        out.int(input.as_raw_fd());
    });
    let input = OwnedFd::from(input);
    let mut launched = Launcher::new(options).start(&sealed(&bundle)?, &input)?;
    drop(input);
    let reported = read_in_time(&mut output, options.start_timeout);
    if reported.is_err() {
        launched.child.kill()?;
    }
    let status = launched.child.wait()?;
    let reported = reported?;
    match status.code() {
        Some(0) => Ok((reported, status)),
        Some(1) => Err(StartError::Worker(1)),
        _ => Err(StartError::Ended(status)),
    }
}

/// Everything that a process writes, at most for `limit`.
fn read_in_time(output: &mut PipeReader, limit: Option<Duration>) -> Result<Vec<u8>, StartError> {
    let began = Instant::now();
    let mut reported = Vec::new();
    loop {
        if let Some(limit) = limit {
            let rest = limit.saturating_sub(began.elapsed());
            let rest = Timespec::try_from(rest).map_err(io::Error::other)?;
            let mut polled = [PollFd::new(output, PollFlags::IN)];
            match poll(&mut polled, Some(&rest)) {
                Ok(0) => return Err(StartError::Late(limit)),
                Err(Errno::INTR) => continue,
                found => found.map_err(io::Error::from)?,
            };
        }
        let mut part = [0; 4096];
        match output.read(&mut part)? {
            0 => return Ok(reported),
            count => reported.extend_from_slice(&part[..count]),
        }
    }
}

/// Settings as `settings.py` writes them. None if something is missing.
fn parse(reported: &[u8]) -> Option<Settings> {
    let text = String::from_utf8_lossy(reported);
    let mut parts = text.split_terminator('\0').map(str::to_owned);
    let mut settings = Settings::default();
    loop {
        let name = parts.next()?;
        let kind = parts.next()?;
        let count = parts.next()?.parse().ok()?;
        let mut values: Vec<String> = parts.by_ref().take(count).collect();
        if values.len() != count {
            return None;
        }
        let is_true = values.first().is_some_and(|value| value == "true");
        if name.is_empty() {
            // The last one has no name.
            settings.is_patched = is_true;
            return Some(settings);
        }
        let value = match kind.as_str() {
            "none" => Value::None,
            "bool" => Value::Bool(is_true),
            "text" => Value::Text(values.pop()?),
            "list" => Value::List(values),
            "function" => Value::Function,
            "unknown" => Value::Unknown(values.pop()?),
            _ => Value::Other(values.pop()?),
        };
        settings.values.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_settings_are_read() {
        let text = "workers|text|1|9|bind|list|2|:1||reload|bool|1|true|on_exit|function|0|\
                    user|none|0|x|unknown|1|||bool|1|true|"
            .replace('|', "\0");
        let settings = parse(text.as_bytes()).expect("is complete");
        assert!(settings.is_patched);
        let expected = [
            ("workers", Value::Text("9".to_owned())),
            ("bind", Value::List(vec![":1".to_owned(), String::new()])),
            ("reload", Value::Bool(true)),
            ("on_exit", Value::Function),
            ("user", Value::None),
            ("x", Value::Unknown(String::new())),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(settings.values, expected);
        for end in [0, 10, 20, text.len() - 7] {
            assert!(parse(&text.as_bytes()[..end]).is_none(), "{end}");
        }
    }
}
