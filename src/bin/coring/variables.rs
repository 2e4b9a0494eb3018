//! The variables of the environment whose names begin with `CORING_`: one that is empty, or whose
//! flag is given, counts as unset, an unknown one is reported, and a message about a value names
//! the variable that has it.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};

const PREFIX: &str = "CORING_";

/// The largest number of typing mistakes in a name that another one is suggested for, and how many
/// letters of the name each needs.
const MISTAKES_MAX: usize = 3;
const LETTERS_PER_MISTAKE: usize = 3;

/// `command`, with each flag whose variable does not count as if that were not set. clap takes the
/// variable of a shared flag for the command even if the flag stands before the command.
pub(crate) fn without_ignored(command: Command) -> Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    let reset = |flag: Arg| match flag.get_env().is_some_and(is_empty) || is_given(&flag) {
        true => flag.env(None::<&'static str>),
        false => flag,
    };
    command.mut_args(reset).mut_subcommands(without_ignored)
}

/// A note for each of the variables `set` that has the prefix of coring's and is unknown.
pub(crate) fn unknown(command: &Command, set: impl Iterator<Item = OsString>) -> Vec<String> {
    let known: Vec<String> = flags(command).filter_map(variable).collect();
    let names = set.filter_map(|name| name.into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name))
        .collect();
    names.sort();
    let note = |name: &String| {
        let nearest = known.iter().min_by_key(|known| mistakes(name, known));
        let most = MISTAKES_MAX.min((name.len() - PREFIX.len()) / LETTERS_PER_MISTAKE);
        match nearest.filter(|known| mistakes(name, known) <= most) {
            Some(known) => format!("{name} is no variable of coring's; did you mean {known}?"),
            None => format!("{name} is no variable of coring's; coring --help lists them"),
        }
    };
    names.iter().map(note).collect()
}

/// A message that begins with a flag, with the flag's variable in its place if that has set it.
pub(crate) fn blame(command: &Command, line: String) -> String {
    let word = line.split(' ').next().unwrap_or_default();
    match setter(command, word) {
        Some(variable) => line.replacen(word, &variable, 1),
        None => line,
    }
}

/// The flag that an error of clap's names, and the variable that has set it.
pub(crate) fn blamed(command: &Command, error: &clap::Error) -> Option<(String, String)> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    let (flag, value) = (
        text(ContextKind::InvalidArg)?,
        text(ContextKind::InvalidValue)?,
    );
    let variable = setter(command, flag.split([' ', '=']).next()?)?;
    let set = env::var(&variable).ok()?;
    set.contains(value).then(|| (flag.clone(), variable))
}

/// The variable that has set the flag `long`, unless the command line has it.
fn setter(command: &Command, long: &str) -> Option<String> {
    let name = long.strip_prefix("--")?;
    let flag = flags(command).find(|flag| flag.get_long() == Some(name))?;
    let variable = variable(flag)?;
    let is_set = env::var_os(&variable).is_some_and(|value| !value.is_empty());
    (is_set && !is_given(flag)).then_some(variable)
}

/// Whether the command line has this flag.
fn is_given(flag: &Arg) -> bool {
    let long = flag.get_long().map(|long| format!("--{long}"));
    let short = flag.get_short().map(|short| format!("-{short}"));
    let is_this = |argument: OsString| {
        let argument = argument.to_string_lossy();
        let is_long = |long: &String| {
            let rest = argument.strip_prefix(&**long);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        let is_short = |short: &String| argument.starts_with(&**short);
        long.as_ref().is_some_and(is_long) || short.as_ref().is_some_and(is_short)
    };
    let arguments = env::args_os().skip(1);
    arguments
        .take_while(|argument| argument != "--")
        .any(is_this)
}

/// The flags of a command and of its subcommands.
fn flags(command: &Command) -> Box<dyn Iterator<Item = &Arg> + '_> {
    let below = command.get_subcommands().flat_map(flags);
    Box::new(command.get_arguments().chain(below))
}

fn variable(flag: &Arg) -> Option<String> {
    flag.get_env()?.to_str().map(str::to_owned)
}

/// How many letters must be changed, added or left out to make `one` of `other` (Levenshtein).
fn mistakes(one: &str, other: &str) -> usize {
    let other = other.as_bytes();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, &letter) in one.as_bytes().iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..other.len() {
            let changed = diagonal + usize::from(letter != other[column]);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::flags::Flags;

    #[test]
    fn an_unknown_variable_is_noted_with_the_nearest_name() {
        let set = [
            "CORING_HEADTIMEOUT",
            "CORING_CORES",
            "CORING_PORT",
            "CORING_WORKERS",
            "CORING_COLOUR_OF_THE_BANNER",
            "HOME",
        ];
        let notes = unknown(&Flags::command(), set.map(OsString::from).into_iter());
        let expected = [
            "CORING_COLOUR_OF_THE_BANNER is no variable of coring's; coring --help lists them",
            "CORING_HEADTIMEOUT is no variable of coring's; did you mean CORING_HEAD_TIMEOUT?",
            "CORING_PORT is no variable of coring's; coring --help lists them",
        ];
        assert_eq!(notes, expected);
    }

    #[test]
    fn mistakes_are_counted() {
        for (one, other, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("abc", "abc", 0),
            ("abc", "adc", 1),
            ("abc", "bc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(mistakes(one, other), expected, "{one} {other}");
            assert_eq!(mistakes(other, one), expected, "{other} {one}");
        }
    }
}
