//! The resources that clients cost: memory, descriptors, buffers, kernel threads and processor
//! time, while they are connected and after they have left.

use std::fs;
use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use coring::{Handle, Limits, Request, Response, Server};
use rustix::process::{Resource, getrlimit};

use crate::support::{
    Address, Client, Coring, GET, HALF_A_HEAD, HELLO, Program, ReceivedResponse, TempDir,
    assert_bytes_below, eventually, get, noise, private_bytes, python, report, request,
};

/// The number of connections a test can use: `wanted`, or less if RLIMIT_NOFILE does not allow it.
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

/// How the connections of [`hold`] end.
#[derive(Clone, Copy)]
enum End {
    Fin,
    Reset,
}

/// Opens `count` connections from another process, sends `request` on each and receives
/// `response_len` bytes. The connections end when the returned program is dropped.
#[track_caller]
fn hold(port: u16, count: usize, response_len: usize, request: &str, end: End) -> Program {
    let numbers = [usize::from(port), count, response_len].map(|number| number.to_string());
    let end = match end {
        End::Fin => "fin",
        End::Reset => "reset",
    };
    let [port, count, response_len] = &numbers;
    Program::start(&mut python(
        "hold.py",
        &[port, count, response_len, end, request],
    ))
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("a child process")
        .count()
}

/// The processor time of a process so far, in ticks of 10 ms (proc_pid_stat(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a child process");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<u64>().expect("a number of ticks"))
        .sum()
}

/// The processor time that a process takes during two seconds, in percent of one processor.
fn cpu_percent(pid: u32) -> u64 {
    let before = cpu_ticks(pid);
    thread::sleep(Duration::from_secs(2));
    (cpu_ticks(pid) - before) / 2
}

/// Sends one request, so that the server has allocated what every request needs. Returns the
/// length of the response.
#[track_caller]
fn warm_up(server: &Coring) -> usize {
    let mut client = server.connect();
    client.send(GET);
    let response = client.response();
    assert_eq!(response.text(), HELLO);
    response.head.len() + response.body.len()
}

#[test]
fn an_idle_connection_costs_little_and_releases_everything() {
    let count = affordable(10_000);
    let server = Coring::start(&[]);
    let response_len = warm_up(&server);
    let (pid, port) = (server.pid(), server.address().port());
    thread::sleep(Duration::from_secs(1));
    let (fresh_bytes, fresh_descriptors) = (private_bytes(pid), descriptors(pid));
    let clients = hold(port, count, response_len, GET, End::Fin);
    assert_eq!(descriptors(pid), fresh_descriptors + count);
    let full_bytes = private_bytes(pid);
    let each = full_bytes.saturating_sub(fresh_bytes) / count as u64;
    report(&format!(
        "idle: {fresh_bytes} bytes fresh, {full_bytes} bytes with {count} connections: \
         {each} bytes each (goal: 1024)"
    ));
    assert!(cpu_percent(pid) < 10, "idle connections take CPU time");
    drop(clients);
    eventually("the descriptors are closed", || {
        (descriptors(pid) == fresh_descriptors).then_some(())
    });
    assert_bytes_below(each, 2048);
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

/// Each incomplete head holds a block of 4 KiB until its client leaves.
#[test]
fn the_memory_of_a_burst_is_returned_to_the_kernel() {
    let count = affordable(3000);
    let server = Coring::start(&["--cores", "1"]);
    warm_up(&server);
    let held_bytes = count as u64 * 4096;
    let fresh_bytes = private_bytes(server.pid());
    let head = request("GET", "/", &[&format!("X: {}", "x".repeat(3000))]);
    let incomplete = head.trim_end();
    let clients: Vec<Client> = (0..count)
        .map(|_| {
            let mut client = server.connect();
            client.send(incomplete);
            client
        })
        .collect();
    // All heads have arrived when the memory no longer grows.
    let full_bytes = eventually("the incomplete heads", || {
        let before_bytes = private_bytes(server.pid());
        thread::sleep(Duration::from_millis(300));
        let full_bytes = private_bytes(server.pid());
        let has_all = full_bytes >= fresh_bytes + held_bytes && full_bytes <= before_bytes;
        has_all.then_some(full_bytes)
    });
    drop(clients);
    let left_bytes = eventually("the memory is returned", || {
        let left_bytes = private_bytes(server.pid());
        (left_bytes + held_bytes * 3 / 4 < full_bytes).then_some(left_bytes)
    });
    report(&format!(
        "burst: {fresh_bytes} bytes fresh, {full_bytes} with {count} heads, {left_bytes} after"
    ));
    assert!(cpu_percent(server.pid()) < 10, "the burst left work behind");
    // The returned memory can be used again.
    let again: Vec<Client> = (0..count.min(500))
        .map(|_| {
            let mut client = server.connect();
            client.send(incomplete);
            client
        })
        .collect();
    for mut client in again {
        client.send("\r\n\r\n");
        assert_eq!(client.response().text(), HELLO);
    }
    assert_eq!(server.stop().stats()["blocks_in_use"], 0);
}

/// A number of requests whose responses exceed what the buffers of a connection hold.
const MANY: usize = 3000;

/// Requests the small file [`MANY`] times, half-closes and does not read. For such a connection
/// poll(2) always reports the half-close at once.
fn leave_unread(mut client: Client) -> Client {
    client.set_receive_buffer(4096);
    client.send(get("/small").repeat(MANY));
    client.half_close();
    client
}

/// Starts a server with a small file, which it sends from memory, and a large one, which it sends
/// from the file.
fn serve_small_and_large() -> (TempDir, Coring) {
    let directory = TempDir::new();
    directory.write("small", noise(4000));
    directory.write("large", noise(1_000_000));
    let server = Coring::serve(&directory, &["--cores", "1"]);
    (directory, server)
}

/// Clients that have half-closed and do not read occupy no io-wq thread, so another client that
/// half-closes does not wait for them.
#[test]
fn pitfall_23_sends_to_half_closed_clients_occupy_no_kernel_thread() {
    let (_directory, server) = serve_small_and_large();
    let stalled: Vec<Client> = (0..60).map(|_| leave_unread(server.connect())).collect();
    let mut reader = server.connect();
    reader.send(get("/small").repeat(MANY));
    reader.half_close();
    // By then the buffers of this connection are full, too.
    thread::sleep(Duration::from_millis(500));
    for _ in 0..MANY {
        assert_eq!(reader.response().body.len(), 4000);
    }
    reader.expect_fin();
    assert_eq!(kernel_threads(server.pid()), 0);
    drop(stalled);
    server.stop();
}

/// The number of io-wq threads of a process: the kernel makes them for io_uring.
fn kernel_threads(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a child process");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).count()
}

/// On a socket with O_NONBLOCK a send that would block fails with EAGAIN. A single-shot poll of a
/// half-closed socket completes at once, so a server that sends and polls in turn would spin.
#[test]
fn pitfall_24_a_blocked_send_on_a_nonblocking_socket_does_not_spin() {
    let (_directory, server) = serve_small_and_large();
    let mut client = server.connect();
    // To send a file, the server sets O_NONBLOCK on the socket.
    let large = get("/large");
    let response = client.exchange(&large).expect("a response");
    assert_eq!(
        response.map(|response| response.body.len()),
        Some(1_000_000)
    );
    let client = leave_unread(client);
    thread::sleep(Duration::from_millis(500));
    assert!(cpu_percent(server.pid()) < 20, "the blocked send spins");
    drop(client);
    server.stop();
}

/// A write beyond RLIMIT_FSIZE, also to a memfd, raises SIGXFSZ, which kills by default.
#[test]
fn a_limit_on_the_file_size_does_not_end_the_program() {
    let directory = TempDir::new();
    directory.write("file", noise(20_000));
    let mut command = Command::new("sh");
    let script = "ulimit -f 1 && exec \"$0\" serve \"$1\" --bind 127.0.0.1:0 --access-log \"$2\"";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_coring")])
        .args([directory.path(), &directory.path().join("log")]);
    let server = Coring::start_as(command);
    for _ in 0..5 {
        let response = server.get("/file");
        assert_eq!(response.body.len(), 20_000);
        thread::sleep(Duration::from_millis(600));
    }
    // The limit is reached after about ten lines of the log.
    for _ in 0..30 {
        server.get(&format!("/{}", "x".repeat(100)));
    }
    thread::sleep(Duration::from_millis(600));
    server.get("/file");
    let ended = server.stop();
    assert!(ended.stderr.contains("File too large"), "{}", ended.stderr);
}

#[test]
fn an_idle_server_sleeps() {
    let server = Coring::start(&[]);
    warm_up(&server);
    assert!(cpu_percent(server.pid()) < 5);
    let ended = server.stop();
    assert!(
        ended.stats()["enters"] < 200,
        "the idle server wakes up: {}",
        ended.stderr
    );
}

/// The sum of a gauge over all workers of a server in this process.
fn gauge(server: &Handle, name: &str) -> u64 {
    let lists = server.metrics().iter().map(|worker| worker.list());
    lists
        .flatten()
        .filter(|(each, _)| *each == name)
        .map(|(_, value)| value)
        .sum()
}

/// Starts a server in this process. Calls of `/never` do not finish; other paths get a page.
#[track_caller]
fn start_with_pending_calls() -> (Handle, Address) {
    let mut limits = Limits::default();
    limits.head_timeout = Some(Duration::from_millis(600_000));
    let service = async |request: Request| {
        if request.path() == "/never" {
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

/// Asserts that many connections that have sent `request` leave the rings almost all of their
/// buffers. The server is in this process, so that its gauges can be read; the clients are not.
#[track_caller]
fn assert_pending_leave_the_rings_full(request: &str) {
    let count = affordable(10_000);
    let (server, address) = start_with_pending_calls();
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
    eventually("the server has received all requests", || {
        (gauge(&server, "bytes_received") == all_bytes).then_some(())
    });
    let started = Instant::now();
    let mut client = Client::connect(&address).expect("a connection");
    client.send(GET);
    assert_eq!(client.response().text(), HELLO);
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
    eventually("the connections are closed", || {
        (gauge(&server, "connections_open") == 0).then_some(())
    });
    server.drain();
    server.wait().expect("an orderly end");
    assert_eq!(gauge(&server, "blocks_in_use"), 0);
    assert_eq!(gauge(&server, "tasks_live"), 0);
}

/// The two cases are in one test, because each needs most of the descriptors that this process may
/// open.
#[test]
fn pitfall_34_pending_requests_leave_the_rings_full() {
    assert_pending_leave_the_rings_full(HALF_A_HEAD);
    assert_pending_leave_the_rings_full(&get("/never"));
}

/// There are more clients than descriptors. The server serves some clients; the others wait or are
/// refused. It does not spin, and it serves new clients when others have left.
#[test]
fn pitfall_06_a_lack_of_descriptors_does_not_make_the_server_spin() {
    let program = env!("CARGO_BIN_EXE_coring");
    let script = format!("ulimit -n 64 && exec {program} --bind 127.0.0.1:0 --stats");
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let server = Coring::start_as(command);
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    for client in &mut clients {
        // The server may have refused this client already.
        let _ = client.try_send(GET);
    }
    let busy = cpu_percent(server.pid());
    assert!(busy < 50, "{busy} % of a processor without descriptors");
    let served = clients.iter_mut().map(|client| client.try_response());
    let served = served.filter(is_hello).count();
    assert!((10..64).contains(&served), "{served} of 100 were served");
    drop(clients);
    eventually("a response after others have left", || {
        is_hello(&server.connect().exchange(GET)).then_some(())
    });
    let ended = server.stop();
    let stats = ended.stats();
    let refused = stats["connections_shed"] + stats["accept_errors"];
    assert!(refused > 0, "no client was refused: {}", ended.stderr);
    assert_eq!(stats["connections_open"], 0);
}

/// A download holds two descriptors, the socket's and the file's. When downloads hold all
/// descriptors, a new client is served or gets a 503.
#[test]
fn clients_get_a_response_while_downloads_hold_all_descriptors() {
    let directory = TempDir::new();
    directory.write("large", noise(16 << 20));
    directory.write("small", "small");
    let mut command = Command::new("sh");
    let script = "ulimit -n 256 && exec \"$0\" serve \"$1\" --bind 127.0.0.1:0 --stats";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_coring")])
        .arg(directory.path());
    let server = Coring::start_as(command);
    let readers: Vec<Client> = (0..500)
        .map(|_| {
            let mut reader = server.connect();
            reader.set_receive_buffer(4096);
            // The server may have refused this client already.
            let _ = reader.try_send(get("/large"));
            reader
        })
        .collect();
    // The refused clients do not read their response. The server closes them after two seconds.
    thread::sleep(Duration::from_secs(4));
    let small = get("/small");
    for number in 0..40 {
        let response = server.connect().exchange(&small);
        let response = response.unwrap_or_else(|error| panic!("client {number}: {error}"));
        let status = response.map(|response| response.status);
        assert!(
            matches!(status, Some(200 | 503)),
            "client {number}: {status:?}"
        );
    }
    drop(readers);
    eventually("a response after the downloads", || {
        let response = server.connect().exchange(&small).ok().flatten();
        response.filter(|response| response.status == 200)
    });
    let ended = server.stop();
    let stats = ended.stats();
    assert!(stats["connections_shed"] > 0, "{}", ended.stderr);
    assert_eq!(stats["connections_open"], 0);
}

fn is_hello(response: &io::Result<Option<ReceivedResponse>>) -> bool {
    matches!(response, Ok(Some(response)) if response.status == 200 && response.text() == HELLO)
}

/// The kernel distributes connections among the workers' listeners by a hash of their addresses.
/// Of many connections each worker must get a fair share; the counters show how many it got.
#[test]
fn pitfall_29_connections_are_distributed_among_the_workers() {
    for count in [8, 64, 512] {
        let server = Coring::start(&["--cores", "2", "--pin", "never"]);
        let mut clients: Vec<Client> = (0..affordable(count)).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(GET);
        }
        for client in &mut clients {
            assert_eq!(client.response().text(), HELLO);
        }
        let ended = server.stop();
        let shares = ended.shares("requests");
        let (least, most) = (shares.iter().min(), shares.iter().max());
        report(&format!("{count} connections per worker: {shares:?}"));
        assert_eq!(shares, ended.shares("connections_accepted"));
        assert_eq!(shares.iter().sum::<u64>(), clients.len() as u64);
        if shares.len() == 1 {
            return report(
                "not tested: the distribution of connections: there can be only one worker",
            );
        }
        assert!(count < 64 || least > Some(&0), "{shares:?}");
        assert!(
            count < 512 || most < least.map(|least| 3 * least).as_ref(),
            "{shares:?}"
        );
    }
}
