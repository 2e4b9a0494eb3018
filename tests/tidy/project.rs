//! Rules about the whole project: every file is part of a crate, and ARCHITECTURE.md agrees with
//! the sources and with Cargo.toml. The caller passes all texts; no function here reads a file.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports;
use crate::scan;
use crate::shape::UNSAFE_HOMES;
use crate::violation;

/// Every Rust file below `src/` and `tests/` is declared by `mod`, starting from a target of
/// `manifest`.
pub(crate) fn reachable(manifest: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let mut waiting = roots(manifest);
    let mut reached = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if let Some(text) = files.get(&path)
            && reached.insert(path.clone())
        {
            waiting.extend(children(&path, text));
        }
    }
    let ours = |path: &&String| {
        path.ends_with(".rs") && (path.starts_with("src/") || path.starts_with("tests/"))
    };
    let lost = files
        .keys()
        .filter(ours)
        .filter(|path| !reached.contains(*path));
    lost.map(|path| {
        violation(
            path,
            1,
            "reachable",
            "no `mod` leads here; declare or remove it",
        )
    })
    .collect()
}

/// Every row of the import table names a room that exists, and `architecture` quotes the row.
pub(crate) fn import_rows(architecture: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (room, may_import) in imports::TABLE {
        let (folder, file) = (format!("src/{room}/"), format!("src/{room}.rs"));
        if !files
            .keys()
            .any(|path| path.starts_with(&folder) || *path == file)
        {
            let what = format!("`src/` has no room `{room}`; remove the row or add the room");
            faults.push(violation("tests/tidy/imports.rs", 1, "import_rows", &what));
        }
        let row = imports::row(room, may_import);
        if !architecture.lines().any(|line| line.trim_end() == row) {
            let what = format!("a row of tests/tidy/imports.rs is missing; add `{row}`");
            faults.push(violation("ARCHITECTURE.md", 1, "import_rows", &what));
        }
    }
    faults
}

/// Every room has a row in the code map of `architecture` ("| `buf/` | …"). A room that may use
/// `unsafe` has a section whose heading says so ("### `buf/` (unsafe)"), and no other heading does.
pub(crate) fn sections(architecture: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (room, _) in imports::TABLE {
        let row = format!("| `{room}/` |");
        if !architecture.lines().any(|line| line.starts_with(&row)) {
            let what = format!("`{room}` is not in the code map; add a row `{row} … |`");
            faults.push(violation("ARCHITECTURE.md", 1, "sections", &what));
        }
        let begin = format!("### `{room}/`");
        let mut lines = (1..).zip(architecture.lines());
        let heading = lines.find(|(_, line)| line.starts_with(&begin));
        let (number, heading) = heading.unwrap_or((1, ""));
        let folder = format!("src/{room}/");
        let may_be_unsafe = UNSAFE_HOMES.contains(&folder.as_str());
        if heading.contains("unsafe") != may_be_unsafe {
            let what = format!(
                "`{folder}` may use `unsafe`: {may_be_unsafe} (UNSAFE_HOMES in \
                 tests/tidy/shape.rs); say the same in the heading `{begin}`"
            );
            faults.push(violation("ARCHITECTURE.md", number, "sections", &what));
        }
    }
    faults
}

/// Every Rust file that `architecture` names in backticks exists: `state.rs` or `h1/state.rs`.
pub(crate) fn named_files<'a>(
    architecture: &str,
    files: impl Iterator<Item = &'a String> + Clone,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(architecture.lines()) {
        let quoted = line.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| name.ends_with(".rs") && !name.contains(' ')) {
            let end = format!("/{name}");
            let exists = files
                .clone()
                .any(|path| path == name || path.ends_with(&end));
            if !exists {
                let what = format!("there is no file `{name}`; name the file that replaced it");
                faults.push(violation("ARCHITECTURE.md", number, "named_files", &what));
            }
        }
    }
    faults
}

/// The dependency table of `architecture` has a row for each dependency of `manifest`, of every
/// kind, and no other row.
pub(crate) fn dependencies(manifest: &str, architecture: &str) -> Vec<String> {
    let headings = manifest.lines().map(str::trim_end);
    let needed: BTreeSet<_> = headings
        .filter(|line| line.starts_with('[') && line.ends_with("dependencies]"))
        .flat_map(|heading| section(manifest, heading, '['))
        .filter_map(|(_, line)| line.split(['=', '.', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect();
    let explained: BTreeMap<_, _> = section(architecture, "## Dependencies", '#')
        .filter_map(|(number, line)| Some((line.strip_prefix("| `")?.split_once('`')?.0, number)))
        .collect();
    let unexplained = needed
        .iter()
        .filter(|name| !explained.contains_key(*name))
        .map(|name| {
            let what = format!(
                "`{name}` is in Cargo.toml, not in `## Dependencies`; add it with a reason"
            );
            violation("ARCHITECTURE.md", 1, "dependencies", &what)
        });
    let unneeded = explained.iter().filter(|(name, _)| !needed.contains(*name));
    let unneeded = unneeded.map(|(name, number)| {
        let what = format!("`{name}` is not in Cargo.toml; remove the row");
        violation("ARCHITECTURE.md", *number, "dependencies", &what)
    });
    unexplained.chain(unneeded).collect()
}

/// The lines below `heading`, up to the next line that begins with `end`, each with its number in
/// `text`, counted from 1.
fn section<'a>(text: &'a str, heading: &str, end: char) -> impl Iterator<Item = (usize, &'a str)> {
    let lines = (1..).zip(text.lines());
    let below = lines
        .skip_while(move |(_, line)| line.trim_end() != heading)
        .skip(1);
    below.take_while(move |(_, line)| !line.starts_with(end))
}

/// The root files of cargo's targets: `src/lib.rs`, and every `path` in `manifest`.
fn roots(manifest: &str) -> Vec<String> {
    let named = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \""));
    let named = named
        .filter_map(|rest| rest.split_once('"'))
        .map(|(path, _)| path.to_owned());
    named.chain(["src/lib.rs".to_owned()]).collect()
}

/// The files that may contain the modules which `text` declares. `#[path]` is taken into account.
fn children(path: &str, text: &str) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').expect("all files lie in a folder");
    let stem = file.trim_end_matches(".rs");
    let is_folder_file = matches!(stem, "mod" | "lib" | "main") || folder == "tests";
    let home = if is_folder_file {
        folder.to_owned()
    } else {
        format!("{folder}/{stem}")
    };
    let code = scan::code(text);
    let mut found = Vec::new();
    let mut attribute = None;
    let mut item_start = 0;
    for pair in scan::words(&code).windows(2) {
        let [(at, word), (name_at, name)] = [pair[0], pair[1]];
        if word == "path" && code[..at].ends_with("#[") {
            // `code` has no literals, so the value is read from `text`.
            attribute = text[at..].split('"').nth(1);
            item_start = at;
        }
        if word == "mod" && code[name_at + name.len()..].trim_start().starts_with(';') {
            let of_this_item = !code[item_start..at].contains([';', '}']);
            match attribute.take().filter(|_| of_this_item) {
                Some(value) => found.push(format!("{folder}/{value}")),
                None => {
                    found.extend([format!("{home}/{name}.rs"), format!("{home}/{name}/mod.rs")])
                }
            }
        }
    }
    found
}
