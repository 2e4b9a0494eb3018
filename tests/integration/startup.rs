//! The start of the program: addresses, flags and engines, and the one-line error with the cause,
//! the cure and the exit code if it cannot start.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use coring::EngineChoice;

use crate::support::{
    Address, Client, Coring, Finished, GET, GET_AND_CLOSE, HELLO, TempDir, coring, engine,
    eventually, has_io_uring, python, report, run_with,
};

/// Runs coring and asserts that it exits with `code` and writes nothing to standard output.
#[track_caller]
fn assert_fails(arguments: &[&str], code: i32) -> Finished {
    let finished = run_with(&mut coring(arguments), b"");
    assert_eq!(
        finished.code,
        Some(code),
        "{arguments:?}: {}",
        finished.stderr
    );
    assert_eq!(finished.stdout, "", "{arguments:?}");
    finished
}

/// Asserts that the error has one line, with each of `words`.
#[track_caller]
fn assert_error_line(finished: &Finished, words: &[&str]) {
    let line = finished.error_line();
    for word in words {
        assert!(line.contains(word), "no `{word}` in: {line}");
    }
}

#[test]
fn a_second_coring_on_a_port_names_the_process_that_has_it() {
    let first = Coring::start(&[]);
    let bind = format!("127.0.0.1:{}", first.address().port());
    let pid = format!("(pid {})", first.pid());
    for command in [&["-b", &bind][..], &["echo", "-b", &bind]] {
        assert_error_line(&assert_fails(command, 1), &["coring", &pid, &bind]);
    }
    let any = format!("0.0.0.0:{}", first.address().port());
    assert_error_line(&assert_fails(&["-b", &any], 1), &["coring", &pid]);
    assert_eq!(first.ask(GET).text(), HELLO);
}

#[test]
fn the_program_that_has_a_port_is_named() {
    for host in ["127.0.0.1", "[::1]"] {
        let other = TcpListener::bind(format!("{host}:0")).expect("a free port");
        let bind = other.local_addr().expect("an address").to_string();
        assert_error_line(
            &assert_fails(&["-b", &bind], 1),
            &[&bind, &format!("(pid {})", std::process::id())],
        );
    }
}

#[test]
fn an_invalid_flag_is_a_usage_error() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["--engine", "epol"],
        &["--head-timeout", "soon"],
        &["--cores", "0"],
        &["respond", "--status", "99"],
    ] {
        let finished = assert_fails(arguments, 2);
        assert!(
            finished.stderr.contains(arguments[arguments.len() - 1]),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn an_invalid_address_is_named() {
    for bind in ["127.0.0.1:99999", "nonsense", "127.0.0.1:", "unix:"] {
        let finished = run_with(&mut coring(&["-b", bind]), b"");
        assert!(
            matches!(finished.code, Some(1 | 2 | 78)),
            "{bind}: {finished:?}"
        );
        assert!(finished.stderr.contains(bind), "{bind}: {finished:?}");
    }
    // An address reserved for documentation (RFC 5737); no interface has it.
    assert_error_line(&assert_fails(&["-b", "192.0.2.1:0"], 1), &["192.0.2.1:0"]);
}

#[test]
fn a_file_that_is_not_a_socket_is_not_replaced() {
    let directory = TempDir::new();
    let path = directory.write("precious", "do not touch");
    let bind = format!("unix:{path}");
    assert_error_line(&assert_fails(&["-b", &bind], 1), &[&path]);
    assert_eq!(fs::read(&path).expect("the file"), b"do not touch");
    let within = format!("unix:{}", directory.file("no/such/directory"));
    assert_error_line(&assert_fails(&["-b", &within], 1), &["no/such/directory"]);
}

#[test]
fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let directory = TempDir::new();
    let bind = format!("unix:{}", directory.file("socket"));
    let start = || Coring::start_as(coring(&["--stats", "-b", &bind]));
    drop(start());
    assert!(
        directory.path().join("socket").exists(),
        "a killed server must leave its socket behind"
    );
    let first = start();
    assert_eq!(first.ask(GET).text(), HELLO);
    assert_error_line(
        &assert_fails(&["-b", &bind], 1),
        &[&directory.file("socket")],
    );
    assert_eq!(first.ask(GET).text(), HELLO);
    first.stop();
    start().stop();
}

/// Several servers find the socket of a killed server and try to replace it at the same time. One
/// of them must get it, and the others must exit.
#[test]
fn of_several_servers_started_at_once_one_gets_the_socket() {
    let directory = TempDir::new();
    let path = directory.file("socket");
    let bind = format!("unix:{path}");
    for _ in 0..5 {
        drop(Coring::start_as(coring(&["-b", &bind])));
        let start = || {
            let mut command = coring(&["-b", &bind, "--cores", "1"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("coring")
        };
        let mut all: Vec<Child> = (0..6).map(|_| start()).collect();
        let has_exited = |one: &mut Child| one.try_wait().expect("a child process").is_some();
        eventually("the exit of five servers", || {
            let exited = all.iter_mut().map(has_exited).filter(|&exited| exited);
            (exited.count() == 5).then_some(())
        });
        let address = Address::Unix(path.clone().into());
        let mut client = Client::connect(&address).expect("a connection to the sixth server");
        client.send(GET);
        assert_eq!(client.response().text(), HELLO);
        for one in &mut all {
            // This fails if the process has exited.
            let _ = one.kill();
            one.wait().expect("a child process");
        }
    }
}

#[test]
fn overlapping_addresses_are_named() {
    let port = free_port();
    let both = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
    assert_error_line(
        &assert_fails(&["-b", &both[0], "-b", &both[1]], 1),
        &[&both[1], "leave one of them out"],
    );
}

/// Opening a FIFO for writing waits for a reader. coring must fail instead, because it could not
/// handle signals while it waits.
#[test]
fn a_log_pipe_without_a_reader_is_an_error() {
    let directory = TempDir::new();
    let pipe = directory.file("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let log = ["-b", "127.0.0.1:0", "--access-log", &pipe];
    assert_error_line(&assert_fails(&log, 78), &[&pipe, "the pipe has no reader"]);
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// The kernel releases the sockets of a killed ring a little later than it reports the exit of the
/// process.
#[test]
fn a_killed_server_can_be_restarted_at_once() {
    let directory = TempDir::new();
    let port = free_port();
    for bind in [
        format!("127.0.0.1:{port}"),
        format!("unix:{}", directory.file("socket")),
    ] {
        for _ in 0..5 {
            let server = Coring::start_as(coring(&["-b", &bind]));
            let mut client = server.connect();
            client.send(GET);
            assert_eq!(client.response().text(), HELLO);
            drop(server);
        }
    }
}

/// Connections that the first server closed are in TIME_WAIT and must not keep the second server
/// from the port.
#[test]
fn a_drained_server_can_be_restarted_at_once() {
    let port = free_port();
    for _ in 0..3 {
        let server = Coring::start_as(coring(&["-b", &format!("127.0.0.1:{port}"), "--stats"]));
        let response = server.ask(GET_AND_CLOSE);
        assert_eq!(response.text(), HELLO);
        server.stop();
    }
}

#[test]
fn the_banner_has_the_actual_port_of_each_address() {
    let server = Coring::start_as(coring(&["-b", "127.0.0.1:0", "-b", "[::1]:0", "--stats"]));
    let banner = server.stderr();
    assert_ne!(server.address().port(), 0);
    for word in ["http://127.0.0.1:", "http://[::1]:", engine_name(), "core"] {
        assert!(banner.contains(word), "no `{word}` in: {banner}");
    }
    assert!(!banner.contains(":0/"), "{banner}");
    assert_eq!(server.ask(GET).text(), HELLO);
}

/// Starts coring with these environment variables and arguments, and asserts that it serves on
/// 127.0.0.1.
#[track_caller]
fn assert_serves_with(variables: &[(&str, &str)], arguments: &[&str]) {
    let mut command = coring(arguments);
    command
        .env("CORING_STATS", "true")
        .envs(variables.iter().copied());
    let server = Coring::start_as(command);
    let port = server.address().port();
    let address = Address::Tcp(([127, 0, 0, 1], port).into());
    let mut client = Client::connect(&address).expect("a connection");
    client.send(GET);
    assert_eq!(
        client.response().text(),
        HELLO,
        "{variables:?} {arguments:?}"
    );
    server.stop();
}

#[test]
fn addresses_come_from_flags_or_the_environment() {
    assert_serves_with(&[("PORT", "0")], &[]);
    assert_serves_with(&[("CORING_BIND", "127.0.0.1:0")], &[]);
    assert_serves_with(&[("CORING_BIND", "127.0.0.1:0"), ("PORT", "1")], &[]);
    assert_serves_with(
        &[("CORING_BIND", "192.0.2.1:1"), ("PORT", "1")],
        &["-b", "127.0.0.1:0"],
    );
    assert_serves_with(&[], &["-b", "0"]);
    assert_serves_with(&[], &["-b", ":0"]);
    assert_serves_with(&[], &["-b", "localhost:0"]);
    assert_serves_with(&[], &["-b", "[::]:0"]);
}

#[test]
fn a_flag_can_be_set_by_an_environment_variable() {
    let mut command = coring(&["-b", "127.0.0.1:0"]);
    command.env("CORING_MAX_TARGET", "9");
    let server = Coring::start_as(command);
    assert_eq!(server.get("/ten-bytes").status, 414);
}

#[test]
fn help_and_version_exit_with_code_0() {
    for arguments in [&["--help"][..], &["echo", "--help"], &["-h"]] {
        let finished = run_with(&mut coring(arguments), b"");
        assert!(finished.succeeded().contains("--bind"), "{arguments:?}");
    }
    let help = run_with(&mut coring(&["--help"]), b"").succeeded();
    assert!(help.contains("16") && help.contains("unlimited"), "{help}");
    for arguments in ["--version", "version"] {
        let output = run_with(&mut coring(&[arguments]), b"").succeeded();
        assert!(output.contains(env!("CARGO_PKG_VERSION")), "{output}");
    }
    let output = run_with(&mut coring(&["version"]), b"").succeeded();
    assert!(output.contains(engine_name()), "{output}");
}

/// The name of the engine under test in messages.
fn engine_name() -> &'static str {
    match engine() {
        EngineChoice::Epoll => "epoll",
        _ => "io_uring",
    }
}

/// A command that runs coring under a filter that restricts io_uring. `what` is an argument of
/// `support/refuse_io_uring.py`.
pub(crate) fn with_io_uring_refused(what: &str, arguments: &[&str]) -> Command {
    let program = [what, env!("CARGO_BIN_EXE_coring")];
    python("refuse_io_uring.py", &[&program, arguments].concat())
}

/// A filter allows io_uring_enter only with the registered descriptor of the ring.
#[test]
fn pitfall_26_a_ring_is_entered_by_its_registered_descriptor() {
    if !has_io_uring("how a ring is entered") {
        return;
    }
    let arguments = ["--engine", "uring", "-b", "127.0.0.1:0", "--stats"];
    let server = Coring::start_as(with_io_uring_refused("unregistered", &arguments));
    assert_eq!(server.ask(GET).text(), HELLO);
    assert!(server.stop().stats()["enters"] > 0);
}

#[test]
fn pitfall_27_a_filter_that_refuses_io_uring_is_named() {
    for errno in ["EPERM", "ENOSYS"] {
        let arguments = ["--engine", "uring", "-b", "127.0.0.1:0"];
        let finished = run_with(&mut with_io_uring_refused(errno, &arguments), b"");
        assert_eq!(finished.code, Some(77), "{errno}: {}", finished.stderr);
        assert_error_line(&finished, &["io_uring_setup", "seccomp", "allow"]);
    }
}

#[test]
fn pitfall_27_if_io_uring_is_refused_epoll_serves_and_the_banner_says_why() {
    for errno in ["EPERM", "ENOSYS"] {
        let arguments = ["--engine", "auto", "-b", "127.0.0.1:0"];
        let server = Coring::start_as(with_io_uring_refused(errno, &arguments));
        assert_eq!(server.ask(GET).text(), HELLO);
        let ended = server.stop();
        assert_eq!(ended.code, Some(0));
        let banner = ended.stderr;
        for word in ["epoll", "io_uring_setup", "seccomp", "allow"] {
            assert!(banner.contains(word), "no `{word}` in: {banner}");
        }
    }
}

/// Copies the program into `directory`. Other users may have no access to the target directory.
fn public_program(directory: &TempDir) -> String {
    directory.install(env!("CARGO_BIN_EXE_coring"), "coring")
}

/// A command that runs `program` as an unprivileged user with RLIMIT_MEMLOCK set to `kib`.
fn with_locked_memory(program: &str, kib: u32, arguments: &str) -> Command {
    as_plain_user(&format!(
        "ulimit -l {kib} && exec {program} -b 127.0.0.1:0 {arguments}"
    ))
}

/// A command that runs a shell script as an unprivileged user. If this process is root, the user
/// has no other process.
fn as_plain_user(script: &str) -> Command {
    if !rustix::process::geteuid().is_root() {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        return command;
    }
    // The kernel adds up the locked memory of all processes of a user. So use a user of our own.
    let user = 50_000 + std::process::id() % 10_000;
    let mut command = Command::new("setpriv");
    command.args([
        &format!("--reuid={user}"),
        &format!("--regid={user}"),
        "--clear-groups",
    ]);
    command.args(["sh", "-c", script]);
    command
}

/// Messages are usually written by a separate thread, which cannot be started here.
#[test]
fn a_lack_of_threads_is_reported() {
    if cfg!(asan) {
        return report("not tested: a lack of threads, because AddressSanitizer reports it, too");
    }
    let directory = TempDir::new();
    let program = public_program(&directory);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // The first thread is a worker's or tries io_uring. The last one handles signals.
    for threads in [1, cores + 1] {
        for engine in ["epoll", "uring", "auto"] {
            let flags = format!("--engine {engine} -b 127.0.0.1:0");
            let script = format!("exec prlimit --nproc={threads} {program} {flags}");
            let finished = run_with(&mut as_plain_user(&script), b"");
            assert_eq!(finished.code, Some(1), "{engine} {threads}: {finished:?}");
            assert_error_line(&finished, &["error: cannot ", "thread", "os error 11"]);
        }
    }
}

/// The kernel releases the locked memory of a ring some time after the ring is closed. A server
/// that is restarted at once must wait for it, if the limit allows one ring but not two.
#[test]
fn pitfall_17_a_restart_waits_for_locked_memory() {
    /// The ring of a worker locks about 170 KiB.
    const LIMIT_KIB: u32 = 256;
    if !has_io_uring("a fast restart within little locked memory") {
        return;
    }
    let directory = TempDir::new();
    let program = public_program(&directory);
    for _ in 0..20 {
        let arguments = "--engine uring --cores 1";
        let server = Coring::start_as(with_locked_memory(&program, LIMIT_KIB, arguments));
        assert_eq!(server.ask(GET).text(), HELLO);
        drop(server);
    }
}

/// From Linux 6.14 on the memory of a ring counts towards RLIMIT_MEMLOCK of an unprivileged user.
#[test]
fn pitfall_27_a_lack_of_locked_memory_is_named() {
    let directory = TempDir::new();
    let mut command = with_locked_memory(&public_program(&directory), 0, "--engine uring");
    if kernel_charges_rings() {
        let finished = run_with(&mut command, b"");
        assert_eq!(finished.code, Some(77), "{}", finished.stderr);
        assert_error_line(&finished, &["locked-memory", "ulimit -l is 0"]);
    } else {
        assert_eq!(Coring::start_as(command).ask(GET).text(), HELLO);
    }
}

#[test]
fn pitfall_27_without_locked_memory_epoll_serves() {
    let directory = TempDir::new();
    let program = public_program(&directory);
    let server = Coring::start_as(with_locked_memory(&program, 0, "--engine auto"));
    assert_eq!(server.ask(GET).text(), HELLO);
    let banner = server.stop().stderr;
    let word = if kernel_charges_rings() {
        "ulimit -l is 0"
    } else {
        "io_uring"
    };
    assert!(banner.contains(word), "no `{word}` in: {banner}");
}

/// A changed sysctl. Dropping it restores the previous value.
struct Sysctl {
    path: &'static str,
    before: String,
}

impl Sysctl {
    fn set(path: &'static str, value: &str) -> Self {
        let before = fs::read_to_string(path).expect("a sysctl");
        let this = Self { path, before };
        fs::write(path, value).expect("a writable sysctl");
        this
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        fs::write(self.path, &self.before).expect("a writable sysctl");
    }
}

/// The sysctl applies to the whole machine and so to the other tests. This test runs only on
/// request, and must run alone.
#[test]
fn pitfall_27_the_sysctl_that_forbids_io_uring_is_named() {
    if env::var_os("CORING_TEST_SYSCTL").is_none() {
        return report(
            "not tested: kernel.io_uring_disabled=2, a setting of the whole machine. As root:\n    \
             CORING_TEST_SYSCTL=1 cargo test --test integration \
             pitfall_27_the_sysctl_that_forbids_io_uring_is_named",
        );
    }
    let _forbidden = Sysctl::set("/proc/sys/kernel/io_uring_disabled", "2");
    let arguments = ["--engine", "auto", "-b", "127.0.0.1:0"];
    let server = Coring::start_as(coring(&arguments));
    assert_eq!(server.ask(GET).text(), HELLO);
    let banner = server.stop().stderr;
    for word in ["epoll", "kernel.io_uring_disabled is 2"] {
        assert!(banner.contains(word), "no `{word}` in: {banner}");
    }
    let finished = assert_fails(&["--engine", "uring", "-b", "127.0.0.1:0"], 77);
    assert_error_line(
        &finished,
        &["io_uring_setup", "kernel.io_uring_disabled is 2"],
    );
}

/// Whether the kernel counts the memory of rings towards RLIMIT_MEMLOCK (from Linux 6.14 on).
fn kernel_charges_rings() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel's release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    (next(), next()) >= (Some(6), Some(14))
}
