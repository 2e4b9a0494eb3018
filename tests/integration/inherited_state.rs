//! Process state that survives execve(2): coring serves and can be stopped even if its parent
//! blocked or ignored signals or closed the standard descriptors.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{
    Coring, GET, HELLO, coring, eventually, python, read_until_told_to_close, run_with,
};

/// A command that runs coring with the inherited `state`, which `support/inherited.py` sets up.
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
            eventually("a message about SIGHUP", || {
                server.stderr().contains("SIGHUP").then_some(())
            });
            client.send(GET);
            assert_eq!(client.response().text(), HELLO);
            server.signal(signal);
            read_until_told_to_close(&mut client);
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

/// If a socket got the descriptor number 2, coring would write its messages to a client.
#[test]
fn closed_standard_descriptors_are_opened_on_dev_null() {
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
