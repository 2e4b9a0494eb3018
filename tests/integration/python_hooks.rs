//! The functions of a configuration file of gunicorn's that `coring run` calls.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Coring, TempDir, children, coring, eventually};

const APP: &str = "\
def app(environ, start_response):
    start_response('200 OK', [])
    return [b'hello']
";

/// Notes each call, with the process that it runs in and that of the worker.
const CONFIGURATION: &str = "\
import os

workers = 1
worker_class = 'sync'

def note(name, server, worker=None, more=''):
    assert server.log and server.cfg.workers == 1
    assert server.cfg.worker_class == 'sync'
    with open('hooks', 'a') as file:
        pid = worker.pid if worker else ''
        file.write(f'{name} {os.getpid()} {pid} {more}'.strip() + '\\n')

def on_starting(server): note('on_starting', server)
def on_reload(server): note('on_reload', server)
def when_ready(server): note('when_ready', server)
def pre_fork(server, worker): note('pre_fork', server, worker, worker.age)
def post_fork(server, worker): note('post_fork', server, worker, worker.age)
def post_worker_init(worker): note('post_worker_init', worker, worker)
def worker_int(worker): note('worker_int', worker, worker)
def worker_exit(server, worker): note('worker_exit', server, worker)
def child_exit(server, worker): note('child_exit', server, worker)
def nworkers_changed(server, new, old): note('nworkers_changed', server, None, f'{old} {new}')
def on_exit(server): note('on_exit', server)
";

fn start(directory: &TempDir, flags: &[&str], configuration: &str) -> Coring {
    directory.write("app.py", APP);
    directory.write("gunicorn.conf.py", configuration);
    let fixed = ["run", "app.py", "--bind", "127.0.0.1:0"];
    let mut command = coring(&[&fixed[..], flags].concat());
    command.current_dir(directory.path());
    Coring::start_as(command)
}

/// The lines of the file that begin with `name`.
fn calls(directory: &TempDir, name: &str) -> Vec<String> {
    let all = fs::read_to_string(directory.file("hooks")).unwrap_or_default();
    let lines = all
        .lines()
        .filter(|line| line.split(' ').next() == Some(name));
    lines.map(str::to_owned).collect()
}

/// Waits until `name` was called `count` times.
fn wait_for(directory: &TempDir, name: &str, count: usize) {
    eventually(&format!("{count} × {name}"), || {
        (calls(directory, name).len() >= count).then_some(())
    });
}

fn raw(pid: Pid) -> String {
    pid.as_raw_nonzero().to_string()
}

fn is_ready(server: &Coring) -> Pid {
    assert_eq!(server.get("/").text(), "hello");
    eventually("one worker", || match children(server.pid())[..] {
        [worker] => Some(worker),
        _ => None,
    })
}

#[test]
fn each_function_is_called_in_its_process() {
    for flags in [&[][..], &["--preload"]] {
        let directory = TempDir::new();
        let server = start(&directory, flags, CONFIGURATION);
        let worker = is_ready(&server);
        let pid = raw(worker);
        let begun = fs::read_to_string(directory.file("hooks")).expect("the calls");
        let begun: Vec<Vec<&str>> = begun
            .lines()
            .map(|line| line.split(' ').collect())
            .collect();
        let names: Vec<&str> = begun.iter().map(|words| words[0]).collect();
        let expected = [
            "nworkers_changed",
            "on_starting",
            "when_ready",
            "pre_fork",
            "post_fork",
            "post_worker_init",
        ];
        assert_eq!(names, expected, "{flags:?}");
        let zygote = begun[0][1];
        assert!(begun[0].ends_with(&["None", "1"]), "{begun:?}");
        assert!(begun[1..4].iter().all(|words| words[1] == zygote));
        assert_eq!(begun[4][1..], [&*pid, &*pid, "1"]);
        assert_eq!(begun[5][1..], [&*pid, &*pid]);

        kill_process(worker, Signal::INT).expect("a worker");
        wait_for(&directory, "worker_int", 1);
        kill_process(worker, Signal::KILL).expect("a worker");
        wait_for(&directory, "child_exit", 1);
        let expected = format!("child_exit {zygote} {pid}");
        assert_eq!(calls(&directory, "child_exit"), [expected], "{flags:?}");
        wait_for(&directory, "post_worker_init", 2);

        server.signal(Signal::TTIN);
        wait_for(&directory, "nworkers_changed", 2);
        wait_for(&directory, "post_worker_init", 3);
        server.signal(Signal::TTOU);
        wait_for(&directory, "worker_exit", 1);
        wait_for(&directory, "child_exit", 2);
        let changes = calls(&directory, "nworkers_changed");
        assert!(
            changes[1].ends_with(" 1 2") && changes[2].ends_with(" 2 1"),
            "{changes:?}"
        );

        server.signal(Signal::HUP);
        wait_for(&directory, "on_reload", 1);
        wait_for(&directory, "child_exit", 3);
        // The functions are those of the new file's process.
        let reload = &calls(&directory, "on_reload")[0];
        assert!(!reload.ends_with(zygote), "{reload}");
        let before = calls(&directory, "worker_exit").len();
        assert_eq!(server.stop().code, Some(0), "{flags:?}");
        assert_eq!(calls(&directory, "worker_exit").len(), before + 1);
        assert_eq!(calls(&directory, "on_starting").len(), 1);
        let all = fs::read_to_string(directory.file("hooks")).expect("the calls");
        let last: Vec<&str> = all.lines().rev().take(2).collect();
        assert!(last[0].starts_with("on_exit "), "{last:?}");
        assert!(last[1].starts_with("child_exit "), "{last:?}");
    }
}

#[test]
fn a_function_that_fails_is_reported_and_does_no_harm() {
    let directory = TempDir::new();
    let failing =
        CONFIGURATION.replace("    with open('hooks'", "    1 / 0\n    with open('hooks'");
    let server = start(&directory, &[], &failing);
    is_ready(&server);
    for name in ["on_starting", "pre_fork", "post_fork", "post_worker_init"] {
        let line = format!("coring: {name} of the configuration failed: ZeroDivisionError");
        eventually(name, || server.stderr().contains(&line).then_some(()));
    }
    assert_eq!(server.stop().code, Some(0));
}
