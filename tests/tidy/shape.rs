//! How a file may look: its head, its lengths, its words, its `unsafe`. It refuses to know which
//! room may do what, but for the homes of `unsafe`.

use crate::scan;
use crate::violation;

const LINE_COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 500;
const TEST_FILE_LINES_MAX: usize = 800;

/// The only places where `unsafe` may stand.
const UNSAFE_HOMES: &[&str] = &[
    "src/sys/",
    "src/buf/",
    "src/rt/",
    "src/engine/",
    "src/sim/",
    "bench/",
];

const UNFINISHED_MACROS: &[&str] = &["todo", "unimplemented", "dbg"];
const UNFINISHED_NOTES: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// One word per thing: the word that is out, below which folder, and the one that is in.
const RENAMED: &[(&str, &str, &str)] = &[
    ("shard", "", "worker"),
    ("session", "", "connection"),
    ("handler", "src/", "service"),
];

/// Every file says first what it is and what it refuses to know.
pub(crate) fn head(path: &str, text: &str) -> Vec<String> {
    let what = "open the file with `//!`: what it is and what it refuses to know";
    let missing = path.ends_with(".rs") && !text.starts_with("//!");
    missing
        .then(|| violation(path, 1, "head", what))
        .into_iter()
        .collect()
}

/// A module holds code, not only words about it.
pub(crate) fn empty(path: &str, text: &str) -> Vec<String> {
    let code = scan::code(text);
    let is_code = |line: &str| !line.is_empty() && !line.starts_with("#![");
    let empty = path.ends_with(".rs") && !code.lines().map(str::trim).any(is_code);
    let what = "nothing but docs; remove the file until it has something to hold";
    empty
        .then(|| violation(path, 1, "empty", what))
        .into_iter()
        .collect()
}

/// Columns of a line and lines of a file.
pub(crate) fn lengths(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX {
            let what = format!("{columns} columns, {LINE_COLUMNS_MAX} allowed; break the line");
            faults.push(violation(path, index + 1, "lengths", &what));
        }
    }
    let is_test = path.ends_with("/tests.rs") || path.starts_with("tests/");
    let max = if is_test {
        TEST_FILE_LINES_MAX
    } else {
        FILE_LINES_MAX
    };
    let lines = text.lines().count();
    if lines > max {
        let what = format!("{lines} lines, {max} allowed; split the file where its parts part");
        faults.push(violation(path, lines, "lengths", &what));
    }
    faults
}

/// Lines of a function, from `fn` to its closing brace.
pub(crate) fn functions(path: &str, text: &str) -> Vec<String> {
    let code = scan::code(text);
    let mut faults = Vec::new();
    for pair in scan::words(&code).windows(2) {
        let [(start, keyword), (name_at, name)] = [pair[0], pair[1]];
        let named = keyword == "fn" && code[start + keyword.len()..name_at].trim().is_empty();
        let Some(open) = named.then(|| scan::body_or_end(&code, name_at)).flatten() else {
            continue;
        };
        if code.as_bytes()[open] != b'{' {
            continue;
        }
        let body = &code[start..scan::block_end(&code, open)];
        let lines = body.lines().count();
        if lines > FUNCTION_LINES_MAX {
            let what = format!(
                "`{name}` has {lines} lines, {FUNCTION_LINES_MAX} allowed; name a part of it"
            );
            faults.push(violation(
                path,
                scan::line_at(&code, start),
                "functions",
                &what,
            ));
        }
    }
    faults
}

/// What is not finished: macros, notes in comments, tests switched off.
pub(crate) fn unfinished(path: &str, text: &str) -> Vec<String> {
    // Python has comments of another form; its whole text is looked at.
    let noted = if path.ends_with(".rs") {
        scan::code_and_comments(text)
    } else {
        text.to_owned()
    };
    let mut faults = Vec::new();
    let mut report = |at, word: &str| {
        let what = format!("`{word}`; finish it, or file it as an issue and remove it here");
        faults.push(violation(
            path,
            scan::line_at(&noted, at),
            "unfinished",
            &what,
        ));
    };
    for (at, word) in scan::words(&noted) {
        if UNFINISHED_NOTES.contains(&word) {
            report(at, word);
        }
    }
    let code = if path.ends_with(".rs") {
        scan::code(text)
    } else {
        String::new()
    };
    for (at, word) in scan::words(&code) {
        let rest = &code[at + word.len()..];
        let is_macro = UNFINISHED_MACROS.contains(&word) && rest.starts_with('!');
        if is_macro || (word == "ignore" && code[..at].ends_with("#[")) {
            report(at, word);
        }
    }
    faults
}

/// One word per thing, in every identifier.
pub(crate) fn names(path: &str, text: &str) -> Vec<String> {
    let code = scan::code(text);
    let mut faults = Vec::new();
    for (at, identifier) in scan::words(&code) {
        let parts = parts(identifier);
        for (out, _, cure) in RENAMED
            .iter()
            .filter(|(_, below, _)| path.starts_with(below))
        {
            if parts.iter().any(|part| part.trim_end_matches('s') == *out) {
                let what = format!("`{identifier}`: the word here is `{cure}`, not `{out}`");
                faults.push(violation(path, scan::line_at(&code, at), "names", &what));
            }
        }
    }
    faults
}

/// `unsafe` stands in its homes only, and says why it is sound.
pub(crate) fn unsafety(path: &str, text: &str) -> Vec<String> {
    let code = scan::code(text);
    let words = scan::words(&code);
    let mut faults = Vec::new();
    for (index, &(at, _)) in words
        .iter()
        .enumerate()
        .filter(|(_, (_, word))| *word == "unsafe")
    {
        let line = scan::line_at(&code, at);
        if !UNSAFE_HOMES.iter().any(|home| path.starts_with(home)) {
            let what = "outside its homes; give `sys`, `buf`, `rt` or `engine` a safe function";
            faults.push(violation(path, line, "unsafety", what));
            continue;
        }
        let (next_at, next) = words.get(index + 1).copied().unwrap_or((code.len(), ""));
        let is_block = code[at + "unsafe".len()..next_at]
            .trim_start()
            .starts_with('{');
        let is_pointer = next == "fn" && code[next_at + 2..].trim_start().starts_with('(');
        if !is_pointer && !is_reasoned(text, &code, line, is_block) {
            let what = "no reason given; say above it `// SAFETY:` and the invariant it stands on";
            faults.push(violation(path, line, "unsafety", what));
        }
    }
    faults
}

/// Whether a comment above `line`, or above the statement it continues, says why it is sound.
fn is_reasoned(text: &str, code: &str, line: usize, is_block: bool) -> bool {
    let above = text
        .lines()
        .zip(code.lines())
        .take(line - 1)
        .collect::<Vec<_>>();
    for (line, code) in above.into_iter().rev() {
        let (line, code) = (line.trim(), code.trim());
        if line.contains("SAFETY:") || (!is_block && line.contains("# Safety")) {
            return true;
        }
        let is_comment = line.starts_with("//");
        let is_whole = code.is_empty() || code.ends_with([';', '{', '}', ',']);
        if !is_comment && !code.starts_with("#[") && is_whole {
            return false;
        }
    }
    false
}

/// The words an identifier is made of, in small letters: `HttpSession` is `http`, `session`.
fn parts(identifier: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_small = false;
    for c in identifier.chars() {
        if c == '_' || (c.is_uppercase() && was_small) {
            parts.push(String::new());
        }
        if c != '_' {
            parts
                .last_mut()
                .expect("never empty")
                .extend(c.to_lowercase());
        }
        was_small = c.is_lowercase();
    }
    parts
}
