//! Starts and ends of workers that hang, fail or take long.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Coring, TempDir, children, coring, eventually, zygote};

/// An application that responds with `version`. Its import hangs while there is a file `hang`.
fn hanging(version: &str) -> String {
    format!(
        "import os, time\n\
         def hang():\n    \
             open('hangs', 'w').close()\n    \
             while os.path.exists('hang'):\n        \
                 time.sleep(0.01)\n\
         if os.path.exists('hang'):\n    \
             hang()\n\
         def app(environ, start_response):\n    \
             start_response('200 OK', [])\n    \
             return [b'{version}']\n\
         with open('loaded', 'a') as file:\n    \
             file.write('x')\n"
    )
}

fn start(directory: &TempDir, flags: &[&str]) -> Coring {
    let mut command = coring(&[&["run", "app.py", "--bind", "127.0.0.1:0"], flags].concat());
    command.current_dir(directory.path());
    Coring::start_as(command)
}

fn reports(server: &Coring, text: &str) {
    eventually(text, || server.stderr().contains(text).then_some(()));
}

fn begins_to_hang(directory: &TempDir) {
    eventually("a start that hangs", || {
        fs::remove_file(directory.file("hangs")).ok()
    });
}

#[test]
fn a_worker_that_does_not_become_ready_is_ended_and_another_one_is_started() {
    let directory = TempDir::new();
    directory.write("app.py", hanging("one"));
    let server = start(&directory, &["-w", "2", "--start-timeout", "6s"]);
    eventually("two workers that have loaded the application", || {
        let loaded = fs::read(directory.file("loaded")).unwrap_or_default();
        (loaded.len() == 2).then_some(())
    });
    directory.write("hang", "");
    kill_process(children(server.pid())[0], Signal::KILL).expect("a worker");
    begins_to_hang(&directory);
    reports(
        &server,
        "is not ready after 6s (--start-timeout): it is ended by SIGABRT, and writes where it is",
    );
    reports(&server, "in hang\n");
    reports(
        &server,
        "could not start (the Python process was not ready after 6s); the next attempt is in",
    );
    assert_eq!(server.get("/").text(), "one");
    fs::remove_file(directory.file("hang")).expect("a file");
    eventually("two workers", || {
        (children(server.pid()).len() == 2).then_some(())
    });
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn an_application_that_does_not_become_ready_is_not_served() {
    let run = |flags: &[&str]| {
        let directory = TempDir::new();
        directory.write("app.py", hanging("one"));
        directory.write("hang", "");
        let fixed = ["run", "app.py", "--bind", "127.0.0.1:0"];
        // By then Python has come as far as the application, also on a busy machine.
        let limit = ["--start-timeout", "5s"];
        let mut command = coring(&[&fixed[..], &limit, flags].concat());
        let output = command.current_dir(directory.path()).output();
        let output = output.expect("coring");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("in hang\n"), "{text}");
        let error = "error: the Python process was not ready after 5s";
        assert!(text.contains(error), "{text}");
    };
    thread::scope(|scope| {
        scope.spawn(|| run(&[]));
        scope.spawn(|| run(&["--preload"]));
    });
}

#[test]
fn hup_with_mended_code_abandons_a_start_that_hangs() {
    for flags in [&[][..], &["--preload"]] {
        let directory = TempDir::new();
        directory.write("app.py", hanging("one"));
        let server = start(&directory, &[&["-w", "2"], flags].concat());
        directory.write("hang", "");
        server.signal(Signal::HUP);
        begins_to_hang(&directory);
        assert_eq!(server.get("/").text(), "one");
        directory.write("app.py", hanging("two").replace("    hang()", "    pass"));
        server.signal(Signal::HUP);
        reports(&server, "reload: all workers run the new code");
        assert_eq!(server.get("/").text(), "two", "{flags:?}");
        let end = server.stop();
        assert_eq!(end.code, Some(0));
        assert!(!end.stderr.contains("could not"), "{}", end.stderr);
    }
}

/// A child of the application holds what its parent had open.
#[test]
fn a_process_that_ends_before_it_is_ready_is_not_waited_for() {
    for flags in [&[][..], &["--preload"]] {
        let directory = TempDir::new();
        let source = "import os, time\n\
                      if os.fork() == 0:\n    \
                          os.closerange(0, 3)\n    \
                          time.sleep(60)\n    \
                          os._exit(0)\n\
                      os._exit(7)\n";
        directory.write("app.py", source);
        let began = Instant::now();
        let fixed = ["run", "app.py", "--bind", "127.0.0.1:0"];
        let mut command = coring(&[&fixed[..], flags].concat());
        let output = command.current_dir(directory.path()).output();
        let output = output.expect("coring");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{text}");
        let error = "the Python process ended before it was ready: exit status: 7";
        assert!(text.contains(error), "{text}");
        assert!(began.elapsed() < Duration::from_secs(50), "{flags:?}");
    }
}

/// A worker is told to end, and reaches its limit while its successor fails to start.
#[test]
fn a_limit_that_is_reached_during_a_failing_start_counts() {
    let directory = TempDir::new();
    let refusal = "import os\n\
                   if os.path.exists('broken'):\n    \
                       raise SystemExit('broken')\n";
    directory.write("app.py", format!("{}{refusal}", hanging("one")));
    let server = start(&directory, &["--max-requests", "2"]);
    directory.write("hang", "");
    directory.write("broken", "");
    kill_process(children(server.pid())[0], Signal::TERM).expect("a worker");
    begins_to_hang(&directory);
    for _ in 0..2 {
        assert_eq!(server.get("/").text(), "one");
    }
    fs::remove_file(directory.file("hang")).expect("a file");
    reports(&server, "could not start; worker 0 continues");
    fs::remove_file(directory.file("broken")).expect("a file");
    reports(
        &server,
        "worker 0 has had its number of requests (--max-requests); worker",
    );
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn an_end_that_takes_longer_than_the_timeout_is_no_hang() {
    let directory = TempDir::new();
    let slow_end = "import atexit\natexit.register(time.sleep, 2.5)\n";
    directory.write("app.py", format!("{}{slow_end}", hanging("one")));
    let server = start(&directory, &["--timeout", "1s"]);
    let old = children(server.pid());
    server.signal(Signal::HUP);
    reports(&server, "reload: all workers run the new code");
    eventually("the end of the old one", || {
        let workers = children(server.pid());
        (workers.len() == 1 && workers != old).then_some(())
    });
    let end = server.stop();
    assert_eq!(end.code, Some(0));
    assert!(!end.stderr.contains("reacted"), "{}", end.stderr);
}

#[test]
fn workers_that_are_too_large_from_the_start_are_replaced_after_a_pause() {
    let directory = TempDir::new();
    directory.write("app.py", hanging("one"));
    let began = Instant::now();
    let server = start(&directory, &["--workers-max-rss", "1m"]);
    reports(&server, "(--workers-max-rss); worker 3 is in its place");
    // The first one was looked at after a second, the others live for one and for two seconds.
    assert!(began.elapsed() >= Duration::from_secs(4));
    let end = server.stop();
    assert_eq!(end.code, Some(0));
    let text = "workers reach --workers-max-rss soon after their start";
    assert_eq!(end.stderr.matches(text).count(), 1, "{}", end.stderr);
}

#[test]
fn a_fork_that_hangs_is_killed() {
    let directory = TempDir::new();
    let hook = "os.register_at_fork(after_in_child=lambda: os.path.exists('hang') and hang())\n";
    directory.write("app.py", format!("{}{hook}", hanging("one")));
    let server = start(&directory, &["--preload"]);
    let before = zygote(server.pid()).expect("a zygote");
    directory.write("hang", "");
    kill_process(children(server.pid())[0], Signal::KILL).expect("a worker");
    begins_to_hang(&directory);
    reports(&server, "coring: a fork has hung for 4 s, and is killed");
    assert_eq!(children(before.as_raw_nonzero().get().unsigned_abs()), []);
    assert_eq!(children(server.pid()), []);
    fs::remove_file(directory.file("hang")).expect("a file");
    assert_eq!(server.get("/").text(), "one");
    assert_eq!(zygote(server.pid()), Some(before));
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn signals_during_the_first_start_count() {
    let directory = TempDir::new();
    directory.write("app.py", hanging("one"));
    directory.write("hang", "");
    let log = directory.file("errors");
    let address = format!("--bind=unix:{}", directory.file("socket"));
    let mut command = coring(&["run", "app.py", &address, "--error-logfile", &log]);
    command.current_dir(directory.path());
    let mut child = command.spawn().expect("a process");
    let pid = Pid::from_child(&child);
    let has = |words: &str| {
        eventually(words, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.contains(words).then_some(())
        });
    };
    begins_to_hang(&directory);
    kill_process(pid, Signal::TTIN).expect("it runs");
    has("2 workers are kept");
    fs::rename(&log, directory.file("old")).expect("a rename");
    kill_process(pid, Signal::USR1).expect("it runs");
    has("SIGUSR1");
    directory.write("app.py", hanging("two").replace("    hang()", "    pass"));
    kill_process(pid, Signal::HUP).expect("it runs");
    has("reload: all workers run the new code");
    eventually("two workers", || {
        (children(child.id()).len() == 2).then_some(())
    });
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("our child").code(), Some(0));
}
