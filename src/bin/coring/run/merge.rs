//! The sources of settings, from the one that counts most to the one that counts least: what each
//! has set becomes flags of coring's.

use std::collections::HashSet;
use std::env;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};
use coring::python::{Options, Value, find_interpreter, read_settings};

use super::class::Class;
use super::convert::{self, Effect, Place};
use super::settings::{SettingsError, Settled};
use super::table::{self, Family, Row, TakesValue, Tier};
use super::words::split;
use super::{RunError, launcher};

/// The variable of gunicorn and uvicorn that has the number of workers.
const WORKERS: &str = "WEB_CONCURRENCY";

/// A flag that a source has set.
#[derive(Debug)]
pub(super) struct Word {
    /// The id of the flag.
    pub(super) id: String,
    pub(super) text: String,
    pub(super) source: String,
    pub(super) name: String,
    pub(super) is_of_file: bool,
}

/// The variable with flags of gunicorn's.
pub(super) const GUNICORN_VARIABLE: &str = "GUNICORN_CMD_ARGS";

/// The sources so far.
pub(super) struct Merge<'a> {
    root: &'a Command,
    pub(super) run: Command,
    rows: &'a [Row],
    /// The ids of the flags that have been set.
    pub(super) set: HashSet<String>,
    place: Place,
    /// The first source with a part of the address that counts.
    placed: Option<String>,
    pub(super) words: Vec<Word>,
    pub(super) settled: Settled,
}

/// Where a setting stands.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    name: &'a str,
    is_file: bool,
}

impl<'a> Merge<'a> {
    pub(super) fn new(root: &'a Command, rows: &'a [Row]) -> Self {
        let mut built = root.clone();
        built.build();
        let run = built.find_subcommand("run").expect("is declared").clone();
        Self {
            root,
            run,
            rows,
            set: HashSet::new(),
            place: Place::default(),
            placed: None,
            words: Vec::new(),
            settled: Settled::default(),
        }
    }

    pub(super) fn command_line(&mut self, typed: &ArgMatches) -> Result<(), SettingsError> {
        for argument in self.run.get_arguments() {
            let id = argument.get_id().as_str();
            let source = typed.value_source(id);
            if matches!(
                source,
                Some(ValueSource::CommandLine | ValueSource::EnvVariable)
            ) {
                self.set.insert(id.to_owned());
            }
        }
        self.foreign(typed, "the command line")?;
        self.judge(typed);
        self.end_source("the command line");
        Ok(())
    }

    /// Notes whether a flag is used that gunicorn has, and neither coring nor uvicorn.
    fn judge(&mut self, matches: &ArgMatches) {
        let longs = |family| {
            let rows = self.rows.iter().filter(move |row| row.family == family);
            rows.flat_map(Row::longs)
        };
        let is_only_gunicorn = |long: &&str| {
            self.is_hidden(long) && !longs(Family::Uvicorn).any(|other| other == *long)
        };
        let is_used = |long: &&str| matches.value_source(long) == Some(ValueSource::CommandLine);
        let used = longs(Family::Gunicorn)
            .filter(is_only_gunicorn)
            .find(is_used);
        let has_class = is_used(&"worker_class")
            && matches.get_one::<Class>("worker_class") != Some(&Class::Auto);
        // The class is `coring.pywsgi`'s then, and no choice of a user.
        let is_attached = matches.get_one::<i32>("attach").is_some();
        if let Some(used) = has_class.then_some("worker-class").or(used)
            && !is_attached
        {
            self.settled.profile.choose_gunicorn(&format!("--{used}"));
        }
    }

    /// The settings that stand in flags which coring does not have.
    fn foreign(&mut self, matches: &ArgMatches, source: &str) -> Result<(), SettingsError> {
        let source = Source {
            name: source,
            is_file: false,
        };
        for row in self.rows {
            for flag in row.flags.iter().filter(|flag| flag.name.starts_with("--")) {
                let id = flag.name.trim_start_matches('-');
                if matches.try_contains_id(id).is_err()
                    || matches.value_source(id) != Some(ValueSource::CommandLine)
                    || !self.is_hidden(id)
                {
                    continue;
                }
                let value = match flag.value {
                    TakesValue::No => {
                        Value::Bool(!flag.name.starts_with("--no-") || row.flags.len() == 1)
                    }
                    _ => {
                        let values = matches.get_many::<String>(id).into_iter().flatten();
                        let values: Vec<String> = values.cloned().collect();
                        match self.is_list(row) {
                            true => Value::List(values),
                            false => Value::Text(values.last().cloned().unwrap_or_default()),
                        }
                    }
                };
                self.take(row, flag.name, &value, source)?;
            }
        }
        Ok(())
    }

    /// Whether a flag that is repeated adds a value. Of the parts of the one address, `--host` and
    /// `--port`, the last counts.
    fn is_list(&self, row: &Row) -> bool {
        let mut arguments = self.run.get_arguments();
        let long = row.becomes();
        let found = arguments.find(|argument| argument.get_long() == long && long.is_some());
        !convert::is_part_of_address(row)
            && found.is_some_and(|argument| matches!(argument.get_action(), ArgAction::Append))
    }

    fn is_hidden(&self, id: &str) -> bool {
        let mut arguments = self.run.get_arguments();
        arguments.any(|argument| argument.get_id() == id && argument.is_hide_set())
    }

    /// The id of coring's flag of this name.
    fn id(&self, long: &str) -> Option<String> {
        table::id_of_long(&self.run, long).filter(|id| !self.is_hidden(id))
    }

    /// `GUNICORN_CMD_ARGS`. Returns what it is parsed to.
    pub(super) fn gunicorn_variable(&mut self) -> Result<Option<ArgMatches>, SettingsError> {
        let Some(text) = variable(GUNICORN_VARIABLE) else {
            return Ok(None);
        };
        let wrong = |why: &str| SettingsError::Usage(format!("{GUNICORN_VARIABLE}: {why}"));
        let arguments = split(&text).ok_or_else(|| wrong("a quotation mark is not closed"))?;
        if arguments.is_empty() {
            return Ok(None);
        }
        let all = ["coring", "run"].map(str::to_owned).into_iter();
        let matches = self.root.clone().try_get_matches_from(all.chain(arguments));
        let matches = matches.map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            wrong(first.strip_prefix("error: ").unwrap_or(first))
        })?;
        let given = matches.subcommand_matches("run").expect("was given");
        self.settled.profile.choose_gunicorn(GUNICORN_VARIABLE);
        self.foreign(given, GUNICORN_VARIABLE)?;
        let run = self.run.clone();
        for argument in run
            .get_arguments()
            .filter(|argument| !argument.is_hide_set())
        {
            let id = argument.get_id().as_str();
            let Some(long) = argument.get_long() else {
                continue;
            };
            if id == "config" || given.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let raw = given.get_raw(id).into_iter().flatten();
            let values: Vec<String> = raw.map(|raw| raw.to_string_lossy().into_owned()).collect();
            let value = match argument.get_action().takes_values() {
                true => Value::List(values),
                false => Value::Bool(true),
            };
            let source = Source {
                name: GUNICORN_VARIABLE,
                is_file: false,
            };
            self.flag(long, long, &value, source);
        }
        self.end_source(GUNICORN_VARIABLE);
        Ok(Some(given.clone()))
    }

    pub(super) fn uvicorn_variables(&mut self) -> Result<(), SettingsError> {
        for row in self.rows.iter().filter(|row| row.family == Family::Uvicorn) {
            let name = format!("UVICORN_{}", row.name.to_uppercase());
            let Some(text) = variable(&name) else {
                continue;
            };
            let is_switch = row.flags.iter().any(|flag| flag.value == TakesValue::No);
            let value = if is_switch {
                Value::Bool(convert::is_true(&text))
            } else if self.is_list(row) {
                Value::List(text.split_whitespace().map(str::to_owned).collect())
            } else {
                Value::Text(text)
            };
            let source = Source {
                name: &name,
                is_file: false,
            };
            let shown = row.flags.last().map_or(row.name, |flag| flag.name);
            self.take(row, shown, &value, source)?;
        }
        if let Some(app) = variable("UVICORN_APP") {
            self.app(app, "UVICORN_APP");
        }
        self.end_source("the environment");
        Ok(())
    }

    pub(super) fn file(&mut self, typed: &ArgMatches, location: &str) -> Result<(), SettingsError> {
        let named = typed.get_one::<PathBuf>("python");
        let interpreter = find_interpreter(named.map(PathBuf::as_path))
            .map_err(|error| SettingsError::Run(RunError::Interpreter(error)))?;
        let mut options = Options::new("");
        options.python.clone_from(&interpreter);
        options.launcher = launcher();
        options.config = Some(location.to_owned());
        let rows = self
            .rows
            .iter()
            .filter(|row| row.family == Family::Gunicorn);
        let names: Vec<&str> = rows.clone().map(|row| row.name).collect();
        let settings = read_settings(&options, &names);
        let settings =
            settings.map_err(|error| SettingsError::Run(RunError::Start(interpreter, error)))?;
        self.settled.is_patched = settings.is_patched;
        self.settled.config = Some(full(location));
        self.settled.profile.choose_gunicorn(location);
        let source = Source {
            name: location,
            is_file: true,
        };
        for (name, value) in &settings.values {
            if let Value::Unknown(meant) = value {
                self.settled.notes.push(match meant.as_str() {
                    "" => format!("{location}: `{name}` is no setting of gunicorn's"),
                    meant => format!(
                        "{location}: `{name}` is no setting of gunicorn's; did you mean {meant}?"
                    ),
                });
                continue;
            }
            let row = rows.clone().find(|row| row.name == name);
            match (row.map(|row| row.name), value) {
                (Some("wsgi_app"), Value::Text(app)) => self.app(app.clone(), location),
                (Some("config"), _) | (None, _) => {}
                (Some(name), value) => self.take(row.expect("is some"), name, value, source)?,
            }
        }
        self.end_source(location);
        Ok(())
    }

    /// Variables that count least, and the defaults of the profile.
    pub(super) fn defaults(&mut self) {
        if let Some(source) = self.placed.take() {
            self.words.push(Word {
                id: "bind".to_owned(),
                text: format!("--bind={}", self.place.address()),
                source,
                name: "host".to_owned(),
                is_of_file: false,
            });
        }
        if let Some(text) = variable(WORKERS) {
            let source = Source {
                name: WORKERS,
                is_file: false,
            };
            self.flag("workers", WORKERS, &Value::Text(text), source);
        }
        for (long, value) in self
            .settled
            .profile
            .defaults(self.set.contains("worker_class"))
        {
            let source = Source {
                name: "the default of gunicorn",
                is_file: false,
            };
            self.flag(long, long, &Value::Text(value.to_owned()), source);
        }
    }

    /// The application, unless there is one.
    fn app(&mut self, app: String, source: &str) {
        if self.set.insert("app".to_owned()) {
            self.words.push(Word {
                id: "app".to_owned(),
                text: app,
                source: source.to_owned(),
                name: "the application".to_owned(),
                is_of_file: false,
            });
        }
    }

    /// Follows a setting of a source, which has it as `shown`.
    fn take(
        &mut self,
        row: &Row,
        shown: &str,
        value: &Value,
        source: Source<'_>,
    ) -> Result<(), SettingsError> {
        let error = |line: String| match source.is_file {
            true => SettingsError::File(line),
            false => SettingsError::Usage(line),
        };
        let note = |text: &str| format!("{}: `{shown}` {text}", source.name);
        match row.tier {
            Tier::Notice if convert::is_default(row, value) => {}
            Tier::Notice => {
                let note = note(&format!("has no effect: {}", row.text));
                // A flag of both tables is taken twice.
                if !self.settled.notes.contains(&note) {
                    self.settled.notes.push(note);
                }
            }
            Tier::Refused if convert::is_default(row, value) => {}
            Tier::Refused => return Err(error(note(&format!("is refused: {}", row.text)))),
            Tier::Honoured | Tier::Mapped => {
                let effect = convert::effect(row, value, &mut self.place);
                match effect.map_err(|why| error(note(&why)))? {
                    Effect::Nothing => {}
                    Effect::Flag(long, value, remark) => {
                        if self.id(long).is_none() {
                            self.settled.notes.push(note("is not honoured yet"));
                        } else {
                            self.flag(long, shown, &value, source);
                        }
                        self.settled.notes.extend(remark.map(note));
                    }
                }
            }
        }
        Ok(())
    }

    /// The address is that of `--host`, `--port` and `--uds`, if none was set before.
    fn end_source(&mut self, source: &str) {
        if self.place.is_given() && self.set.insert("bind".to_owned()) {
            self.placed = Some(source.to_owned());
        }
    }

    /// Sets a flag of coring's, unless it is set already.
    fn flag(&mut self, long: &str, name: &str, value: &Value, source: Source<'_>) {
        let arguments = self.run.get_arguments();
        let Some(argument) = arguments
            .into_iter()
            .find(|arg| arg.get_long() == Some(long))
        else {
            return;
        };
        let id = argument.get_id().to_string();
        if self.set.contains(&id) {
            return;
        }
        let takes_values = argument.get_action().takes_values();
        let texts = match value {
            Value::Bool(true) if !takes_values => vec![format!("--{long}")],
            Value::Bool(_) => {
                let opposite = format!("no-{long}");
                let is_known = self.id(&opposite).is_some();
                is_known
                    .then(|| format!("--{opposite}"))
                    .into_iter()
                    .collect()
            }
            Value::Text(text) if !takes_values => convert::is_true(text)
                .then(|| format!("--{long}"))
                .into_iter()
                .collect(),
            Value::Text(text) => vec![format!("--{long}={text}")],
            Value::List(texts) => texts
                .iter()
                .map(|text| format!("--{long}={text}"))
                .collect(),
            _ => Vec::new(),
        };
        self.words.extend(texts.into_iter().map(|text| Word {
            id: id.clone(),
            text,
            source: source.name.to_owned(),
            name: name.to_owned(),
            is_of_file: source.is_file,
        }));
        self.set.insert(id);
    }
}

/// A variable of the environment that is not empty.
fn variable(name: &str) -> Option<String> {
    let text = env::var_os(name)?.to_string_lossy().into_owned();
    Some(text).filter(|text| !text.is_empty())
}

/// A location that is valid in any directory.
fn full(location: &str) -> String {
    let path = location.strip_prefix("file:").unwrap_or(location);
    match location.starts_with("python:") {
        true => location.to_owned(),
        false => match std::path::absolute(path) {
            Ok(path) => path.to_string_lossy().into_owned(),
            Err(_) => path.to_owned(),
        },
    }
}
