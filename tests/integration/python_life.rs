//! The life of the workers of `coring run`: signals that replace, add and remove them, and limits.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Coring, PYTHON, TempDir, children, coring, eventually, get, head_with_length,
    python_with_tools, request_with_body, run_application, under_load, wait_for_notes,
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
    if flags.contains(&"gevent") {
        command.env(PYTHON, python_with_tools());
    }
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

/// Views that do not come back, or only late, as a WSGI application.
const WSGI_VIEWS: &str = "\
import os, re, time

def spin():
    while True:
        pass

def app(environ, start_response):
    path = environ['PATH_INFO']
    with open('ledger', 'a') as ledger:
        ledger.write(path + '\\n')
    start_response('200 OK', [])
    if path == '/spin':
        spin()
    elif path == '/match':
        # It holds the GIL.
        re.match('(a+)+$', 'a' * 60 + 'b')
    elif path == '/late':
        time.sleep(2.5)
    elif path == '/grow':
        app.memory = b'x' * (200 << 20)
    elif path == '/die' or path == '/once' and not os.path.exists('dead'):
        open('dead', 'w').close()
        os._exit(1)
    return [b'hello']
";

/// The same as an ASGI application.
const ASGI_VIEWS: &str = "\
import asyncio, os, re, time

async def app(scope, receive, send):
    assert scope['type'] == 'http'
    path = scope['path']
    with open('ledger', 'a') as ledger:
        ledger.write(path + '\\n')
    if path == '/spin':
        spin()
    elif path == '/late':
        await asyncio.sleep(2.5)
    elif path == '/die' or path == '/once' and not os.path.exists('dead'):
        open('dead', 'w').close()
        os._exit(1)
    await send({'type': 'http.response.start', 'status': 200})
    await send({'type': 'http.response.body', 'body': b'hello'})

def spin():
    time.sleep(60)
";

fn start_views(views: &str, flags: &[&str]) -> (Coring, TempDir) {
    let directory = TempDir::new();
    directory.write("app.py", views);
    (start(&directory, flags), directory)
}

/// How often the application was called for a path.
fn calls(directory: &TempDir, path: &str) -> usize {
    let ledger = fs::read_to_string(directory.file("ledger")).unwrap_or_default();
    ledger.lines().filter(|line| *line == path).count()
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
    let (server, directory) = run_application("wsgi", &["-k", "sync", "-w", "2"]);
    let mut clients = [server.connect(), server.connect()];
    for client in &mut clients {
        client.send(get("/wait/release"));
    }
    // A worker of this class runs one at a time, so each of them has one.
    wait_for_notes(&directory, "wait release", 2);
    server.signal(Signal::TTOU);
    reports(&server, "1 worker is kept");
    directory.write("release", "");
    for client in &mut clients {
        assert_eq!(client.response().text(), "waited");
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
        server.get("/before");
        has_line(&log, "/before");
        for (signal, name) in [(Signal::USR1, "log.1"), (Signal::HUP, "log.2")] {
            fs::rename(&log, directory.file(name)).expect("a rename");
            server.signal(signal);
            eventually("another file", || fs::exists(&log).ok()?.then_some(()));
        }
        server.get("/after");
        has_line(&log, "/after");
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
    let without = Coring::start(&[]);
    without.signal(Signal::USR1);
    reports(&without, "SIGUSR1: there is no access log file");
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

/// The request gets 504, its neighbour its response. Others wait for the next worker.
#[test]
fn a_request_that_takes_too_long_ends_its_worker_of_class_sync() {
    let (server, directory) = start_views(WSGI_VIEWS, &["-k", "sync", "--timeout", "1s"]);
    let mut clients = [server.connect(), server.connect()];
    clients[0].send(get("/spin"));
    eventually("a request that runs", || {
        (calls(&directory, "/spin") == 1).then_some(())
    });
    server.signal(Signal::TTIN);
    reports(&server, "2 workers are kept");
    assert_eq!(server.get("/").text(), "hello");
    clients[1].send(get("/late"));
    assert_eq!(clients[0].response().status, 504);
    // It takes too long, too.
    assert_eq!(clients[1].response().status, 504);
    reports(&server, "worker 0 has run a request for 1s (--timeout)");
    reports(&server, "Fatal Python error: Aborted");
    reports(&server, "in spin");
    responds_with(&server, "hello");
    assert_eq!(server.stop().code, Some(0));
}

/// With threads it counts that the main thread runs, whatever requests take.
#[test]
fn code_that_holds_the_interpreter_ends_its_worker_of_class_gthread() {
    let flags = ["--threads", "4", "-w", "1", "--timeout", "1s"];
    let (server, directory) = start_views(WSGI_VIEWS, &flags);
    assert_eq!(server.get("/late").text(), "hello");
    let mut clients = [server.connect(), server.connect()];
    clients[0].send(get("/late"));
    eventually("a request that runs", || {
        (calls(&directory, "/late") == 2).then_some(())
    });
    clients[1].send(get("/match"));
    eventually("a match", || {
        (calls(&directory, "/match") == 1).then_some(())
    });
    assert_eq!(clients[1].response().status, 504);
    assert_eq!(clients[0].response().status, 504);
    assert_eq!(server.get("/").text(), "hello");
    reports(&server, "worker 0 has not reacted for 1s (--timeout)");
    reports(&server, "most recent call first");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_view_that_blocks_the_loop_ends_its_worker() {
    for (views, class) in [(ASGI_VIEWS, "asgi"), (WSGI_VIEWS, "gevent")] {
        let (server, directory) = start_views(views, &["-k", class, "--timeout", "1s"]);
        assert_eq!(server.get("/late").text(), "hello", "{class}");
        let mut clients = [server.connect(), server.connect()];
        clients[0].send(get("/spin"));
        eventually("a view", || (calls(&directory, "/spin") == 1).then_some(()));
        clients[1].send(get("/"));
        assert_eq!(clients[0].response().status, 504, "{class}");
        assert_eq!(clients[1].response().text(), "hello", "{class}");
        reports(&server, "worker 0 has not reacted for 1s (--timeout)");
        reports(&server, "in spin");
        assert_eq!(server.stop().code, Some(0), "{class}");
    }
}

#[test]
fn workers_are_replaced_after_a_number_of_requests() {
    for (name, flags) in [
        ("wsgi", &["-k", "sync", "--max-requests", "1"][..]),
        (
            "wsgi",
            &["--max-requests", "50", "--max-requests-jitter", "50"],
        ),
        ("wsgi", &["-k", "gevent", "--max-requests", "50"]),
        ("asgi", &["-w", "2", "--max-requests", "50"]),
    ] {
        let (server, _directory) = run_application(name, flags);
        under_load(&server, &format!("{flags:?}"), || {
            eventually("replaced workers", || {
                let count = server.stderr().matches("(--max-requests); worker").count();
                (count >= 3).then_some(())
            });
        });
        let text = server.stderr();
        assert!(!text.contains("has ended"), "{flags:?}: {text}");
        assert_eq!(server.stop().code, Some(0), "{flags:?}");
    }
}

/// Without a successor a worker serves further requests.
#[test]
fn a_worker_whose_successor_does_not_start_goes_on() {
    let directory = TempDir::new();
    let code = "import os\n\
                if os.path.exists('broken'):\n    \
                    raise SystemExit('broken')\n";
    directory.write("app.py", format!("{code}{WSGI_VIEWS}"));
    let server = start(&directory, &["--max-requests", "2"]);
    directory.write("broken", "");
    for _ in 0..5 {
        assert_eq!(server.get("/").text(), "hello");
    }
    reports(&server, "could not start; worker 0 continues");
    assert_eq!(server.get("/").text(), "hello");
    fs::remove_file(directory.file("broken")).expect("a file");
    reports(
        &server,
        "worker 0 has had its number of requests (--max-requests); worker",
    );
    assert_eq!(server.get("/").text(), "hello");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn workers_that_are_old_or_large_are_replaced() {
    let flags = ["--workers-lifetime", "2s"];
    let (server, _directory) = start_views(ASGI_VIEWS, &flags);
    reports(
        &server,
        "worker 0 has lived for its time (--workers-lifetime); worker 1",
    );
    assert_eq!(server.get("/").text(), "hello");
    assert_eq!(server.stop().code, Some(0));

    let (server, _directory) = start_views(WSGI_VIEWS, &["--workers-max-rss", "150m"]);
    assert_eq!(server.get("/grow").text(), "hello");
    reports(&server, "MiB (--workers-max-rss); worker 1 is in its place");
    assert_eq!(server.get("/").text(), "hello");
    assert!(!server.stderr().contains("worker 1 takes"));
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_safe_request_may_have_a_second_worker() {
    for (views, class) in [
        (WSGI_VIEWS, "sync"),
        (WSGI_VIEWS, "gevent"),
        (ASGI_VIEWS, "asgi"),
    ] {
        let (server, directory) = start_views(views, &["-k", class, "--retry-safe"]);
        assert_eq!(server.get("/once").text(), "hello", "{class}");
        assert_eq!(calls(&directory, "/once"), 2, "{class}");
        // Only once.
        assert_eq!(server.get("/die").status, 502, "{class}");
        assert_eq!(calls(&directory, "/die"), 2, "{class}");
        // A body, or another method.
        for request in [
            head_with_length("POST", "/die", 0),
            request_with_body("GET", "/die", "body"),
        ] {
            let before = calls(&directory, "/die");
            assert_eq!(server.ask(request).status, 502, "{class}");
            assert_eq!(calls(&directory, "/die"), before + 1, "{class}");
        }
        assert_eq!(server.stop().code, Some(0), "{class}");
    }
    let (server, directory) = start_views(WSGI_VIEWS, &[]);
    assert_eq!(server.get("/once").status, 502);
    assert_eq!(calls(&directory, "/once"), 1);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_worker_that_is_removed_is_killed_after_the_graceful_timeout() {
    let flags = ["-k", "sync", "-w", "2", "--graceful-timeout", "1"];
    let (server, directory) = start_views(WSGI_VIEWS, &flags);
    let mut clients = [server.connect(), server.connect()];
    clients[0].send(get("/spin"));
    clients[1].send(get("/spin"));
    eventually("a request in each worker", || {
        (calls(&directory, "/spin") == 2).then_some(())
    });
    server.signal(Signal::TTOU);
    reports(
        &server,
        "has not finished its requests within 1s; it is killed",
    );
    has_workers(&server, 1);
    drop(clients);
    server.signal(Signal::TERM);
    server.signal(Signal::INT);
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn signals_reopen_the_error_log() {
    let directory = TempDir::new();
    directory.write("app.py", version("one"));
    let log = directory.file("errors");
    let address = format!("--bind=unix:{}", directory.file("socket"));
    let mut command = coring(&["run", "app.py", &address, "--error-logfile", &log]);
    let mut child = command
        .current_dir(directory.path())
        .spawn()
        .expect("a process");
    let has = |words: &str| {
        eventually(words, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.contains(words).then_some(())
        });
    };
    has("  cores ");
    fs::rename(&log, directory.file("old")).expect("a rename");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::USR1).expect("it runs");
    has("SIGUSR1");
    kill_process(pid, Signal::TERM).expect("it runs");
    has("draining");
    assert_eq!(child.wait().expect("our child").code(), Some(0));
}
