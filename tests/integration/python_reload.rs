//! `coring run --reload`: workers are replaced when a file changes.

use std::fs::{self, File, FileTimes};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::support::{Client, Coring, TempDir, coring, eventually, get};

/// A WSGI application that responds with `version`, after a moment to `/slow`.
fn wsgi(version: &str) -> String {
    format!(
        "import time\n\
         def app(environ, start_response):\n    \
             start_response('200 OK', [('Content-Type', 'text/plain')])\n    \
             if environ['PATH_INFO'] == '/events':\n        \
                 return events()\n    \
             if environ['PATH_INFO'] == '/slow':\n        \
                 time.sleep(0.2)\n    \
             return [b'{version}']\n\
         def events():\n    \
             while True:\n        \
                 yield b'{version}'\n        \
                 time.sleep(0.05)\n"
    )
}

/// The same as an ASGI application.
fn asgi(version: &str) -> String {
    format!(
        "import asyncio\n\
         async def app(scope, receive, send):\n    \
             assert scope['type'] == 'http'\n    \
             await send({{'type': 'http.response.start', 'status': 200}})\n    \
             while scope['path'] == '/events':\n        \
                 body = {{'body': b'{version}', 'more_body': True}}\n        \
                 await send({{'type': 'http.response.body', **body}})\n        \
                 await asyncio.sleep(0.05)\n    \
             if scope['path'] == '/slow':\n        \
                 await asyncio.sleep(0.2)\n    \
             await send({{'type': 'http.response.body', 'body': b'{version}'}})\n"
    )
}

fn start(directory: &TempDir, flags: &[&str]) -> Coring {
    let fixed = ["run", "app.py", "--bind", "127.0.0.1:0", "--stats"];
    let mut command = coring(&[&fixed[..], flags].concat());
    command.current_dir(directory.path());
    // Else Python would have no caches that could be out of date.
    command.env_remove("PYTHONDONTWRITEBYTECODE");
    Coring::start_as(command)
}

/// Waits until the application responds with `text`.
fn responds_with(server: &Coring, text: &str) {
    eventually(text, || (server.get("/").text() == text).then_some(()));
}

fn reports(server: &Coring, text: &str) {
    eventually(text, || server.stderr().contains(text).then_some(()));
}

/// Saves a file as editors do: under another name, which then becomes that of the file.
fn save_by_rename(directory: &TempDir, name: &str, content: &str) {
    let other = directory.write("saved.tmp", content);
    fs::rename(other, directory.file(name)).expect("a rename");
}

/// No request is lost, and a response that does not end goes on.
#[test]
fn a_saved_file_is_served_while_requests_and_a_stream_run() {
    for (application, flags) in [
        (wsgi as fn(&str) -> String, &["-k", "sync", "-w", "2"][..]),
        (wsgi, &["-k", "gthread"]),
        (asgi, &["-w", "2"]),
    ] {
        let directory = TempDir::new();
        directory.write("app.py", application("one"));
        let flags = [flags, &["--reload", "--drain-timeout", "3s"]].concat();
        let server = start(&directory, &flags);
        let mut stream = server.connect();
        stream.send(get("/events"));
        stream.head();
        assert_eq!(stream.chunk().expect("a part"), b"one");
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for target in ["/", "/", "/slow", "/slow"] {
                let (server, is_over) = (&server, &is_over);
                scope.spawn(move || {
                    let mut client = server.connect();
                    while !is_over.load(Ordering::Relaxed) {
                        client.send(get(target));
                        let response = client.response();
                        assert_eq!(response.status, 200, "{target}: {}", response.text());
                    }
                });
            }
            for version in ["two", "three", "four"] {
                directory.write("app.py", application(version));
                responds_with(&server, version);
            }
            assert_eq!(stream.chunk().expect("a part"), b"one");
            is_over.store(true, Ordering::Relaxed);
        });
        reports(
            &server,
            "coring: reload: app.py changed; workers are replaced",
        );
        reports(&server, "coring: reload: all workers run the new code");
        drop(stream);
        assert_eq!(server.stop().code, Some(0), "{flags:?}");
    }
}

fn page(client: &mut Client) -> (u16, String) {
    client.send(get("/.coring/reload"));
    let response = client.response();
    (response.status, response.text().to_owned())
}

/// The last code that could be loaded runs on, and a page shows why the newest cannot.
#[test]
fn code_that_cannot_be_loaded_is_shown_on_a_page() {
    for (application, broken, reason) in [
        (wsgi as fn(&str) -> String, "def app(:\n", "SyntaxError"),
        (wsgi, "raise ValueError('<b>')\n", "ValueError: &lt;b&gt;"),
        (
            asgi,
            "async def app(scope, receive, send):\n    \
                 await receive()\n    \
                 failed = {'type': 'lifespan.startup.failed', 'message': 'no database'}\n    \
                 await send(failed)\n",
            "no database",
        ),
        (asgi, "import os\nos._exit(7)\n", "exit status: 7"),
    ] {
        let directory = TempDir::new();
        directory.write("app.py", application("one"));
        let server = start(&directory, &["--reload"]);
        let mut client = server.connect();
        assert_eq!(page(&mut client).0, 200);
        save_by_rename(&directory, "app.py", broken);
        reports(&server, "/.coring/reload, which shows why");
        assert_eq!(server.get("/").text(), "one", "{reason}");
        let (status, text) = page(&mut client);
        assert_eq!(status, 500, "{text}");
        assert!(text.contains(reason), "{text}");
        save_by_rename(&directory, "app.py", &application("two"));
        responds_with(&server, "two");
        assert_eq!(page(&mut client).0, 200);
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn an_application_that_is_broken_at_the_start_is_taken_up_later() {
    let directory = TempDir::new();
    directory.write("app.py", "import shop\ndef app(:\n");
    let server = start(&directory, &["--reload", "-w", "2"]);
    for target in ["/", "/any", "/.coring/reload"] {
        let response = server.get(target);
        assert_eq!(response.status, 500);
        assert!(
            response.text().contains("SyntaxError"),
            "{}",
            response.text()
        );
    }
    let code = format!("import shop\n{}", wsgi("one"));
    directory.write("app.py", code);
    eventually("the other reason", || {
        let response = server.get("/");
        let is_shown = response.text().contains("No module named 'shop'");
        is_shown.then_some(())
    });
    // A package in a new directory.
    directory.make("shop");
    directory.write("shop/__init__.py", "");
    responds_with(&server, "one");
    assert_eq!(server.stop().code, Some(0));
}

/// A worker would not understand the requests that wait for the other kind.
#[test]
fn an_application_does_not_change_its_interface() {
    let directory = TempDir::new();
    directory.write("app.py", wsgi("one"));
    let server = start(&directory, &["--reload"]);
    directory.write("app.py", asgi("two"));
    reports(&server, "another interface than before");
    assert_eq!(server.get("/").text(), "one");
    assert_eq!(server.get("/.coring/reload").status, 500);
    directory.write("app.py", wsgi("three"));
    responds_with(&server, "three");
    assert_eq!(server.stop().code, Some(0));
}

/// Python takes a cache for current by the second and the size of its source.
#[test]
fn two_saves_of_one_size_within_a_second_count() {
    let directory = TempDir::new();
    directory.make("lib");
    let save = |version: &str, nanoseconds: u64| {
        let path = directory.write("saved.tmp", format!("VERSION = b'{version}'\n"));
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let times = FileTimes::new().set_modified(second + Duration::from_nanos(nanoseconds));
        let file = File::options().write(true).open(&path).expect("a file");
        file.set_times(times).expect("a time");
        fs::rename(path, directory.file("lib/version.py")).expect("a rename");
    };
    save("one", 1);
    let code = "import os, version\n\
                def app(environ, start_response):\n    \
                    start_response('200 OK', [])\n    \
                    return [version.VERSION]\n";
    directory.write("app.py", code);
    let server = start(
        &directory,
        &["--reload", "--reload-dir", "lib", "--pythonpath", "lib"],
    );
    assert_eq!(server.get("/").text(), "one");
    save("two", 2);
    responds_with(&server, "two");
    assert!(!fs::exists(directory.file("lib/__pycache__")).expect("a directory"));
    // This one is not below a directory that is watched.
    directory.write("app.py", code.replace("VERSION]", "VERSION * 2]"));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(server.get("/").text(), "two");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn without_the_flag_nothing_is_replaced_and_there_is_no_page() {
    let directory = TempDir::new();
    directory.write("app.py", wsgi("one"));
    let server = start(&directory, &[]);
    directory.write("app.py", wsgi("two"));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(server.get("/").text(), "one");
    assert_eq!(server.get("/.coring/reload").text(), "one");
    assert_eq!(server.stop().code, Some(0));
}
