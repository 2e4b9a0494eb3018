//! `coring run`: the command lines, files and variables of gunicorn and uvicorn.

use std::process::Command;

use crate::support::{
    Coring, Finished, PYTHON, TempDir, coring, eventually, get, python_with_tools, report, run_with,
};

const APP: &str = "\
import os

def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    name = environ['QUERY_STRING']
    return [os.environ.get(name, 'hello').encode()]
";

const ASGI: &str = "\
async def app(scope, receive, send):
    assert scope['type'] == 'http'
    await send({'type': 'http.response.start', 'status': 200})
    await send({'type': 'http.response.body', 'body': b'hello'})
";

/// The configuration file of an article, verbatim.
const ARTICLE: &str = "\
# gunicorn_config.py
import logging
import logging.handlers
from logging.handlers import WatchedFileHandler
import os
import multiprocessing
bind = '127.0.0.1:0'      #绑定ip和端口号
backlog = 512                #监听队列
timeout = 30      #超时
worker_class = 'CLASS' #使用gevent模式，还可以使用sync 模式，默认的是sync模式
debug = True
workers = multiprocessing.cpu_count() * 2 + 1    #进程数
threads = 2 #指定每个进程开启的线程数
loglevel = 'debug' #日志级别，这个日志级别指的是错误日志的级别，而访问日志的级别无法设置
logfile = 'log/debug.log'
x_forwarded_for_header = 'X-FORWARDED-FOR'
";

pub(crate) fn applications() -> TempDir {
    let directory = TempDir::new();
    directory.write("app.py", APP);
    directory.write("asgi.py", ASGI);
    directory
}

/// `coring run` in a directory, without the variables that count.
pub(crate) fn command(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = coring(&["run"]);
    command.args(arguments).current_dir(directory.path());
    for variable in ["WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "PORT"] {
        command.env_remove(variable);
    }
    command
}

/// The banner of a server that answers `hello`.
#[track_caller]
fn banner_of(command: Command) -> String {
    let server = Coring::start_as(command);
    let mut client = server.connect();
    client.send(get("/"));
    assert_eq!(client.response().text(), "hello");
    let banner = eventually("the banner", || {
        let text = server.stderr();
        text.contains("  cores ").then_some(text)
    });
    assert_eq!(server.stop().code, Some(0));
    banner
}

/// Asserts that the command fails with one line that has `words`, below a traceback perhaps.
#[track_caller]
pub(crate) fn expect_failure(command: &mut Command, code: i32, words: &[&str]) -> Finished {
    let finished = run_with(command, b"");
    let text = &finished.stderr;
    assert_eq!(finished.code, Some(code), "{text}");
    let last = text.lines().last().expect("a line");
    for word in words {
        assert!(last.contains(word), "no {word:?} in: {text}");
    }
    finished
}

#[track_caller]
fn assert_has(banner: &str, words: &[&str]) {
    for word in words {
        assert!(banner.contains(word), "no {word:?} in: {banner}");
    }
}

#[test]
fn the_configuration_file_of_the_articles_works() {
    let directory = applications();
    let file = ARTICLE.replace("CLASS", "egg:meinheld#gunicorn_worker");
    directory.write("gunicorn_config.py", file);
    let arguments = ["-c", "gunicorn_config.py", "app:app"];
    let banner = banner_of(command(&directory, &arguments));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_has(
        &banner,
        &[
            "profile gunicorn (because of gunicorn_config.py)",
            &format!("{} × gthread of 2 threads", cores * 2 + 1),
            "`logfile` is no setting of gunicorn's; did you mean errorlog?",
            "`x_forwarded_for_header` is no setting of gunicorn's\n",
            "`debug` is no setting of gunicorn's\n",
            "`backlog` has no effect",
        ],
    );
}

/// The other version lets gevent patch the standard library before it names a class.
#[test]
fn the_configuration_file_of_the_articles_may_patch() {
    let directory = applications();
    for class in [
        "gunicorn.workers.ggevent.GeventWorker",
        "egg:meinheld#gunicorn_worker",
    ] {
        let file = ARTICLE.replace("CLASS", class);
        let file = format!("import gevent.monkey\ngevent.monkey.patch_all()\n{file}");
        directory.write("gunicorn_config.py", file);
        let mut command = command(&directory, &["-c", "gunicorn_config.py", "app:app"]);
        command.env(PYTHON, python_with_tools());
        let note = "--threads 2 has no effect";
        assert_has(&banner_of(command), &[" × gevent (as requested)", note]);
    }
}

#[test]
fn later_sources_yield_to_earlier_ones() {
    let directory = applications();
    directory.write(
        "gunicorn.conf.py",
        "workers = 3\nbind = ['127.0.0.1:0']\nwsgi_app = 'app:app'\nthreads = 2\n",
    );
    directory.write(
        "other.py",
        "bind = 'unix:/tmp/a'\nthreads = 7\nreload = True\n",
    );
    let file = format!("file:{}", directory.file("other.py"));
    let low = ("WEB_CONCURRENCY", "9");
    let variable = ("GUNICORN_CMD_ARGS", "--workers=4 --threads '5'");
    let own = ("CORING_THREADS", "6");
    // Without any argument the file is found, and names the application.
    let found = "app=app:app workers=3 threads=2 bind=127.0.0.1:0 reload=false";
    for (arguments, variables, expected) in [
        ("", &[][..], found),
        ("", &[low], found),
        ("-b localhost", &[], "app=app:app workers=3 bind=localhost"),
        (
            "asgi:app -w 5 -w 6",
            &[],
            "app=asgi:app workers=6 threads=2",
        ),
        ("", &[low, variable], "workers=4 threads=5"),
        ("-w 1", &[variable, own], "workers=1 threads=6"),
        (
            &format!("-c {file} app:app"),
            &[],
            "workers=1 threads=7 bind=unix:/tmp/a reload=true",
        ),
        (
            "--config python:other -- app:app",
            &[low],
            "workers=9 threads=7 reload=true",
        ),
        (
            "app:app",
            &[("GUNICORN_CMD_ARGS", "--config=other.py")],
            "workers=1 threads=7",
        ),
        (
            "app:app -c gunicorn.conf.py",
            &[("GUNICORN_CMD_ARGS", "--config=other.py --reload")],
            "workers=3 threads=2 reload=true",
        ),
        (
            "app:app --host ::1",
            &[("UVICORN_PORT", "9"), ("UVICORN_WORKERS", "2")],
            "workers=2 threads=2 bind=[::1]:9",
        ),
        ("app:app -b :1", &[("UVICORN_PORT", "9")], "bind=:1"),
    ] {
        expect_settings(&directory, arguments, variables, expected);
    }
}

/// Asserts that these settings, as `name=value`, are printed for the arguments and variables.
#[track_caller]
pub(crate) fn expect_settings(
    directory: &TempDir,
    arguments: &str,
    variables: &[(&str, &str)],
    expected: &str,
) {
    let words = ["--print-config"].into_iter();
    let words: Vec<&str> = words.chain(arguments.split_whitespace()).collect();
    let mut command = command(directory, &words);
    command.envs(variables.iter().copied());
    let finished = run_with(&mut command, b"");
    for setting in expected.split_whitespace() {
        let line = format!("{} # ", setting.replacen('=', " = ", 1));
        let mut lines = finished.stdout.lines();
        assert!(
            lines.any(|found| found.starts_with(&line)),
            "{arguments} {variables:?}: no {line:?} in {} {}",
            finished.stdout,
            finished.stderr
        );
    }
}

#[test]
fn variables_of_the_file_reach_the_application() {
    let directory = applications();
    directory.write(
        "conf.py",
        "raw_env = ['FROM_FILE=a=b,c']\nbind = '127.0.0.1:0'\n",
    );
    directory.write(
        "variables",
        "# comment\nFROM_FILE=no\nexport OTHER='two words'\n",
    );
    let arguments = ["-c", "conf.py", "--env-file", "variables", "app:app"];
    let server = Coring::start_as(command(&directory, &arguments));
    let mut client = server.connect();
    for (name, value) in [("FROM_FILE", "a=b,c"), ("OTHER", "two words")] {
        client.send(get(&format!("/?{name}")));
        assert_eq!(client.response().text(), value);
    }
}

#[test]
fn the_names_of_uvicorn_work() {
    let directory = applications();
    let line = "asgi:app --host localhost --port 1 --port 0 --workers 2 --timeout-keep-alive 7 \
                --no-use-colors --limit-concurrency 100 --loop asyncio --http h11 \
                --log-level trace";
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let banner = banner_of(command(&directory, &arguments));
    assert_has(
        &banner,
        &[
            "profile uvicorn",
            "2 × asgi",
            "on      http://127.0.0.1:",
            "`--http` has no effect",
        ],
    );
    // The last of repeated flags counts.
    assert!(
        !banner.contains(":1/") && !banner.contains("0.0.0.0"),
        "{banner}"
    );
    let mut from_variables = command(&directory, &["--host", "127.0.0.1"]);
    let variables = [
        ("UVICORN_PORT", "0"),
        ("UVICORN_APP", "asgi:app"),
        ("UVICORN_HEADERS", "a:1 b:2"),
        ("UVICORN_USE_COLORS", "yes"),
    ];
    from_variables.envs(variables).env("UVICORN_WORKERS", "2");
    assert_has(&banner_of(from_variables), &["asgi:app (asgi3", "2 × asgi"]);
}

#[test]
fn the_banner_says_why_there_are_so_few_cores() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return report("not tested: more cores than workers, which needs two");
    }
    let directory = applications();
    for (flags, why) in [
        (&[][..], "cores   1 (as many as Python workers, of "),
        (&["--cores=1"], "cores   1 (requested, of "),
    ] {
        let arguments = [&["app:app", "-b", "127.0.0.1:0"], flags].concat();
        assert_has(&banner_of(command(&directory, &arguments)), &[why]);
    }
}

/// uvicorn logs requests, gunicorn does not, and what the operator gives counts in any case.
#[test]
fn the_profile_decides_whether_requests_are_logged() {
    let directory = applications();
    let log_of = |arguments: &[&str]| {
        let mut command = command(&directory, arguments);
        command.args(["--bind", "127.0.0.1:0"]);
        let server = Coring::start_as(command);
        let mut client = server.connect();
        client.send(get("/logged"));
        assert_eq!(client.response().status, 200);
        drop(client);
        server.stop().stdout.matches("/logged").count()
    };
    assert_eq!(log_of(&["asgi:app"]), 1);
    assert_eq!(log_of(&["asgi:app", "--no-access-log"]), 0);
    assert_eq!(
        log_of(&["asgi:app", "-k", "uvicorn.workers.UvicornWorker"]),
        0
    );
    assert_eq!(log_of(&["app:app"]), 0);
    assert_eq!(log_of(&["--access-log", "app:app"]), 1);
    assert_eq!(log_of(&["app:app", "--access-logfile", "-"]), 1);
    assert_eq!(log_of(&["asgi:app", "--access-log=off"]), 0);
}

#[test]
fn settings_that_coring_refuses_are_explained() {
    let directory = applications();
    let file = |text: &str| {
        directory.write("conf.py", text);
        command(&directory, &["-c", "conf.py", "app:app"])
    };
    let words = ["conf.py: `daemon` is refused: let a service manager run"];
    expect_failure(&mut file("daemon = True\n"), 1, &words);
    expect_failure(
        &mut file("keyfile = 'a.pem'\n"),
        1,
        &["`keyfile` is refused: there is no TLS"],
    );
    let words = ["conf.py: `workers` is `two`, which is no whole number"];
    expect_failure(&mut file("workers = 'two'\n"), 1, &words);
    let words = ["conf.py: `workers`: invalid value '0'"];
    expect_failure(&mut file("workers = 0\n"), 1, &words);
    expect_failure(
        &mut file("keepalive = 'x'\n"),
        1,
        &["conf.py: `keepalive` is `x`, which is"],
    );
    let class = "worker_class = 'my.Worker'\n";
    expect_failure(
        &mut file(class),
        1,
        &["invalid value 'my.Worker'", "one of auto, sync"],
    );
    expect_failure(&mut file("def f(:\n"), 1, &["conf.py failed: SyntaxError"]);
    let finished = expect_failure(
        &mut file("1 / 0\n"),
        1,
        &["conf.py failed: ZeroDivisionError"],
    );
    assert!(
        finished.stderr.contains("conf.py\", line 1"),
        "{}",
        finished.stderr
    );
}

#[test]
fn command_lines_that_coring_refuses_are_explained() {
    let directory = applications();
    let line = |arguments: &[&str]| command(&directory, arguments);
    expect_failure(&mut line(&["app:app", "-D"]), 2, &["`--daemon` is refused"]);
    expect_failure(
        &mut line(&["app:app", "--fd", "3"]),
        2,
        &["`--fd` is refused"],
    );
    expect_failure(
        &mut line(&["app:app", "-b", "fd://3"]),
        2,
        &["give an address"],
    );
    expect_failure(
        &mut line(&["app:app", "-c", "no.py"]),
        1,
        &["no configuration file no.py"],
    );
    expect_failure(&mut line(&[]), 2, &["no application is given"]);
    let two = ["app:app", "asgi:app"];
    expect_failure(
        &mut line(&two),
        2,
        &["`asgi:app` would be a second application", "--access-log="],
    );
    expect_failure(
        &mut line(&["app:app", "--access-log", "-"]),
        2,
        &["an equals sign: --access-log=-"],
    );
    expect_failure(
        &mut line(&["app:app", "--paste", "x"]),
        2,
        &["`--paste` is refused"],
    );
    for flag in ["--drain-timeout", "--queue-timeout", "--workers-lifetime"] {
        let finished = run_with(&mut line(&["app:app", flag, "0"]), b"");
        assert_eq!(finished.code, Some(2), "{flag}: {}", finished.stderr);
        let reason = "must not be 0; to disable a limit";
        assert!(finished.stderr.contains(reason), "{}", finished.stderr);
    }
    let two = ["app:app", "-k", "sync", "--worker-class=gthread"];
    expect_failure(&mut line(&two), 2, &["two classes of workers"]);
    let mut variable = line(&["app:app"]);
    variable.env("UVICORN_PORT", "x");
    let words = ["UVICORN_PORT: `--port` is `x`, which is no port"];
    expect_failure(&mut variable, 2, &words);
    let mut variable = line(&["app:app"]);
    variable.env("GUNICORN_CMD_ARGS", "--worker 2");
    expect_failure(
        &mut variable,
        2,
        &["GUNICORN_CMD_ARGS: unexpected argument '--worker'"],
    );
}

#[test]
fn messages_fields_and_loggers_are_set_up_as_asked() {
    let directory = applications();
    directory.write(
        "logs.json",
        r#"{"version": 1, "disable_existing_loggers": false,
            "formatters": {"f": {"format": "mine: %(message)s"}},
            "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
            "root": {"handlers": ["h"], "level": "INFO"}}"#,
    );
    let logging = "import logging\nlogging.getLogger('shop').info('loaded')\n";
    directory.write("logged.py", format!("{logging}{APP}"));
    let arguments = [
        "logged:app",
        "--bind=127.0.0.1:0",
        "--log-config=logs.json",
        "--header=X-One: 1",
        "--header",
        "x-two:2",
    ];
    let server = Coring::start_as(command(&directory, &arguments));
    let mut client = server.connect();
    client.send(get("/"));
    let response = client.response();
    let fields = (response.field("x-one"), response.field("x-two"));
    assert_eq!(fields, (Some("1"), Some("2")));
    let ended = server.stop();
    assert!(ended.stderr.contains("mine: loaded\n"), "{}", ended.stderr);

    let arguments = [
        "broken.py",
        "--error-logfile",
        "errors.log",
        "--bind=127.0.0.1:0",
    ];
    directory.write("broken.py", "import nowhere\n");
    let finished = run_with(&mut command(&directory, &arguments), b"");
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(4), ""));
    let log = std::fs::read_to_string(directory.file("errors.log")).expect("a log");
    assert!(
        log.contains("ModuleNotFoundError") && log.contains("coring: "),
        "{log}"
    );

    let arguments = ["app:app", "--error-logfile", "/nowhere/errors.log"];
    let words = [
        "the error log /nowhere/errors.log cannot be opened",
        "; check the path",
    ];
    expect_failure(&mut command(&directory, &arguments), 78, &words);
    let arguments = [
        "app:app",
        "--bind=127.0.0.1:0",
        "--log-config",
        "nowhere.ini",
    ];
    let mut wrong = command(&directory, &arguments);
    expect_failure(
        &mut wrong,
        4,
        &["the logging configuration nowhere.ini failed"],
    );
}
