//! Which room may import which, and which names a room may not use. The rules know each room by its
//! name only, not what it contains.

use crate::scan;
use crate::violation;

/// Each room below `src/` with the rooms that it may import. ARCHITECTURE.md quotes these rows.
/// The crate root (`lib.rs`) may import every room, the program (`bin`) only the crate root.
pub(crate) const TABLE: &[(&str, &[&str])] = &[
    ("metrics", &[]),
    ("sys", &["sim"]),
    ("messages", &["sys"]),
    ("buf", &["sys"]),
    ("rt", &["sys", "metrics"]),
    ("engine", &["sys", "buf", "rt", "metrics", "sim"]),
    ("net", &["engine", "rt", "buf", "sys"]),
    ("fs", &["engine", "buf", "sys", "sim"]),
    ("task", &["engine", "rt", "sys", "metrics"]),
    ("process", &["net", "sys"]),
    ("http", &[]),
    (
        "service",
        &["http", "net", "fs", "rt", "buf", "messages", "metrics"],
    ),
    (
        "server",
        &[
            "service", "http", "net", "engine", "rt", "buf", "sys", "messages", "metrics",
        ],
    ),
    ("host", &["server", "service", "engine", "sys"]),
    (
        "client",
        &["service", "http", "task", "net", "engine", "rt", "buf"],
    ),
    (
        "python",
        &[
            "service", "http", "process", "net", "task", "engine", "rt", "sys", "messages",
        ],
    ),
    // Exists with the feature `sim` only; other rooms use it below `#[cfg(feature = "sim")]`.
    (
        "sim",
        &["server", "service", "engine", "rt", "buf", "metrics"],
    ),
];

/// Other rooms may import only the types and traits at the top of this room.
const TYPES_ONLY: &str = "service";

/// The rooms that a rule applies to.
enum Rooms {
    In(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

impl Rooms {
    fn contains(&self, room: &str) -> bool {
        match self {
            Self::In(rooms) => rooms.contains(&room),
            Self::AllBut(rooms) => !rooms.contains(&room),
        }
    }
}

/// Names that rooms may not use, and the invariant of ARCHITECTURE.md that forbids them.
const ABSENT: &[(Rooms, &[&str], &str)] = &[
    (
        Rooms::In(&["http"]),
        &["std::os", "std::fs", "TcpStream", "TcpListener"],
        "no socket: bytes in, events out",
    ),
    (
        Rooms::In(&["http"]),
        &["Instant::now", "SystemTime::now", "std::thread"],
        "no clock: time is an argument",
    ),
    (
        Rooms::In(&["rt"]),
        &["std::os", "std::net", "RawFd", "OwnedFd", "BorrowedFd"],
        "no descriptor: `engine` has them",
    ),
    (
        Rooms::AllBut(&["engine", "sim"]),
        &["io_uring"],
        "no ring: only `engine` uses it",
    ),
    (
        Rooms::In(&[
            "net", "fs", "task", "process", "http", "service", "server", "client",
        ]),
        &["Uring", "uring", "Epoll", "epoll"],
        "rooms above `engine` do not know which engine runs",
    ),
    (
        Rooms::In(&["rt", "task", "http", "service"]),
        &["libc", "rustix"],
        "no system calls: `engine` and `sys` make them",
    ),
    (
        Rooms::In(&["service"]),
        &["h1"],
        "no version of HTTP: `crate::http` has what all versions share",
    ),
    (
        Rooms::AllBut(&["messages", "sim"]),
        &["stderr", "eprintln", "eprint"],
        "a write to standard error may block: call `messages::report`",
    ),
    (
        Rooms::AllBut(&["engine"]),
        &["sigaction", "signal_hook"],
        "no signal handler: a program installs one, or asks `coring::signal` for it",
    ),
    (
        Rooms::In(&["process"]),
        &["Command::new", "CommandExt", "Stdio"],
        "this room decides nothing about a process: its caller makes the command",
    ),
    (
        Rooms::In(&["engine"]),
        &["setup_sqpoll", "LinkTimeout", "IO_LINK"],
        "no SQPOLL and no linked requests: use a timer of `rt`",
    ),
    (
        Rooms::In(&["sys"]),
        &[
            "thread_local",
            "OnceLock",
            "LazyLock",
            "Mutex::new",
            "Mutex::default",
            "RefCell",
        ],
        "no state: return the value and let the caller keep it",
    ),
    (
        Rooms::In(&["buf"]),
        &["impl Send", "impl Sync"],
        "blocks do not leave their thread: copy the bytes",
    ),
];

/// The row of `room` as ARCHITECTURE.md quotes it.
pub(crate) fn row(room: &str, may_import: &[&str]) -> String {
    let list = if may_import.is_empty() {
        "—".to_owned()
    } else {
        may_import.join(" ")
    };
    format!("{room:<8} {list}")
}

/// The import table: every path to another room must be allowed by the row of the file's room.
pub(crate) fn imports(path: &str, text: &str) -> Vec<String> {
    let Some(room) = room(path) else {
        return Vec::new();
    };
    let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == room) else {
        let what = format!("`{room}` has no row; give it one here and in ARCHITECTURE.md");
        return vec![violation(path, 1, "imports", &what)];
    };
    let code = scan::shipped(&scan::code(text));
    // A macro of this crate is at the root, wherever it is defined: `$crate::select!`.
    let is_macro = |at: usize, name: &str| {
        let call = format!("$crate::{name}!");
        at > 0 && code[at - 1..].starts_with(&call)
    };
    let paths = root_paths(path, &code)
        .into_iter()
        .filter(|(at, names)| names[0] != room && !is_macro(*at, names[0]));
    let faults = paths.filter_map(|(at, names)| {
        let what = fault(room, allowed, &names)?;
        Some(violation(path, scan::line_at(&code, at), "imports", &what))
    });
    faults.collect()
}

fn fault(room: &str, allowed: &[&str], names: &[&str]) -> Option<String> {
    let (target, path) = (names[0], names.join("::"));
    if TABLE.iter().all(|(name, _)| *name != target) {
        return Some(format!(
            "`crate::{path}` is no room; name the room that owns the item"
        ));
    }
    if !allowed.contains(&target) {
        let cure = "pass it in, or move the item to a room below both";
        return Some(format!(
            "`{room}` may not import `{target}` (`crate::{path}`); {cure}"
        ));
    }
    let names_type = names
        .get(1)
        .is_some_and(|name| name.starts_with(char::is_uppercase));
    (target == TYPES_ONLY && !names_type)
        .then(|| format!("`crate::{path}`: name a trait or a type at the top of `{TYPES_ONLY}`"))
}

/// The names that the design keeps out of a room.
pub(crate) fn absences(path: &str, text: &str) -> Vec<String> {
    let Some(room) = room(path) else {
        return Vec::new();
    };
    let rows = ABSENT.iter().filter(|(rooms, ..)| rooms.contains(room));
    let code = scan::shipped(&scan::code(text));
    let from_std = paths_from(&code, |_, word| word == "std");
    let mut faults = Vec::new();
    for (_, banned, cure) in rows {
        for name in *banned {
            let mut found: Vec<usize> = whole_matches(&code, name);
            if let Some(module) = name.strip_prefix("std::") {
                let paths = from_std.iter().filter(|(_, names)| names[0] == module);
                found = paths.map(|(at, _)| *at).collect();
            }
            for at in found {
                let what = format!("`{name}` in `{room}`; {cure}");
                faults.push(violation(path, scan::line_at(&code, at), "absences", &what));
            }
        }
    }
    faults
}

/// Refuses `super::super::`, and `use http` for the crate, because a room has that name as well.
pub(crate) fn paths(path: &str, text: &str) -> Vec<String> {
    let code = scan::code(text);
    let words = scan::words(&code);
    let mut faults = Vec::new();
    let mut report = |at, what| {
        faults.push(violation(path, scan::line_at(&code, at), "paths", what));
    };
    for pair in words.windows(2) {
        let [(first_at, first), (at, second)] = [pair[0], pair[1]];
        let between = code[first_at + first.len()..at].trim();
        if (first, second) == ("super", "super") && between == "::" {
            report(at, "`super::super::`; write the path from `crate::`");
        }
        if (first, second) == ("use", "http") && between.is_empty() && path.starts_with("src/") {
            report(
                at,
                "write `::http` for the crate and `crate::http` for the room",
            );
        }
    }
    faults
}

/// The room of a file below `src/`. The crate root, the program and test files have no room.
fn room(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let room = inside.split('/').next()?.trim_end_matches(".rs");
    let is_test = inside.ends_with("/tests.rs") || inside.contains("/tests/");
    (!is_test && !matches!(room, "lib" | "bin")).then_some(room)
}

/// Every path in `code` that starts at the crate's root, with its offset.
fn root_paths<'a>(path: &str, code: &'a str) -> Vec<(usize, Vec<&'a str>)> {
    // In a room's first file, `super` is the crate root, except in an inline module.
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let is_first_file = matches!(parts[..], [_] | [_, "mod.rs"]);
    let inline = scan::inline_modules(code);
    let is_inline = |at| inline.iter().any(|body| body.contains(&at));
    paths_from(code, |at, word| {
        word == "crate" || (word == "super" && is_first_file && !is_inline(at))
    })
}

/// Every path in `code` below a word for which `is_root` is true, with the word's offset. A group
/// (`a::{b, c}`) counts as several paths.
fn paths_from(code: &str, is_root: impl Fn(usize, &str) -> bool) -> Vec<(usize, Vec<&str>)> {
    let mut found = Vec::new();
    for (at, word) in scan::words(code) {
        if is_root(at, word)
            && let Some(rest) = after_colons(code, at + word.len())
        {
            let mut paths = Vec::new();
            tree(code, rest, &mut Vec::new(), &mut paths);
            found.extend(paths.into_iter().map(|path| (at, path)));
        }
    }
    found.retain(|(_, names)| !names.is_empty());
    found
}

/// Reads the path or group at `at`, pushes each path that it names to `out`, and returns the offset
/// behind it.
fn tree<'a>(
    code: &'a str,
    at: usize,
    prefix: &mut Vec<&'a str>,
    out: &mut Vec<Vec<&'a str>>,
) -> usize {
    let at = skip_space(code, at);
    match code.as_bytes().get(at) {
        Some(b'{') => {
            let close = scan::block_end(code, at) - 1;
            let mut next = skip_space(code, at + 1);
            while next < close {
                next = tree(code, next, prefix, out);
                // Skips `as name` and the comma.
                next = code[next..close]
                    .find(',')
                    .map_or(close, |comma| next + comma + 1);
                next = skip_space(code, next);
            }
            close + 1
        }
        Some(b'*') => {
            out.push([prefix.as_slice(), &["*"]].concat());
            at + 1
        }
        _ => {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let end = code[at..]
                .find(|c| !is_word(c))
                .map_or(code.len(), |n| at + n);
            let depth = prefix.len();
            if end > at && &code[at..end] != "self" {
                prefix.push(&code[at..end]);
            }
            let end = match after_colons(code, end) {
                Some(rest) if end > at => tree(code, rest, prefix, out),
                _ => {
                    out.push(prefix.clone());
                    end
                }
            };
            prefix.truncate(depth);
            end
        }
    }
}

fn after_colons(code: &str, at: usize) -> Option<usize> {
    let at = skip_space(code, at);
    code[at..]
        .starts_with("::")
        .then(|| skip_space(code, at + 2))
}

fn skip_space(code: &str, at: usize) -> usize {
    at + code[at..].len() - code[at..].trim_start().len()
}

fn whole_matches(code: &str, name: &str) -> Vec<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let matches = code.match_indices(name).map(|(at, _)| at);
    let whole = matches.filter(|at| {
        !code[..*at].ends_with(is_word) && !code[at + name.len()..].starts_with(is_word)
    });
    whole.collect()
}
