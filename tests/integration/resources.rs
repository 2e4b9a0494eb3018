//! What clients cost: memory, descriptors, buffers and processor time, while they are there and
//! after they have gone.

use std::fs;
use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use coring::{Handle, Limits, Request, Response, Server};
use rustix::process::{Resource, getrlimit};

use crate::support::{
    Address, Answer, Client, Coring, Folder, GET, HELLO, Program, eventually, noise, python, report,
};

/// `wanted` connections, or as many as the limit of open files allows on either side.
pub(crate) fn affordable(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let count = usize::try_from(files)
        .unwrap_or(usize::MAX)
        .saturating_sub(300)
        .min(wanted);
    if count < wanted {
        report(&format!(
            "open files are limited to {files}: {count} connections, not {wanted}"
        ));
    }
    count
}

/// How held connections end.
#[derive(Clone, Copy)]
enum End {
    Fin,
    Reset,
}

/// `count` connections of another process that have sent `request` and then received `answer_len`
/// bytes; they end with what is returned.
#[track_caller]
fn hold(port: u16, count: usize, answer_len: usize, request: &str, end: End) -> Program {
    let numbers = [usize::from(port), count, answer_len].map(|number| number.to_string());
    let end = match end {
        End::Fin => "fin",
        End::Reset => "reset",
    };
    let [port, count, answer_len] = &numbers;
    Program::start(&mut python(
        "hold.py",
        &[port, count, answer_len, end, request],
    ))
}

/// Private memory of a process, in bytes.
pub(crate) fn private_bytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("our own child");
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib = lines.map(|line| {
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
    });
    kib.map(|kib: Option<u64>| kib.expect("a number of KiB") * 1024)
        .sum()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("our own child")
        .count()
}

/// Processor time of a process so far, in ticks of 10 ms (proc_pid_stat(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("our own child");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<u64>().expect("a number of ticks"))
        .sum()
}

/// The share of one processor that `pid` takes for two seconds, in percent.
fn cpu_percent(pid: u32) -> u64 {
    let before = cpu_ticks(pid);
    thread::sleep(Duration::from_secs(2));
    (cpu_ticks(pid) - before) / 2
}

#[track_caller]
fn warm_up(server: &Coring) -> usize {
    let mut client = server.connect();
    client.send(GET);
    let answer = client.answer();
    assert_eq!(answer.text(), HELLO);
    answer.head.len() + answer.body.len()
}

#[test]
fn an_idle_connection_costs_little_and_leaves_nothing() {
    let count = affordable(10_000);
    let server = Coring::start(&[]);
    let answer_len = warm_up(&server);
    let (pid, port) = (server.pid(), server.address().port());
    thread::sleep(Duration::from_secs(1));
    let (fresh_bytes, fresh_descriptors) = (private_bytes(pid), descriptors(pid));
    let clients = hold(port, count, answer_len, GET, End::Fin);
    assert_eq!(descriptors(pid), fresh_descriptors + count);
    let full_bytes = private_bytes(pid);
    let each = full_bytes.saturating_sub(fresh_bytes) / count as u64;
    report(&format!(
        "idle: {fresh_bytes} bytes fresh, {full_bytes} bytes with {count} connections: \
         {each} bytes each (aim: 1024)"
    ));
    assert!(cpu_percent(pid) < 10, "idle connections keep it busy");
    drop(clients);
    eventually("the descriptors' end", || {
        (descriptors(pid) == fresh_descriptors).then_some(())
    });
    if cfg!(asan) {
        report("idle: not judged, for AddressSanitizer pads every allocation");
    } else {
        assert!(each < 2048, "{each} bytes for each idle connection");
    }
    let ended = server.stop();
    let stats = ended.stats();
    assert_eq!(stats["connections_accepted"], count as u64 + 1);
    for gauge in [
        "connections_open",
        "tasks_live",
        "timers_live",
        "ops_in_flight",
        "blocks_in_use",
    ] {
        assert_eq!(stats[gauge], 0, "{gauge}: {}", ended.stderr);
    }
}

/// Each half of a head holds a block of 4 KiB until its client goes.
#[test]
fn the_memory_of_a_burst_is_given_back() {
    let count = affordable(3000);
    let server = Coring::start(&["--cores", "1"]);
    warm_up(&server);
    let held_bytes = count as u64 * 4096;
    let fresh_bytes = private_bytes(server.pid());
    let half = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(3000));
    let clients: Vec<Client> = (0..count)
        .map(|_| {
            let mut client = server.connect();
            client.send(&half);
            client
        })
        .collect();
    // All of them have come when no more memory is taken.
    let full_bytes = eventually("the halves", || {
        let before_bytes = private_bytes(server.pid());
        thread::sleep(Duration::from_millis(300));
        let full_bytes = private_bytes(server.pid());
        let has_all = full_bytes >= fresh_bytes + held_bytes && full_bytes <= before_bytes;
        has_all.then_some(full_bytes)
    });
    drop(clients);
    let left_bytes = eventually("the memory", || {
        let left_bytes = private_bytes(server.pid());
        (left_bytes + held_bytes * 3 / 4 < full_bytes).then_some(left_bytes)
    });
    report(&format!(
        "burst: {fresh_bytes} bytes fresh, {full_bytes} with {count} halves, {left_bytes} after"
    ));
    assert!(cpu_percent(server.pid()) < 10, "what is left keeps it busy");
    // The memory that was given back can be used again.
    let again: Vec<Client> = (0..count.min(500))
        .map(|_| {
            let mut client = server.connect();
            client.send(&half);
            client
        })
        .collect();
    for mut client in again {
        client.send("\r\n\r\n");
        assert_eq!(client.answer().text(), HELLO);
    }
    assert_eq!(server.stop().stats()["blocks_in_use"], 0);
}

/// Requests of a client that asks for more small answers than its connection's buffers hold.
const MANY: usize = 3000;

/// A client that has asked for the small file more often than there is room for, has half-closed
/// and does not read. Of its connection poll(2) reports the half-close at once and always.
fn leave_unread(mut client: Client) -> Client {
    client.receive_at_most(4096);
    client.send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n".repeat(MANY));
    client.half_close();
    client
}

/// A server of a small file, which is sent from memory, and a large one, which is not.
fn small_and_large() -> (Folder, Coring) {
    let folder = Folder::new();
    folder.write("small", noise(4000));
    folder.write("large", noise(1_000_000));
    let server = Coring::start(&["serve", "--cores", "1", &folder.path().to_string_lossy()]);
    (folder, server)
}

/// Clients that have half-closed and do not read keep none of the kernel's threads busy, so another
/// client that half-closes does not wait for them.
#[test]
fn pitfall_23_a_send_waits_in_a_thread_of_the_kernel() {
    let (_folder, server) = small_and_large();
    let stuck: Vec<Client> = (0..60).map(|_| leave_unread(server.connect())).collect();
    let mut reader = server.connect();
    reader.send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n".repeat(MANY));
    reader.half_close();
    // Until its socket is full, too.
    thread::sleep(Duration::from_millis(500));
    for _ in 0..MANY {
        assert_eq!(reader.answer().body.len(), 4000);
    }
    reader.ends();
    assert_eq!(kernel_threads(server.pid()), 0);
    drop(stuck);
    server.stop();
}

/// Threads of a process that the kernel has made for io_uring.
fn kernel_threads(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("our own child");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).count()
}

#[test]
fn pitfall_24_a_socket_that_does_not_wait_is_asked_again_and_again() {
    let (_folder, server) = small_and_large();
    let mut client = server.connect();
    // Sending a file makes the socket one that does not wait.
    let large = "GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = client.exchange(large).expect("an answer");
    assert_eq!(answer.map(|answer| answer.body.len()), Some(1_000_000));
    let client = leave_unread(client);
    thread::sleep(Duration::from_millis(500));
    assert!(cpu_percent(server.pid()) < 20, "it goes round and round");
    drop(client);
    server.stop();
}

/// The kernel ends whoever writes more to a file than it may, also to one in memory only.
#[test]
fn a_limit_of_the_size_of_files_ends_nobody() {
    let folder = Folder::new();
    folder.write("file", noise(20_000));
    let mut command = Command::new("sh");
    let script = "ulimit -f 1 && exec \"$0\" serve \"$1\" --bind 127.0.0.1:0 --access-log \"$2\"";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_coring")])
        .args([folder.path(), &folder.path().join("log")]);
    let server = Coring::start_as(command);
    for _ in 0..5 {
        let answer = server.ask("GET /file HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(answer.body.len(), 20_000);
        thread::sleep(Duration::from_millis(600));
    }
    // Some ten lines are as much as its log may take.
    for _ in 0..30 {
        server.ask(format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "x".repeat(100)
        ));
    }
    thread::sleep(Duration::from_millis(600));
    server.ask("GET /file HTTP/1.1\r\nHost: a\r\n\r\n");
    let ended = server.stop();
    assert!(ended.stderr.contains("File too large"), "{}", ended.stderr);
}

#[test]
fn an_idle_server_sleeps() {
    let server = Coring::start(&[]);
    warm_up(&server);
    assert!(cpu_percent(server.pid()) < 5);
    let ended = server.stop();
    assert!(ended.stats()["enters"] < 200, "it ticks: {}", ended.stderr);
}

/// The sum of one of the gauges of a server in this process.
fn gauge(server: &Handle, name: &str) -> u64 {
    let lists = server.metrics().iter().map(|worker| worker.list());
    lists
        .flatten()
        .filter(|(each, _)| *each == name)
        .map(|(_, value)| value)
        .sum()
}

/// A server in this process: `/later` waits for ever, all else is answered.
#[track_caller]
fn waiting_server() -> (Handle, Address) {
    let mut limits = Limits::default();
    limits.head_timeout = Some(Duration::from_millis(600_000));
    let service = async |request: Request| {
        if request.path() == "/later" {
            std::future::pending::<()>().await;
        }
        Response::html(HELLO)
    };
    let server = Server::builder()
        .bind("127.0.0.1:0")
        .limits(limits)
        .start(move || service);
    let server = server.expect("a server");
    let address = server.addresses()[0]
        .to_string()
        .parse()
        .expect("an IP address");
    (server, Address::Tcp(address))
}

/// Holds pending requests against a server of this process and sees what is left in its rings.
#[track_caller]
fn pending_leaves_the_rings_full(request: &str) {
    // The server is in this process, so that its gauges can be read; its clients are not.
    let count = affordable(10_000);
    let (server, address) = waiting_server();
    let blocks = eventually("full rings", || {
        let rings = server
            .metrics()
            .iter()
            .map(|worker| worker.blocks_in_ring.get());
        rings
            .clone()
            .all(|blocks| blocks > 0)
            .then(|| rings.sum::<u64>())
    });
    let clients = hold(address.port(), count, 0, request, End::Reset);
    let all_bytes = (count * request.len()) as u64;
    eventually("all of it to be received", || {
        (gauge(&server, "bytes_received") == all_bytes).then_some(())
    });
    let started = Instant::now();
    let mut client = Client::connect(&address).expect("a connection");
    client.send(GET);
    assert_eq!(client.answer().text(), HELLO);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let in_ring = gauge(&server, "blocks_in_ring");
    report(&format!(
        "{count} pending: {in_ring} of {blocks} blocks are in the rings"
    ));
    assert!(in_ring * 10 >= blocks * 9);
    drop((clients, client));
    eventually("their end", || {
        (gauge(&server, "connections_open") == 0).then_some(())
    });
    server.drain();
    server.wait().expect("an end in order");
    assert_eq!(gauge(&server, "blocks_in_use"), 0);
    assert_eq!(gauge(&server, "tasks_live"), 0);
}

/// One after the other: both need most of the descriptors that this process may have.
#[test]
fn pitfall_34_pending_requests_leave_the_rings_full() {
    let half_a_head = "GET / HTTP/1.1\r\nHost: coring\r\nX-Half: ";
    let never_answered = "GET /later HTTP/1.1\r\nHost: coring\r\n\r\n";
    pending_leaves_the_rings_full(half_a_head);
    pending_leaves_the_rings_full(never_answered);
}

/// Fewer descriptors than clients: some are served, the others wait or are told so, nothing spins,
/// and when some leave there is room again.
#[test]
fn pitfall_06_too_few_descriptors_are_no_disaster() {
    let program = env!("CARGO_BIN_EXE_coring");
    let script = format!("ulimit -n 64 && exec {program} --bind 127.0.0.1:0 --stats");
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let server = Coring::start_as(command);
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    for client in &mut clients {
        // One that is turned away may be gone already.
        let _ = client.try_send(GET);
    }
    let busy = cpu_percent(server.pid());
    assert!(
        busy < 50,
        "{busy} % of a processor while descriptors are short"
    );
    let served = clients.iter_mut().map(|client| client.try_answer());
    let served = served.filter(is_hello).count();
    assert!((10..64).contains(&served), "{served} of 100 were served");
    drop(clients);
    eventually("room after others left", || {
        is_hello(&server.connect().exchange(GET)).then_some(())
    });
    let ended = server.stop();
    let stats = ended.stats();
    let turned_away = stats["connections_shed"] + stats["accept_errors"];
    assert!(turned_away > 0, "the limit was never met: {}", ended.stderr);
    assert_eq!(stats["connections_open"], 0);
}

/// A download holds two descriptors, the connection's and the file's. When downloads have all that
/// there are, a new client is told so.
#[test]
fn clients_are_answered_while_downloads_hold_all_descriptors() {
    let folder = Folder::new();
    folder.write("large", noise(16 << 20));
    folder.write("small", "small");
    let mut command = Command::new("sh");
    let script = "ulimit -n 256 && exec \"$0\" serve \"$1\" --bind 127.0.0.1:0 --stats";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_coring")])
        .arg(folder.path());
    let server = Coring::start_as(command);
    let readers: Vec<Client> = (0..500)
        .map(|_| {
            let mut reader = server.connect();
            reader.receive_at_most(4096);
            // The server may have refused it already.
            let _ = reader.try_send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
            reader
        })
        .collect();
    // The readers that were refused do not take their answer, and are let go after two seconds.
    thread::sleep(Duration::from_secs(4));
    let get = "GET /small HTTP/1.1\r\nHost: a\r\n\r\n";
    for number in 0..40 {
        let answer = server.connect().exchange(get);
        let answer = answer.unwrap_or_else(|error| panic!("client {number}: {error}"));
        let status = answer.map(|answer| answer.status);
        assert!(
            matches!(status, Some(200 | 503)),
            "client {number}: {status:?}"
        );
    }
    drop(readers);
    eventually("room after the downloads", || {
        let answer = server.connect().exchange(get).ok().flatten();
        answer.filter(|answer| answer.status == 200)
    });
    let ended = server.stop();
    let stats = ended.stats();
    assert!(stats["connections_shed"] > 0, "{}", ended.stderr);
    assert_eq!(stats["connections_open"], 0);
}

fn is_hello(answer: &io::Result<Option<Answer>>) -> bool {
    matches!(answer, Ok(Some(answer)) if answer.status == 200 && answer.text() == HELLO)
}

/// The kernel spreads connections over the workers' listeners by their ports. Few may all meet at
/// one worker; of many each gets some, and the counters show how many.
#[test]
fn pitfall_29_one_worker_gets_all_connections() {
    for count in [8, 64, 512] {
        let server = Coring::start(&["--cores", "2", "--pin", "never"]);
        let mut clients: Vec<Client> = (0..affordable(count)).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(GET);
        }
        for client in &mut clients {
            assert_eq!(client.answer().text(), HELLO);
        }
        let ended = server.stop();
        let shares = ended.shares("requests");
        let (least, most) = (shares.iter().min(), shares.iter().max());
        report(&format!("{count} connections over the workers: {shares:?}"));
        assert_eq!(shares, ended.shares("connections_accepted"));
        assert_eq!(shares.iter().sum::<u64>(), clients.len() as u64);
        if shares.len() == 1 {
            return report(
                "not tested: how connections are spread: one worker is all there can be",
            );
        }
        assert!(count < 64 || least > Some(&0), "{shares:?}");
        assert!(
            count < 512 || most < least.map(|least| 3 * least).as_ref(),
            "{shares:?}"
        );
    }
}
