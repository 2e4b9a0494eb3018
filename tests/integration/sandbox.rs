//! Where `deploy/` puts coring: under the unit's system call filter, under the containers' one, and
//! alone in an empty root. Each is the real thing: libseccomp's filter, a static binary, `chroot`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use coring::EngineChoice;
use rustix::io::Errno;

use crate::serve::{get, request};
use crate::support::{Coring, Folder, engine, has_io_uring, noise, python, run_with};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/coring.service");
const PROFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/seccomp/coring.json");
const WITHOUT_IO_URING: &[&str] = &[
    "--without=io_uring_setup",
    "--without=io_uring_enter",
    "--without=io_uring_register",
];

/// The size that the static binary may have.
const STATIC_BYTES_MAX: u64 = 6 << 20;

/// The engine that the tests are about, by the name of its flag: no falling back.
fn engine_flag() -> &'static str {
    match engine() {
        EngineChoice::Epoll => "--engine=epoll",
        _ => "--engine=uring",
    }
}

/// What every server here is asked for, and that it ends as asked.
#[track_caller]
fn serves(server: Coring, large: &[u8]) -> String {
    for _ in 0..2 {
        let answer = get(&server, "/");
        assert_eq!((answer.status, answer.text()), (200, "top"));
        let answer = get(&server, "/large");
        assert_eq!(answer.status, 200);
        assert!(answer.body == large, "{} bytes", answer.body.len());
    }
    let answer = server.ask(request("GET", "/large", &["Range: bytes=5-9"]));
    assert_eq!((answer.status, &answer.body[..]), (206, &large[5..10]));
    assert_eq!(get(&server, "/none").status, 404);
    let banner = server.stop().stderr;
    assert!(!banner.contains("panic"), "{banner}");
    banner
}

/// Makes `srv` in `folder`, with a page and a large file, which is returned.
fn site(folder: &Folder) -> Vec<u8> {
    let large = noise(3 << 20);
    fs::create_dir(folder.file("srv")).expect("a new folder");
    folder.write("srv/index.html", "top");
    folder.write("srv/large", &large);
    large
}

/// Runs `program` where only what `profile` allows is allowed, with `options` of seccomp.py.
fn under(profile: &str, options: &[&str], program: &[&str]) -> Command {
    python("seccomp.py", &[options, &[profile], program].concat())
}

/// Runs coring there: with an access log and pinned, so that it does all that it can do.
fn coring_under(profile: &str, options: &[&str], arguments: &[&str]) -> Command {
    let program = [
        env!("CARGO_BIN_EXE_coring"),
        "--bind=127.0.0.1:0",
        "--access-log=-",
        "--pin=always",
    ];
    under(profile, options, &[&program, arguments].concat())
}

/// Nothing fails quietly: a call that is not allowed is the server's end here.
#[test]
fn the_unit_and_the_profile_allow_all_that_is_needed() {
    for profile in [UNIT, PROFILE] {
        let folder = Folder::new();
        let large = site(&folder);
        let path = folder.file("srv");
        let command = coring_under(profile, &["--kill"], &["serve", &path, engine_flag()]);
        let banner = serves(Coring::start_as(command), &large);
        let name = engine_flag().trim_start_matches("--engine=");
        assert!(banner.contains(name), "{profile}: {banner}");
    }
}

#[test]
fn without_its_three_calls_epoll_serves_and_the_banner_says_why() {
    for profile in [UNIT, PROFILE] {
        let folder = Folder::new();
        let large = site(&folder);
        let path = folder.file("srv");
        let without = WITHOUT_IO_URING;
        let command = coring_under(profile, without, &["serve", &path, "--engine=auto"]);
        let banner = serves(Coring::start_as(command), &large);
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

/// Runs coring where `call` fails with `errno`, and all else is allowed.
fn coring_without(call: &str, errno: Errno, arguments: &[&str]) -> (Folder, Command) {
    let folder = Folder::new();
    let profile = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{{"names": ["{call}"], "action": "SCMP_ACT_ERRNO", "errnoRet": {}}}]}}"#,
        errno.raw_os_error()
    );
    let profile = folder.write("profile.json", profile);
    let program = [env!("CARGO_BIN_EXE_coring"), "--bind=127.0.0.1:0"];
    let command = under(&profile, &[], &[&program, arguments].concat());
    (folder, command)
}

#[test]
fn who_may_not_be_pinned_is_said_not_to_be() {
    let arguments = ["--pin=always", engine_flag()];
    let (_folder, command) = coring_without("sched_setaffinity", Errno::PERM, &arguments);
    let banner = Coring::start_as(command).stop().stderr;
    let told = ", not pinned (sched_setaffinity is refused: allow it in the seccomp profile)";
    assert!(banner.contains(told), "{banner}");
}

/// No other engine is tried for it, and io_uring is not blamed.
#[test]
fn a_call_that_no_engine_can_do_without_is_named_where_it_is_refused() {
    let mut refused = vec![("eventfd2", "auto"), ("eventfd2", "epoll")];
    refused.push(("epoll_create1", "epoll"));
    if has_io_uring("that a ring without eventfd2 names it") {
        refused.push(("eventfd2", "uring"));
    }
    for (call, engine) in refused {
        let (_folder, mut command) = coring_without(call, Errno::PERM, &["--engine", engine]);
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

/// As sendfile(2) advises: what cannot be sent from the file is read.
#[test]
fn where_sendfile_is_refused_files_are_served_all_the_same() {
    for errno in [Errno::INVAL, Errno::NOSYS, Errno::PERM] {
        let folder = Folder::new();
        let large = site(&folder);
        let arguments = ["serve", &folder.file("srv"), engine_flag()];
        let (_profile, command) = coring_without("sendfile", errno, &arguments);
        let server = Coring::start_as(command);
        let mut slow = server.connect();
        slow.receive_at_most(64 << 10);
        slow.send(request("GET", "/large", &[]));
        slow.head();
        let mut received = Vec::new();
        while received.len() < large.len() {
            let next = (large.len() - received.len()).min(100_000);
            received.extend(slow.take(next).expect("more of it"));
            thread::sleep(Duration::from_millis(1));
        }
        assert!(received == large, "{errno}");
        drop(slow);
        serves(server, &large);
    }
}

/// What a server has no use for, and who broke into one has.
#[test]
fn the_profile_forbids_what_the_runtimes_forbid() {
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
        return; // The numbers are those of x86-64.
    }
    let mut command = under(PROFILE, &[], &["python3", "-c", attempts]);
    assert_eq!(run_with(&mut command, b"").succeeded(), "");
}

/// The static binary that `tests/run` builds.
#[track_caller]
fn static_binary() -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_coring")).parent();
    let target = profile
        .and_then(Path::parent)
        .expect("a folder for what is built");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let path = target.join(triple).join("release/coring");
    assert!(path.exists(), "no {}: tests/run builds it", path.display());
    path
}

/// A program that needs no loader has no PT_INTERP among its program headers (elf(5)).
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

/// Runs the binary in `root` as the image does: root's own root, user 65532, nothing else there.
fn alone_in(root: &Folder, arguments: &[&str]) -> Command {
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
    let root = Folder::new();
    fs::copy(static_binary(), root.file("coring")).expect("a copy");
    let large = site(&root);
    for host in ["127.0.0.1", "localhost"] {
        let bind = format!("--bind={host}:0");
        let command = alone_in(&root, &["serve", "/srv", engine_flag(), &bind]);
        serves(Coring::start_as(command), &large);
    }
    let mut named = alone_in(&root, &["--bind=no.such.name.invalid:0"]);
    let finished = run_with(&mut named, b"");
    assert!(
        finished.error_line().contains("no.such.name.invalid"),
        "{finished:?}"
    );
}
