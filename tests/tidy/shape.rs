//! Rules about a single file: its module doc, its lengths, its identifiers, its `unsafe`. Which
//! room may import what is checked in `imports`, the words of comments and pages in `prose`.

use crate::scan;
use crate::violation;

const LINE_COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 500;

/// The files that may have more lines than others, each with the reason. A file that holds two
/// subjects is split; a file with one subject, which a split would cut in the middle, goes here.
const LONG_FILES: &[(&str, &str)] = &[
    ("src/fs/tests.rs", "one test for each rule of `Root`"),
    (
        "src/net/tests.rs",
        "one test for each operation of a stream",
    ),
    ("tests/integration/limits.rs", "one test for each limit"),
    (
        "tests/integration/request_bodies.rs",
        "one test for each way to read a body",
    ),
    (
        "tests/python/test_application.py",
        "one test for each way to name an application, and each mistake",
    ),
    (
        "tests/python/test_asgi.py",
        "one test for each rule of ASGI",
    ),
    (
        "tests/python/test_protocol.py",
        "one test for each rule of the link",
    ),
    (
        "tests/python/test_wsgi.py",
        "one test for each rule of PEP 3333",
    ),
    (
        "tests/python/wsgi_app.py",
        "one view for each test of PEP 3333",
    ),
    (
        "tests/simulation/client.rs",
        "one client: its requests, its behaviours and its checks",
    ),
];
const LONG_FILE_LINES_MAX: usize = 800;

/// The only folders whose code may use `unsafe`.
pub(crate) const UNSAFE_HOMES: &[&str] = &[
    "src/sys/",
    "src/buf/",
    "src/rt/",
    "src/engine/",
    "src/sim/",
    "bench/",
];

const UNFINISHED_MACROS: &[&str] = &["todo", "unimplemented", "dbg"];
const UNFINISHED_NOTES: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// One word per thing: a word that identifiers may not contain, the folder in which it is refused,
/// and the word to use instead.
const RENAMED: &[(&str, &str, &str)] = &[
    ("shard", "", "worker"),
    ("session", "", "connection"),
    ("handler", "src/", "service"),
    ("answer", "src/", "response"),
    ("folder", "src/", "directory"),
];

/// Names that other crates have chosen.
const FOREIGN_NAMES: &[&str] = &["on_all_shards"];

/// Every Rust file begins with a module doc.
pub(crate) fn head(path: &str, text: &str) -> Vec<String> {
    let what = "begin the file with `//!`: what it does, and what it leaves to others";
    let missing = path.ends_with(".rs") && !text.starts_with("//!");
    missing
        .then(|| violation(path, 1, "head", what))
        .into_iter()
        .collect()
}

/// A Rust file contains code, not only comments.
pub(crate) fn empty(path: &str, text: &str) -> Vec<String> {
    let code = scan::code(text);
    let is_code = |line: &str| !line.is_empty() && !line.starts_with("#![");
    let empty = path.ends_with(".rs") && !code.lines().map(str::trim).any(is_code);
    let what = "no code; remove the file until it has some";
    empty
        .then(|| violation(path, 1, "empty", what))
        .into_iter()
        .collect()
}

/// Limits the columns of each line, and the lines of the file.
pub(crate) fn lengths(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX {
            let what = format!("{columns} columns, {LINE_COLUMNS_MAX} allowed; break the line");
            faults.push(violation(path, index + 1, "lengths", &what));
        }
    }
    let is_listed = LONG_FILES.iter().any(|(listed, _)| *listed == path);
    let (max, cure) = if is_listed {
        (LONG_FILE_LINES_MAX, "split the file by subject")
    } else {
        let cure = "split the file by subject, or list it with a reason in LONG_FILES of \
                    tests/tidy/shape.rs";
        (FILE_LINES_MAX, cure)
    };
    let lines = text.lines().count();
    if lines > max {
        let what = format!("{lines} lines, {max} allowed; {cure}");
        faults.push(violation(path, lines, "lengths", &what));
    }
    faults
}

/// Every row of `LONG_FILES` names a file that needs it. `lines` returns the lines of a file, and
/// `None` if there is no such file.
pub(crate) fn long_files(lines: impl Fn(&str) -> Option<usize>) -> Vec<String> {
    let needless = LONG_FILES
        .iter()
        .filter(|(path, _)| lines(path).is_none_or(|lines| lines <= FILE_LINES_MAX));
    let faults = needless.map(|(path, _)| {
        let what = format!("`{path}` has no more than {FILE_LINES_MAX} lines; remove its row");
        violation("tests/tidy/shape.rs", 1, "long_files", &what)
    });
    faults.collect()
}

/// Limits the lines of each function, from `fn` to its closing brace.
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
                "`{name}` has {lines} lines, {FUNCTION_LINES_MAX} allowed; extract a function"
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

/// Refuses unfinished code: the macros and notes above, and ignored tests.
pub(crate) fn unfinished(path: &str, text: &str) -> Vec<String> {
    // `scan` reads only Rust, so in other files the code is searched for notes as well.
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

/// Refuses identifiers in Rust that contain a word of `RENAMED`.
pub(crate) fn names(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !path.ends_with(".rs") {
        return faults;
    }
    let code = scan::code(text);
    let ours = |(_, word): &(usize, &str)| !FOREIGN_NAMES.contains(word);
    for (at, identifier) in scan::words(&code).into_iter().filter(ours) {
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

/// `unsafe` is used below `UNSAFE_HOMES` only, each time with a comment why it is sound.
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
            let what = "`unsafe` is not allowed here; call a safe function of `sys`, `buf`, `rt` \
                        or `engine`";
            faults.push(violation(path, line, "unsafety", what));
            continue;
        }
        let (next_at, next) = words.get(index + 1).copied().unwrap_or((code.len(), ""));
        let is_block = code[at + "unsafe".len()..next_at]
            .trim_start()
            .starts_with('{');
        let is_pointer = next == "fn" && code[next_at + 2..].trim_start().starts_with('(');
        if !is_pointer && !is_reasoned(text, &code, line, is_block) {
            let what = "no reason given; write above it `// SAFETY:` and why it is sound";
            faults.push(violation(path, line, "unsafety", what));
        }
    }
    faults
}

/// Whether a comment says why the `unsafe` at `line` is sound. It may be above that line, or above
/// the statement that the line continues.
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

/// The words of an identifier in lower case: `HttpSession` gives `http` and `session`.
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
