//! `coring serve` while its directory is replaced, removed or renamed: within a second the server
//! serves the directory that its path leads to now, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Coring, TempDir, coring, eventually, get, report};

/// The server notices a change within a second. Another second allows for a slow machine.
const SOON: Duration = Duration::from_secs(2);

/// The flags of a server with the file cache, and of one without.
const CACHES: [&[&str]; 2] = [&[], &["--file-cache", "0"]];

fn start(path: &str, flags: &[&str]) -> Coring {
    Coring::start(&[&["serve", path, "--cores", "2"], flags].concat())
}

/// Starts a server with one worker in the working directory `directory`. If `prefix` is not empty,
/// it is the command that runs coring.
fn start_in(directory: &Path, prefix: &[&str], path: &str) -> Coring {
    let inner = coring(&["serve", path, "--bind", "127.0.0.1:0", "--cores", "1"]);
    let mut words = prefix
        .iter()
        .map(AsRef::as_ref)
        .chain([inner.get_program()]);
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(directory);
    Coring::start_as(command)
}

/// Writes the file `a` into the directory at `path`, which is made if it does not exist.
fn fill(path: &str, content: &str) {
    fs::create_dir_all(path).expect("a directory");
    fs::write(format!("{path}/a"), content).expect("a file");
}

/// Replaces the link at `path` with one to `target`, by rename(2).
fn switch(path: &str, target: &str) {
    let new = format!("{path}.new");
    symlink(target, &new).expect("a new link");
    fs::rename(new, path).expect("a renamed link");
}

/// Requests `/a` until the response has this status and, if it is a 200, this text. Asserts that
/// this happens within [`SOON`], and that other responses have a status in `allowed`.
#[track_caller]
fn assert_becomes(server: &Coring, status: u16, text: &str, allowed: &[u16]) {
    let started = Instant::now();
    loop {
        let response = server.get("/a");
        if response.status == status && (status != 200 || response.text() == text) {
            return;
        }
        assert!(allowed.contains(&response.status), "{}", response.head);
        let now = response.text();
        assert!(started.elapsed() < SOON, "still {} {now}", response.status);
        thread::sleep(Duration::from_millis(20));
    }
}

/// The number of lines on standard error that have all of `words`.
fn count_messages(server: &Coring, words: &[&str]) -> usize {
    let stderr = server.stderr();
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    stderr.lines().filter(has_all).count()
}

/// Waits for a message with `words`, and asserts that only one of the two workers writes it.
#[track_caller]
fn assert_one_message(server: &Coring, words: &[&str]) {
    eventually("a message", || {
        (count_messages(server, words) > 0).then_some(())
    });
    // By then both workers have noticed the change.
    thread::sleep(SOON);
    let count = count_messages(server, words);
    assert_eq!(count, 1, "{words:?}: {}", server.stderr());
}

/// Front-end build tools remove their output directory and make it again.
#[test]
fn a_directory_that_is_removed_and_made_again_is_served() {
    for flags in CACHES {
        let parent = TempDir::new();
        let dist = parent.file("dist");
        fill(&dist, "build 0");
        let server = start(&dist, flags);
        assert_eq!(server.get("/a").text(), "build 0");
        for build in 1..=3 {
            fs::remove_dir_all(&dist).expect("a directory that we own");
            fs::create_dir(&dist).expect("a new directory");
            fill(&dist, &format!("build {build}"));
            assert_becomes(&server, 200, &format!("build {build}"), &[200, 404]);
        }
        let count = count_messages(&server, &[&dist, "another directory"]);
        assert!((1..=3).contains(&count), "{}", server.stderr());
    }
}

#[test]
fn a_directory_that_is_missing_is_404_until_it_is_back() {
    for flags in CACHES {
        let parent = TempDir::new();
        let (dist, aside) = (parent.file("dist"), parent.file("aside"));
        fill(&dist, "here");
        let server = start(&dist, flags);
        assert_becomes(&server, 200, "here", &[]);
        // The file still exists elsewhere and is in the cache. Its path no longer leads to it.
        fs::rename(&dist, &aside).expect("a renamed directory");
        assert_becomes(&server, 404, "", &[200]);
        // Each worker notices the change on its own.
        thread::sleep(SOON);
        for _ in 0..20 {
            assert_eq!(server.get("/a").status, 404);
            thread::sleep(Duration::from_millis(50));
        }
        fs::rename(&aside, &dist).expect("a renamed directory");
        // The server looks for a missing directory at each request, so it notices this at once.
        assert_becomes(&server, 200, "here", &[]);
        assert_one_message(&server, &[&dist, "No such file"]);
        assert_one_message(&server, &[&dist, "is back"]);
    }
}

const RELEASES: u8 = 4;

/// The files of a release: one that is copied from the cache, one that is sent from a memfd, and
/// one that is sent from the file.
const LENS: [(&str, usize); 3] = [("a", 10), ("b", 20_000), ("c", 1_000_000)];

#[test]
fn a_switched_link_is_followed_within_a_second() {
    for flags in CACHES {
        let parent = TempDir::new();
        for release in 0..RELEASES {
            let path = format!("releases/{release}");
            fs::create_dir_all(parent.file(&path)).expect("a new directory");
            for (name, len) in LENS {
                parent.write(&format!("{path}/{name}"), vec![b'0' + release; len]);
            }
        }
        let current = parent.file("current");
        switch(&current, "releases/0");
        let server = start(&current, flags);
        // The releases that must no longer be served, because the link was switched long ago.
        let old = Mutex::new(BTreeSet::new());
        let done = AtomicBool::new(false);
        let ask = || {
            let mut client = server.connect();
            for (name, len) in LENS.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let old = old.lock().expect("a lock").clone();
                client.send(get(&format!("/{name}")));
                let response = client.response();
                assert_eq!(response.status, 200, "{name}");
                assert_eq!(response.body.len(), *len, "{name}");
                let release = response.body[0];
                assert!(response.body.iter().all(|byte| *byte == release), "{name}");
                assert!(!old.contains(&release), "{name} is stale: {release}");
                thread::sleep(Duration::from_millis(2));
            }
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            for release in 1..RELEASES {
                // The path of the served directory may also lead through an absolute link.
                let target = match release % 2 {
                    0 => format!("releases/{release}"),
                    _ => parent.file(&format!("releases/{release}")),
                };
                switch(&current, &target);
                thread::sleep(SOON);
                old.lock().expect("a lock").insert(b'0' + release - 1);
            }
            thread::sleep(Duration::from_millis(200));
            done.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().expect("no panic in the client");
            }
        });
    }
}

/// After a pause without requests the first response comes from the new directory already.
#[test]
fn a_switch_between_requests_is_noticed_by_the_first_request() {
    let parent = TempDir::new();
    let current = parent.file("current");
    for release in ["1", "2"] {
        fill(&parent.file(release), release);
    }
    switch(&current, "1");
    let server = start(&current, &[]);
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for release in ["1", "2", "1", "2"] {
        switch(&current, release);
        thread::sleep(SOON);
        for client in &mut clients {
            client.send(get("/a"));
        }
        for client in &mut clients {
            assert_eq!(client.response().text(), release);
        }
    }
}

#[test]
fn links_that_lead_out_of_the_new_directory_are_not_followed() {
    let parent = TempDir::new();
    let current = parent.file("current");
    parent.write("secret", "secret");
    for release in ["1", "2"] {
        fill(&parent.file(release), release);
        symlink("../secret", parent.file(&format!("{release}/up"))).expect("a new link");
        let absolute = parent.file(&format!("{release}/absolute"));
        symlink(parent.file("secret"), absolute).expect("a new link");
        let other = parent.file(&format!("{release}/other"));
        symlink("../1/a", other).expect("a new link");
    }
    switch(&current, "1");
    let server = start(&current, &[]);
    assert_becomes(&server, 200, "1", &[]);
    switch(&current, "2");
    assert_becomes(&server, 200, "2", &[200]);
    for path in [
        "/up",
        "/absolute",
        "/other",
        "/../secret",
        "/%2e%2e/secret",
        "/../1/a",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

/// A relative path is resolved against the path that the working directory had at the start, even
/// if the working directory itself is replaced.
#[test]
fn a_relative_path_is_followed_after_the_working_directory_is_replaced() {
    for (directory, path, served) in [
        ("work", ".", "work"),
        ("work", "site", "work/site"),
        ("work", "../other", "other"),
        ("work/deep", "../site", "work/site"),
    ] {
        let parent = TempDir::new();
        let make = |content: &str| {
            for directory in ["work/deep", "work/site", "other"] {
                fs::create_dir_all(parent.file(directory)).expect("a new directory");
            }
            fill(&parent.file(served), content);
        };
        make("old");
        let server = start_in(Path::new(&parent.file(directory)), &[], path);
        assert_becomes(&server, 200, "old", &[]);
        for directory in ["work", "other"] {
            fs::remove_dir_all(parent.file(directory)).expect("a directory that we own");
        }
        make("new");
        assert_becomes(&server, 200, "new", &[200, 404]);
    }
}

/// The working directory may lie in a directory that the server may not enter, for example after
/// `sudo -u` in another user's home.
#[test]
fn a_working_directory_whose_path_is_inaccessible_is_served() {
    if !rustix::process::geteuid().is_root() {
        return report(
            "not tested: an inaccessible path to the working directory, which needs root",
        );
    }
    let parent = TempDir::new();
    let (home, site) = (parent.file("home"), parent.file("home/site"));
    fill(&site, "mine");
    let no_access = fs::Permissions::from_mode(0o000);
    fs::set_permissions(&home, no_access).expect("a directory that we own");
    let prefix = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let server = start_in(Path::new(&site), &prefix, ".");
    let started = Instant::now();
    while started.elapsed() < SOON {
        assert_eq!(server.get("/a").text(), "mine");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        count_messages(&server, &["cannot be"]),
        0,
        "{}",
        server.stderr()
    );
}

/// A file or a dangling link replaces the directory, or a parent directory becomes inaccessible:
/// each is 404 or 403, as it would be for a file, and is reported once. When the directory is back,
/// it is served again.
#[test]
fn an_obstacle_in_place_of_the_directory_is_reported_once() {
    let parent = TempDir::new();
    fs::create_dir(parent.file("srv")).expect("a new directory");
    let (site, aside) = (parent.file("srv/site"), parent.file("srv/aside"));
    fill(&site, "here");
    let mut command = coring(&["serve", &site, "--bind", "127.0.0.1:0", "--cores", "2"]);
    if rustix::process::geteuid().is_root() {
        // No permission stops root.
        command.uid(65534).gid(65534);
    }
    let server = Coring::start_as(command);
    assert_becomes(&server, 200, "here", &[]);
    let move_directory = |from: &str, to: &str| fs::rename(from, to).expect("a renamed directory");
    let lock = |mode| {
        let srv = parent.file("srv");
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(srv, permissions).expect("a directory that we own");
    };
    let assert_back = |meanwhile| {
        assert_becomes(&server, 200, "here", &[meanwhile]);
        // By then both workers have noticed it.
        thread::sleep(SOON);
        assert_eq!(server.get("/a").text(), "here");
    };
    move_directory(&site, &aside);
    fs::write(&site, "a file").expect("a file");
    assert_becomes(&server, 404, "", &[200]);
    assert_one_message(&server, &[&site, "Not a directory"]);
    for path in ["/", "/a", "/none"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    fs::remove_file(&site).expect("a file that we own");
    move_directory(&aside, &site);
    assert_back(404);
    move_directory(&site, &aside);
    symlink("nowhere", &site).expect("a new link");
    assert_becomes(&server, 404, "", &[200]);
    assert_one_message(&server, &[&site, "No such file"]);
    fs::remove_file(&site).expect("a link that we own");
    move_directory(&aside, &site);
    assert_back(404);
    lock(0);
    assert_becomes(&server, 403, "", &[200]);
    assert_one_message(&server, &[&site, "Permission denied"]);
    for path in ["/", "/a", "/none"] {
        assert_eq!(server.get(path).status, 403, "{path}");
    }
    lock(0o755);
    assert_back(403);
    // A worker without requests in the meantime does not notice that the directory was missing.
    eventually("a message that the directory is back", || {
        (1..=3)
            .contains(&count_messages(&server, &[&site, "is back"]))
            .then_some(())
    });
}

/// A file system is mounted over the directory and unmounted again: the server serves the mounted
/// files, and then those of the directory.
#[test]
fn a_file_system_mounted_over_the_directory_is_served() {
    let parent = TempDir::new();
    let site = parent.file("site");
    fill(&site, "below");
    let namespace = ["unshare", "--user", "--map-root-user", "--mount"];
    let trial = Command::new(namespace[0])
        .args(&namespace[1..])
        .arg("true")
        .output();
    if !trial.is_ok_and(|trial| trial.status.success()) {
        return report("not tested: a mount over the directory, which needs user namespaces");
    }
    let server = start_in(parent.path(), &namespace, &site);
    assert_becomes(&server, 200, "below", &[]);
    let inside = |script: &str| {
        let pid = server.pid().to_string();
        let status = Command::new("nsenter")
            .args([
                "--user",
                "--mount",
                "--preserve-credentials",
                "--target",
                &pid,
            ])
            .args(["sh", "-c", script, &site])
            .status();
        assert!(status.expect("nsenter").success(), "{script}");
    };
    inside("mount -t tmpfs top \"$0\" && echo -n top >\"$0/a\"");
    assert_becomes(&server, 200, "top", &[200, 404]);
    inside("umount -l \"$0\"");
    assert_becomes(&server, 200, "below", &[200, 404]);
    eventually("a message for each change", || {
        (count_messages(&server, &[&site, "another directory"]) == 2).then_some(())
    });
}
