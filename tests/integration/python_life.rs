//! The life of the workers of `coring run`: signals that replace, add and remove them.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Coring, TempDir, children, coring, eventually, get, run_application, under_load,
};

/// An application that responds with `version` and the number of its process.
fn version(version: &str) -> String {
    format!(
        "import os, time\n\
         def app(environ, start_response):\n    \
             start_response('200 OK', [])\n    \
             time.sleep(0.05)\n    \
             return [b'{version} %d' % os.getpid()]\n"
    )
}

fn start(directory: &TempDir, flags: &[&str]) -> Coring {
    let fixed = ["run", "app.py", "--bind", "127.0.0.1:0", "--stats"];
    let mut command = coring(&[&fixed[..], flags].concat());
    command.current_dir(directory.path());
    Coring::start_as(command)
}

fn reports(server: &Coring, text: &str) {
    eventually(text, || server.stderr().contains(text).then_some(()));
}

fn responds_with(server: &Coring, text: &str) {
    eventually(text, || {
        server.get("/").text().starts_with(text).then_some(())
    });
}

fn has_workers(server: &Coring, count: usize) {
    eventually("that many workers", || {
        (children(server.pid()).len() == count).then_some(())
    });
}

/// Waits until two workers of class sync respond, and returns their numbers.
fn two_workers(server: &Coring) -> BTreeSet<String> {
    eventually("two workers", || {
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| client.send(get("/")));
        let texts = clients
            .iter_mut()
            .map(|client| client.response().text().to_owned());
        let pids = texts.filter_map(|text| Some(text.split_once(' ')?.1.to_owned()));
        let pids: BTreeSet<_> = pids.collect();
        (pids.len() == 2).then_some(pids)
    })
}

#[test]
fn hup_replaces_the_workers_and_loses_no_request() {
    for (name, flags) in [
        ("wsgi", &["-k", "sync"][..]),
        ("wsgi", &["-w", "2"]),
        ("asgi", &["-w", "2"]),
    ] {
        let (server, _directory) = run_application(name, flags);
        under_load(&server, &format!("{flags:?}"), || {
            for count in 1..=3 {
                server.signal(Signal::HUP);
                eventually("new workers", || {
                    let text = server.stderr();
                    let done = text.matches("reload: all workers run the new code").count();
                    (done == count).then_some(())
                });
            }
        });
        let text = server.stderr();
        assert!(!text.contains("has ended"), "{flags:?}: {text}");
        assert_eq!(server.stop().code, Some(0), "{flags:?}");
    }
}

#[test]
fn code_that_cannot_be_loaded_leaves_the_workers_as_they_are() {
    let directory = TempDir::new();
    directory.write("app.py", version("one"));
    let server = start(&directory, &["-w", "2", "-k", "sync"]);
    let before = two_workers(&server);
    directory.write("app.py", "import no_such_module\n");
    server.signal(Signal::HUP);
    reports(&server, "No module named 'no_such_module'");
    reports(
        &server,
        "coring: reload: the application could not be loaded; the workers stay as they are, until \
         the next reload",
    );
    assert_eq!(two_workers(&server), before);
    // The old code is gone with the worker, and a further attempt fails. The other one serves.
    let pid = before
        .first()
        .and_then(|pid| Pid::from_raw(pid.parse().ok()?));
    kill_process(pid.expect("a worker"), Signal::KILL).expect("it runs");
    reports(&server, "could not start; the next attempt is in");
    responds_with(&server, "one");
    directory.write("app.py", version("two"));
    server.signal(Signal::HUP);
    responds_with(&server, "two");
    reports(&server, "reload: all workers run the new code");
    two_workers(&server);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn ttin_adds_a_worker_and_ttou_removes_one_but_never_the_last() {
    for name in ["wsgi", "asgi"] {
        let (server, _directory) = run_application(name, &[]);
        under_load(&server, name, || {
            server.signal(Signal::TTIN);
            reports(&server, "2 workers are kept");
            has_workers(&server, 2);
            server.signal(Signal::TTIN);
            has_workers(&server, 3);
            server.signal(Signal::TTOU);
            has_workers(&server, 2);
            server.signal(Signal::TTOU);
            reports(&server, "1 worker is kept, the least there may be");
            has_workers(&server, 1);
            let last = children(server.pid());
            server.signal(Signal::TTOU);
            eventually("a second refusal", || {
                let count = server.stderr().matches("1 worker is kept").count();
                (count == 2).then_some(())
            });
            assert_eq!(children(server.pid()), last, "{name}");
        });
        assert_eq!(server.stop().code, Some(0), "{name}");
    }
}

/// The worker that goes finishes its requests.
#[test]
fn a_worker_that_is_removed_finishes_its_requests() {
    let (server, _directory) = run_application("wsgi", &["-k", "sync", "-w", "2"]);
    has_workers(&server, 2);
    let mut clients = [server.connect(), server.connect()];
    for client in &mut clients {
        client.send(get("/sleep/1"));
    }
    server.signal(Signal::TTOU);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    has_workers(&server, 1);
    assert_eq!(server.stop().code, Some(0));
}

/// HUP and USR1 open the log anew, after another program has renamed it.
#[test]
fn signals_reopen_the_access_log() {
    let directory = TempDir::new();
    directory.write("app.py", version("one"));
    let log = directory.file("log");
    let has_line = |path: &str, target: &str| {
        eventually(target, || {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.contains(target).then_some(())
        });
    };
    for arguments in [
        ["run", "app.py", "--bind", "127.0.0.1:0"],
        ["serve", ".", "--bind", "127.0.0.1:0"],
    ] {
        let mut command = coring(&arguments);
        command.arg(format!("--access-log={log}"));
        command.current_dir(directory.path());
        let server = Coring::start_as(command);
        for (signal, name, target) in [
            (Signal::USR1, "log.1", "/usr1"),
            (Signal::HUP, "log.2", "/hup"),
        ] {
            server.get(&format!("/before{target}"));
            has_line(&log, &format!("/before{target}"));
            fs::rename(&log, directory.file(name)).expect("a rename");
            server.signal(signal);
            eventually("another file", || fs::exists(&log).ok()?.then_some(()));
            let further = format!("/after{target}");
            server.get(&further);
            has_line(&log, &further);
            let old = fs::read_to_string(directory.file(name)).expect("the old log");
            assert!(!old.contains(&further), "{old}");
        }
        // One that cannot be opened changes nothing.
        fs::rename(&log, directory.file("log.3")).expect("a rename");
        directory.make("log");
        server.signal(Signal::USR1);
        reports(&server, "cannot open the access log");
        server.get("/last");
        has_line(&directory.file("log.3"), "/last");
        assert_eq!(server.stop().code, Some(0));
        fs::remove_dir(&log).expect("an empty directory");
    }
}

#[test]
fn signals_that_change_nothing_are_reported() {
    let (server, _directory) = run_application("wsgi", &[]);
    for (signal, text) in [
        (Signal::WINCH, "SIGWINCH: ignored"),
        (Signal::USR2, "SIGUSR2: ignored"),
    ] {
        server.signal(signal);
        reports(&server, text);
    }
    assert_eq!(server.get("/").text(), "hello");
    assert_eq!(server.stop().code, Some(0));
}
