//! The project as a whole: which files belong to it, and what ARCHITECTURE.md and Cargo.toml say
//! of each other. Files are given as (path, text) pairs; it reads no disk.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports;
use crate::scan;
use crate::violation;

/// Every file below `src/` and `tests/` is reached by `mod` from a root of `manifest`.
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

/// Every row of the import table has its room, quoted as it is in `architecture`.
pub(crate) fn import_rows(architecture: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (room, may_import) in imports::TABLE {
        let (folder, file) = (format!("src/{room}/"), format!("src/{room}.rs"));
        if !files
            .keys()
            .any(|path| path.starts_with(&folder) || *path == file)
        {
            let what = format!("the row of `{room}` has no room in `src/`; remove one or add one");
            faults.push(violation("tests/tidy/imports.rs", 1, "import_rows", &what));
        }
        let row = imports::row(room, may_import);
        if !architecture.lines().any(|line| line.trim_end() == row) {
            let what = format!("quote the import table as tests/tidy has it: `{row}`");
            faults.push(violation("ARCHITECTURE.md", 1, "import_rows", &what));
        }
    }
    faults
}

/// The dependency table of `architecture` and the dependencies of `manifest`, whatever they are
/// for, are one list.
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
            let what =
                format!("`{name}` is in Cargo.toml and not under `## Dependencies`; say why");
            violation("ARCHITECTURE.md", 1, "dependencies", &what)
        });
    let unneeded = explained.iter().filter(|(name, _)| !needed.contains(*name));
    let unneeded = unneeded.map(|(name, number)| {
        let what = format!("`{name}` is not in Cargo.toml; remove the row");
        violation("ARCHITECTURE.md", *number, "dependencies", &what)
    });
    unexplained.chain(unneeded).collect()
}

/// The lines below `heading` up to the next line that begins with `end`, numbered from 1.
fn section<'a>(text: &'a str, heading: &str, end: char) -> impl Iterator<Item = (usize, &'a str)> {
    let lines = (1..).zip(text.lines());
    let below = lines
        .skip_while(move |(_, line)| line.trim_end() != heading)
        .skip(1);
    below.take_while(move |(_, line)| !line.starts_with(end))
}

/// The files cargo starts from: the library's, and each one that the manifest names.
fn roots(manifest: &str) -> Vec<String> {
    let named = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \""));
    let named = named
        .filter_map(|rest| rest.split_once('"'))
        .map(|(path, _)| path.to_owned());
    named.chain(["src/lib.rs".to_owned()]).collect()
}

/// Where the modules that `text` declares may be, its `#[path]` followed.
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
            // The value is a literal, so it is read from the text itself.
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
