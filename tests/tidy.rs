//! The house rules as tests. Each rule is a function from a file's path and text to its violations,
//! defined and documented in a module below. Each test here proves with small examples that a rule
//! detects a violation, and then applies the rule to every file.

#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/project.rs"]
mod project;
#[path = "tidy/prose.rs"]
mod prose;
#[path = "tidy/scan.rs"]
mod scan;
#[path = "tidy/shape.rs"]
mod shape;

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::files::{documents, read, tree};

type Rule = fn(path: &str, text: &str) -> Vec<String>;

/// A violation as one line: the place, the rule, the fault and its cure.
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
fn macros_of_this_crate_are_at_its_root() {
    shows("src/net/a.rs", "f!($crate::a::b!())", imports::imports, 1);
    passes("src/net/a.rs", "f!($crate::a!(1))", imports::imports);
}

#[test]
fn rooms_do_not_use_forbidden_names() {
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
        "use crate::http::h1::MessageLimits;",
        imports::absences,
        1,
    );
    shows("src/fs/a.rs", "use io_uring::opcode;", imports::absences, 1);
    shows(
        "src/net/a.rs",
        "let a = Engine::Epoll;",
        imports::absences,
        1,
    );
    shows(
        "src/engine/a.rs",
        "builder.setup_sqpoll(9);",
        imports::absences,
        1,
    );
    shows("src/sys/a.rs", "thread_local! {}", imports::absences, 1);
    passes(
        "src/engine/a.rs",
        "use std::os::fd::OwnedFd;",
        imports::absences,
    );
    passes(
        "src/messages/a.rs",
        "fn f() { io::stderr(); }",
        imports::absences,
    );
    passes(
        "src/bin/coring/main.rs",
        "fn f() { eprintln!() }",
        imports::absences,
    );
    holds(imports::absences);
}

#[test]
fn paths_are_not_ambiguous() {
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
fn unsafe_is_confined_and_justified() {
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
    shows("src/a/tests.rs", &"x\n".repeat(501), shape::lengths, 501);
    shows("src/fs/tests.rs", &"x\n".repeat(801), shape::lengths, 801);
    shows(
        "src/a/b.rs",
        &format!("struct A;\n{long_function}"),
        shape::functions,
        2,
    );
    passes("src/a/b.rs", &"x\n".repeat(500), shape::lengths);
    passes("src/fs/tests.rs", &"x\n".repeat(800), shape::lengths);
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
    assert!(shape::long_files(|_| Some(501)).is_empty());
    assert!(!shape::long_files(|_| Some(500)).is_empty());
    assert!(!shape::long_files(|_| None).is_empty());
    let files = tree();
    none(&shape::long_files(|path| {
        files.get(path).map(|text| text.lines().count())
    }));
}

#[test]
fn files_begin_with_a_doc_and_contain_code() {
    shows("src/a/b.rs", "use std::fmt;", shape::head, 1);
    shows(
        "src/a/b.rs",
        "//! A doc.\n#![allow(x)]\n// A comment.\n",
        shape::empty,
        1,
    );
    passes("src/a/b.rs", "//! A doc.\n\nstruct A;", shape::head);
    passes("src/a/b.rs", "//! A doc.\n\nstruct A;", shape::empty);
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
fn comments_and_pages_are_in_plain_words() {
    let refuses = |path, text, line| shows(path, text, prose::phrases, line);
    refuses("src/a/b.rs", "//! A.\n//! B.\n//! Who reads it waits.", 3);
    refuses("src/a/b.rs", "f(); // Nor does it wait.", 1);
    refuses("tests/a.rs", "// It ends\n// whoever asks.", 2);
    refuses("bench/a.md", "It reads so\nmany bytes.", 1);
    refuses("bench/a.py", "a = 1  # What is queued goes first.", 1);
    refuses("bench/a.py", "\"\"\"\nIt shall end.\n\"\"\"", 2);
    refuses("README.md", "A value that is none.", 1);
    refuses("README.md", "- It takes its leave; then it ends.", 1);
    refuses("deploy/a.yaml", "# The rung of a ring.", 1);
    refuses("src/a/b.rs", "/// Until somebody asks.", 1);
    let allows = |path, text| passes(path, text, prose::phrases);
    allows("src/a/b.rs", "const A: &str = \"Who is it?\"; // `rung`");
    allows("tests/a.rs", "// Until somebody asks. It is none of them.");
    allows("README.md", "The first line, or the last if there is none.");
    allows("bench/a.py", "What = f(\"#whoever\")");
    allows("README.md", "`Who` is a word of\n\nmany, so it is named.");
    let documents = documents();
    none(
        &documents
            .iter()
            .flat_map(|(path, text)| prose::phrases(path, text))
            .collect::<Vec<_>>(),
    );
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
    // The fuzz targets are in a package of their own.
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
fn architecture_describes_each_room() {
    let rooms = imports::TABLE.iter().map(|(room, _)| {
        let is_home = shape::UNSAFE_HOMES.contains(&format!("src/{room}/").as_str());
        let addition = if is_home { " (unsafe)" } else { "" };
        format!("| `{room}/` | a room |\n### `{room}/`{addition}\n")
    });
    let page: String = rooms.collect();
    none(&project::sections(&page));
    let without = page.replace("| `net/` |", "| `nets/` |");
    assert_eq!(project::sections(&without).len(), 1);
    let wrong = page.replace("### `buf/` (unsafe)", "### `buf/`");
    assert_eq!(project::sections(&wrong).len(), 1);
    let wrong = page.replace("### `net/`", "### `net/` (unsafe)");
    assert_eq!(project::sections(&wrong).len(), 1);
    none(&project::sections(&read("ARCHITECTURE.md")));
}

#[test]
fn architecture_names_files_that_exist() {
    let files = ["src/a/b.rs".to_owned(), "tests/c.rs".to_owned()];
    let faults = project::named_files("`b.rs` `a/b.rs`\n`tests/c.rs` `bb.rs`", files.iter());
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("ARCHITECTURE.md:2: named_files: "));
    let files = tree();
    none(&project::named_files(
        &read("ARCHITECTURE.md"),
        files.keys(),
    ));
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

/// Says in the output of a plain `cargo test` which tests it has left out. This does not use
/// `eprintln!`, because the harness hides what a passing test prints.
#[test]
fn a_note_names_the_tests_that_need_a_feature() {
    if !cfg!(feature = "mutants") {
        let note = "note: this run leaves out the simulation and the fuzz corpus; to run them: \
                    cargo test --features mutants --test simulation --test fuzz\n";
        let _ = io::stderr().write_all(note.as_bytes());
    }
}

/// Asserts that the rule finds one violation in `text`, at `line`.
#[track_caller]
fn shows(path: &str, text: &str, rule: Rule, line: usize) {
    let faults = rule(path, text);
    assert_eq!(faults.len(), 1, "{faults:?} in {text}");
    assert!(
        faults[0].starts_with(&format!("{path}:{line}: ")),
        "{faults:?} in {text}"
    );
}

/// Asserts that the rule finds no violation in `text`.
#[track_caller]
fn passes(path: &str, text: &str, rule: Rule) {
    none(&rule(path, text));
}

/// Asserts that the rule finds no violation in any source file.
#[track_caller]
fn holds(rule: Rule) {
    none(
        &tree()
            .iter()
            .flat_map(|(path, text)| rule(path, text))
            .collect::<Vec<_>>(),
    );
}

/// Asserts that there are no violations, and prints them all if there are some.
#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}
