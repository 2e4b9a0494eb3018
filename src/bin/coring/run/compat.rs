//! Flags that coring has because gunicorn or uvicorn have them.

use std::path::{Path, PathBuf};

use ::http::{HeaderName, HeaderValue};
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args};

use super::RunError;
use crate::console;
use crate::flags::AccessLog;

/// Flags as in gunicorn and uvicorn.
#[derive(Debug, Args)]
#[command(next_help_heading = "As in gunicorn and uvicorn, whose other flags work, too")]
pub(crate) struct CompatArgs {
    /// A configuration file of gunicorn's, or python:MODULE [default: gunicorn.conf.py, if there
    /// is one]
    #[arg(short, long, env = "CORING_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<String>,

    /// Set a variable in the environment of the application. May be repeated
    #[arg(short, long = "env", env = "CORING_ENV", value_name = "NAME=VALUE")]
    #[arg(action = ArgAction::Append, value_parser = assignment)]
    pub(crate) environment: Vec<(String, String)>,

    /// Set the variables of a file of lines NAME=VALUE that the environment does not have
    #[arg(long, env = "CORING_ENV_FILE", value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,

    /// Where to log requests: off, - for standard output (also without WHERE), or the path of a
    /// file [default: off; - in the profile of uvicorn]
    #[arg(long, env = "CORING_ACCESS_LOG", value_name = "WHERE")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    #[arg(default_value = "off", hide_default_value = true)]
    pub(crate) access_log: AccessLog,

    /// Where to write messages and the standard error of the application: - for standard error, or
    /// a file
    #[arg(long, env = "CORING_ERROR_LOGFILE", value_name = "WHERE")]
    #[arg(default_value = "-", hide_default_value = true)]
    error_logfile: PathBuf,

    /// A file by which the application's loggers are set up: .json, .yaml, or as fileConfig has it
    #[arg(long, env = "CORING_LOG_CONFIG", value_name = "FILE")]
    pub(crate) log_config: Option<PathBuf>,

    /// A field that is added to each response of the application. May be repeated
    #[arg(long = "header", env = "CORING_HEADER", value_name = "NAME:VALUE")]
    #[arg(action = ArgAction::Append, value_parser = field)]
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,

    /// Check the settings, load the application, and exit: with 0 if all works, else with another
    /// status
    #[arg(long, env = "CORING_CHECK_CONFIG", value_parser = FalseyValueParser::new())]
    pub(crate) check_config: bool,

    /// As --check-config, and print all settings, each with its source
    #[arg(long, env = "CORING_PRINT_CONFIG", value_parser = FalseyValueParser::new())]
    pub(crate) print_config: bool,

    /// Log no requests
    #[arg(long, env = "CORING_NO_ACCESS_LOG", value_parser = FalseyValueParser::new())]
    pub(crate) no_access_log: bool,
}

impl CompatArgs {
    /// The file that takes the place of standard error, if there is one.
    pub(crate) fn error_log(&self) -> Option<PathBuf> {
        Some(self.error_logfile.clone()).filter(|path| path.as_os_str() != "-")
    }

    /// Lets standard error be that file. While the process has privileges that it is to give up, it
    /// does not follow a symbolic link, which others may have put there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn redirect_messages(&self, follows: bool) -> Result<(), RunError> {
        let Some(path) = self.error_log() else {
            return Ok(());
        };
        console::redirect(&path, follows).map_err(|error| {
            let path = path.display();
            RunError::Configuration(format!(
                "the error log {path} cannot be opened: {error}; check the path and its permissions"
            ))
        })
    }

    /// The variables that the application gets.
    ///
    /// # Errors
    /// When a file of them cannot be read.
    pub(crate) fn environment(&self) -> Result<Vec<(String, String)>, RunError> {
        let mut variables = self.environment.clone();
        if let Some(path) = &self.env_file {
            let given = |name: &str| {
                let is_given = self.environment.iter().any(|(other, _)| other == name);
                is_given || std::env::var_os(name).is_some()
            };
            let wrong = |why: String| {
                RunError::Configuration(format!("--env-file {}: {why}", path.display()))
            };
            let read = read_variables(path).map_err(wrong)?;
            variables.extend(read.into_iter().filter(|(name, _)| !given(name)));
        }
        Ok(variables)
    }
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("give it as NAME:VALUE")?;
    let name = name.trim().parse();
    let name = name.map_err(|_| "the name has a character that no field name has".to_owned())?;
    let value = HeaderValue::from_str(value.trim());
    let value = value.map_err(|_| "the value has a control character".to_owned())?;
    Ok((name, value))
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give it as NAME=VALUE".to_owned()),
    }
}

/// The variables of a file, the last one of a name.
fn read_variables(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{error}; check the path and its permissions"))?;
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let invalid = || format!("line {} is not NAME=VALUE", index + 1);
        let parts = line
            .split_once('=')
            .map(|(name, value)| (name.trim(), value));
        let (name, value) = parts
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(invalid)?;
        let value = value.trim();
        let quoted = ['"', '\''].into_iter().find_map(|quote| {
            let inner = value.strip_prefix(quote)?;
            inner.split_once(quote).map(|(inner, _)| inner)
        });
        let plain = value.split(" #").next().unwrap_or_default().trim_end();
        let value = quoted.unwrap_or(plain).to_owned();
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_variables_are_read() {
        let path = std::env::temp_dir().join(format!("coring-env-{}", std::process::id()));
        let text = "# a comment\n\nA=1\nexport B = two words # why\nC='x # y'\nD=\"z\"\nE=\n";
        std::fs::write(&path, text).expect("a file");
        let variables = read_variables(&path).expect("is valid");
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "x # y"),
            ("D", "z"),
            ("E", ""),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables, expected);
        for line in ["nonsense", "=x", "export  = x"] {
            std::fs::write(&path, format!("A=1\n{line}\n")).expect("a file");
            let error = read_variables(&path).expect_err(line);
            assert_eq!(error, "line 2 is not NAME=VALUE", "{line}");
        }
        std::fs::remove_file(path).expect("our file");
    }
}
