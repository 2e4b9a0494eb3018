//! `coring serve` while the files in its folder change: what is new is seen soon, and what is
//! served is of one piece. What happens to the folder itself is in `serve_replaced`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::serve::{field, get, request, serve};
use crate::support::{Client, Coring, Folder, coring, eventually};

/// A change is noticed within a second; the rest is for a slow machine.
const SOON: Duration = Duration::from_secs(2);

/// Puts `content` in the place of what is called `name`, at once.
fn replace(folder: &Folder, name: &str, content: impl AsRef<[u8]>) {
    let new = folder.write(&format!("{name}.new"), content);
    fs::rename(new, folder.file(name)).expect("a renamed file");
}

#[test]
fn a_change_is_noticed() {
    let folder = Folder::new();
    let server = serve(&folder, &[]);
    let mut client = server.connect();
    let mut ask = |fields: &[&str]| {
        client.send(request("GET", "/a", fields));
        client.answer()
    };
    assert_eq!(ask(&[]).status, 404);
    let mut etags = Vec::new();
    // Another length, the same length, an empty one; in place and by another file.
    let contents = ["one", "three", "seven", "", "eight"];
    for (index, content) in contents.into_iter().enumerate() {
        if index % 2 == 0 {
            folder.write("a", content);
        } else {
            replace(&folder, "a", content);
        }
        thread::sleep(SOON);
        let answer = ask(&[]);
        assert_eq!((answer.status, answer.text()), (200, content));
        let etag = field(&answer, "etag").to_owned();
        assert!(!etags.contains(&etag), "{etag} again");
        assert_eq!(ask(&[&format!("If-None-Match: {etag}")]).status, 304);
        etags.push(etag);
        // Now it is in memory.
        assert_eq!(ask(&[]).text(), content);
    }
    fs::remove_file(folder.file("a")).expect("a file of ours");
    thread::sleep(SOON);
    assert_eq!(ask(&[]).status, 404);
    fs::create_dir(folder.file("a")).expect("a new folder");
    assert_eq!(ask(&[]).status, 301);
}

#[test]
fn an_answer_is_of_one_piece() {
    const LEN: usize = 64 << 10;
    let folder = Folder::new();
    folder.write("a", [b'a'; LEN]);
    for flags in [&[][..], &["--file-cache", "0"]] {
        let server = serve(&folder, flags);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for letter in (b'a'..=b'z').cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    replace(&folder, "a", [letter; LEN]);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let mut client = server.connect();
            let started = Instant::now();
            let mut seen = std::collections::BTreeSet::new();
            while started.elapsed() < SOON {
                client.send(request("GET", "/a", &[]));
                let body = client.answer().body;
                let first = *body.first().expect("a body");
                assert!(body.len() == LEN && body.iter().all(|&byte| byte == first));
                seen.insert(first);
            }
            done.store(true, Ordering::Relaxed);
            assert!(seen.len() > 1, "nothing was noticed");
        });
    }
}

/// Makes the tree number `version` and swaps it in as Kubernetes does with a ConfigMap: files are
/// links through `..data`, a link to a folder of its own for each version, and the former folder is
/// removed at once.
fn swap(folder: &Folder, version: u64) {
    let name = |version| format!("..{version}");
    fs::create_dir(folder.file(&name(version))).expect("a new folder");
    folder.write(&format!("..{version}/index.html"), version.to_string());
    symlink(name(version), folder.file("..data_tmp")).expect("a new link");
    fs::rename(folder.file("..data_tmp"), folder.file("..data")).expect("a renamed link");
    if version > 0 {
        fs::remove_dir_all(folder.file(&name(version - 1))).expect("a folder of ours");
    }
}

#[test]
fn a_tree_that_is_swapped_is_served_without_a_gap() {
    let folder = Folder::new();
    swap(&folder, 0);
    symlink("..data/index.html", folder.file("index.html")).expect("a new link");
    for flags in [&[][..], &["--file-cache", "0"]] {
        let server = serve(&folder, flags);
        let first: u64 = get(&server, "/").text().parse().expect("a version");
        let current = AtomicU64::new(first);
        // The version that had been in its place for so long that nothing older may be served.
        let oldest = AtomicU64::new(first);
        let done = AtomicBool::new(false);
        let ask = || {
            let mut client = server.connect();
            while !done.load(Ordering::Relaxed) {
                let oldest = oldest.load(Ordering::Relaxed);
                client.send(request("GET", "/", &[]));
                let answer = client.answer();
                let now = current.load(Ordering::Relaxed);
                assert_eq!(answer.status, 200, "at version {now}");
                let version: u64 = answer.text().parse().expect("a version");
                assert!(version <= now + 1, "{version} at version {now}");
                assert!(version >= oldest, "{version} is stale: {oldest} is old");
            }
        };
        thread::scope(|scope| {
            let clients = [scope.spawn(ask), scope.spawn(ask)];
            let mut swapped = VecDeque::new();
            for version in first + 1..=first + 1000 {
                current.store(version, Ordering::Relaxed);
                swap(&folder, version);
                swapped.push_back((version, Instant::now()));
                while let Some((old, at)) = swapped.front()
                    && at.elapsed() > SOON
                {
                    oldest.store(*old, Ordering::Relaxed);
                    swapped.pop_front();
                }
                // Long enough for what was served first to become stale.
                thread::sleep(Duration::from_millis(3));
            }
            thread::sleep(SOON);
            let last = get(&server, "/");
            done.store(true, Ordering::Relaxed);
            assert_eq!(last.text(), (first + 1000).to_string());
            for client in clients {
                client.join().expect("a client without a complaint");
            }
        });
    }
}

/// What nobody has asked for since is as old for the second who asks as for the first.
#[test]
fn what_changed_long_ago_is_served_to_nobody() {
    let folder = Folder::new();
    replace(&folder, "a", "old");
    let server = serve(&folder, &[]);
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    let mut ask = |expected: &str| {
        thread::sleep(SOON);
        for client in &mut clients {
            client.send(request("GET", "/a", &[]));
        }
        for client in &mut clients {
            assert_eq!(client.answer().text(), expected);
        }
    };
    ask("old");
    replace(&folder, "a", "new");
    ask("new");
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_ends_its_connection() {
    const LEN: u64 = 256 << 20;
    let folder = Folder::new();
    folder.write("small", "still here");
    let file = File::create(folder.file("large")).expect("a new file");
    file.set_len(LEN).expect("a sparse file");
    let server = serve(&folder, &[]);
    let mut client = server.connect();
    client.receive_at_most(64 << 10);
    client.send(request("GET", "/large", &[]));
    assert_eq!(field(&client.head(), "content-length"), LEN.to_string());
    client.take(1 << 20).expect("the beginning");
    file.set_len(2 << 20).expect("a file of ours");
    let rest = client.broken();
    assert!(
        (rest.len() as u64) < LEN - (1 << 20),
        "{} bytes",
        rest.len()
    );
    assert_eq!(get(&server, "/small").text(), "still here");
    let ended = server.stop();
    let stats = ended.stats();
    assert_eq!((stats["service_panics"], stats["task_panics"]), (0, 0));
}

#[test]
fn exhausted_descriptors_are_503_and_pass() {
    const DESCRIPTORS: u32 = 40;
    let folder = Folder::new();
    let file = File::create(folder.file("large")).expect("a new file");
    file.set_len(64 << 20).expect("a sparse file");
    folder.write("small", "small");
    folder.write("kept", "kept");
    let mut command = Command::new("sh");
    // What of our environment coring would heed is gone; a shell only lowers the limit.
    let inner = coring(&[]);
    command.env_clear().envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    if let Ok(engine) = std::env::var(crate::support::ENGINE) {
        command.env(crate::support::ENGINE, engine);
    }
    let script = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(inner.get_program());
    command.args([
        "serve",
        &folder.file(""),
        "--cores",
        "1",
        "--bind",
        "127.0.0.1:0",
    ]);
    let server = Coring::start_as(command);
    assert_eq!(get(&server, "/kept").text(), "kept");
    // Each of them takes two descriptors, and keeps them.
    let mut answered = Vec::new();
    let mut refused = None;
    while refused.is_none() && answered.len() < DESCRIPTORS as usize {
        let mut client = server.connect();
        client.receive_at_most(4 << 10);
        client.send(request("GET", "/large", &[]));
        let head = client.head();
        match head.status {
            200 => answered.push(client),
            503 => refused = Some(head),
            _ => panic!("{}", head.head),
        }
    }
    let refused = refused.expect("a limit that is met");
    assert!(field(&refused, "retry-after").parse::<u32>().is_ok());
    drop(answered);
    eventually("descriptors", || {
        (get(&server, "/small").status == 200).then_some(())
    });
    server.stop();
}
