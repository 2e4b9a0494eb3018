//! HUP reads the settings again.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::support::{Coring, TempDir, children, coring, eventually, get};

/// Says which configuration it has, and whether its worker has threads. One configuration does not
/// run, and one only when there is a file.
const APP: &str = "\
import os, time

if os.environ['NAME'] == 'bad':
    raise ValueError('a bad name')
while os.environ['NAME'] == 'slow' and not os.path.exists('go'):
    time.sleep(0.01)

def app(environ, start_response):
    while environ['PATH_INFO'] == '/spin' and not os.path.exists('go'):
        open('runs', 'w').close()
        time.sleep(0.1)
    start_response('200 OK', [])
    return [f\"{os.environ['NAME']} {environ['wsgi.multithread']}\".encode()]
";

fn start(directory: &TempDir, configuration: &str) -> Coring {
    directory.write("gunicorn.conf.py", configuration);
    start_with(directory, &[])
}

fn start_with(directory: &TempDir, flags: &[&str]) -> Coring {
    directory.write("app.py", APP);
    let fixed = ["run", "app.py", "--bind", "127.0.0.1:0"];
    let mut command = coring(&[&fixed, flags].concat());
    command.current_dir(directory.path());
    Coring::start_as(command)
}

fn reports(server: &Coring, text: &str) {
    eventually(text, || server.stderr().contains(text).then_some(()));
}

/// Sends HUP for a configuration, and waits until all workers follow it: the `count`th one.
fn reload(server: &Coring, directory: &TempDir, configuration: &str, count: usize) {
    directory.write("gunicorn.conf.py", configuration);
    server.signal(Signal::HUP);
    eventually("new workers", || {
        let text = server.stderr();
        let done = text.matches("reload: all workers run the new code").count();
        (done == count).then_some(())
    });
}

fn has_workers(server: &Coring, count: usize) {
    eventually("that many workers", || {
        (children(server.pid()).len() == count).then_some(())
    });
}

#[test]
fn new_workers_follow_the_configuration_as_it_is_now() {
    let directory = TempDir::new();
    let server = start(
        &directory,
        "workers = 1\nworker_class = 'sync'\nraw_env = ['NAME=one']\n",
    );
    assert_eq!(server.get("/").text(), "one False");
    let configuration = "workers = 2\n\
                         worker_class = 'gthread'\n\
                         threads = 4\n\
                         raw_env = ['NAME=two']\n\
                         keepalive = 7\n\
                         logfile = '-'\n";
    reload(&server, &directory, configuration, 1);
    assert_eq!(server.get("/").text(), "two True");
    has_workers(&server, 2);
    reports(&server, "2 workers are kept");
    reports(&server, "did you mean errorlog?");
    reports(
        &server,
        "reload: only a restart of coring changes idle_timeout\n",
    );
    let configuration = "worker_class = 'sync'\nraw_env = ['NAME=three']\ntimeout = 1\n";
    reload(&server, &directory, configuration, 2);
    has_workers(&server, 1);
    assert_eq!(server.get("/").text(), "three False");
    assert_eq!(server.get("/spin").status, 504);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_configuration_that_fails_changes_nothing() {
    let directory = TempDir::new();
    let server = start(&directory, "raw_env = ['NAME=one']\n");
    let workers = children(server.pid());
    for (configuration, reason) in [
        (
            "raise ValueError('broken')\n",
            "reload: the configuration cannot be read; settings and workers stay as they are",
        ),
        (
            "workers = 'many'\n",
            "reload: gunicorn.conf.py: `workers` is `many`, which is no whole number; settings \
             and workers stay as they are",
        ),
    ] {
        directory.write("gunicorn.conf.py", configuration);
        server.signal(Signal::HUP);
        reports(&server, reason);
    }
    reports(&server, "ValueError: broken");
    // The number of workers, too, changes with the first one that is ready.
    directory.write("gunicorn.conf.py", "workers = 3\nraw_env = ['NAME=one']\n");
    directory.write("app.py", "broken");
    server.signal(Signal::HUP);
    reports(&server, "could not be loaded; the workers stay as they are");
    assert_eq!(children(server.pid()), workers);
    assert_eq!(server.get("/").text(), "one False");
    directory.write("app.py", APP);
    let configuration = "workers = 3\nraw_env = ['NAME=two']\n";
    reload(&server, &directory, configuration, 1);
    assert_eq!(server.get("/").text(), "two False");
    has_workers(&server, 3);
    let end = server.stop();
    assert_eq!(end.code, Some(0));
    assert_eq!(end.stderr.matches("workers are kept").count(), 1);
}

/// A worker that dies later is replaced by one with the settings that ran before.
#[test]
fn settings_that_do_not_run_leave_those_before_in_force() {
    let configuration = |name: &str, more: &str| format!("raw_env = ['NAME={name}']\n{more}");
    let variables = |name: &str, _: &str| format!("NAME={name}\n");
    let write = [&configuration as &dyn Fn(&str, &str) -> String, &variables];
    for (file, flags, write, more) in [
        ("gunicorn.conf.py", &[][..], write[0], "workers = 3\n"),
        ("gunicorn.conf.py", &[], write[0], "preload_app = True\n"),
        ("variables", &["--env-file", "variables"], write[1], ""),
    ] {
        let directory = TempDir::new();
        directory.write(file, write("one", ""));
        let server = start_with(&directory, flags);
        directory.write(file, write("bad", more));
        server.signal(Signal::HUP);
        reports(
            &server,
            "; the workers stay as they are, until the next reload",
        );
        let worker = eventually("one worker", || match children(server.pid())[..] {
            [worker] => Some(worker),
            _ => None,
        });
        kill_process(worker, Signal::KILL).expect("a worker");
        assert!(server.get("/").text().starts_with("one "));
        server.signal(Signal::TTIN);
        has_workers(&server, 2);
        // They are still kept when there are other settings with as many workers as before.
        directory.write(file, write("three", ""));
        server.signal(Signal::HUP);
        reports(&server, "reload: all workers run the new code");
        has_workers(&server, 2);
        assert!(server.get("/").text().starts_with("three "));
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn a_worker_that_is_added_counts_beside_a_number_that_is_not_followed_yet() {
    let directory = TempDir::new();
    let server = start(&directory, "raw_env = ['NAME=one']\n");
    let configuration = "workers = 3\nraw_env = ['NAME=slow']\n";
    directory.write("gunicorn.conf.py", configuration);
    server.signal(Signal::HUP);
    reports(&server, "reload: workers are replaced");
    server.signal(Signal::TTIN);
    reports(&server, "2 workers are kept");
    directory.write("go", "");
    reports(&server, "4 workers are kept");
    has_workers(&server, 4);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_server_that_ends_starts_no_further_workers() {
    let directory = TempDir::new();
    let server = start(
        &directory,
        "graceful_timeout = 300\nraw_env = ['NAME=one']\n",
    );
    let mut client = server.connect();
    client.send(get("/spin"));
    eventually("a request that runs", || {
        fs::exists(directory.file("runs")).ok()?.then_some(())
    });
    server.signal(Signal::TERM);
    // The first one may be heard before the drain.
    for count in 1.. {
        server.signal(Signal::HUP);
        let refusals = eventually("an answer", || {
            let text = server.stderr();
            let count_of = |words| text.matches(words).count();
            let refusals = count_of("the workers stay as they are, because the server ends");
            let reloads = count_of("reload: workers are replaced");
            (refusals + reloads == count).then_some(refusals)
        });
        if refusals > 0 {
            break;
        }
    }
    directory.write("go", "");
    assert_eq!(client.response().text(), "one False");
    assert_eq!(server.wait().code, Some(0));
}
