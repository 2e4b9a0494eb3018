//! `coring serve` while the files in its directory change: new content is served within a second,
//! and no response mixes old and new content. `serve_replaced_directory` replaces the directory
//! itself.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Coring, TempDir, coring, eventually, get, request};

/// The server notices a change within a second. Another second allows for a slow machine.
const SOON: Duration = Duration::from_secs(2);

/// Replaces the file `name` with `content`, by rename(2).
fn replace(directory: &TempDir, name: &str, content: impl AsRef<[u8]>) {
    let new = directory.write(&format!("{name}.new"), content);
    fs::rename(new, directory.file(name)).expect("a renamed file");
}

#[test]
fn a_changed_file_is_served_soon() {
    let directory = TempDir::new();
    let server = Coring::serve(&directory, &[]);
    let mut client = server.connect();
    let mut ask = |fields: &[&str]| {
        client.send(request("GET", "/a", fields));
        client.response()
    };
    assert_eq!(ask(&[]).status, 404);
    let mut etags = Vec::new();
    // A different length, the same length, and an empty file; written in place and replaced.
    let contents = ["one", "three", "seven", "", "eight"];
    for (index, content) in contents.into_iter().enumerate() {
        if index % 2 == 0 {
            directory.write("a", content);
        } else {
            replace(&directory, "a", content);
        }
        thread::sleep(SOON);
        let response = ask(&[]);
        assert_eq!((response.status, response.text()), (200, content));
        let etag = response.expect_field("etag").to_owned();
        assert!(!etags.contains(&etag), "{etag} was used before");
        assert_eq!(ask(&[&format!("If-None-Match: {etag}")]).status, 304);
        etags.push(etag);
        // This response comes from the cache.
        assert_eq!(ask(&[]).text(), content);
    }
    fs::remove_file(directory.file("a")).expect("a file that we own");
    thread::sleep(SOON);
    assert_eq!(ask(&[]).status, 404);
    fs::create_dir(directory.file("a")).expect("a new directory");
    assert_eq!(ask(&[]).status, 301);
}

#[test]
fn a_response_does_not_mix_old_and_new_content() {
    const LEN: usize = 64 << 10;
    let directory = TempDir::new();
    directory.write("a", [b'a'; LEN]);
    for flags in [&[][..], &["--file-cache", "0"]] {
        let server = Coring::serve(&directory, flags);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for letter in (b'a'..=b'z').cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    replace(&directory, "a", [letter; LEN]);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let mut client = server.connect();
            let started = Instant::now();
            let mut seen = std::collections::BTreeSet::new();
            while started.elapsed() < SOON {
                client.send(get("/a"));
                let body = client.response().body;
                let first = *body.first().expect("a body");
                assert!(body.len() == LEN && body.iter().all(|&byte| byte == first));
                seen.insert(first);
            }
            done.store(true, Ordering::Relaxed);
            assert!(seen.len() > 1, "no change was served");
        });
    }
}

/// Replaces the files with those of `version`, as Kubernetes updates a ConfigMap: the files are
/// links through `..data`, which is a link to a directory that each version has for itself. The
/// directory of the previous version is removed at once.
fn swap(directory: &TempDir, version: u64) {
    let name = |version| format!("..{version}");
    fs::create_dir(directory.file(&name(version))).expect("a new directory");
    directory.write(&format!("..{version}/index.html"), version.to_string());
    symlink(name(version), directory.file("..data_tmp")).expect("a new link");
    fs::rename(directory.file("..data_tmp"), directory.file("..data")).expect("a renamed link");
    if version > 0 {
        fs::remove_dir_all(directory.file(&name(version - 1))).expect("a directory that we own");
    }
}

#[test]
fn a_config_map_update_is_served_without_a_gap() {
    let directory = TempDir::new();
    swap(&directory, 0);
    symlink("..data/index.html", directory.file("index.html")).expect("a new link");
    for flags in [&[][..], &["--file-cache", "0"]] {
        let server = Coring::serve(&directory, flags);
        let first: u64 = server.get("/").text().parse().expect("a version");
        let current = AtomicU64::new(first);
        // The newest version that has been current for longer than SOON. Older ones are stale.
        let oldest = AtomicU64::new(first);
        let done = AtomicBool::new(false);
        let ask = || {
            let mut client = server.connect();
            while !done.load(Ordering::Relaxed) {
                let oldest = oldest.load(Ordering::Relaxed);
                client.send(get("/"));
                let response = client.response();
                let now = current.load(Ordering::Relaxed);
                assert_eq!(response.status, 200, "at version {now}");
                let version: u64 = response.text().parse().expect("a version");
                assert!(version <= now + 1, "{version} at version {now}");
                assert!(
                    version >= oldest,
                    "{version} is stale, as {oldest} must be noticed"
                );
            }
        };
        thread::scope(|scope| {
            let clients = [scope.spawn(ask), scope.spawn(ask)];
            let mut swapped = VecDeque::new();
            for version in first + 1..=first + 1000 {
                current.store(version, Ordering::Relaxed);
                swap(&directory, version);
                swapped.push_back((version, Instant::now()));
                while let Some((old, at)) = swapped.front()
                    && at.elapsed() > SOON
                {
                    oldest.store(*old, Ordering::Relaxed);
                    swapped.pop_front();
                }
                // So slow that the first versions become stale before the last swap.
                thread::sleep(Duration::from_millis(3));
            }
            thread::sleep(SOON);
            let last = server.get("/");
            done.store(true, Ordering::Relaxed);
            assert_eq!(last.text(), (first + 1000).to_string());
            for client in clients {
                client.join().expect("no panic in the client");
            }
        });
    }
}

/// A file changed while no client requested it. No client gets the old content afterwards, neither
/// the first to request the file nor the next.
#[test]
fn a_file_that_changed_between_requests_is_never_served_stale() {
    let directory = TempDir::new();
    replace(&directory, "a", "old");
    let server = Coring::serve(&directory, &[]);
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    let mut ask = |expected: &str| {
        thread::sleep(SOON);
        for client in &mut clients {
            client.send(get("/a"));
        }
        for client in &mut clients {
            assert_eq!(client.response().text(), expected);
        }
    };
    ask("old");
    replace(&directory, "a", "new");
    ask("new");
}

#[test]
fn a_file_that_shrinks_during_a_download_ends_the_connection() {
    const LEN: u64 = 256 << 20;
    let directory = TempDir::new();
    directory.write("small", "still here");
    let file = File::create(directory.file("large")).expect("a new file");
    file.set_len(LEN).expect("a sparse file");
    let server = Coring::serve(&directory, &[]);
    let mut client = server.connect();
    client.set_receive_buffer(64 << 10);
    client.send(get("/large"));
    assert_eq!(
        client.head().expect_field("content-length"),
        LEN.to_string()
    );
    client.take(1 << 20).expect("the beginning");
    file.set_len(2 << 20).expect("a file that we own");
    let rest = client.expect_fin_or_reset();
    assert!(
        (rest.len() as u64) < LEN - (1 << 20),
        "{} bytes",
        rest.len()
    );
    assert_eq!(server.get("/small").text(), "still here");
    let ended = server.stop();
    let stats = ended.stats();
    assert_eq!((stats["service_panics"], stats["task_panics"]), (0, 0));
}

#[test]
fn a_lack_of_descriptors_is_503_until_some_are_closed() {
    const DESCRIPTORS: u32 = 40;
    let directory = TempDir::new();
    let file = File::create(directory.file("large")).expect("a new file");
    file.set_len(64 << 20).expect("a sparse file");
    directory.write("small", "small");
    directory.write("kept", "kept");
    let mut command = Command::new("sh");
    // The environment is empty except for the engine. The shell only lowers the limit.
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
        &directory.file(""),
        "--cores",
        "1",
        "--bind",
        "127.0.0.1:0",
    ]);
    let server = Coring::start_as(command);
    assert_eq!(server.get("/kept").text(), "kept");
    // Each download holds two descriptors until its client leaves.
    let mut served = Vec::new();
    let mut refused = None;
    while refused.is_none() && served.len() < DESCRIPTORS as usize {
        let mut client = server.connect();
        client.set_receive_buffer(4 << 10);
        client.send(get("/large"));
        let head = client.head();
        match head.status {
            200 => served.push(client),
            503 => refused = Some(head),
            _ => panic!("{}", head.head),
        }
    }
    let refused = refused.expect("a refused download");
    assert!(refused.expect_field("retry-after").parse::<u32>().is_ok());
    drop(served);
    eventually("a response after the downloads", || {
        (server.get("/small").status == 200).then_some(())
    });
    server.stop();
}
