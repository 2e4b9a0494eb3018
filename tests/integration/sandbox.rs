//! The program under the restrictions of `deploy/`: with the system call filters of the systemd
//! unit and of the container profile, and as a static binary alone in an empty root.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use coring::EngineChoice;
use rustix::io::Errno;

use crate::support::{
    Coring, TempDir, engine, get, has_io_uring, head_with_length, noise, python, request, run_with,
    static_binary,
};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/coring.service");
const PROFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/seccomp/coring.json");
const WITHOUT_IO_URING: &[&str] = &[
    "--without=io_uring_setup",
    "--without=io_uring_enter",
    "--without=io_uring_register",
];

/// The greatest size of the static binary.
const STATIC_BYTES_MAX: u64 = 6 << 20;

/// The flag that selects the engine under test, without a fallback.
fn engine_flag() -> &'static str {
    match engine() {
        EngineChoice::Epoll => "--engine=epoll",
        _ => "--engine=uring",
    }
}

/// Asserts that the server serves the files of [`make_site`], stops it and returns its output.
#[track_caller]
fn assert_serves(server: Coring, large: &[u8]) -> String {
    for _ in 0..2 {
        let response = server.get("/");
        assert_eq!((response.status, response.text()), (200, "top"));
        let response = server.get("/large");
        assert_eq!(response.status, 200);
        assert!(response.body == large, "{} bytes", response.body.len());
    }
    let response = server.ask(request("GET", "/large", &["Range: bytes=5-9"]));
    assert_eq!((response.status, &response.body[..]), (206, &large[5..10]));
    assert_eq!(server.get("/none").status, 404);
    let stderr = server.stop().stderr;
    assert!(!stderr.contains("panic"), "{stderr}");
    stderr
}

/// Makes the directory `srv` in `directory`, with a page and a large file. Returns the content of
/// the large file.
fn make_site(directory: &TempDir) -> Vec<u8> {
    let large = noise(3 << 20);
    fs::create_dir(directory.file("srv")).expect("a new directory");
    directory.write("srv/index.html", "top");
    directory.write("srv/large", &large);
    large
}

/// A command that runs `program` under `profile`, with `options` of seccomp.py.
fn under(profile: &str, options: &[&str], program: &[&str]) -> Command {
    python("seccomp.py", &[options, &[profile], program].concat())
}

/// A command that runs coring under `profile`. It has an access log and pins its workers, so that
/// it makes all of the system calls that it may need.
fn coring_under(profile: &str, options: &[&str], arguments: &[&str]) -> Command {
    let program = [
        env!("CARGO_BIN_EXE_coring"),
        "--bind=127.0.0.1:0",
        "--access-log=-",
        "--pin=always",
    ];
    under(profile, options, &[&program, arguments].concat())
}

/// A forbidden system call kills the server here, so that no failure goes unnoticed.
#[test]
fn the_unit_and_the_profile_allow_all_system_calls_that_coring_needs() {
    for profile in [UNIT, PROFILE] {
        let directory = TempDir::new();
        let large = make_site(&directory);
        let path = directory.file("srv");
        let command = coring_under(profile, &["--kill"], &["serve", &path, engine_flag()]);
        let banner = assert_serves(Coring::start_as(command), &large);
        let name = engine_flag().trim_start_matches("--engine=");
        assert!(banner.contains(name), "{profile}: {banner}");
    }
}

#[test]
fn without_the_io_uring_calls_epoll_serves_and_the_banner_says_why() {
    for profile in [UNIT, PROFILE] {
        let directory = TempDir::new();
        let large = make_site(&directory);
        let path = directory.file("srv");
        let without = WITHOUT_IO_URING;
        let command = coring_under(profile, without, &["serve", &path, "--engine=auto"]);
        let banner = assert_serves(Coring::start_as(command), &large);
        assert!(
            banner.contains(" engine  epoll (io_uring is refused: "),
            "{banner}"
        );
        let cure = "allow io_uring_setup, io_uring_enter and io_uring_register in the profile";
        assert!(banner.contains("a seccomp filter forbids it"), "{banner}");
        assert!(banner.contains(cure), "{banner}");
        let mut wanted = coring_under(profile, without, &["--engine=uring"]);
        assert_eq!(run_with(&mut wanted, b"").code, Some(77), "{profile}");
    }
}

/// A command that runs coring under a profile in which only `call` fails, with `errno`. The
/// returned directory has the profile.
fn coring_without(call: &str, errno: Errno, arguments: &[&str]) -> (TempDir, Command) {
    let directory = TempDir::new();
    let profile = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{{"names": ["{call}"], "action": "SCMP_ACT_ERRNO", "errnoRet": {}}}]}}"#,
        errno.raw_os_error()
    );
    let profile = directory.write("profile.json", profile);
    let program = [env!("CARGO_BIN_EXE_coring"), "--bind=127.0.0.1:0"];
    let command = under(&profile, &[], &[&program, arguments].concat());
    (directory, command)
}

#[test]
fn the_banner_says_why_workers_are_not_pinned() {
    let arguments = ["--pin=always", engine_flag()];
    let (_directory, command) = coring_without("sched_setaffinity", Errno::PERM, &arguments);
    let banner = Coring::start_as(command).stop().stderr;
    let message = ", not pinned (sched_setaffinity is refused: allow it in the seccomp profile)";
    assert!(banner.contains(message), "{banner}");
}

/// An engine cannot work without such a call. The error must name the call and not blame io_uring.
#[test]
fn a_refused_call_that_the_engine_needs_is_named() {
    let mut refused = vec![("eventfd2", "auto"), ("eventfd2", "epoll")];
    refused.push(("epoll_create1", "epoll"));
    if has_io_uring("the error of a ring that cannot make an eventfd") {
        refused.push(("eventfd2", "uring"));
    }
    for (call, engine) in refused {
        let (_directory, mut command) = coring_without(call, Errno::PERM, &["--engine", engine]);
        let finished = run_with(&mut command, b"");
        assert_eq!(finished.code, Some(1), "{engine}: {}", finished.stderr);
        let line = finished.error_line();
        for words in [
            format!("{call} failed: "),
            "allow it in the profile".to_owned(),
        ] {
            assert!(line.contains(&words), "{engine}: no `{words}` in: {line}");
        }
        assert!(!line.contains("io_uring"), "{engine}: {line}");
    }
}

/// If sendfile(2) fails, the server reads the file and sends the bytes, as the manual page
/// recommends.
#[test]
fn files_are_served_without_sendfile() {
    for errno in [Errno::INVAL, Errno::NOSYS, Errno::PERM] {
        let directory = TempDir::new();
        let large = make_site(&directory);
        let arguments = ["serve", &directory.file("srv"), engine_flag()];
        let (_profile, command) = coring_without("sendfile", errno, &arguments);
        let server = Coring::start_as(command);
        let mut slow = server.connect();
        slow.set_receive_buffer(64 << 10);
        slow.send(get("/large"));
        slow.head();
        let mut received = Vec::new();
        while received.len() < large.len() {
            let next = (large.len() - received.len()).min(100_000);
            received.extend(slow.take(next).expect("more of the file"));
            thread::sleep(Duration::from_millis(1));
        }
        assert!(received == large, "{errno}");
        drop(slow);
        assert_serves(server, &large);
    }
}

/// The profile forbids system calls that a server does not need but an attacker might use. The
/// default profiles of the container runtimes forbid them, too.
#[test]
fn the_profile_forbids_dangerous_system_calls() {
    let attempts = "\
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {'ptrace': 101, 'mount': 165, 'unshare': 272, 'setns': 308, 'bpf': 321,
                     'perf_event_open': 298, 'keyctl': 250, 'process_vm_readv': 310,
                     'userfaultfd': 323, 'open_by_handle_at': 304}.items():
    ctypes.set_errno(0)
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
        print(name, os.strerror(ctypes.get_errno()))
assert libc.syscall(39) == os.getpid()
";
    if cfg!(not(target_arch = "x86_64")) {
        return; // The script has the numbers of x86-64.
    }
    let mut command = under(PROFILE, &[], &["python3", "-c", attempts]);
    assert_eq!(run_with(&mut command, b"").succeeded(), "");
}

/// A program without a dynamic loader has no PT_INTERP among its program headers (elf(5)).
#[test]
fn the_static_binary_is_static_and_small() {
    const PT_INTERP: u32 = 3;
    let binary = fs::read(static_binary()).expect("a binary");
    let number = |at: usize, len: usize| {
        let bytes = binary[at..at + len].iter().rev();
        bytes.fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let kinds = (0..count).map(|index| number(table + index * size, 4));
    assert!(count > 0 && !kinds.into_iter().any(|kind| kind == PT_INTERP as usize));
    let len = binary.len() as u64;
    assert!(len <= STATIC_BYTES_MAX, "{len} bytes");
}

/// A command that runs `/coring` as the container image does: with `root` as the root directory,
/// as user 65532 if this process may change its user.
fn coring_alone_in(root: &TempDir, arguments: &[&str]) -> Command {
    let path = root.path();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("chroot");
        command.args(["--userspec=65532:65532", "--groups="]);
        command
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "chroot"]);
        command
    };
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.arg(path).arg("/coring").args(arguments);
    command
}

#[test]
fn the_static_binary_serves_alone_in_an_empty_root() {
    let root = TempDir::new();
    root.install(static_binary(), "coring");
    let large = make_site(&root);
    for host in ["127.0.0.1", "localhost"] {
        let bind = format!("--bind={host}:0");
        let command = coring_alone_in(&root, &["serve", "/srv", engine_flag(), &bind]);
        assert_serves(Coring::start_as(command), &large);
    }
    let mut unknown_host = coring_alone_in(&root, &["--bind=no.such.name.invalid:0"]);
    let finished = run_with(&mut unknown_host, b"");
    assert!(
        finished.error_line().contains("no.such.name.invalid"),
        "{finished:?}"
    );
}

/// A command that runs `program` with a read-only root, and with an empty file system in memory at
/// `spool` in `directory`. If this process may change its user, the program runs as a user that the
/// system does not know.
fn with_read_only_root(directory: &TempDir, program: &[&str]) -> Command {
    let mut script = "\
set -e
mount --bind \"$0\" \"$0\"
mount -o remount,bind,ro \"$0\"
mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777 tmpfs \"$0/spool\"
exec "
        .to_owned();
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if rustix::process::geteuid().is_root() {
        script += "setpriv --reuid=12345 --regid=12345 --clear-groups ";
    } else {
        command.arg("--map-root-user");
    }
    command.args(["sh", "-c", &(script + "\"$@\"")]);
    command.arg(directory.path()).args(program);
    command
}

/// As in a container: the static binary and an application in a read-only root. Where no directory
/// is writable, a body of the client is kept in memory, and refused if it is too large for that.
#[test]
fn a_python_application_runs_in_a_read_only_root_under_the_profile() {
    let directory = TempDir::new();
    directory.make("spool");
    let program = directory.install(static_binary(), "coring");
    let application = include_str!("support/applications/wsgi.py");
    let application = directory.write("wsgi.py", application);
    let seccomp = directory.write("seccomp.py", include_str!("support/seccomp.py"));
    let profile = fs::read(PROFILE).expect("a profile");
    let profile = directory.write("profile.json", profile);
    let body = noise(1 << 20);
    for options in [&["--kill"][..], WITHOUT_IO_URING] {
        for spool in ["spool", "."] {
            let spool_dir = format!("--spool-dir={}", directory.file(spool));
            let run = ["run", &application, "--bind=127.0.0.1:0", &spool_dir];
            let engine = match options {
                ["--kill"] => engine_flag(),
                _ => "--engine=auto",
            };
            // The interpreter of the system, which every user can read.
            let python = ["--python=/usr/bin/python3", engine];
            let words: [&[&str]; 5] = [
                &["/usr/bin/python3", &seccomp],
                options,
                &[&profile, &program],
                &run,
                &python,
            ];
            let server = Coring::start_as(with_read_only_root(&directory, &words.concat()));
            let has_spool = spool == "spool";
            let said = "no file can be made in ";
            assert_eq!(server.stderr().contains(said), !has_spool, "{spool}");
            for len in [body.len(), 5, 0] {
                let head = head_with_length("POST", "/digest", len);
                let mut client = server.connect();
                client.send(head);
                client.send(&body[..len]);
                let response = client.response();
                assert_eq!(response.status, 200);
                assert!(response.text().starts_with(&format!("{len} ")));
            }
            if !has_spool {
                let head = head_with_length("POST", "/digest", (64 << 20) + 1);
                assert_eq!(server.ask(head).status, 503);
            }
            assert_eq!(server.get("/").text(), "hello");
            let stderr = server.stop().stderr;
            let reason = "a request body cannot be kept: there is neither a directory nor";
            assert_eq!(stderr.contains(reason), !has_spool, "{stderr}");
        }
    }
}
