//! HUP reads the settings again.

use rustix::process::Signal;

use crate::support::{Coring, TempDir, children, coring, eventually};

/// Says which configuration it has, and whether its worker has threads.
const APP: &str = "\
import os, time

def app(environ, start_response):
    while environ['PATH_INFO'] == '/spin':
        time.sleep(1)
    start_response('200 OK', [])
    return [f\"{os.environ['NAME']} {environ['wsgi.multithread']}\".encode()]
";

fn start(directory: &TempDir, configuration: &str) -> Coring {
    directory.write("app.py", APP);
    directory.write("gunicorn.conf.py", configuration);
    let mut command = coring(&["run", "app.py", "--bind", "127.0.0.1:0"]);
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
