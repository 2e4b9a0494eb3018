//! How coring begins, and how it says in one line that it can't: the cause, the cure, and the exit
//! code.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use coring::EngineChoice;

use crate::support::{
    Address, Client, Coring, Finished, Folder, GET, HELLO, coring, engine, eventually,
    has_io_uring, python, report, run_with,
};

/// Runs coring to an end that is meant to come at once.
#[track_caller]
fn fails(arguments: &[&str], code: i32) -> Finished {
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

/// Says each of `words`, on one line.
#[track_caller]
fn says(finished: &Finished, words: &[&str]) {
    let line = finished.error_line();
    for word in words {
        assert!(line.contains(word), "no `{word}` in: {line}");
    }
}

#[test]
fn a_second_coring_on_a_port_says_who_has_it() {
    let first = Coring::start(&[]);
    let bind = format!("127.0.0.1:{}", first.address().port());
    let pid = format!("(pid {})", first.pid());
    for command in [&["-b", &bind][..], &["echo", "-b", &bind]] {
        says(&fails(command, 1), &["coring", &pid, &bind]);
    }
    let any = format!("0.0.0.0:{}", first.address().port());
    says(&fails(&["-b", &any], 1), &["coring", &pid]);
    assert_eq!(first.ask(GET).text(), HELLO);
}

#[test]
fn a_port_of_another_program_is_named_with_it() {
    for host in ["127.0.0.1", "[::1]"] {
        let other = TcpListener::bind(format!("{host}:0")).expect("a free port");
        let bind = other.local_addr().expect("an address").to_string();
        says(
            &fails(&["-b", &bind], 1),
            &[&bind, &format!("(pid {})", std::process::id())],
        );
    }
}

#[test]
fn a_bad_flag_is_a_usage_error() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["--engine", "epol"],
        &["--head-timeout", "soon"],
        &["--cores", "0"],
        &["respond", "--status", "99"],
    ] {
        let finished = fails(arguments, 2);
        assert!(
            finished.stderr.contains(arguments[arguments.len() - 1]),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn a_bad_address_is_said_so() {
    for bind in ["127.0.0.1:99999", "nonsense", "127.0.0.1:", "unix:"] {
        let finished = run_with(&mut coring(&["-b", bind]), b"");
        assert!(
            matches!(finished.code, Some(1 | 2 | 78)),
            "{bind}: {finished:?}"
        );
        assert!(finished.stderr.contains(bind), "{bind}: {finished:?}");
    }
    // An address of a network for documentation (RFC 5737), which is not this machine's.
    says(&fails(&["-b", "192.0.2.1:0"], 1), &["192.0.2.1:0"]);
}

#[test]
fn a_path_that_is_no_socket_is_left_alone() {
    let folder = Folder::new();
    let path = folder.write("precious", "do not touch");
    let bind = format!("unix:{path}");
    says(&fails(&["-b", &bind], 1), &[&path]);
    assert_eq!(fs::read(&path).expect("still there"), b"do not touch");
    let within = format!("unix:{}", folder.file("no/such/folder"));
    says(&fails(&["-b", &within], 1), &["no/such/folder"]);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = Folder::new();
    let bind = format!("unix:{}", folder.file("socket"));
    let start = || Coring::start_as(coring(&["--stats", "-b", &bind]));
    drop(start());
    assert!(
        folder.path().join("socket").exists(),
        "who is killed can't clean up"
    );
    let first = start();
    assert_eq!(first.ask(GET).text(), HELLO);
    says(&fails(&["-b", &bind], 1), &[&folder.file("socket")]);
    assert_eq!(first.ask(GET).text(), HELLO);
    first.stop();
    start().stop();
}

/// A killed server's socket is there; those who find it refuse no connection to one another.
#[test]
fn of_those_who_start_at_once_one_has_the_socket() {
    let folder = Folder::new();
    let path = folder.file("socket");
    let bind = format!("unix:{path}");
    for _ in 0..5 {
        drop(Coring::start_as(coring(&["-b", &bind])));
        let start = || {
            let mut command = coring(&["-b", &bind, "--cores", "1"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("coring")
        };
        let mut all: Vec<Child> = (0..6).map(|_| start()).collect();
        let is_over = |one: &mut Child| one.try_wait().expect("our own child").is_some();
        eventually("five that give up", || {
            let over = all.iter_mut().map(is_over).filter(|&is_over| is_over);
            (over.count() == 5).then_some(())
        });
        let mut client = Client::connect(&Address::Unix(path.clone().into())).expect("the sixth");
        client.send(GET);
        assert_eq!(client.answer().text(), HELLO);
        for one in &mut all {
            // Fails where it has ended.
            let _ = one.kill();
            one.wait().expect("our own child");
        }
    }
}

#[test]
fn addresses_that_overlap_are_said_so() {
    let port = free_port();
    let both = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
    says(
        &fails(&["-b", &both[0], "-b", &both[1]], 1),
        &[&both[1], "leave one of them out"],
    );
}

/// No signal would be heard meanwhile.
#[test]
fn a_log_that_nobody_reads_is_not_waited_for() {
    let folder = Folder::new();
    let pipe = folder.file("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let log = ["-b", "127.0.0.1:0", "--access-log", &pipe];
    says(&fails(&log, 78), &[&pipe, "nobody reads that pipe"]);
}

/// A port that nobody has, at least not a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// The kernel gives what a killed ring held back a little later than it reports the process's end.
#[test]
fn a_killed_server_can_be_started_again_at_once() {
    let folder = Folder::new();
    let port = free_port();
    for bind in [
        format!("127.0.0.1:{port}"),
        format!("unix:{}", folder.file("socket")),
    ] {
        for _ in 0..5 {
            let server = Coring::start_as(coring(&["-b", &bind]));
            let mut client = server.connect();
            client.send(GET);
            assert_eq!(client.answer().text(), HELLO);
            drop(server);
        }
    }
}

/// Connections that the first server closed must not keep the second one from the port.
#[test]
fn a_drained_server_can_be_started_again_at_once() {
    let port = free_port();
    for _ in 0..3 {
        let server = Coring::start_as(coring(&["-b", &format!("127.0.0.1:{port}"), "--stats"]));
        let answer = server.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(answer.text(), HELLO);
        server.stop();
    }
}

#[test]
fn the_banner_has_the_real_port_of_each_address() {
    let server = Coring::start_as(coring(&["-b", "127.0.0.1:0", "-b", "[::1]:0", "--stats"]));
    let banner = server.stderr();
    assert_ne!(server.address().port(), 0);
    for word in ["http://127.0.0.1:", "http://[::1]:", engine_name(), "core"] {
        assert!(banner.contains(word), "no `{word}` in: {banner}");
    }
    assert!(!banner.contains(":0/"), "{banner}");
    assert_eq!(server.ask(GET).text(), HELLO);
}

/// The server that `arguments` and `variables` make, asked on this machine's own address.
#[track_caller]
fn answers_with(variables: &[(&str, &str)], arguments: &[&str]) {
    let mut command = coring(arguments);
    command
        .env("CORING_STATS", "true")
        .envs(variables.iter().copied());
    let server = Coring::start_as(command);
    let port = server.address().port();
    let here = Address::Tcp(([127, 0, 0, 1], port).into());
    let mut client = Client::connect(&here).expect("a connection");
    client.send(GET);
    assert_eq!(client.answer().text(), HELLO, "{variables:?} {arguments:?}");
    server.stop();
}

#[test]
fn addresses_come_from_flags_or_the_environment() {
    answers_with(&[("PORT", "0")], &[]);
    answers_with(&[("CORING_BIND", "127.0.0.1:0")], &[]);
    answers_with(&[("CORING_BIND", "127.0.0.1:0"), ("PORT", "1")], &[]);
    answers_with(
        &[("CORING_BIND", "192.0.2.1:1"), ("PORT", "1")],
        &["-b", "127.0.0.1:0"],
    );
    answers_with(&[], &["-b", "0"]);
    answers_with(&[], &["-b", ":0"]);
    answers_with(&[], &["-b", "localhost:0"]);
    answers_with(&[], &["-b", "[::]:0"]);
}

#[test]
fn flags_have_variables_of_their_name() {
    let mut command = coring(&["-b", "127.0.0.1:0"]);
    command.env("CORING_MAX_TARGET", "9");
    let server = Coring::start_as(command);
    let answer = server.ask("GET /ten-bytes HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.status, 414);
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["echo", "--help"], &["-h"]] {
        let finished = run_with(&mut coring(arguments), b"");
        assert!(finished.succeeded().contains("--bind"), "{arguments:?}");
    }
    let help = run_with(&mut coring(&["--help"]), b"").succeeded();
    assert!(help.contains("16") && help.contains("unlimited"), "{help}");
    for arguments in ["--version", "version"] {
        let said = run_with(&mut coring(&[arguments]), b"").succeeded();
        assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    }
    let said = run_with(&mut coring(&["version"]), b"").succeeded();
    assert!(said.contains(engine_name()), "{said}");
}

/// What the program calls the engine that the tests are about.
fn engine_name() -> &'static str {
    match engine() {
        EngineChoice::Epoll => "epoll",
        _ => "io_uring",
    }
}

/// Runs `arguments` of coring where `what` is refused: io_uring_setup, by an error of this name, or
/// to enter a ring that is `unregistered`.
fn where_io_uring_is(what: &str, arguments: &[&str]) -> Command {
    let program = [what, env!("CARGO_BIN_EXE_coring")];
    python("refuse_io_uring.py", &[&program, arguments].concat())
}

/// A ring is entered by the number that it is registered under: a filter lets nothing else pass.
#[test]
fn pitfall_26_the_registered_descriptor_forgotten() {
    if !has_io_uring("how a ring is entered") {
        return;
    }
    let arguments = ["--engine", "uring", "-b", "127.0.0.1:0", "--stats"];
    let server = Coring::start_as(where_io_uring_is("unregistered", &arguments));
    assert_eq!(server.ask(GET).text(), HELLO);
    assert!(server.stop().stats()["enters"] > 0);
}

#[test]
fn pitfall_27_a_filter_that_refuses_io_uring_is_named() {
    for errno in ["EPERM", "ENOSYS"] {
        let wanted = ["--engine", "uring", "-b", "127.0.0.1:0"];
        let finished = run_with(&mut where_io_uring_is(errno, &wanted), b"");
        assert_eq!(finished.code, Some(77), "{errno}: {}", finished.stderr);
        says(&finished, &["io_uring_setup", "seccomp", "allow"]);
    }
}

#[test]
fn pitfall_27_where_io_uring_is_refused_epoll_serves_and_says_why() {
    for errno in ["EPERM", "ENOSYS"] {
        let any = ["--engine", "auto", "-b", "127.0.0.1:0"];
        let server = Coring::start_as(where_io_uring_is(errno, &any));
        assert_eq!(server.ask(GET).text(), HELLO);
        let ended = server.stop();
        assert_eq!(ended.code, Some(0));
        let banner = ended.stderr;
        for word in ["epoll", "io_uring_setup", "seccomp", "allow"] {
            assert!(banner.contains(word), "no `{word}` in: {banner}");
        }
    }
}

/// A copy of the program where everybody may run it: where we build may be closed to others.
fn public_program(folder: &Folder) -> String {
    let program = folder.file("coring");
    fs::copy(env!("CARGO_BIN_EXE_coring"), &program).expect("a copy");
    program
}

/// Runs `program` as a plain user who may lock so many KiB of memory, with the shell's `arguments`.
fn with_locked_memory(program: &str, kib: u32, arguments: &str) -> Command {
    as_plain_user(&format!(
        "ulimit -l {kib} && exec {program} -b 127.0.0.1:0 {arguments}"
    ))
}

/// Runs a shell's `script` as a plain user, who has no other process if we may choose the user.
fn as_plain_user(script: &str) -> Command {
    if !rustix::process::geteuid().is_root() {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        return command;
    }
    // What a user has locked is counted over all that runs as this user: so it is one of our own.
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

/// Messages are written by a thread of their own, which cannot be had here.
#[test]
fn a_lack_of_threads_is_reported() {
    if cfg!(asan) {
        return report("not tested: a lack of threads, for AddressSanitizer reports it, too");
    }
    let folder = Folder::new();
    let program = public_program(&folder);
    let script = format!("exec prlimit --nproc=1 {program} --engine epoll -b 127.0.0.1:0");
    let finished = run_with(&mut as_plain_user(&script), b"");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    says(&finished, &["error: cannot start a thread"]);
}

/// The kernel gives back what a ring has locked some time after the ring's end. Whoever starts
/// again at once, where there is room for one ring and not for two, waits for it.
#[test]
fn pitfall_17_locked_memory_comes_back_late() {
    /// A worker's ring has some 170 KiB.
    const ROOM_KIB: u32 = 256;
    if !has_io_uring("a fast restart within little locked memory") {
        return;
    }
    let folder = Folder::new();
    let program = public_program(&folder);
    for _ in 0..20 {
        let wanted = "--engine uring --cores 1";
        let server = Coring::start_as(with_locked_memory(&program, ROOM_KIB, wanted));
        assert_eq!(server.ask(GET).text(), HELLO);
        drop(server);
    }
}

/// Locked memory counts for a plain user, and from Linux 6.14 on a ring is made of it.
#[test]
fn pitfall_27_a_lack_of_locked_memory_is_named() {
    let folder = Folder::new();
    let mut wanted = with_locked_memory(&public_program(&folder), 0, "--engine uring");
    if charges_rings() {
        let finished = run_with(&mut wanted, b"");
        assert_eq!(finished.code, Some(77), "{}", finished.stderr);
        says(&finished, &["locked-memory", "ulimit -l is 0"]);
    } else {
        assert_eq!(Coring::start_as(wanted).ask(GET).text(), HELLO);
    }
}

#[test]
fn pitfall_27_without_locked_memory_epoll_serves() {
    let folder = Folder::new();
    let program = public_program(&folder);
    let server = Coring::start_as(with_locked_memory(&program, 0, "--engine auto"));
    assert_eq!(server.ask(GET).text(), HELLO);
    let banner = server.stop().stderr;
    let word = if charges_rings() {
        "ulimit -l is 0"
    } else {
        "io_uring"
    };
    assert!(banner.contains(word), "no `{word}` in: {banner}");
}

/// The sysctl of this name with another value, until this is dropped.
struct Sysctl {
    path: &'static str,
    before: String,
}

impl Sysctl {
    fn set(path: &'static str, value: &str) -> Self {
        let before = fs::read_to_string(path).expect("a sysctl");
        let this = Self { path, before };
        fs::write(path, value).expect("a sysctl that we may set");
        this
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        fs::write(self.path, &self.before).expect("the sysctl as it was");
    }
}

/// It concerns the whole machine, and the other tests as well: so it is for those who ask for it,
/// and alone.
#[test]
fn pitfall_27_the_sysctl_that_forbids_io_uring_is_named() {
    if env::var_os("CORING_TEST_SYSCTL").is_none() {
        return report(
            "not tested: kernel.io_uring_disabled=2, which is the whole machine's. As root:\n    \
             CORING_TEST_SYSCTL=1 cargo test --test integration \
             pitfall_27_the_sysctl_that_forbids_io_uring_is_named",
        );
    }
    let _forbidden = Sysctl::set("/proc/sys/kernel/io_uring_disabled", "2");
    let any = ["--engine", "auto", "-b", "127.0.0.1:0"];
    let server = Coring::start_as(coring(&any));
    assert_eq!(server.ask(GET).text(), HELLO);
    let banner = server.stop().stderr;
    for word in ["epoll", "kernel.io_uring_disabled is 2"] {
        assert!(banner.contains(word), "no `{word}` in: {banner}");
    }
    let finished = fails(&["--engine", "uring", "-b", "127.0.0.1:0"], 77);
    says(
        &finished,
        &["io_uring_setup", "kernel.io_uring_disabled is 2"],
    );
}

fn charges_rings() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel's release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    (next(), next()) >= (Some(6), Some(14))
}
