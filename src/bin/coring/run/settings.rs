//! Merges the settings of a configuration file, of variables and of the command line, with the
//! precedence that gunicorn has: whatever a source sets becomes a flag, unless a source before it
//! has set that flag.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command};

use super::RunError;
use super::effective;
use super::merge::{GUNICORN_VARIABLE, Merge, Word};
use super::profile::Profile;
use super::table;

/// The file that is read without `-c`.
const DEFAULT_FILE: &str = "gunicorn.conf.py";

/// What the sources have set besides flags.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settled {
    /// Whose defaults apply.
    pub(crate) profile: Profile,
    /// The configuration file, by its full path, or `python:MODULE`.
    pub(crate) config: Option<String>,
    /// Whether that lets gevent replace the modules that block.
    pub(crate) is_patched: bool,
    /// Settings that have no effect, a line each.
    pub(crate) notes: Vec<String>,
    /// The ids of the flags that some source has set.
    pub(crate) set: HashSet<String>,
    /// All settings, a line each.
    pub(crate) lines: String,
}

/// Why the settings cannot be followed.
#[derive(Debug)]
pub(crate) enum SettingsError {
    Clap(clap::Error),
    Run(RunError),
    /// A setting of the command line or of a variable: one line.
    Usage(String),
    /// A setting of a file: one line.
    File(String),
}

impl From<clap::Error> for SettingsError {
    fn from(error: clap::Error) -> Self {
        Self::Clap(error)
    }
}

/// A short flag and its value without a space between them. gunicorn takes `-w 2` as one word, as
/// it stands in JSON lists of containers' commands.
fn without_space(word: OsString) -> OsString {
    match word.as_bytes() {
        [b'-', flag, b' ', value @ ..] if flag.is_ascii_alphabetic() => {
            let bytes = [b"-", &[*flag][..], value.trim_ascii_start()].concat();
            OsString::from_vec(bytes)
        }
        _ => word,
    }
}

/// Parses the command line `arguments`, and for `run` all other sources.
///
/// # Errors
/// When a source is invalid, or has a setting that coring refuses.
pub(crate) fn parse(
    root: Command,
    arguments: Vec<OsString>,
) -> Result<(ArgMatches, Settled), SettingsError> {
    let arguments: Vec<OsString> = arguments.into_iter().map(without_space).collect();
    let rows = table::rows();
    let root = table::add_flags(root, &rows);
    let parsed = root.clone().try_get_matches_from(&arguments);
    let matches = parsed.map_err(|error| second_application(error, &arguments))?;
    let Some(typed) = matches.subcommand_matches("run") else {
        return Ok((matches, Settled::default()));
    };
    refuse_two_classes(&root, &arguments)?;
    let mut merge = Merge::new(&root, &rows);
    merge.command_line(typed)?;
    let in_variable = merge.gunicorn_variable()?;
    merge.uvicorn_variables()?;
    let location = location(typed, in_variable.as_ref());
    if let Some((location, _)) = &location {
        merge.file(typed, location)?;
    }
    merge.defaults();
    let Merge {
        run,
        mut words,
        mut settled,
        set,
        ..
    } = merge;
    settled.set = set;
    words.extend(location.and_then(|(location, source)| {
        let source = source?.to_owned();
        let text = format!("--config={location}");
        let [id, name] = ["config"; 2].map(str::to_owned);
        Some(Word {
            id,
            text,
            source,
            name,
            is_of_file: false,
        })
    }));
    let at = 1 + place_of_run(&root, &arguments);
    let mut all = arguments;
    all.splice(at..at, words.iter().map(|word| OsString::from(&word.text)));
    match root.clone().try_get_matches_from(&all) {
        Ok(matches) if settled.set.contains("app") => {
            let effective = matches.subcommand_matches("run").expect("was given");
            settled.lines = effective::lines(&run, effective, &words, &settled.profile);
            Ok((matches, settled))
        }
        Ok(_) => {
            let what = "no application is given: coring run APP, as in coring run main:app";
            Err(SettingsError::Usage(what.to_owned()))
        }
        Err(error) => Err(offender(&root, &words, error)),
    }
}

/// The error of a word that is left over after `run APP`, if it is that: another application, or a
/// value that an equals sign does not tie to its flag.
fn second_application(error: clap::Error, arguments: &[OsString]) -> SettingsError {
    let left_over = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if word == "-" || !word.starts_with('-') => word,
        _ => return error.into(),
    };
    let is_run = arguments.iter().skip(1).any(|word| word == "run");
    if error.kind() != ErrorKind::UnknownArgument || !is_run {
        return error.into();
    }
    let word = left_over.trim_matches('\'');
    let cure = format!("value of --access-log stands after an equals sign: --access-log={word}");
    SettingsError::Usage(match word {
        "-" => format!("a {cure}"),
        _ => format!("`{word}` would be a second application; give one. A {cure}"),
    })
}

/// The last one of a flag counts, but a class of workers is more than a number.
fn refuse_two_classes(root: &Command, arguments: &[OsString]) -> Result<(), SettingsError> {
    let strict = root
        .clone()
        .mut_subcommand("run", |run| run.args_override_self(false));
    let Err(error) = strict.try_get_matches_from(arguments) else {
        return Ok(());
    };
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if flag.starts_with("--worker-class") => {
            let line = "two classes of workers are given; give --worker-class once";
            Err(SettingsError::Usage(line.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The index of the word `run` among the arguments.
fn place_of_run(root: &Command, arguments: &[OsString]) -> usize {
    let is_run = |end: usize| {
        let matches = root.clone().try_get_matches_from(&arguments[..=end]);
        matches.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
    };
    let candidates = (1..arguments.len()).filter(|&at| arguments[at] == "run");
    candidates.into_iter().find(|&at| is_run(at)).unwrap_or(1)
}

/// The error of the word that has caused `error`, as one line.
fn offender(root: &Command, words: &[Word], error: clap::Error) -> SettingsError {
    for word in words {
        let alone = ["coring", "run", &word.text];
        let Err(error) = root.clone().try_get_matches_from(alone) else {
            continue;
        };
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let reason = first.strip_prefix("error: ").unwrap_or(first);
        let line = match word.name == word.source {
            true => format!("{}: {reason}", word.source),
            false => format!("{}: `{}`: {reason}", word.source, word.name),
        };
        return match word.is_of_file {
            true => SettingsError::File(line),
            false => SettingsError::Usage(line),
        };
    }
    SettingsError::Clap(error)
}

/// The configuration file: that of the command line, of `GUNICORN_CMD_ARGS`, or of the directory;
/// and where it is named, unless that is the command line.
fn location(
    typed: &ArgMatches,
    variable: Option<&ArgMatches>,
) -> Option<(String, Option<&'static str>)> {
    let given = |matches: &ArgMatches| matches.get_one::<String>("config").cloned();
    let in_variable = || Some((given(variable?)?, Some(GUNICORN_VARIABLE)));
    given(typed)
        .map(|location| (location, None))
        .or_else(in_variable)
        .or_else(|| {
            // A program that has coring attached says itself what it wants.
            let is_attached = typed.value_source("attach").is_some();
            let is_there = !is_attached && Path::new(DEFAULT_FILE).is_file();
            is_there.then(|| (DEFAULT_FILE.to_owned(), Some("the working directory")))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_before_a_value_is_left_out() {
        for (word, expected) in [
            ("-w 2", "-w2"),
            ("-b  0.0.0.0:80", "-b0.0.0.0:80"),
            ("-w2", "-w2"),
            ("-w", "-w"),
            ("--workers 2", "--workers 2"),
            ("a b", "a b"),
        ] {
            assert_eq!(without_space(word.into()), expected, "{word}");
        }
    }
}
