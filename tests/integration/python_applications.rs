//! `coring run`: WSGI and ASGI applications in worker processes, on whatever `python3` is here.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sha2::{Digest, Sha256};

use crate::support::{
    Coring, Finished, TempDir, children, coring, eventually, get, head_with_chunks,
    head_with_length, noise, request, run_application, run_with,
};

/// `LENGTH SHA-256`, as the applications answer to an upload.
fn digest(body: &[u8]) -> String {
    let hex: String = Sha256::digest(body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{} {hex}", body.len())
}

#[test]
fn wsgi_applications_run_in_either_class() {
    for class in ["sync", "gthread"] {
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

/// Small bodies travel with their request, larger ones in memory, and those beyond `--body-buffer`
/// in a file.
#[test]
fn bodies_of_any_size_reach_the_application() {
    for (name, flags) in [
        ("wsgi", &["-k", "sync"][..]),
        ("wsgi", &["-k", "gthread"]),
        ("asgi", &[]),
    ] {
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

/// An upload that pauses holds no thread of a WSGI worker, and neither does a client that does not
/// read its response.
#[test]
fn slow_clients_hold_no_worker() {
    let (server, _directory) = run_application("wsgi", &["-k", "sync"]);
    let mut uploading = server.connect();
    uploading.send(head_with_length("POST", "/digest", 10));
    uploading.send("12345");
    let mut reading = server.connect();
    // 12 parts are less than a response may be ahead of its client.
    reading.send(get("/parts/12"));
    for _ in 0..3 {
        assert_eq!(server.get("/").text(), "hello");
    }
    uploading.send("67890");
    assert_eq!(uploading.response().text(), digest(b"1234567890"));
    assert_eq!(reading.response().body.len(), 12 * 65_536);
    assert_eq!(server.stop().code, Some(0));
}

/// A response that nobody reads stops its application, and neither coring nor the worker keeps it.
#[test]
fn a_response_that_is_not_read_waits_in_the_application() {
    for class in ["sync", "gthread"] {
        let (server, _directory) = run_application("wsgi", &["-k", class, "-w", "2"]);
        eventually("two workers", || {
            (children(server.pid()).len() == 2).then_some(())
        });
        let mut client = server.connect();
        client.send(get("/parts/16384")); // 1 GiB
        assert_eq!(client.head().status, 200);
        thread::sleep(Duration::from_secs(1));
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid()));
        let status = status.expect("a running process");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.expect("its memory").trim().trim_end_matches(" kB");
        assert!(
            kib.parse::<u64>().expect("a number") < 64 << 10,
            "{kib} KiB"
        );
        client.reset();
        // The worker that wrote it is free again.
        for _ in 0..4 {
            assert_eq!(server.get("/").text(), "hello");
        }
        assert_eq!(server.stop().code, Some(0), "{class}");
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

/// One worker sleeps for two seconds; the other one serves meanwhile.
#[test]
fn nothing_waits_behind_a_slow_request_while_a_worker_is_free() {
    let (server, _directory) = run_application("wsgi", &["-k", "sync", "-w", "2"]);
    eventually("two workers", || {
        (children(server.pid()).len() == 2).then_some(())
    });
    let mut slow = server.connect();
    slow.send(get("/sleep/2"));
    let started = Instant::now();
    let mut client = server.connect();
    for _ in 0..200 {
        client.send(get("/"));
        assert_eq!(client.response().text(), "hello");
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(slow.response().text(), "slept");
    assert_eq!(server.stop().code, Some(0));
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

#[test]
fn requests_beyond_the_queue_get_503() {
    let flags = ["-k", "sync", "--queue", "2", "--queue-timeout", "30s"];
    let (server, _directory) = run_application("wsgi", &flags);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(get("/sleep/1"));
        // One after the other, so that the last one is the one that is refused.
        thread::sleep(Duration::from_millis(100));
    }
    let statuses: Vec<u16> = clients
        .iter_mut()
        .map(|client| {
            let response = client.response();
            assert_eq!(
                response.field("retry-after").is_some(),
                response.status == 503
            );
            response.status
        })
        .collect();
    assert_eq!(statuses, [200, 200, 200, 503]);
    assert_eq!(server.stop().code, Some(0));
}

/// A request that no thread has begun with at its deadline gets 503, and is not begun later.
#[test]
fn a_request_that_waited_too_long_gets_503_and_is_not_run() {
    let flags = ["-k", "sync", "--queue-timeout", "500ms"];
    let (server, directory) = run_application("wsgi", &flags);
    let mut slow = server.connect();
    slow.send(get("/sleep/3"));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.get("/ledger/late").status, 503);
    assert_eq!(slow.response().text(), "slept");
    assert_eq!(server.get("/ledger/next").text(), "next");
    assert_eq!(server.stop().code, Some(0));
    let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
    assert!(!ledger.contains("late"), "{ledger}");
}

/// In the place of a status: the connection ended within the response.
const CUT: u16 = 0;

/// Workers are killed while clients ask. Each request has one response: that of the application,
/// which ran it once, or 502, if a worker that was killed had begun with it. (If the response had
/// begun, too, it is cut.)
#[test]
fn killed_workers_lose_only_what_they_had_begun() {
    for (class, seconds) in [("sync", 3), ("gthread", 3)] {
        let (server, directory) = run_application("wsgi", &["-k", class, "-w", "2"]);
        let until = Instant::now() + Duration::from_secs(seconds);
        let statuses: HashMap<String, u16> = thread::scope(|scope| {
            let ask = |number: usize| {
                let mut statuses = Vec::new();
                let mut client = server.connect();
                for count in 0.. {
                    if Instant::now() > until {
                        break;
                    }
                    let name = format!("{number}-{count}");
                    client.send(get(&format!("/ledger/{name}")));
                    if let Ok(Some(response)) = client.try_response() {
                        if response.status == 200 {
                            assert_eq!(response.text(), name);
                        }
                        statuses.push((name, response.status));
                    } else {
                        // The response had begun: only the end of the connection can tell.
                        statuses.push((name, CUT));
                        client = server.connect();
                    }
                }
                statuses
            };
            let clients: Vec<_> = (0..8)
                .map(|number| scope.spawn(move || ask(number)))
                .collect();
            while Instant::now() + Duration::from_secs(1) < until {
                thread::sleep(Duration::from_millis(300));
                if let Some(&victim) = children(server.pid()).first() {
                    // It may have ended by itself.
                    let _ = kill_process(victim, Signal::KILL);
                }
            }
            clients
                .into_iter()
                .flat_map(|client| client.join().expect("a client"))
                .collect()
        });
        assert_eq!(server.stop().code, Some(0), "{class}");
        let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
        let count = |kind: &str, name: &str| {
            let line = format!("{kind} {name} ");
            ledger
                .lines()
                .filter(|other| other.starts_with(&line))
                .count()
        };
        for (name, status) in &statuses {
            match *status {
                200 => assert_eq!((count("begin", name), count("end", name)), (1, 1), "{name}"),
                502 | CUT => assert!(count("begin", name) <= 1, "{name}"),
                other => panic!("{class}: {name} got {other}"),
            }
        }
        assert!(
            statuses.values().filter(|status| **status == 200).count() > 10,
            "{class}"
        );
    }
}

/// The kernel kills the workers of a coring that was killed.
#[test]
fn no_worker_outlives_coring() {
    let (server, _directory) = run_application("wsgi", &["-w", "2"]);
    let workers = eventually("two workers", || {
        let children = children(server.pid());
        (children.len() == 2).then_some(children)
    });
    server.signal(Signal::KILL);
    eventually("the end of the workers", || {
        let is_gone = |pid: &&Pid| test_kill_process(**pid).is_err() || is_zombie(**pid);
        (workers.iter().filter(is_gone).count() == 2).then_some(())
    });
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.contains(") Z "))
}

fn fails(directory: &TempDir, arguments: &[&str]) -> Finished {
    let mut command = coring(&[&["run"], arguments, &["--bind", "127.0.0.1:0"]].concat());
    run_with(command.current_dir(directory.path()), b"")
}

/// Each mistake has its exit status and one line that names it.
#[test]
fn mistakes_are_named_in_a_line() {
    let directory = TempDir::new();
    directory.write("good.py", "def app(environ, start_response): pass\n");
    directory.write("none.py", "x = 1\n");
    directory.write(
        "two.py",
        "def app(e, s): pass\ndef application(e, s): pass\n",
    );
    directory.write("missing.py", "import not_installed\n");
    directory.write("syntax.py", "def app(:\n");
    directory.write("raises.py", "raise RuntimeError('no database')\n");
    directory.write(
        "startup.py",
        "async def app(scope, receive, send):\n    \
             if scope['type'] == 'lifespan':\n        \
                 await receive()\n        \
                 await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n",
    );
    for (arguments, code, words) in [
        (&["nowhere:app"][..], 4, &["nowhere"][..]),
        (&["none.py"], 4, &["none.py", "app"]),
        (&["good:nothing"], 4, &["nothing", "good"]),
        (&["two.py"], 4, &["app", "application"]),
        (&["missing.py"], 4, &["not_installed"]),
        (&["syntax.py"], 4, &["syntax.py"]),
        (&["raises.py"], 4, &["no database"]),
        (&["startup.py"], 3, &["no database"]),
        (&["none:x"], 4, &["x"]),
        (
            &["good.py", "--python", "/nowhere/python"],
            1,
            &["/nowhere/python"],
        ),
        (&["good.py", "--static", "/s=/nowhere"], 1, &["/nowhere"]),
        (
            &["good.py", "--worker-clas", "sync"],
            2,
            &["--worker-class"],
        ),
    ] {
        let finished = fails(&directory, arguments);
        assert_eq!(
            finished.code,
            Some(code),
            "{arguments:?}: {}",
            finished.stderr
        );
        for word in words {
            assert!(
                finished.stderr.contains(word),
                "{arguments:?}: {}",
                finished.stderr
            );
        }
    }
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
    let fields = ["Connection: Upgrade", "Upgrade: websocket"];
    for _ in 0..2 {
        assert_eq!(server.ask(request("GET", "/", &fields)).status, 501);
    }
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
        .env("VIRTUAL_ENV", &venv);
    let server = Coring::start_as(command);
    let prefix = server.get("/").text().to_owned();
    assert_eq!(
        fs::canonicalize(prefix).ok(),
        fs::canonicalize(Path::new(&venv)).ok()
    );
    assert_eq!(server.stop().code, Some(0));
}
