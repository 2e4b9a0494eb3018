//! `coring serve` while its folder itself is replaced, removed or taken away: what its path leads
//! to is served within a second, and nothing that the path no longer leads to.

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

use crate::serve::{get, request};
use crate::support::{Coring, Folder, coring, eventually, report};

/// A second is promised; the rest is for a slow machine.
const SOON: Duration = Duration::from_secs(2);

/// With the cache, and with every request asking the kernel.
const CACHES: [&[&str]; 2] = [&[], &["--file-cache", "0"]];

fn start(path: &str, flags: &[&str]) -> Coring {
    Coring::start(&[&["serve", path, "--cores", "2"], flags].concat())
}

/// A server of one worker, started in `directory`; `prefix` may be a program that starts it.
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

/// Puts a file `a` with `content` into the folder at `path`, which is made anew if it is gone.
fn fill(path: &str, content: &str) {
    fs::create_dir_all(path).expect("a folder");
    fs::write(format!("{path}/a"), content).expect("a file");
}

/// Makes the link at `path` lead to `target`, at once.
fn switch(path: &str, target: &str) {
    let new = format!("{path}.new");
    symlink(target, &new).expect("a new link");
    fs::rename(new, path).expect("a renamed link");
}

/// Asks until `/a` is answered with this status and text, which must be soon; meanwhile only what
/// is in `allowed` is answered.
#[track_caller]
fn becomes(server: &Coring, status: u16, text: &str, allowed: &[u16]) {
    let started = Instant::now();
    loop {
        let answer = get(server, "/a");
        if answer.status == status && (status != 200 || answer.text() == text) {
            return;
        }
        assert!(allowed.contains(&answer.status), "{}", answer.head);
        let now = answer.text();
        assert!(started.elapsed() < SOON, "still {} {now}", answer.status);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Lines on standard error that have all of `words`.
fn says(server: &Coring, words: &[&str]) -> usize {
    let stderr = server.stderr();
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    stderr.lines().filter(has_all).count()
}

/// Both workers have seen what there is to be seen, and one of them has said so.
#[track_caller]
fn says_once(server: &Coring, words: &[&str]) {
    eventually("a word about it", || {
        (says(server, words) > 0).then_some(())
    });
    thread::sleep(SOON);
    assert_eq!(says(server, words), 1, "{words:?}: {}", server.stderr());
}

/// As every front-end build does it.
#[test]
fn a_folder_that_is_removed_and_made_again_is_served() {
    for flags in CACHES {
        let parent = Folder::new();
        let dist = parent.file("dist");
        fill(&dist, "build 0");
        let server = start(&dist, flags);
        assert_eq!(get(&server, "/a").text(), "build 0");
        for build in 1..=3 {
            fs::remove_dir_all(&dist).expect("a folder of ours");
            fs::create_dir(&dist).expect("a new folder");
            fill(&dist, &format!("build {build}"));
            becomes(&server, 200, &format!("build {build}"), &[200, 404]);
        }
        let told = says(&server, &[&dist, "another folder"]);
        assert!((1..=3).contains(&told), "{}", server.stderr());
    }
}

#[test]
fn a_folder_that_is_gone_is_404_until_it_is_back() {
    for flags in CACHES {
        let parent = Folder::new();
        let (dist, aside) = (parent.file("dist"), parent.file("aside"));
        fill(&dist, "here");
        let server = start(&dist, flags);
        becomes(&server, 200, "here", &[]);
        // Also what could still be read of it, and is in memory, is no longer at its path.
        fs::rename(&dist, &aside).expect("a renamed folder");
        becomes(&server, 404, "", &[200]);
        // Each worker looks for itself.
        thread::sleep(SOON);
        for _ in 0..20 {
            assert_eq!(get(&server, "/a").status, 404);
            thread::sleep(Duration::from_millis(50));
        }
        fs::rename(&aside, &dist).expect("a renamed folder");
        // At once: the gap is as short for clients as it was on the disk.
        becomes(&server, 200, "here", &[]);
        says_once(&server, &[&dist, "No such file"]);
        says_once(&server, &[&dist, "is back"]);
    }
}

const RELEASES: u8 = 4;

/// The files of a release: a small one, one that is sent without a copy, and a large one.
const LENS: [(&str, usize); 3] = [("a", 10), ("b", 20_000), ("c", 1_000_000)];

#[test]
fn a_link_that_is_switched_is_followed_within_a_second() {
    for flags in CACHES {
        let parent = Folder::new();
        for release in 0..RELEASES {
            let path = format!("releases/{release}");
            fs::create_dir_all(parent.file(&path)).expect("a new folder");
            for (name, len) in LENS {
                parent.write(&format!("{path}/{name}"), vec![b'0' + release; len]);
            }
        }
        let current = parent.file("current");
        switch(&current, "releases/0");
        let server = start(&current, flags);
        // The releases that may not be served any more, for the link has long led elsewhere.
        let old = Mutex::new(BTreeSet::new());
        let done = AtomicBool::new(false);
        let ask = || {
            let mut client = server.connect();
            for (name, len) in LENS.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let old = old.lock().expect("a lock").clone();
                client.send(request("GET", &format!("/{name}"), &[]));
                let answer = client.answer();
                assert_eq!(answer.status, 200, "{name}");
                assert_eq!(answer.body.len(), *len, "{name}");
                let release = answer.body[0];
                assert!(answer.body.iter().all(|byte| *byte == release), "{name}");
                assert!(!old.contains(&release), "{name} is stale: {release}");
                thread::sleep(Duration::from_millis(2));
            }
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            for release in 1..RELEASES {
                // An absolute link is the operator's own as well.
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
                client.join().expect("a client without a complaint");
            }
        });
    }
}

/// After a pause of any length the first answer is of the folder that is there now.
#[test]
fn a_switch_while_nobody_asks_is_seen_by_the_first_who_does() {
    let parent = Folder::new();
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
            client.send(request("GET", "/a", &[]));
        }
        for client in &mut clients {
            assert_eq!(client.answer().text(), release);
        }
    }
}

#[test]
fn what_leads_out_of_the_new_folder_is_not_served() {
    let parent = Folder::new();
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
    becomes(&server, 200, "1", &[]);
    switch(&current, "2");
    becomes(&server, 200, "2", &[200]);
    for path in [
        "/up",
        "/absolute",
        "/other",
        "/../secret",
        "/%2e%2e/secret",
        "/../1/a",
    ] {
        assert_eq!(get(&server, path).status, 404, "{path}");
    }
}

/// A relative path is one in the folder that was the working directory's at the start, by the path
/// that this had then.
#[test]
fn a_relative_path_is_followed_although_the_working_directory_is_replaced() {
    for (directory, path, served) in [
        ("work", ".", "work"),
        ("work", "site", "work/site"),
        ("work", "../other", "other"),
        ("work/deep", "../site", "work/site"),
    ] {
        let parent = Folder::new();
        let make = |content: &str| {
            for folder in ["work/deep", "work/site", "other"] {
                fs::create_dir_all(parent.file(folder)).expect("a new folder");
            }
            fill(&parent.file(served), content);
        };
        make("old");
        let server = start_in(Path::new(&parent.file(directory)), &[], path);
        becomes(&server, 200, "old", &[]);
        for folder in ["work", "other"] {
            fs::remove_dir_all(parent.file(folder)).expect("a folder of ours");
        }
        make("new");
        becomes(&server, 200, "new", &[200, 404]);
    }
}

/// The working directory may lie below a folder that the server may not enter, as after `sudo -u`
/// in another user's home.
#[test]
fn a_working_directory_whose_own_path_is_forbidden_is_served() {
    if !rustix::process::geteuid().is_root() {
        return report(
            "not tested: a forbidden path to the working directory: only root can be there",
        );
    }
    let parent = Folder::new();
    let (home, site) = (parent.file("home"), parent.file("home/site"));
    fill(&site, "mine");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o000)).expect("ours");
    let prefix = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let server = start_in(Path::new(&site), &prefix, ".");
    let started = Instant::now();
    while started.elapsed() < SOON {
        assert_eq!(get(&server, "/a").text(), "mine");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(says(&server, &["cannot be"]), 0, "{}", server.stderr());
}

/// A file, a link that leads nowhere, a folder that may not be entered on the way: each is what
/// such a file would be, is said once, and passes.
#[test]
fn what_stands_in_the_folders_place_is_said_once_and_passes() {
    let parent = Folder::new();
    fs::create_dir(parent.file("srv")).expect("a new folder");
    let (site, aside) = (parent.file("srv/site"), parent.file("srv/aside"));
    fill(&site, "here");
    let mut command = coring(&["serve", &site, "--bind", "127.0.0.1:0", "--cores", "2"]);
    if rustix::process::geteuid().is_root() {
        // Nothing is forbidden to root.
        command.uid(65534).gid(65534);
    }
    let server = Coring::start_as(command);
    becomes(&server, 200, "here", &[]);
    let move_folder = |from: &str, to: &str| fs::rename(from, to).expect("a renamed folder");
    let lock = |mode| {
        let srv = parent.file("srv");
        fs::set_permissions(srv, fs::Permissions::from_mode(mode)).expect("ours");
    };
    let is_back = |meanwhile| {
        becomes(&server, 200, "here", &[meanwhile]);
        // So that either worker has seen it.
        thread::sleep(SOON);
        assert_eq!(get(&server, "/a").text(), "here");
    };
    move_folder(&site, &aside);
    fs::write(&site, "a file").expect("a file");
    becomes(&server, 404, "", &[200]);
    says_once(&server, &[&site, "Not a directory"]);
    for path in ["/", "/a", "/none"] {
        assert_eq!(get(&server, path).status, 404, "{path}");
    }
    fs::remove_file(&site).expect("a file of ours");
    move_folder(&aside, &site);
    is_back(404);
    move_folder(&site, &aside);
    symlink("nowhere", &site).expect("a new link");
    becomes(&server, 404, "", &[200]);
    says_once(&server, &[&site, "No such file"]);
    fs::remove_file(&site).expect("a link of ours");
    move_folder(&aside, &site);
    is_back(404);
    lock(0);
    becomes(&server, 403, "", &[200]);
    says_once(&server, &[&site, "Permission denied"]);
    for path in ["/", "/a", "/none"] {
        assert_eq!(get(&server, path).status, 403, "{path}");
    }
    lock(0o755);
    is_back(403);
    // A worker that is asked for nothing meanwhile does not notice that the folder was gone.
    eventually("a message that the folder is back", || {
        (1..=3)
            .contains(&says(&server, &[&site, "is back"]))
            .then_some(())
    });
}

/// A file system that is mounted over the folder is what its path leads to, and so is what is below
/// when it is unmounted again.
#[test]
fn a_mount_on_top_is_served_and_so_is_what_is_below() {
    let parent = Folder::new();
    let site = parent.file("site");
    fill(&site, "below");
    let namespace = ["unshare", "--user", "--map-root-user", "--mount"];
    let trial = Command::new(namespace[0])
        .args(&namespace[1..])
        .arg("true")
        .output();
    if !trial.is_ok_and(|trial| trial.status.success()) {
        return report("not tested: a mount over the folder: no namespaces here");
    }
    let server = start_in(parent.path(), &namespace, &site);
    becomes(&server, 200, "below", &[]);
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
    becomes(&server, 200, "top", &[200, 404]);
    inside("umount -l \"$0\"");
    becomes(&server, 200, "below", &[200, 404]);
    eventually("a message for each change", || {
        (says(&server, &[&site, "another folder"]) == 2).then_some(())
    });
}
