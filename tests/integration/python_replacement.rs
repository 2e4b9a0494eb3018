//! Workers of `coring run` that are replaced while requests arrive.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Coring, TempDir, children, coring, eventually, get, run_application, under_load, wait_for_notes,
};

/// `kill PID` of a worker: it finishes its requests, and another one is in its place before.
#[test]
fn a_worker_that_is_told_to_end_loses_no_request() {
    for (name, flags) in [
        ("wsgi", &["-w", "2", "-k", "sync"][..]),
        ("wsgi", &["-w", "2", "-k", "gthread"]),
        ("asgi", &["-w", "2"]),
    ] {
        let (server, _directory) = run_application(name, flags);
        eventually("two workers", || {
            (children(server.pid()).len() == 2).then_some(())
        });
        under_load(&server, &format!("{flags:?}"), || {
            let started = Instant::now();
            eventually("a worker in the place of another", || {
                if let Some(&worker) = children(server.pid()).first() {
                    // It may have ended by itself.
                    let _ = kill_process(worker, Signal::TERM);
                }
                thread::sleep(Duration::from_millis(200));
                let is_replaced = server.stderr().contains("is in its place");
                (is_replaced && started.elapsed() > Duration::from_secs(2)).then_some(())
            });
            thread::sleep(Duration::from_millis(500));
        });
        let text = server.stderr();
        assert!(!text.contains("has ended"), "{flags:?}: {text}");
        eventually("two workers again", || {
            (children(server.pid()).len() == 2).then_some(())
        });
        assert_eq!(server.stop().code, Some(0), "{flags:?}");
    }
}

/// A worker that does not finish is killed after the limit of a drain.
#[test]
fn a_worker_that_does_not_finish_is_killed() {
    let (server, directory) = run_application("wsgi", &["-k", "sync", "--drain-timeout", "1s"]);
    let mut client = server.connect();
    client.send(get("/sleep/60"));
    wait_for_notes(&directory, "sleep 60", 1);
    let worker = children(server.pid())[0];
    kill_process(worker, Signal::TERM).expect("a running worker");
    assert_eq!(client.response().status, 502);
    assert!(!children(server.pid()).contains(&worker));
    assert_eq!(server.get("/").text(), "hello");
    assert_eq!(server.stop().code, Some(0));
}

/// A worker that has ended leaves no descriptor in coring.
#[test]
fn workers_that_have_ended_leave_nothing_behind() {
    for name in ["wsgi", "asgi"] {
        let (server, _directory) = run_application(name, &[]);
        let count = || {
            assert_eq!(server.get("/").text(), "hello");
            let path = format!("/proc/{}/fd", server.pid());
            fs::read_dir(path).expect("a running process").count()
        };
        let before = count();
        for _ in 0..5 {
            let old = children(server.pid())[0];
            kill_process(old, Signal::TERM).expect("a running worker");
            eventually("another worker", || {
                let children = children(server.pid());
                (children.len() == 1 && children[0] != old).then_some(())
            });
        }
        eventually("closed descriptors", || {
            (count() <= before + 1).then_some(())
        });
        assert_eq!(server.stop().code, Some(0));
    }
}

/// The socket that all workers receive from is shut down by one of them. There is another one, and
/// no request is lost: those that were received are finished, and the others wait.
#[test]
fn requests_survive_that_an_application_shuts_their_socket() {
    for class in ["sync", "gthread"] {
        let (server, _directory) = run_application("wsgi", &["-w", "2", "-k", class]);
        eventually("two workers", || {
            (children(server.pid()).len() == 2).then_some(())
        });
        under_load(&server, class, || {
            for _ in 0..2 {
                assert_eq!(server.get("/shut").text(), "shut", "{class}");
                assert_eq!(server.get("/").text(), "hello", "{class}");
                thread::sleep(Duration::from_millis(1200));
            }
        });
        let text = server.stderr();
        let lines = text.matches("was shut down by the application").count();
        assert_eq!(lines, 2, "{class}: {text}");
        assert!(!text.contains("has ended"), "{class}: {text}");
        assert_eq!(server.stop().code, Some(0), "{class}");
    }
}

/// A worker that is busy for long ends later, but another one is there at once.
#[test]
fn a_busy_worker_does_not_delay_the_end_of_its_socket() {
    let flags = ["-k", "gthread", "--drain-timeout", "2s"];
    let (server, directory) = run_application("wsgi", &flags);
    let mut busy = server.connect();
    busy.send(get("/sleep/60"));
    wait_for_notes(&directory, "sleep 60", 1);
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(server.get("/shut").text(), "shut");
    assert_eq!(server.get("/").text(), "hello");
    assert_eq!(
        busy.response().status,
        502,
        "it is killed after the drain's limit"
    );
    assert_eq!(server.stop().code, Some(0));
}

/// Two workers take turns to start. One of them waits for its turn when the end comes.
#[test]
fn no_worker_is_started_after_the_end() {
    let directory = TempDir::new();
    directory.write(
        "app.py",
        "import os, time\n\
         time.sleep(1)\n\
         def app(environ, start_response):\n    \
             start_response('200 OK', [])\n    \
             return [str(os.getpid()).encode()]\n",
    );
    let mut command = coring(&["run", "app.py", "--bind", "127.0.0.1:0", "-w", "2"]);
    command.current_dir(directory.path());
    let server = Coring::start_as(command);
    let pid = server.get("/").text().parse().ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a worker"), Signal::KILL).expect("it runs");
    thread::sleep(Duration::from_millis(400));
    let started = Instant::now();
    assert_eq!(server.stop().code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// Service managers send TERM to all processes: no worker is replaced for that.
#[test]
fn a_signal_to_all_processes_replaces_no_worker() {
    for name in ["wsgi", "asgi"] {
        let (server, directory) = run_application(name, &[]);
        let worker = children(server.pid())[0];
        let mut client = server.connect();
        client.send(get("/sleep/2"));
        wait_for_notes(&directory, "sleep 2", 1);
        // coring first: it waits only 200 ms for its own signal after that of a worker.
        server.signal(Signal::TERM);
        kill_process(worker, Signal::TERM).expect("a running worker");
        assert_eq!(client.response().status, 200);
        let ended = server.wait();
        assert_eq!(ended.code, Some(0), "{name}");
        assert!(
            !ended.stderr.contains("worker 1"),
            "{name}: {}",
            ended.stderr
        );
    }
}
