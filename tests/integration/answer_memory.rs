//! Clients that ask for files and do not read: the server holds a bounded amount of memory for
//! their answers, and each of them gets its file whole when it reads after all.

use std::fs::File;
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use crate::resources::private_bytes;
use crate::serve::{get, request};
use crate::support::{Client, Coring, Family, Folder, eventually, noise, report};

/// The largest file that is read into memory whole.
const LEN: usize = 256 << 10;
const CLIENTS: usize = 300;
const MIB: u64 = 1 << 20;

/// A folder of as many files as there are clients. Each begins with its own number.
fn files(count: usize) -> Folder {
    let folder = Folder::new();
    for number in 0..count {
        folder.write(&number.to_string(), content(number));
    }
    // A file that has just been written is read again a little later.
    thread::sleep(Duration::from_millis(100));
    folder
}

fn content(number: usize) -> Vec<u8> {
    let mut content = noise(LEN);
    content[..8].copy_from_slice(&(number as u64).to_le_bytes());
    content
}

/// On a Unix socket, which holds less than a file for a client that does not read.
fn serve(folder: &Folder, flags: &[&str]) -> Coring {
    let path = folder.file("");
    let flags = [&["serve", &path, "--cores", "1"], flags].concat();
    Coring::start_on(Family::Unix, &flags)
}

/// A client that has asked for the file and reads nothing.
fn silent(server: &Coring, number: usize) -> Client {
    let mut client = server.connect();
    client.send(request("GET", &format!("/{number}"), &[]));
    client
}

/// Until all are answered, and nothing more is read.
fn settle(server: &Coring) {
    let mut before = 0;
    eventually("a pause", || {
        thread::sleep(Duration::from_millis(300));
        let now = private_bytes(server.pid());
        (now.abs_diff(std::mem::replace(&mut before, now)) < MIB / 4).then_some(())
    });
}

/// The memory that `clients` silent clients of as many files cost, in bytes.
fn cost(server: &Coring, clients: usize) -> u64 {
    get(server, "/0");
    let before = private_bytes(server.pid());
    let mut clients: Vec<Client> = (0..clients).map(|number| silent(server, number)).collect();
    settle(server);
    let cost = private_bytes(server.pid()).saturating_sub(before);
    report(&format!("{} silent clients: {cost} bytes", clients.len()));
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = client.answer();
        assert_eq!(answer.status, 200, "file {number}");
        assert!(answer.body == content(number), "file {number}");
    }
    cost
}

/// Insists on a cost below `bound`, where memory is what it seems to be.
#[track_caller]
fn assert_below(cost: u64, bound: u64) {
    if cfg!(asan) {
        report("memory: not judged, for AddressSanitizer keeps what is freed");
    } else {
        assert!(
            cost < bound,
            "{cost} bytes, where less than {bound} are allowed"
        );
    }
}

/// By default 32 MiB, beside the cache. The rest is what connections cost.
#[test]
fn clients_that_do_not_read_take_a_bounded_amount_of_memory() {
    let folder = files(CLIENTS);
    let server = serve(&folder, &["--file-cache", "0"]);
    let cost = cost(&server, CLIENTS);
    assert_below(cost, 45 * MIB);
    server.stop();
}

/// Content that has left the cache counts as long as an answer has it.
#[test]
fn clients_of_files_that_leave_the_cache_take_no_more() {
    let folder = files(CLIENTS);
    let server = serve(&folder, &["--file-cache", "8m", "--answer-memory", "4m"]);
    let cost = cost(&server, CLIENTS);
    assert_below(cost, 25 * MIB);
    server.stop();
}

/// From no memory at all to no bound: each file comes whole, also one that the kernel does not have
/// in memory when it is asked for.
#[test]
fn with_any_bound_files_come_whole() {
    const FEW: usize = 40;
    let folder = files(FEW);
    let all = (FEW * LEN) as u64;
    for bound in ["0", "1", "300k", &u64::MAX.to_string()] {
        for cold in [false, true] {
            let flags = ["--file-cache", "0", "--answer-memory", bound];
            let server = serve(&folder, &flags);
            for number in (0..FEW).filter(|_| cold) {
                let file = File::open(folder.file(&number.to_string())).expect("a file");
                file.sync_all().expect("a disk that takes it");
                fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
            }
            let cost = cost(&server, FEW);
            if bound.len() < 5 {
                assert_below(cost, all / 2);
            }
            server.stop();
        }
    }
}
