//! The settings that apply, as `--print-config` prints them.

use std::collections::BTreeMap;
use std::env;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use coring::python::Forwarded;

use super::merge::Word;
use super::profile::Profile;
use super::proxy::default_proxies;
use crate::plan;

/// The value that applies if no source sets a flag which has no value by itself, and its source.
fn unset(id: &str) -> (String, &'static str) {
    match id {
        "bind" => {
            let port = env::var("PORT").ok().filter(|port| !port.is_empty());
            let source = if port.is_some() {
                "PORT"
            } else {
                "the default"
            };
            // `plan` refuses an invalid port.
            let addresses = plan::addresses(Vec::new(), port.as_deref()).unwrap_or_default();
            (addresses.join(","), source)
        }
        "forwarded_allow_ips" => default_proxies(),
        "forwarder_headers" => {
            let fields = Forwarded::default().forwarder_fields;
            (fields.join(","), "the default")
        }
        _ => ("none".to_owned(), "the default"),
    }
}

/// A line `name = value # source` for each flag of the command `run`, in the order of their names.
pub(crate) fn lines(
    run: &Command,
    matches: &ArgMatches,
    words: &[Word],
    profile: &Profile,
) -> String {
    let mut lines = BTreeMap::new();
    for argument in run
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
    {
        let id = argument.get_id().as_str();
        let name = match argument.get_long() {
            Some("help" | "version" | "check-config" | "print-config") => continue,
            Some(long) => long.replace('-', "_"),
            None => id.to_owned(),
        };
        let raw = matches.get_raw(id).into_iter().flatten();
        let values: Vec<_> = raw.map(|value| value.to_string_lossy()).collect();
        let (value, default) = match values.is_empty() {
            true => unset(id),
            false => (values.join(","), "the default"),
        };
        let word = words.iter().find(|word| word.id == id);
        let source = match (matches.value_source(id), word) {
            (_, Some(word)) => word.source.clone(),
            (Some(ValueSource::CommandLine), None) => "the command line".to_owned(),
            (Some(ValueSource::EnvVariable), None) => {
                let variable = argument.get_env().unwrap_or_default();
                variable.to_string_lossy().into_owned()
            }
            _ => default.to_owned(),
        };
        lines.insert(name, format!("{value} # {source}"));
    }
    let profile = match profile {
        Profile::Gunicorn(used) => format!("gunicorn # {used}"),
        Profile::ByInterface => {
            "uvicorn or coring # by the interface of the application".to_owned()
        }
    };
    lines.insert("profile".to_owned(), profile);
    let lines = lines
        .iter()
        .map(|(name, rest)| format!("{name} = {rest}\n"));
    lines.collect()
}
