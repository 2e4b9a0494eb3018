//! `coring run`: WSGI and ASGI applications in worker processes, on the interpreter under test.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, test_kill_process};

use crate::support::{
    Coring, PATIENCE, PYTHON, TempDir, children, coring, digest, eventually, get, head_with_chunks,
    head_with_length, noise, request, run_application, wait_for_notes, wait_for_two_workers,
};

#[test]
fn wsgi_applications_run_in_each_class() {
    for class in ["sync", "gthread", "gevent"] {
        let (server, _directory) = run_application("wsgi", &["-k", class]);
        let mut client = server.connect();
        for _ in 0..3 {
            client.send(get("/"));
            let response = client.response();
            assert_eq!(
                (response.status, response.text()),
                (200, "hello"),
                "{class}"
            );
        }
        client.send(request(
            "GET",
            "/header/a%20b%C3%A9",
            &["X-Echo: 1", "x-echo: 2"],
        ));
        let response = client.response();
        assert_eq!(response.field("x-echo"), Some("1,2"));
        assert_eq!(response.text(), "/header/a b\u{e9}");
        client.send(get("/fail"));
        assert_eq!(client.response().status, 500);
        eventually("the traceback", || {
            let text = server.stderr();
            text.contains("ValueError: the view fails").then_some(())
        });
        client.send(get("/"));
        assert_eq!(client.response().text(), "hello");
        assert_eq!(server.stop().code, Some(0));
    }
}

/// Each class of workers: an application, and the flags that choose the class for it.
const CLASSES: [(&str, &[&str]); 4] = [
    ("wsgi", &["-k", "sync"]),
    ("wsgi", &["-k", "gthread"]),
    ("wsgi", &["-k", "gevent"]),
    ("asgi", &[]),
];

#[test]
fn what_concerns_the_server_or_the_connection_does_not_reach_the_other_side() {
    for (name, flags) in CLASSES {
        let (server, _directory) = run_application(name, flags);
        let whole = server.ask(request("OPTIONS", "*", &[]));
        assert_eq!((whole.status, whole.text()), (204, ""), "{name} {flags:?}");
        let response = server.get("/hop");
        assert_eq!(response.text(), "hello", "{name} {flags:?}");
        assert_eq!(response.field("x-end"), Some("2"), "{name} {flags:?}");
        for unsent in ["x-hop", "connection"] {
            assert_eq!(response.field(unsent), None, "{name} {flags:?}");
        }
        assert_eq!(server.stop().code, Some(0));
    }
}

/// Small bodies travel with their request, larger ones in memory, and those beyond `--body-buffer`
/// in a file.
#[test]
fn bodies_of_any_size_reach_the_application() {
    for (name, flags) in CLASSES {
        let (server, _directory) = run_application(name, flags);
        let mut client = server.connect();
        for len in [0, 1, 65_536, 65_537, 200_000, 300_000, 3_000_000] {
            let body = noise(len);
            let mut upload = client.twin();
            let (head, content) = (head_with_length("POST", "/digest", len), body.clone());
            let writer = thread::spawn(move || {
                upload.send(head);
                upload.send(content);
            });
            assert_eq!(
                client.response().text(),
                digest(&body),
                "{name} {flags:?} {len}"
            );
            writer.join().expect("the body is sent");
        }
        client.send(head_with_chunks("POST", "/digest"));
        client.send("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n");
        assert_eq!(
            client.response().text(),
            digest(b"hello!"),
            "{name} {flags:?}"
        );
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn asgi_applications_have_their_lifespan() {
    let (server, directory) = run_application("asgi", &[]);
    assert_eq!(server.get("/state").text(), "yes");
    assert_eq!(server.get("/fail").status, 500);
    assert_eq!(server.get("/").text(), "hello");
    assert_eq!(server.stop().code, Some(0));
    let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
    assert_eq!(ledger, "shutdown\n");
}

#[test]
fn an_event_stream_hears_of_its_clients_end_and_of_a_drain() {
    let (server, directory) = run_application("asgi", &[]);
    let ledger = directory.file("ledger");
    let lines = |count: usize| {
        eventually("lines of the ledger", || {
            let text = fs::read_to_string(&ledger).unwrap_or_default();
            (text.lines().count() == count).then_some(text)
        })
    };
    let mut client = server.connect();
    client.send(get("/events"));
    client.head();
    assert_eq!(client.chunk().expect("an event"), b"data: 1\n\n");
    drop(client);
    assert_eq!(lines(1), "http.disconnect\n");
    let mut client = server.connect();
    client.send(get("/events"));
    client.head();
    assert_eq!(client.chunk().expect("an event"), b"data: 1\n\n");
    server.signal(Signal::TERM);
    assert_eq!(client.chunk().expect("the last chunk"), b"");
    assert_eq!(server.wait().code, Some(0));
    assert_eq!(lines(3), "http.disconnect\nhttp.disconnect\nshutdown\n");
}

#[test]
fn a_thousand_tasks_sleep_at_the_same_time() {
    let (server, _directory) = run_application("asgi", &[]);
    let mut clients: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    let started = Instant::now();
    for client in &mut clients {
        client.send(get("/sleep/1"));
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "hello");
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(server.stop().code, Some(0));
}

/// The view sleeps by `time.sleep`.
#[test]
fn a_hundred_views_sleep_at_the_same_time_under_gevent() {
    let (server, _directory) = run_application("wsgi", &["-k", "gevent"]);
    let mut clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
    let started = Instant::now();
    for client in &mut clients {
        client.send(get("/sleep/1"));
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "slept");
    }
    let elapsed = started.elapsed();
    // One after the other would take 100 s.
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    assert_eq!(server.stop().code, Some(0));
}

/// Two run, the third one waits, and one more is too many. One that waits for too long is not run.
#[test]
fn no_more_greenlets_run_than_there_may_be_connections() {
    // A server, the directory of its ledger, and two clients whose requests run until they may end.
    let start = |queue_timeout| {
        // One core has all of the connections, and one queue.
        let mut flags = vec!["-k", "gevent", "--worker-connections", "2", "--queue", "1"];
        flags.extend(["--cores", "1", "--queue-timeout", queue_timeout]);
        let (server, directory) = run_application("wsgi", &flags);
        let mut clients = [server.connect(), server.connect()];
        for (client, count) in clients.iter_mut().zip(1..) {
            client.send(get("/wait/release"));
            wait_for_notes(&directory, "wait release", count);
        }
        (server, directory, clients)
    };
    let end = |server: Coring, directory: &TempDir| {
        assert_eq!(server.get("/ledger/next").text(), "next");
        assert_eq!(server.stop().code, Some(0));
        fs::read_to_string(directory.file("ledger")).expect("a ledger")
    };

    // Longer than any client waits. Either of the further two may be the one that waits.
    let (server, directory, mut clients) = start("60s");
    thread::scope(|scope| {
        let (sender, statuses) = mpsc::channel();
        for _ in 0..2 {
            let (server, sender) = (&server, sender.clone());
            scope.spawn(move || sender.send(server.get("/ledger/more").status));
        }
        assert_eq!(statuses.recv_timeout(PATIENCE), Ok(503));
        directory.write("release", "");
        assert_eq!(statuses.recv_timeout(PATIENCE), Ok(200));
    });
    for client in &mut clients {
        assert_eq!(client.response().text(), "waited");
    }
    let ledger = end(server, &directory);
    assert_eq!(ledger.matches("begin more").count(), 1, "{ledger}");

    let (server, directory, mut clients) = start("2s");
    assert_eq!(server.get("/ledger/late").status, 503);
    directory.write("release", "");
    for client in &mut clients {
        assert_eq!(client.response().text(), "waited");
    }
    let ledger = end(server, &directory);
    assert!(!ledger.contains("late"), "{ledger}");
}

/// The rest of a body that the application does not read does not hold up its connection.
#[test]
fn a_long_body_need_not_be_read() {
    for (name, flags) in [("wsgi", &["-k", "gevent"][..]), ("asgi", &[])] {
        let (server, _directory) = run_application(name, flags);
        let mut client = server.connect();
        let mut upload = client.twin();
        let writer = thread::spawn(move || {
            upload.send(head_with_length("POST", "/", 3_000_000));
            // The connection may end.
            upload.try_send(noise(3_000_000))
        });
        assert_eq!(client.response().text(), "hello", "{name}");
        let _ = writer.join().expect("no panic");
        assert_eq!(server.get("/").text(), "hello", "{name}");
        assert_eq!(server.stop().code, Some(0));
    }
}

/// A request waits for a thread only when its body is there, and may be one too many then.
#[test]
fn requests_whose_bodies_come_slowly_are_not_beyond_the_queue() {
    let flags = ["-k", "sync", "--queue", "1", "--cores", "1"];
    let (server, directory) = run_application("wsgi", &flags);
    let mut running = server.connect();
    running.send(get("/wait/release"));
    wait_for_notes(&directory, "wait release", 1);
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(head_with_length("POST", "/digest", 2));
        client.send("a");
    }
    // All of them have arrived.
    assert_eq!(server.ask(request("OPTIONS", "*", &[])).status, 204);
    thread::scope(|scope| {
        let (sender, statuses) = mpsc::channel();
        for client in &mut clients {
            let sender = sender.clone();
            scope.spawn(move || {
                client.send("b");
                sender.send(client.response().status)
            });
        }
        for _ in 0..4 {
            assert_eq!(statuses.recv_timeout(PATIENCE), Ok(503));
        }
        directory.write("release", "");
        assert_eq!(statuses.recv_timeout(PATIENCE), Ok(200));
    });
    assert_eq!(running.response().text(), "waited");
    assert_eq!(server.stop().code, Some(0));
}

/// Without a queue, a request that a worker has room for is not refused, not even the first one.
#[test]
fn no_queue_refuses_no_request_that_need_not_wait() {
    for (name, flags) in CLASSES {
        let flags = [flags, &["--queue", "0", "--cores", "1"]].concat();
        let flags = [&flags[..], &["--worker-connections", "1"]].concat();
        let (server, directory) = run_application(name, &flags);
        for _ in 0..3 {
            assert_eq!(server.get("/").text(), "hello", "{name} {flags:?}");
        }
        if flags.contains(&"sync") || flags.contains(&"gevent") {
            let mut running = server.connect();
            running.send(get("/wait/release"));
            wait_for_notes(&directory, "wait release", 1);
            assert_eq!(server.get("/").status, 503, "{flags:?}");
            directory.write("release", "");
            assert_eq!(running.response().text(), "waited");
            assert_eq!(server.get("/").text(), "hello", "{flags:?}");
        }
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn requests_beyond_the_queue_get_503() {
    let flags = ["-k", "sync", "--queue", "2", "--queue-timeout", "30s"];
    let (server, directory) = run_application("wsgi", &flags);
    let mut running = server.connect();
    running.send(get("/wait/release"));
    wait_for_notes(&directory, "wait release", 1);
    thread::scope(|scope| {
        let (sender, responses) = mpsc::channel();
        for _ in 0..3 {
            let (server, sender) = (&server, sender.clone());
            scope.spawn(move || sender.send(server.get("/")));
        }
        // Two wait, and one of them, whichever was last, is too many.
        let next = || responses.recv_timeout(PATIENCE).expect("a response");
        let refused = next();
        assert_eq!(refused.status, 503);
        refused.expect_field("retry-after");
        directory.write("release", "");
        for _ in 0..2 {
            let response = next();
            assert_eq!(response.status, 200);
            assert_eq!(response.field("retry-after"), None);
        }
    });
    assert_eq!(running.response().text(), "waited");
    assert_eq!(server.stop().code, Some(0));
}

/// A request that no thread has begun with at its deadline gets 503, and is not begun later.
#[test]
fn a_request_that_waited_too_long_gets_503_and_is_not_run() {
    let flags = ["-k", "sync", "--queue-timeout", "2s"];
    let (server, directory) = run_application("wsgi", &flags);
    let mut slow = server.connect();
    slow.send(get("/wait/release"));
    wait_for_notes(&directory, "wait release", 1);
    assert_eq!(server.get("/ledger/late").status, 503);
    directory.write("release", "");
    assert_eq!(slow.response().text(), "waited");
    assert_eq!(server.get("/ledger/next").text(), "next");
    assert_eq!(server.stop().code, Some(0));
    let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
    assert!(!ledger.contains("late"), "{ledger}");
}

/// The kernel kills the workers of a coring that was killed.
#[test]
fn no_worker_outlives_coring() {
    let (server, _directory) = run_application("wsgi", &["-k", "sync", "-w", "2"]);
    wait_for_two_workers(&server);
    let workers = children(server.pid());
    assert_eq!(workers.len(), 2);
    server.signal(Signal::KILL);
    for worker in workers {
        eventually("the end of a worker", || {
            let is_gone = test_kill_process(worker).is_err() || is_zombie(worker);
            is_gone.then_some(())
        });
    }
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_static_directory_is_served_without_python() {
    let directory = TempDir::new();
    directory.write("a.txt", "from a file");
    let mount = format!("/static={}", directory.path().display());
    let (server, _directory) = run_application("wsgi", &["--static", &mount]);
    assert_eq!(server.get("/static/a.txt").text(), "from a file");
    assert_eq!(server.get("/static/b.txt").status, 404);
    assert_eq!(server.get("/other").text(), "hello");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_websocket_is_refused_for_now() {
    let (server, _directory) = run_application("asgi", &[]);
    for fields in [
        ["Connection: Upgrade", "Upgrade: websocket"],
        ["Connection: keep-alive, upgrade", "Upgrade: h2c, WebSocket"],
    ] {
        let asking = request("GET", "/", &fields);
        assert_eq!(server.ask(&asking).status, 501, "{asking}");
        // An Upgrade of HTTP/1.0 is ignored.
        let older = asking.replace("HTTP/1.1", "HTTP/1.0");
        assert_eq!(server.ask(&older).status, 200, "{older}");
    }
    // A proxy has removed the field Connection: the client does not ask it of this server.
    let passed_on = request("GET", "/", &["Upgrade: websocket"]);
    assert_eq!(server.ask(passed_on).status, 200);
    let stderr = server.stop().stderr;
    let notices = stderr.matches("does not support yet").count();
    assert_eq!(notices, 1, "{stderr}");
}

/// Python is found without flags, and `-c` leaves no directory of ours on its path.
#[test]
fn the_interpreter_of_a_virtual_environment_is_used() {
    let directory = TempDir::new();
    let venv = directory.file("venv");
    let made = Command::new("python3")
        .args(["-m", "venv", "--without-pip", &venv])
        .status();
    assert!(made.expect("python3").success());
    directory.write(
        "app.py",
        "import sys\n\
         def app(environ, start_response):\n    \
             start_response('200 OK', [])\n    \
             return [sys.prefix.encode()]\n",
    );
    let mut command = coring(&["run", "app.py", "--bind", "127.0.0.1:0", "--stats"]);
    command
        .current_dir(directory.path())
        .env_remove(PYTHON)
        .env("VIRTUAL_ENV", &venv);
    let server = Coring::start_as(command);
    let prefix = server.get("/").text().to_owned();
    assert_eq!(
        fs::canonicalize(prefix).ok(),
        fs::canonicalize(Path::new(&venv)).ok()
    );
    assert_eq!(server.stop().code, Some(0));
}
