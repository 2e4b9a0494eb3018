//! Reads the files that the rules check. Paths are relative to the root of the repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::prose;

/// The folders with sources, and the extensions of source files.
const FOLDERS: &[&str] = &["src", "tests", "bench", "examples", "deploy"];
const EXTENSIONS: &[&str] = &["rs", "py"];

/// Folders whose pages and scripts `prose` checks in addition. Markdown files beside Cargo.toml are
/// checked, too.
const PROSE_FOLDERS: &[&str] = &[".ci", "docs"];

/// Every source file in this repository: its path from the root, and its text.
pub(crate) fn tree() -> BTreeMap<String, String> {
    let is_source = |path: &str| {
        let extension = path.rsplit_once('.').map(|(_, extension)| extension);
        extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    };
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        collect(Path::new(folder), true, &is_source, &mut files);
    }
    files
}

/// Every file whose comments or text `prose` checks: its path from the root, and its text.
pub(crate) fn documents() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_checked = |path: &str| {
        let (_, name) = path.rsplit_once('/').unwrap_or(("", path));
        prose::is_checked(name, || {
            fs::read(root.join(path)).is_ok_and(|bytes| bytes.starts_with(b"#!"))
        })
    };
    let mut files = BTreeMap::new();
    for folder in FOLDERS.iter().chain(PROSE_FOLDERS) {
        collect(Path::new(folder), true, &is_checked, &mut files);
    }
    collect(Path::new(""), false, &is_checked, &mut files);
    files
}

/// Adds the files below `folder`, or only those in it, that `is_wanted` selects by their path.
fn collect(
    folder: &Path,
    is_recursive: bool,
    is_wanted: &impl Fn(&str) -> bool,
    files: &mut BTreeMap<String, String>,
) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A folder of the lists may not exist.
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return;
    };
    for entry in entries.map(|entry| entry.expect("a readable folder")) {
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = folder.join(&name);
        let path_text = path.to_str().expect("a path in UTF-8");
        if entry.file_type().expect("a known type").is_dir() {
            if is_recursive && name != "target" && !name.starts_with('.') {
                collect(&path, true, is_wanted, files);
            }
        } else if is_wanted(path_text) {
            files.insert(path_text.to_owned(), read(path_text));
        }
    }
}

/// The text of a file.
pub(crate) fn read(path: &str) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(full).unwrap_or_else(|error| panic!("{path}: {error}"))
}
