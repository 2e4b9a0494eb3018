//! `--engine glommio`: the program's workers in executors of glommio's.

#[cfg(feature = "glommio")]
use std::process::Command;

#[cfg(not(feature = "glommio"))]
use crate::support::coring;
use crate::support::run_with;
#[cfg(feature = "glommio")]
use crate::{
    startup::with_io_uring_refused,
    support::{Coring, GET, HELLO},
};

#[cfg(not(feature = "glommio"))]
#[test]
fn a_build_without_the_feature_names_it() {
    let finished = run_with(&mut coring(&["--engine", "glommio"]), b"");
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.error_line().contains("--features glommio"));
}

#[cfg(feature = "glommio")]
#[test]
fn the_banner_names_the_host() {
    let server = Coring::start(&["--engine", "glommio", "-b", "127.0.0.1:0"]);
    assert_eq!(server.ask(GET).text(), HELLO);
    let ended = server.stop();
    assert_eq!(ended.code, Some(0));
    let banner = ended.stderr;
    assert!(banner.contains("io_uring, hosted by glommio"), "{banner}");
}

#[cfg(feature = "glommio")]
#[test]
fn a_lack_of_locked_memory_is_named() {
    let mut command = Command::new("sh");
    let script = "ulimit -l 256 && exec \"$0\" --engine glommio -b 127.0.0.1:0";
    command.args(["-c", script, env!("CARGO_BIN_EXE_coring")]);
    let finished = run_with(&mut command, b"");
    assert_eq!(finished.code, Some(77), "{}", finished.stderr);
    let line = finished.error_line();
    for words in ["512 KiB", "256 KiB", "ulimit -l"] {
        assert!(line.contains(words), "no `{words}` in: {line}");
    }
}

#[cfg(feature = "glommio")]
#[test]
fn a_filter_that_refuses_io_uring_is_named() {
    for errno in ["EPERM", "ENOSYS"] {
        let arguments = ["--engine", "glommio", "-b", "127.0.0.1:0"];
        let finished = run_with(&mut with_io_uring_refused(errno, &arguments), b"");
        assert_eq!(finished.code, Some(77), "{errno}: {}", finished.stderr);
        assert!(finished.error_line().contains("io_uring_setup"));
    }
}
