//! `coring run`: the user and the group that it becomes, its umask, its pidfile and its names.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::process::{Signal, geteuid};

use crate::support::{Coring, PYTHON, TempDir, children, coring, eventually, report, run_with};

/// A user without rights, of each machine.
const NOBODY: u32 = 65534;
/// An interpreter that every user may execute.
const INTERPRETER: &str = "/usr/bin/python3";

const APPLICATION: &str = "\
import os

LOADED = os.getresuid(), os.getresgid(), os.getgroups()

def app(environ, start_response):
    start_response('200 OK', [])
    mask = os.umask(0)
    os.umask(mask)
    return [f'{LOADED} {os.getresuid() == LOADED[0]} {mask:o}'.encode()]
";

/// A command that runs the application in `directory`.
fn run(directory: &TempDir, flags: &[&str]) -> std::process::Command {
    directory.write("rights.py", APPLICATION);
    let mut command = coring(&["run", "rights:app", "--app-dir", &directory.file("")]);
    command.args(flags);
    command
}

/// The user ids of a process, of each of its threads.
fn users(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status"));
    let all = tasks.flatten().flat_map(status);
    let rows = all.map(|text| {
        let rows = text.lines().filter(|line| {
            ["Uid:", "Gid:", "Groups:"]
                .iter()
                .any(|name| line.starts_with(name))
        });
        rows.flat_map(str::split_whitespace)
            .collect::<Vec<_>>()
            .join(" ")
    });
    rows.collect()
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("a process");
    name.trim_end().to_owned()
}

/// The ids of a process without rights, as [`users`] has them.
fn of_nobody() -> String {
    let id = NOBODY;
    format!("Uid: {id} {id} {id} {id} Gid: {id} {id} {id} {id} Groups: {id}")
}

/// A server that has become nobody, with files in `directory`; none if that is impossible here.
fn start_as_nobody(directory: &TempDir) -> Option<Coring> {
    if !geteuid().is_root() || !Path::new(INTERPRETER).exists() {
        report("not tested: only root can give up privileges, here with /usr/bin/python3");
        return None;
    }
    fs::write(directory.file("pid"), "4194305\n").expect("a stale pidfile");
    let access_log = format!("--access-log={}", directory.file("log"));
    let bind = format!("127.0.0.1:0,unix:{}", directory.file("socket"));
    let pidfile = directory.file("pid");
    let line = "--user 65534 --group 65534 --umask 027 --proc-name a-shop-of-books -w 2 --cores 2";
    let mut flags: Vec<&str> = line.split(' ').collect();
    flags.extend(["--python", INTERPRETER, "--pidfile", &pidfile]);
    flags.extend(["--bind", &bind, &access_log]);
    Some(Coring::start_as(run(directory, &flags)))
}

#[test]
fn privileges_are_given_up_before_python_starts() {
    let directory = TempDir::new();
    let Some(server) = start_as_nobody(&directory) else {
        return;
    };
    let ids = format!("({NOBODY}, {NOBODY}, {NOBODY})");
    let expected = format!("({ids}, {ids}, [{NOBODY}]) True 27");
    assert_eq!(server.get("/").text(), expected);
    assert!(users(server.pid()).len() > 2);
    let workers = eventually("two workers with their names", || {
        let workers = children(server.pid()).into_iter();
        let pids = workers.map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        let mut found: Vec<_> = pids.map(|pid| (name(pid), pid)).collect();
        found.sort();
        let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
        (names == ["a-shop-of-boo/0", "a-shop-of-boo/1"]).then_some(found)
    });
    let pids = workers.iter().map(|(_, pid)| *pid);
    for user in pids.chain([server.pid()]).flat_map(users) {
        assert_eq!(user, of_nobody());
    }
    assert_eq!(name(server.pid()), "a-shop-of-books");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn the_new_user_owns_the_files() {
    let directory = TempDir::new();
    let Some(server) = start_as_nobody(&directory) else {
        return;
    };
    server.get("/");
    let (log, pidfile) = (directory.file("log"), directory.file("pid"));
    for (path, owner, mode) in [
        (&log, NOBODY, 0o640),
        (&directory.file("socket"), NOBODY, 0o750),
        // A manager that is root relies on its content.
        (&pidfile, 0, 0o644),
    ] {
        let found = fs::symlink_metadata(path).expect("a file");
        assert_eq!((found.uid(), found.gid()), (owner, owner), "{path}");
        assert_eq!(found.permissions().mode() & 0o777, mode, "{path}");
    }
    let pid = server.pid().to_string();
    assert_eq!(fs::read_to_string(&pidfile).expect("a pidfile").trim(), pid);
    let flags = ["--pidfile", &pidfile, "--bind", "127.0.0.1:0"];
    let second = run_with(&mut run(&directory, &flags), b"");
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    let expected = format!("process {pid} has the pidfile {pidfile}; stop that process");
    assert!(second.error_line().contains(&expected), "{}", second.stderr);
    assert_eq!(server.stop().code, Some(0));
    // The new user may not remove it from a directory of root's, but empty it.
    assert_eq!(fs::read_to_string(&pidfile).expect("a pidfile"), "");
    let log = fs::read_to_string(&log).expect("a log");
    assert!(log.contains("\"GET / HTTP/1.1\" 200"), "{log}");
}

#[test]
fn a_pidfile_lasts_as_long_as_the_server() {
    let directory = TempDir::new();
    let pidfile = directory.file("pid");
    let server = Coring::start_as(run(
        &directory,
        &["--pidfile", &pidfile, "--bind", "127.0.0.1:0"],
    ));
    let text = fs::read_to_string(&pidfile).expect("a pidfile");
    assert_eq!(text, format!("{}\n", server.pid()));
    assert_eq!(server.stop().code, Some(0));
    assert!(!Path::new(&pidfile).exists());
}

/// The new user could have put such links into a directory of its own.
#[test]
fn no_log_is_made_through_a_link_before_privileges_are_given_up() {
    let directory = TempDir::new();
    if !geteuid().is_root() || !Path::new(INTERPRETER).exists() {
        return report("not tested: only root can give up privileges, here with /usr/bin/python3");
    }
    let target = directory.file("target");
    symlink(&target, directory.file("link")).expect("a link");
    for flag in ["--access-log=", "--error-logfile="] {
        let log = format!("{flag}{}", directory.file("link"));
        let line = "--user 65534 --group 65534 --bind 127.0.0.1:0 --python";
        let mut flags: Vec<&str> = line.split(' ').collect();
        flags.extend([INTERPRETER, &log]);
        let finished = run_with(&mut run(&directory, &flags), b"");
        assert_ne!(finished.code, Some(0), "{flag}: {}", finished.stderr);
        assert!(
            finished.stderr.contains("link"),
            "{flag}: {}",
            finished.stderr
        );
        assert!(!Path::new(&target).exists(), "{flag}");
    }
}

/// Standard output and error are pipes of root's, which the new user may not open.
#[test]
fn logs_may_be_descriptors_that_are_open() {
    if !geteuid().is_root() || !Path::new(INTERPRETER).exists() {
        return report("not tested: only root can give up privileges, here with /usr/bin/python3");
    }
    for (access_log, error_log) in [
        ("/dev/stdout", "/dev/stderr"),
        ("/proc/self/fd/1", "/dev/fd/2"),
    ] {
        let directory = TempDir::new();
        let logs = [
            format!("--access-log={access_log}"),
            format!("--error-logfile={error_log}"),
        ];
        let line = "--user 65534 --group 65534 --bind 127.0.0.1:0 --python";
        let mut flags: Vec<&str> = line.split(' ').collect();
        flags.extend([INTERPRETER, &logs[0], &logs[1]]);
        let server = Coring::start_as(run(&directory, &flags));
        server.get("/first");
        server.signal(Signal::USR1);
        server.get("/second");
        let ended = server.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        for target in ["/first", "/second"] {
            assert!(ended.stdout.contains(target), "{}", ended.stdout);
        }
        let problem = ended.stderr.lines().find(|line| line.contains("cannot"));
        assert_eq!(problem, None);
    }
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let directory = TempDir::new();
    for (flags, code, part) in [
        (
            &["--user", "no-such-user"][..],
            78,
            "no user `no-such-user` in /etc/passwd",
        ),
        (&["--user", "4000000000"], 78, "give --group"),
        (
            &["--group", "no-such-group"],
            78,
            "no group `no-such-group` in /etc/group",
        ),
        (
            &["--pidfile", "/no/such/directory/pid"],
            78,
            "check the path and its permissions",
        ),
        (&["--umask", "rwx"], 2, "octal number up to 0777"),
        (&["--daemon"], 2, "let a service manager run coring"),
    ] {
        let mut command = run(&directory, &[flags, &["--bind", "127.0.0.1:0"]].concat());
        command.env_remove(PYTHON);
        let finished = run_with(&mut command, b"");
        assert_eq!(finished.code, Some(code), "{flags:?}: {}", finished.stderr);
        assert!(
            finished.stderr.contains(part),
            "{flags:?}: {}",
            finished.stderr
        );
    }
}
