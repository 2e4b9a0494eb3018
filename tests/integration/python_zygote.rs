//! The process that workers are forked from, and what it shares with them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{
    Client, Coring, PATIENCE, TempDir, children, coring, eventually, get, run_application, zygote,
};

/// Says which processes it is and was loaded in, forks, and allocates.
const APPLICATION: &str = r#"
import os, sys, threading, time

LOADED = os.getpid()
MEMORY = [str(number) for number in range(400_000)]

def forked():
    if os.fork() == 0:
        os.closerange(3, 1024)
        time.sleep(SLEEP)
        os._exit(0)

def parent():
    # For a moment it is the process between.
    while True:
        try:
            pid = os.getppid()
            if open(f"/proc/{pid}/comm").read() != "coring-zygote\n":
                return pid
        except OSError:
            pass
        time.sleep(0.01)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fork":
        forked()
    elif path == "/busy":
        any(number < 0 for number in iter(int, 1))
    text = f"{os.getpid()} {parent()} {LOADED}"
    if path == "/fds":
        fds = [f"/proc/self/fd/{fd}" for fd in range(3, 64)]
        text = "\n".join(os.readlink(fd) for fd in fds if os.path.exists(fd))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
"#;

/// A server of [`APPLICATION`], in which the lines `more` come first.
fn start(more: &str, flags: &[&str]) -> (Coring, TempDir) {
    let directory = TempDir::new();
    fs::write(directory.file("app.py"), format!("{more}\n{APPLICATION}")).expect("a file");
    let app_dir = directory.path().to_str().expect("text");
    let fixed = [
        "run",
        "app:app",
        "--app-dir",
        app_dir,
        "--bind",
        "127.0.0.1:0",
    ];
    let command = coring(&[&fixed[..], flags].concat());
    (Coring::start_as(command), directory)
}

/// The numbers that the application answers: its process, the parent of that, and the process that
/// has loaded it.
fn numbers(client: &mut Client) -> [u32; 3] {
    client.send(get("/"));
    let response = client.response();
    let numbers = response.text().split(' ').map(|number| number.parse());
    let numbers: Vec<u32> = numbers.flatten().collect();
    numbers.try_into().expect("three numbers")
}

fn raw(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn is_running(pid: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", raw(pid)));
    state.is_ok_and(|state| !state.contains(") Z "))
}

#[test]
fn workers_are_children_of_the_server_and_load_the_application_themselves() {
    let (server, _directory) = start("", &["-w", "2"]);
    let [pid, parent, loaded] = numbers(&mut server.connect());
    assert_eq!(parent, server.pid());
    assert_eq!(loaded, pid);
    let workers = eventually("two workers", || {
        let workers = children(server.pid());
        (workers.len() == 2).then_some(workers)
    });
    assert!(workers.iter().any(|worker| raw(*worker) == pid));
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn preloaded_workers_share_the_application() {
    let (server, _directory) = start("", &["-w", "2", "--preload"]);
    let [pid, parent, loaded] = numbers(&mut server.connect());
    assert_eq!(parent, server.pid());
    assert_eq!(Some(loaded), zygote(server.pid()).map(raw));
    // Its list is some tens of megabytes.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a worker");
    let kilobytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.expect("a field").parse::<u64>().expect("a number")
    };
    assert!(kilobytes("Shared_Dirty:") > 25_000, "{rollup}");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_killed_zygote_is_replaced_and_its_workers_go_on() {
    for flags in [&["-w", "2"][..], &["-w", "2", "--preload"]] {
        let (server, _directory) = start("", flags);
        let mut client = server.connect();
        let workers = eventually("two workers", || {
            let workers = children(server.pid());
            (workers.len() == 2).then_some(workers)
        });
        // One that ends soon is replaced later.
        thread::sleep(Duration::from_millis(1100));
        let old = zygote(server.pid()).expect("a zygote");
        kill_process(old, Signal::KILL).expect("a zygote");
        let new = eventually("another zygote", || {
            zygote(server.pid()).filter(|new| *new != old)
        });
        assert_eq!(children(server.pid()), workers);
        let [pid, _, _] = numbers(&mut client);
        for worker in workers {
            kill_process(worker, Signal::KILL).expect("a worker");
        }
        eventually("other workers", || {
            let [other, parent, loaded] = numbers(&mut server.connect());
            assert!(loaded == other || loaded == raw(new));
            assert_eq!(parent, server.pid());
            (other != pid).then_some(())
        });
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn a_zygote_that_does_not_fork_is_replaced() {
    let (server, _directory) = start("", &[]);
    let old = zygote(server.pid()).expect("a zygote");
    kill_process(old, Signal::STOP).expect("a zygote");
    let [worker] = children(server.pid())[..] else {
        panic!("one worker");
    };
    kill_process(worker, Signal::KILL).expect("a worker");
    let [pid, _, _] = numbers(&mut server.connect());
    assert_ne!(pid, raw(worker));
    assert_eq!(server.stop().code, Some(0));
}

/// Whether the worker computes, waits or has not loaded its application yet.
#[test]
fn a_killed_server_leaves_no_python_process() {
    for (more, path) in [("", "/"), ("", "/busy"), ("import time; time.sleep(1)", "")] {
        let flags = ["-w", "3", "--preload"];
        let flags = if path.is_empty() {
            &flags[..2]
        } else {
            &flags[..]
        };
        let (server, _directory) = start(more, flags);
        let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
        if !path.is_empty() {
            clients.iter_mut().for_each(|client| client.send(get(path)));
            thread::sleep(Duration::from_millis(300));
        }
        let mut all = children(server.pid());
        all.extend(zygote(server.pid()));
        assert!(all.len() > 1, "{all:?}");
        let pid = Pid::from_raw(server.pid().cast_signed()).expect("a number");
        kill_process(pid, Signal::KILL).expect("a server");
        let until = Instant::now() + PATIENCE;
        while all.iter().any(|pid| is_running(*pid)) {
            assert!(Instant::now() < until, "{path}: {all:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn orphans_of_the_application_are_waited_for() {
    let (server, _directory) = start("SLEEP = 60", &[]);
    let [worker] = children(server.pid())[..] else {
        panic!("one worker");
    };
    let mut client = server.connect();
    client.send(get("/fork"));
    client.response();
    let orphan = eventually("a child of the worker", || {
        children(raw(worker)).first().copied()
    });
    kill_process(worker, Signal::KILL).expect("a worker");
    eventually("another worker", || {
        let [pid, _, _] = numbers(&mut server.connect());
        (pid != raw(worker)).then_some(())
    });
    assert!(children(server.pid()).contains(&orphan), "it is adopted");
    kill_process(orphan, Signal::KILL).expect("an orphan");
    eventually("the orphan to be waited for", || {
        test_kill_process(orphan).is_err().then_some(())
    });
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn workers_have_no_descriptors_but_their_own() {
    for flags in [&[][..], &["--preload"]] {
        let (server, _directory) = start("", flags);
        let mut client = server.connect();
        client.send(get("/fds"));
        let response = client.response();
        // A wrapper of the interpreter may leave one behind.
        let descriptors = response.text().lines().filter(|&one| one != "/dev/null");
        // Sockets: control, shared, and one for the core. Pipes: for the worker's end with coring,
        // and to wake its threads, from both ends. The core's bell. The page.
        assert_eq!(descriptors.count(), 3 + 3 + 1 + 1, "{}", response.text());
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn threads_of_a_preloaded_application_are_named() {
    let more = "import threading as t\n\
                t.Thread(target=t.Event().wait, name='ticker', daemon=True).start()";
    let (server, _directory) = start(more, &["--preload"]);
    numbers(&mut server.connect());
    let end = server.stop();
    assert_eq!(end.code, Some(0));
    let lines = end.stderr.lines().filter(|line| line.contains("ticker"));
    assert_eq!(lines.count(), 1, "{}", end.stderr);
}

#[test]
fn an_event_loop_of_a_preloaded_application_is_refused() {
    let directory = TempDir::new();
    let source = "import asyncio\nloop = asyncio.new_event_loop()\nasync def app(s, r, t): pass\n";
    fs::write(directory.file("app.py"), source).expect("a file");
    let app = directory.file("app.py");
    let output = coring(&["run", &app, "--preload", "--bind", "127.0.0.1:0"])
        .output()
        .expect("coring");
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("has made an event loop while it was imported"),
        "{text}"
    );
}

#[test]
fn a_preloaded_application_is_reloaded() {
    let (server, directory) = start("", &["--preload", "--reload", "-w", "2"]);
    let [_, _, before] = numbers(&mut server.connect());
    thread::sleep(Duration::from_millis(50));
    fs::write(directory.file("app.py"), format!("{APPLICATION}\n#")).expect("a file");
    eventually("new code", || {
        let [_, _, loaded] = numbers(&mut server.connect());
        (loaded != before).then_some(())
    });
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn asgi_applications_can_be_preloaded() {
    let (server, _directory) = run_application("asgi", &["--preload", "-w", "2"]);
    let mut client = server.connect();
    client.send(get("/"));
    assert!(client.response().status < 500);
    assert_eq!(server.stop().code, Some(0));
}
