//! The settings of gunicorn and uvicorn: the tables of docs/settings.md, which say of each what
//! coring does with it. It knows nothing of the values that they have.

use clap::{Arg, ArgAction, Command};

/// The page is what the program follows, so neither can be without the other.
const PAGE: &str = include_str!("../../../../docs/settings.md");

/// Whose setting it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Gunicorn,
    Uvicorn,
}

/// How far coring follows a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// It has the same effect.
    Honoured,
    /// Another flag of coring's has that effect, or one that is close to it.
    Mapped,
    /// It has no effect; the operator is told.
    Notice,
    /// coring does not start.
    Refused,
}

/// A setting.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
    pub(crate) flags: Vec<Flag>,
    /// As Python writes it; empty if it is None, or empty.
    pub(crate) default: &'static str,
    pub(crate) tier: Tier,
    /// The last column: coring's flag, or a reason.
    pub(crate) text: &'static str,
}

/// A flag of gunicorn or uvicorn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// With its dashes.
    pub(crate) name: &'static str,
    pub(crate) value: TakesValue,
}

/// Whether a flag takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakesValue {
    No,
    Yes,
    /// After an equals sign.
    Perhaps,
}

impl Row {
    /// The long name of coring's flag, if the setting becomes one.
    pub(crate) fn becomes(&self) -> Option<&'static str> {
        match self.tier {
            Tier::Honoured | Tier::Mapped => {
                let rest = self.text.strip_prefix("`--")?;
                rest.split_once('`').map(|(name, _)| name)
            }
            Tier::Notice | Tier::Refused => None,
        }
    }

    /// The long names of its flags.
    pub(crate) fn longs(&self) -> impl Iterator<Item = &'static str> {
        let names = self.flags.iter().map(|flag| flag.name);
        names.filter_map(|name| name.strip_prefix("--"))
    }
}

/// All rows of the page.
pub(crate) fn rows() -> Vec<Row> {
    let mut family = Family::Gunicorn;
    let mut rows = Vec::new();
    for line in PAGE.lines() {
        match line {
            "## uvicorn" => family = Family::Uvicorn,
            _ => rows.extend(row(family, line)),
        }
    }
    rows
}

/// The row in a line of the page; none if the line is another one.
fn row(family: Family, line: &'static str) -> Option<Row> {
    let cells = line.strip_prefix('|')?.strip_suffix('|')?;
    let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
    let &[name, flags, default, tier, text] = &cells[..] else {
        return None;
    };
    let tier = match tier {
        "honoured" => Tier::Honoured,
        "mapped" => Tier::Mapped,
        "notice" => Tier::Notice,
        "refused" => Tier::Refused,
        _ => return None,
    };
    let flags = flags.split(", ").filter(|flag| !flag.is_empty());
    Some(Row {
        family,
        name,
        flags: flags.map(|text| flag(text.trim_matches('`'))).collect(),
        default: default.trim_matches('`'),
        tier,
        text,
    })
}

/// `--name`, `--name VALUE` or `--name[=VALUE]`.
fn flag(text: &'static str) -> Flag {
    let (name, value) = if let Some((name, _)) = text.split_once("[=") {
        (name, TakesValue::Perhaps)
    } else if let Some((name, _)) = text.split_once(' ') {
        (name, TakesValue::Yes)
    } else {
        (text, TakesValue::No)
    };
    Flag { name, value }
}

/// Adds the flags of gunicorn and uvicorn that coring has under other names, or not at all, to the
/// command `run` of `root`. Help does not show them. The id of such a flag is its name without
/// dashes.
pub(crate) fn add_flags(root: Command, rows: &[Row]) -> Command {
    let shared: Vec<Arg> = root.get_arguments().cloned().collect();
    // As in gunicorn and uvicorn, the last one of a flag counts.
    root.mut_subcommand("run", |run| {
        add_flags_to_run(run, &shared, rows).args_override_self(true)
    })
}

fn add_flags_to_run(mut run: Command, shared: &[Arg], rows: &[Row]) -> Command {
    for row in rows {
        for flag in &row.flags {
            let native = row.longs().find_map(|long| id_of_long(&run, long));
            let long = flag.name.strip_prefix("--");
            let short = flag.name.chars().nth(1).filter(|_| long.is_none());
            let is_known = |arg: &Arg| {
                let is_long = long.is_some_and(|long| has_long(arg, long));
                is_long || short.is_some() && (arg.get_short() == short || has_short(arg, short))
            };
            if run.get_arguments().chain(shared).any(is_known) {
                continue;
            }
            let is_opposite = flag.name.starts_with("--no-") && row.flags.len() > 1;
            run = match native.filter(|_| !is_opposite) {
                Some(id) => run.mut_arg(id, |arg| match (long, short) {
                    (Some(long), _) => arg.alias(long),
                    (None, Some(short)) => arg.short_alias(short),
                    (None, None) => arg,
                }),
                None => run.arg(hidden(row, flag)),
            };
        }
    }
    run
}

/// A flag that help does not show. A short name comes with the long one that follows it.
fn hidden(row: &Row, flag: &Flag) -> Arg {
    let long = match flag.name.strip_prefix("--") {
        Some(long) => long,
        None => row.longs().next().expect("each flag has a long name"),
    };
    let arg = Arg::new(long).long(long).hide(true);
    let arg = match flag.name.strip_prefix("--") {
        Some(_) => arg,
        None => arg.short(flag.name.chars().nth(1)),
    };
    match flag.value {
        TakesValue::No => arg.action(ArgAction::SetTrue),
        TakesValue::Yes => arg.action(ArgAction::Append),
        TakesValue::Perhaps => arg
            .action(ArgAction::Append)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value(""),
    }
}

/// The id of the flag with this long name.
pub(crate) fn id_of_long(command: &Command, long: &str) -> Option<String> {
    let mut arguments = command.get_arguments();
    let found = arguments.find(|arg| has_long(arg, long));
    found.map(|arg| arg.get_id().to_string())
}

fn has_long(arg: &Arg, long: &str) -> bool {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long() == Some(long) || aliases.contains(&long)
}

fn has_short(arg: &Arg, short: Option<char>) -> bool {
    let aliases = arg.get_all_short_aliases().unwrap_or_default();
    short.is_some_and(|short| aliases.contains(&short))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_page_has_a_row_for_each_setting() {
        let rows = rows();
        let count = |family| rows.iter().filter(|row| row.family == family).count();
        assert_eq!(count(Family::Gunicorn), 120);
        assert!(count(Family::Uvicorn) > 45);
        let find = |name| rows.iter().find(|row| row.name == name).expect(name);
        let workers = find("workers");
        assert_eq!(workers.becomes(), Some("workers"));
        assert_eq!(workers.flags[0].name, "-w");
        assert_eq!(workers.flags[1].value, TakesValue::Yes);
        assert_eq!(find("proxy_protocol").flags[0].value, TakesValue::Perhaps);
        assert_eq!(find("spew").flags[0].value, TakesValue::No);
        assert_eq!(find("keepalive").default, "2");
        assert_eq!(find("daemon").becomes(), None);
    }

    /// A flag that is named in the page and does not exist would be reported to each operator.
    #[test]
    fn the_flags_that_settings_become_exist() {
        let rows = rows();
        let mut root = add_flags(crate::flags::Flags::command(), &rows);
        root.build();
        let run = root.find_subcommand("run").expect("is declared");
        let exists = |long: &str| {
            let mut arguments = run.get_arguments();
            arguments.any(|arg| arg.get_long() == Some(long) && !arg.is_hide_set())
        };
        for long in rows.iter().filter_map(Row::becomes) {
            assert!(exists(long), "--{long}");
        }
    }
}
