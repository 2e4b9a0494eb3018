//! The functions of a configuration file of gunicorn's that `coring run` calls.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Coring, PYTHON, TempDir, children, coring, eventually, get, python_with_tools, request,
};

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

/// Views that send, fail, write and hang, as a WSGI and as an ASGI application.
const VIEWS: &str = "\
def app(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/fail':
        raise KeyError('view')
    write = start_response('201 Made', [('X-Shape', 'round')])
    if path == '/write':
        write(b'abc')
        return (part for part in [b'de', b'f'])
    while path == '/spin':
        pass
    return [b'hello']

async def asgi(scope, receive, send):
    if scope['type'] == 'lifespan':
        raise RuntimeError
    if scope['path'] == '/fail':
        raise KeyError('view')
    headers = [(b'X-Shape', b'round')]
    await send({'type': 'http.response.start', 'status': 201, 'headers': headers})
    while scope['path'] == '/spin':
        pass
    if scope['path'] == '/write':
        await send({'type': 'http.response.body', 'body': b'abcdef', 'more_body': True})
        await send({'type': 'http.response.body'})
    else:
        await send({'type': 'http.response.body', 'body': b'hello'})
";

const REQUEST_FUNCTIONS: &str = "\
import os

def note(*parts):
    with open('hooks', 'a') as file:
        file.write(' '.join(map(str, parts)) + '\\n')

def pre_request(worker, req):
    assert worker.pid == os.getpid() and worker.log
    if req.path == '/stop':
        raise ValueError('pre_request')
    assert req.version == (1, 1) and req.scheme == 'http'
    assert req.remote_addr[0] == '127.0.0.1'
    colour = dict(req.headers).get('X-COLOUR')
    note('pre', req.method, req.uri, req.path, req.query or '-', colour)

def post_request(worker, req, environ, resp):
    shape = dict(resp.headers).get('X-Shape')
    note('post', req.method, environ['PATH_INFO'], resp.status, resp.status_code, shape, resp.sent)
    if req.path == '/after':
        raise ValueError('post_request')

def worker_abort(worker): note('abort', worker.pid, os.getpid())
def worker_exit(server, worker): note('exit', worker.pid)
";

fn start_views(class: &str, configuration: &str, flags: &[&str]) -> (Coring, TempDir) {
    let directory = TempDir::new();
    directory.write("views.py", VIEWS);
    directory.write("gunicorn.conf.py", configuration);
    let app = match class {
        "asgi" => "views:asgi",
        _ => "views:app",
    };
    let fixed = ["run", app, "--bind", "127.0.0.1:0", "-k", class, "-w", "1"];
    let mut command = coring(&[&fixed[..], flags].concat());
    command.current_dir(directory.path());
    if class == "gevent" {
        command.env(PYTHON, python_with_tools());
    }
    (Coring::start_as(command), directory)
}

#[test]
fn functions_see_each_request_and_its_response() {
    for class in ["sync", "gthread", "gevent", "asgi"] {
        let (server, directory) = start_views(class, REQUEST_FUNCTIONS, &[]);
        let status = match class {
            "asgi" => "201",
            _ => "201 Made",
        };
        let colour = request("GET", "/a%20b?c=%20", &["X-Colour: red"]);
        assert_eq!(server.ask(colour).text(), "hello");
        wait_for(&directory, "post", 1);
        assert_eq!(
            calls(&directory, "pre"),
            ["pre GET /a%20b?c=%20 /a%20b c=%20 red"],
            "{class}"
        );
        let expected = format!("post GET /a b {status} 201 round 5");
        assert_eq!(calls(&directory, "post"), [expected], "{class}");

        // Each in turn: a thread may call post_request after another has run the next request.
        assert_eq!(server.get("/write").text(), "abcdef");
        wait_for(&directory, "post", 2);
        let mut client = server.connect();
        client.send(request("HEAD", "/", &[]));
        assert_eq!(client.head().status, 201);
        wait_for(&directory, "post", 3);
        assert_eq!(server.get("/fail").status, 500);
        wait_for(&directory, "post", 4);
        assert_eq!(server.get("/stop").status, 500);
        wait_for(&directory, "post", 5);
        assert_eq!(server.get("/after").text(), "hello");
        wait_for(&directory, "post", 6);
        let expected = [
            format!("post GET /write {status} 201 round 6"),
            format!("post HEAD / {status} 201 round 0"),
            "post GET /fail None None None 0".to_owned(),
            "post GET /stop None None None 0".to_owned(),
            format!("post GET /after {status} 201 round 5"),
        ];
        assert_eq!(calls(&directory, "post")[1..], expected, "{class}");
        let pre = calls(&directory, "pre");
        assert!(!pre.iter().any(|call| call.contains("/stop")), "{pre:?}");
        for text in [
            "KeyError: 'view'",
            "ValueError: pre_request",
            "ValueError: post_request",
            "coring: post_request of the configuration failed: ValueError; coring goes on",
        ] {
            eventually(text, || server.stderr().contains(text).then_some(()));
        }
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn post_request_may_take_fewer_arguments() {
    for parameters in ["worker, req", "worker, req, environ"] {
        let file = format!(
            "def post_request({parameters}):\n    with open('hooks', 'a') as file:\n        \
             file.write('post ' + req.path + '\\n')\n"
        );
        let (server, directory) = start_views("sync", &file, &[]);
        assert_eq!(server.get("/few").text(), "hello");
        wait_for(&directory, "post", 1);
        assert_eq!(calls(&directory, "post"), ["post /few"], "{parameters}");
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn worker_abort_is_called_in_a_worker_that_hangs() {
    for class in ["sync", "gevent", "asgi"] {
        let (server, directory) = start_views(class, REQUEST_FUNCTIONS, &["--timeout", "1s"]);
        let worker = raw(is_ready(&server));
        let mut client = server.connect();
        client.send(get("/spin"));
        wait_for(&directory, "exit", 1);
        let expected = format!("abort {worker} {worker}");
        assert_eq!(calls(&directory, "abort"), [expected], "{class}");
        assert_eq!(calls(&directory, "exit"), [format!("exit {worker}")]);
        let traceback = "Fatal Python error: Aborted";
        eventually(traceback, || {
            server.stderr().contains(traceback).then_some(())
        });
        let other = raw(is_ready(&server));
        assert_ne!(other, worker, "{class}");
        assert_eq!(server.stop().code, Some(0));
    }
}
