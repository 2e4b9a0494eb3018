//! The house rules as tests. Each rule is a pure function from a file's path and text to its
//! violations; here each is held against the tree, and shown once to fail. What a rule means is
//! said where it is defined; how Rust is read, in `scan`.

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/project.rs"]
mod project;
#[path = "tidy/scan.rs"]
mod scan;
#[path = "tidy/shape.rs"]
mod shape;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

type Rule = fn(path: &str, text: &str) -> Vec<String>;

/// Where our sources are, and what counts as one.
const FOLDERS: &[&str] = &["src", "tests", "bench", "examples", "deploy"];
const EXTENSIONS: &[&str] = &["rs", "py"];

/// One violation as a line to print: where, which rule, what is wrong and how to cure it.
fn violation(path: &str, line: usize, rule: &str, what: &str) -> String {
    format!("{path}:{line}: {rule}: {what}")
}

#[test]
fn imports_follow_the_table() {
    shows(
        "src/http/h1/parse.rs",
        "use std::fmt;\n\nuse crate::net::Listener;",
        imports::imports,
        3,
    );
    shows(
        "src/http/mod.rs",
        "fn f() {\n    crate::metrics::add(1)\n}",
        imports::imports,
        2,
    );
    shows(
        "src/fs/a.rs",
        "use crate::{\n    buf::{self, Pool}, rt::sleep,\n};",
        imports::imports,
        1,
    );
    shows(
        "src/buf/mod.rs",
        "use super::rt::Executor;",
        imports::imports,
        1,
    );
    shows("src/net/a.rs", "use crate::Request;", imports::imports, 1);
    shows(
        "src/server/a.rs",
        "use crate::service::router::Router;",
        imports::imports,
        1,
    );
    shows(
        "src/server/a.rs",
        "use crate::service::{Body, site};",
        imports::imports,
        1,
    );
    shows("src/cellar/a.rs", "struct Wine;", imports::imports, 1);
    passes(
        "src/server/a.rs",
        "use crate::service::{Body, Service as S};",
        imports::imports,
    );
    passes(
        "src/engine/op/a.rs",
        "use super::Op;\nuse crate::{buf::*, rt};",
        imports::imports,
    );
    passes(
        "src/http/mod.rs",
        "// crate::net\nconst A: &str = \"crate::net\";",
        imports::imports,
    );
    passes(
        "src/http/a.rs",
        "#[cfg(test)]\nmod tests { use crate::net::A; }",
        imports::imports,
    );
    passes(
        "src/net/a.rs",
        "mod b { use super::C; }\nuse crate::sys::d;",
        imports::imports,
    );
    holds(imports::imports);
}

#[test]
fn rooms_do_not_know_what_they_refuse_to_know() {
    shows(
        "src/http/date.rs",
        "use std::{fmt, os::fd::OwnedFd};",
        imports::absences,
        1,
    );
    shows(
        "src/http/date.rs",
        "fn f() {\n    let t = Instant::now();\n}",
        imports::absences,
        2,
    );
    shows("src/rt/a.rs", "struct A(OwnedFd);", imports::absences, 1);
    shows(
        "src/server/a.rs",
        "fn f() {\n    eprintln!();\n}",
        imports::absences,
        2,
    );
    shows(
        "src/service/request.rs",
        "use crate::http::h1::Limits;",
        imports::absences,
        1,
    );
    passes(
        "src/engine/a.rs",
        "use std::os::fd::OwnedFd;",
        imports::absences,
    );
    holds(imports::absences);
}

#[test]
fn paths_do_not_climb() {
    shows(
        "src/a/b/c.rs",
        "use a::b;\nuse super::super::d;",
        imports::paths,
        2,
    );
    shows("src/server/a.rs", "use http::Method;", imports::paths, 1);
    passes(
        "src/server/a.rs",
        "use ::http::Method;\nuse super::b;",
        imports::paths,
    );
    holds(imports::paths);
}

#[test]
fn unsafe_stays_at_home_and_says_why() {
    let bare = "fn f() {\n    g();\n    unsafe { h() }\n}";
    let reasoned = "fn f() {\n    // SAFETY: h is sound.\n    let a =\n        unsafe { h() };\n}";
    shows("src/http/a.rs", reasoned, shape::unsafety, 4);
    shows("src/sys/a.rs", bare, shape::unsafety, 3);
    shows(
        "src/sys/a.rs",
        "unsafe impl Send for A {}",
        shape::unsafety,
        1,
    );
    shows(
        "src/sys/a.rs",
        "/// Does it.\npub unsafe fn f() {}",
        shape::unsafety,
        2,
    );
    passes("src/sys/a.rs", reasoned, shape::unsafety);
    passes(
        "src/sys/a.rs",
        "/// # Safety\n/// `p` is valid.\nunsafe fn f() {}",
        shape::unsafety,
    );
    passes(
        "src/rt/a.rs",
        "type Drop = unsafe fn(*mut ());",
        shape::unsafety,
    );
    holds(shape::unsafety);
}

#[test]
fn lines_files_and_functions_are_short() {
    let long_function = format!("fn f() {{\n{}}}", "    g();\n".repeat(69));
    shows(
        "src/a/b.rs",
        &format!("//! A\n{}", "x".repeat(101)),
        shape::lengths,
        2,
    );
    shows("bench/a.py", &"#".repeat(101), shape::lengths, 1);
    shows("src/a/b.rs", &"x\n".repeat(501), shape::lengths, 501);
    shows("src/a/tests.rs", &"x\n".repeat(801), shape::lengths, 801);
    shows(
        "src/a/b.rs",
        &format!("struct A;\n{long_function}"),
        shape::functions,
        2,
    );
    passes("src/a/tests.rs", &"x\n".repeat(800), shape::lengths);
    passes(
        "src/a/b.rs",
        &long_function.replacen("    g();\n", "", 1),
        shape::functions,
    );
    passes(
        "src/a/b.rs",
        "trait A {\n    fn f() -> [u8; 3];\n}",
        shape::functions,
    );
    holds(shape::lengths);
    holds(shape::functions);
}

#[test]
fn files_open_with_what_they_are() {
    shows("src/a/b.rs", "use std::fmt;", shape::head, 1);
    shows(
        "src/a/b.rs",
        "//! What a is.\n#![allow(x)]\n// And this.\n",
        shape::empty,
        1,
    );
    passes("src/a/b.rs", "//! What a is.\n\nstruct A;", shape::head);
    passes("src/a/b.rs", "//! What a is.\n\nstruct A;", shape::empty);
    holds(shape::head);
    holds(shape::empty);
}

#[test]
fn nothing_is_left_unfinished() {
    shows(
        "src/a/b.rs",
        "fn f() {\n    todo!()\n}",
        shape::unfinished,
        2,
    );
    shows("src/a/b.rs", "let a = dbg!(b);", shape::unfinished, 1);
    shows("src/a/b.rs", "// FIXME: all of it", shape::unfinished, 1);
    shows("tests/a.py", "# TODO: all of it", shape::unfinished, 1);
    shows(
        "tests/a.rs",
        "#[test]\n#[ignore]\nfn f() {}",
        shape::unfinished,
        2,
    );
    passes(
        "src/a/b.rs",
        "const A: &str = \"TODO\"; // the ignored rest",
        shape::unfinished,
    );
    holds(shape::unfinished);
}

#[test]
fn one_word_names_one_thing() {
    shows("src/a/b.rs", "struct HttpSession;", shape::names, 1);
    shows("tests/a.rs", "let shards_max = 1;", shape::names, 1);
    shows("src/a/b.rs", "\nfn on_handler() {}", shape::names, 2);
    passes(
        "src/a/b.rs",
        "fn handle(obsession: Worker) {} // a session",
        shape::names,
    );
    passes("tests/a.rs", "fn handler() {}", shape::names);
    holds(shape::names);
}

#[test]
fn every_file_is_declared() {
    let manifest = "[[test]]\npath = \"tests/a.rs\"\n";
    let files = [
        ("src/lib.rs", "mod b;\n#[cfg(test)]\nmod tests;"),
        ("src/b/mod.rs", "pub mod c; mod d { }"),
        ("src/b/c.rs", "mod e; // mod f;"),
        ("src/b/c/e.rs", ""),
        ("src/b/d.rs", ""),
        ("src/tests.rs", ""),
        ("tests/a.rs", "#[path = \"a/g.rs\"]\nmod g;"),
        ("tests/a/g.rs", ""),
    ];
    let files = files
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into();
    let lost = project::reachable(manifest, &files);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0].starts_with("src/b/d.rs:1: reachable: "), "{lost:?}");
    // The targets of the fuzzer are a package of their own.
    let fuzz = read("tests/fuzz/Cargo.toml").replace("path = \"", "path = \"tests/fuzz/");
    none(&project::reachable(&(read("Cargo.toml") + &fuzz), &tree()));
}

#[test]
fn architecture_quotes_the_import_table() {
    let architecture: Vec<_> = imports::TABLE
        .iter()
        .map(|row| imports::row(row.0, row.1))
        .collect();
    let [first, rest @ ..] = &architecture[..] else {
        unreachable!("the table has rows")
    };
    let rooms = imports::TABLE
        .iter()
        .map(|(room, _)| (format!("src/{room}/mod.rs"), String::new()));
    let mut files: BTreeMap<_, _> = rooms.collect();
    none(&project::import_rows(&architecture.join("\n"), &files));
    let unquoted = project::import_rows(&rest.join("\n"), &files);
    assert!(
        unquoted.len() == 1 && unquoted[0].contains(first),
        "{unquoted:?}"
    );
    files.remove("src/http/mod.rs");
    assert_eq!(
        project::import_rows(&architecture.join("\n"), &files).len(),
        1
    );
    none(&project::import_rows(&read("ARCHITECTURE.md"), &tree()));
}

#[test]
fn architecture_gives_a_reason_for_each_dependency() {
    let manifest = "[dependencies]\na = \"1\"\nb = { version = \"1\" }\n\n[lints]\nc = \"warn\"\n\n\
                    [target.'cfg(f)'.dev-dependencies]\ng = \"1\"\n";
    let architecture = "## Dependencies\n\n| `a` | why |\n| `d` | why |\n\n## End\n| `e` | |\n";
    let faults = project::dependencies(manifest, architecture);
    let named = faults.iter().filter_map(|fault| fault.split('`').nth(1));
    assert_eq!(named.collect::<Vec<_>>(), ["b", "g", "d"], "{faults:?}");
    none(&project::dependencies(
        &read("Cargo.toml"),
        &read("ARCHITECTURE.md"),
    ));
}

/// The rule finds one violation in `text`, at `line`.
#[track_caller]
fn shows(path: &str, text: &str, rule: Rule, line: usize) {
    let faults = rule(path, text);
    assert_eq!(faults.len(), 1, "{faults:?} in {text}");
    assert!(
        faults[0].starts_with(&format!("{path}:{line}: ")),
        "{faults:?} in {text}"
    );
}

/// The rule finds nothing in `text`.
#[track_caller]
fn passes(path: &str, text: &str, rule: Rule) {
    none(&rule(path, text));
}

/// The rule holds for every file of the tree.
#[track_caller]
fn holds(rule: Rule) {
    none(
        &tree()
            .iter()
            .flat_map(|(path, text)| rule(path, text))
            .collect::<Vec<_>>(),
    );
}

#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Every source file of ours by its path from the root, with its text.
fn tree() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        collect(Path::new(folder), &mut files);
    }
    files
}

fn collect(folder: &Path, files: &mut BTreeMap<String, String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Not every folder is there from the start.
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return;
    };
    for entry in entries.map(|entry| entry.expect("a readable folder")) {
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = folder.join(&name);
        let extension = path.extension().and_then(|extension| extension.to_str());
        if entry.file_type().expect("a known type").is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, files);
            }
        } else if EXTENSIONS.iter().any(|known| extension == Some(known)) {
            let path = path.to_str().expect("a path in UTF-8");
            files.insert(path.to_owned(), read(path));
        }
    }
}

fn read(path: &str) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(full).unwrap_or_else(|error| panic!("{path}: {error}"))
}
