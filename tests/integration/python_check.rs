//! `coring run`: the settings as they are checked and printed before a start.

use std::net::TcpListener;

use crate::python_settings::{applications, command, expect_failure, expect_settings};
use crate::support::run_with;

#[test]
fn settings_can_be_checked_and_printed() {
    let directory = applications();
    directory.write("broken.py", "import nowhere\n");
    directory.write("conf.py", "workers = 3\nraw_env = ['A=1', 'B=2']\n");
    let mut check = command(&directory, &["-c", "conf.py", "--check-config", "app:app"]);
    let finished = run_with(&mut check, b"");
    assert_eq!(
        (finished.code, finished.stderr.as_str()),
        (Some(0), "coring: `app:app` can be loaded: wsgi sync\n")
    );
    let mut broken = command(&directory, &["--check-config", "broken:app"]);
    expect_failure(&mut broken, 1, &["`broken:app` needs the module `nowhere`"]);

    let arguments = [
        "-c",
        "conf.py",
        "--print-config",
        "app:app",
        "--timeout-keep-alive",
        "9",
    ];
    let mut print = command(&directory, &arguments);
    print
        .env("CORING_QUEUE", "7")
        .env("FORWARDED_ALLOW_IPS", "10.0.0.1")
        .env("GUNICORN_CMD_ARGS", "--limit-request-line 999");
    let finished = run_with(&mut print, b"");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for line in [
        "app = app:app # the command line",
        "bind = 127.0.0.1:8000 # the default",
        "forwarded_allow_ips = 10.0.0.1 # FORWARDED_ALLOW_IPS",
        "forwarder_headers = SCRIPT_NAME,PATH_INFO # the default",
        "env = A=1,B=2 # conf.py",
        "idle_timeout = 9s # the command line",
        "max_target = 999 # GUNICORN_CMD_ARGS",
        "profile = gunicorn # GUNICORN_CMD_ARGS",
        "queue = 7 # CORING_QUEUE",
        "spool_dir = none # the default",
        "threads = 1 # the default of gunicorn",
        "workers = 3 # conf.py",
    ] {
        let mut lines = finished.stdout.lines();
        assert!(
            lines.any(|other| other == line),
            "no {line:?} in {}",
            finished.stdout
        );
    }
}

/// The check notes what it ignores, finds what is missing, and leaves nothing behind.
#[test]
fn a_check_names_what_is_ignored_and_what_is_missing() {
    let directory = applications();
    let check = |arguments: &[&str]| {
        let arguments = [&["app:app", "--check-config"], arguments].concat();
        command(&directory, &arguments)
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("its address").to_string();
    let line = "--backlog 5 --http h11 --spew --access-log=access.log --error-logfile error.log \
                --pidfile pid --spool-dir . --static /t=. --bind unix:socket --bind";
    let arguments: Vec<&str> = line.split_whitespace().chain([&*taken]).collect();
    let finished = run_with(&mut check(&arguments), b"");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let noted = ["`--backlog` has", "`--http` has", "`--spew` has", "loaded"];
    for word in noted {
        let count = finished.stderr.matches(word).count();
        assert_eq!(count, 1, "{word}: {}", finished.stderr);
    }
    for name in ["access.log", "error.log", "pid", "socket"] {
        assert!(!directory.path().join(name).exists(), "{name}");
    }
    for (arguments, words) in [
        (
            &["--bind", "foo:x"][..],
            &["foo:x", "is not an address"][..],
        ),
        (&["--bind", "no.invalid:80"], &["resolve no.invalid"]),
        (&["--bind", "unix:/nope/socket"], &["socket /nope/socket"]),
        (&["--user", "no-such-user"], &["no user `no-such-user`"]),
        (
            &["--static", "/t=/nope"],
            &["`/nope`", "--static /PATH=DIR"],
        ),
        (
            &["--access-log=/nope/x"],
            &["access log /nope/x", "check the path"],
        ),
        (&["--access-log=."], &["access log .: is a directory"]),
        (&["--error-logfile", "/nope/x"], &["error log /nope/x"]),
        (&["--pidfile", "/nope/x"], &["pidfile /nope/x"]),
        (&["--pidfile", "app.py/x"], &["pidfile app.py/x: "]),
        (&["--spool-dir", "/nope"], &["`/nope`", "--spool-dir DIR"]),
        (
            &["--reload", "--reload-dir", "/nope"],
            &["`/nope`", "--reload-dir DIR"],
        ),
    ] {
        expect_failure(&mut check(arguments), 78, words);
    }
}

#[test]
fn values_are_read_as_gunicorn_reads_them() {
    let directory = applications();
    let file = "forwarded_allow_ips = None\nforwarder_headers = ''\numask = '0xFF'\n";
    directory.write("none.py", file);
    let expected = "config=none.py forwarded_allow_ips= forwarder_headers= umask=0xFF";
    let variables = [("GUNICORN_CMD_ARGS", "--config none.py")];
    expect_settings(&directory, "app:app", &variables, expected);
    let port = [("PORT", "81")];
    let expected = "bind=0.0.0.0:81 forwarded_allow_ips=127.0.0.1,::1";
    expect_settings(&directory, "app:app", &port, expected);
}
