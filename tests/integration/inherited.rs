//! What a process keeps over execve(2): whatever its parent did to signals and to the standard
//! descriptors, coring serves and can be told to end.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{Coring, GET, HELLO, coring, eventually, is_told_to_leave, python, run_with};

/// Runs coring with inherited `state`; see the script.
fn with_inherited(state: &str, arguments: &[&str]) -> Command {
    let inner = coring(arguments);
    let program = inner.get_program().to_str().expect("a path in UTF-8");
    let mut command = python("inherited.py", &[&[state, program], arguments].concat());
    for (name, value) in inner.get_envs() {
        assert!(value.is_none(), "{name:?}");
        command.env_remove(name);
    }
    command
}

#[test]
fn signals_that_the_parent_blocked_or_ignored_are_obeyed() {
    for state in ["blocked", "ignored"] {
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            let command = with_inherited(state, &["--bind", "127.0.0.1:0"]);
            let server = Coring::start_as(command);
            let mut client = server.connect();
            server.signal(Signal::HUP);
            eventually("a word about HUP", || {
                server.stderr().contains("SIGHUP").then_some(())
            });
            client.send(GET);
            assert_eq!(client.answer().text(), HELLO);
            server.signal(signal);
            is_told_to_leave(&mut client);
            assert_eq!(server.wait().code, Some(0), "{state}, {signal:?}");
        }
    }
}

#[test]
fn a_signal_that_arrived_before_the_start_is_obeyed() {
    let mut command = with_inherited("pending", &["--bind", "127.0.0.1:0"]);
    let finished = run_with(&mut command, b"");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("draining"), "{finished:?}");
}

/// A socket that took the number of standard error would be sent the messages.
#[test]
fn standard_descriptors_that_are_closed_do_not_become_sockets() {
    let command = with_inherited("closed", &["--access-log", "-", "--stats"]);
    let server = Coring::start_on_socket(command, Stdio::null(), Stdio::null());
    server.signal(Signal::HUP);
    assert_eq!(server.ask(GET).text(), HELLO);
    for number in 0..3 {
        let path = format!("/proc/{}/fd/{number}", server.pid());
        let target = fs::read_link(path).expect("an open descriptor");
        assert_eq!(target.to_str(), Some("/dev/null"), "descriptor {number}");
    }
    assert_eq!(server.ask(GET).text(), HELLO);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code, Some(0));
}
