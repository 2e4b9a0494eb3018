//! The memory for file responses that clients do not read. It is bounded (`--response-memory`), and
//! each client gets its whole file when it reads at last.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use crate::support::{
    Client, Coring, Family, TempDir, assert_bytes_below, eventually, get, noise, private_bytes,
    report,
};

/// The largest file that the server reads into memory.
const LEN: usize = 256 << 10;
const CLIENTS: usize = 300;
const MIB: u64 = 1 << 20;

/// Makes a directory of `count` files. Each begins with its own number.
fn files(count: usize) -> TempDir {
    let directory = TempDir::new();
    for number in 0..count {
        directory.write(&number.to_string(), content(number));
    }
    // The server reads a file twice if it was written just before.
    thread::sleep(Duration::from_millis(100));
    directory
}

fn content(number: usize) -> Vec<u8> {
    let mut content = noise(LEN);
    content[..8].copy_from_slice(&(number as u64).to_le_bytes());
    content
}

/// Starts a server on a Unix socket, whose buffer holds less than a file.
fn serve(directory: &TempDir, flags: &[&str]) -> Coring {
    let path = directory.file("");
    let flags = [&["serve", &path, "--cores", "1"], flags].concat();
    Coring::start_on(Family::Unix, &flags)
}

/// Connects a client that requests a file and reads nothing.
fn silent_client(server: &Coring, number: usize) -> Client {
    let mut client = server.connect();
    client.send(get(&format!("/{number}")));
    client
}

/// Waits until the server's memory no longer changes.
fn settle(server: &Coring) {
    let mut before = 0;
    eventually("steady memory", || {
        thread::sleep(Duration::from_millis(300));
        let now = private_bytes(server.pid());
        (now.abs_diff(std::mem::replace(&mut before, now)) < MIB / 4).then_some(())
    });
}

/// The memory that `clients` silent clients, each of its own file, cost the server, in bytes.
/// Asserts that each client then receives its whole file.
fn cost(server: &Coring, clients: usize) -> u64 {
    server.get("/0");
    let before = private_bytes(server.pid());
    let clients = (0..clients).map(|number| silent_client(server, number));
    let mut clients: Vec<Client> = clients.collect();
    settle(server);
    let cost = private_bytes(server.pid()).saturating_sub(before);
    report(&format!("{} silent clients: {cost} bytes", clients.len()));
    for (number, client) in clients.iter_mut().enumerate() {
        let response = client.response();
        assert_eq!(response.status, 200, "file {number}");
        assert!(response.body == content(number), "file {number}");
    }
    cost
}

/// The default bound is 32 MiB in addition to the cache. The rest is the cost of the connections.
#[test]
fn unread_responses_take_a_bounded_amount_of_memory() {
    let directory = files(CLIENTS);
    let server = serve(&directory, &["--file-cache", "0"]);
    let cost = cost(&server, CLIENTS);
    assert_bytes_below(cost, 45 * MIB);
    server.stop();
}

/// An entry evicted from the cache counts towards the bound as long as a response uses it.
#[test]
fn evicted_cache_entries_count_towards_the_bound() {
    let directory = files(CLIENTS);
    let server = serve(
        &directory,
        &["--file-cache", "8m", "--response-memory", "4m"],
    );
    let cost = cost(&server, CLIENTS);
    assert_bytes_below(cost, 25 * MIB);
    server.stop();
}

/// From a bound of 0 to no bound: each file arrives whole, even if it is not in the page cache.
#[test]
fn files_arrive_whole_with_any_bound() {
    const FEW: usize = 40;
    let directory = files(FEW);
    let all = (FEW * LEN) as u64;
    for bound in ["0", "1", "300k", &u64::MAX.to_string()] {
        for cold in [false, true] {
            let flags = ["--file-cache", "0", "--response-memory", bound];
            let server = serve(&directory, &flags);
            for number in (0..FEW).filter(|_| cold) {
                let file = File::open(directory.file(&number.to_string())).expect("a file");
                file.sync_all().expect("a written file");
                fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
            }
            let cost = cost(&server, FEW);
            if bound.len() < 5 {
                assert_bytes_below(cost, all / 2);
            }
            server.stop();
        }
    }
}

/// Pages that list a directory are made one at a time, and no more than there is memory for.
#[test]
fn listings_for_many_clients_take_little_memory_and_one_thread() {
    let directory = TempDir::new();
    for number in 0..3000 {
        directory.write(&format!("{number}{}", "x".repeat(200)), "");
    }
    // Unlike a missing name, this is in the kernel's cache of every file system, so no thread looks
    // for it.
    symlink("index.html", directory.file("index.html")).expect("a new link");
    let flags = ["--listing", "--file-cache", "0", "--response-memory", "4m"];
    let server = Coring::serve(&directory, &[&flags[..], &["--cores", "1"]].concat());
    // The thread that makes this page stays.
    assert_eq!(server.get("/").status, 200);
    let stalled: Vec<Client> = ["name", "size", "time", "-name", "-size", "-time"]
        .into_iter()
        .cycle()
        .take(60)
        .map(|key| {
            let mut client = server.connect();
            client.set_receive_buffer(4096);
            client.send(get(&format!("/?sort={key}")));
            client
        })
        .collect();
    assert!(matches!(server.get("/").status, 200 | 503));
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("a child process");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    // One may still be on its way to sleep when the next page is begun.
    assert!(names.filter(|name| name == "coring-blocking\n").count() <= 2);
    assert_bytes_below(private_bytes(server.pid()), 32 * MIB);
    drop(stalled);
    server.stop();
}
