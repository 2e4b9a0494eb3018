//! `coring serve` confines itself to its directory: no path and no link leads to a file outside it.
//! Only readable regular files are served, and the directory itself must be valid.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Coring, TempDir, coring, get, run_with};

/// The content of the files outside the directory.
const SECRET: &str = "not for any client";

/// Makes a directory with a secret file and the directory `top`, which has links of every kind.
/// Returns it and the path of `top`, which is to be served.
fn directory_with_links() -> (TempDir, String) {
    let directory = TempDir::new();
    let secret = directory.write("secret", SECRET);
    directory.make("outside");
    directory.write("outside/secret", SECRET);
    directory.make("top");
    directory.make("top/in");
    directory.write("top/in/file", "inside");
    let link = |to: &str, name: &str| symlink(to, directory.file(name)).expect("a new link");
    link("in/file", "top/good");
    link("good", "top/good-twice");
    link("../in/file", "top/in/good-up");
    link(&secret, "top/absolute");
    link(&directory.file("top/in/file"), "top/absolute-inside");
    link("../secret", "top/relative");
    link("relative", "top/twice");
    link("../outside", "top/directory");
    link("/", "top/slash");
    link("loop", "top/loop");
    link("/proc/self/root", "top/magic");
    let top = directory.file("top");
    (directory, top)
}

#[test]
fn no_path_or_link_leads_outside_the_directory() {
    let (directory, top) = directory_with_links();
    let server = Coring::start(&["serve", &top, "--file-cache", "0"]);
    for path in ["/good", "/good-twice", "/in/good-up", "/in/file"] {
        assert_eq!(server.get(path).text(), "inside", "{path}");
    }
    let absolute = directory.file("secret");
    for path in [
        "/../secret",
        "/in/../../secret",
        "/in/../in/file",
        "/./in/file",
        "/..",
        "/%2e%2e/secret",
        "/%2E%2e/secret",
        "/.%2e/secret",
        "/%2e%2e%2fsecret",
        "/..%2fsecret",
        "/in%2ffile",
        "/in/..%2f..%2fsecret",
        "/%252e%252e/secret",
        "/%252e%252e%252fsecret",
        "/..%5csecret",
        "/%2e%2e%5csecret",
        "/..\\secret",
        "/%c0%ae%c0%ae/secret",
        "/%c0%ae%c0%ae%c0%afsecret",
        "/%e0%80%ae%e0%80%ae/secret",
        "/%uff0e%uff0e/secret",
        "/in/file%00",
        "/%00/../secret",
        "/in/file%00.html",
        "/%zz",
        "/%",
        "//../secret",
        "/....//secret",
        "/..;/secret",
        "/absolute",
        "/absolute-inside",
        "/relative",
        "/twice",
        "/directory/secret",
        "/directory",
        "/loop",
        "/magic/etc/passwd",
        "/slash/etc/passwd",
        &format!("/slash{absolute}"),
        &format!("/{absolute}"),
        &absolute,
        &format!("/{}", "../".repeat(40)),
        &format!("/{}", "a/".repeat(2000)),
        &format!("/{}", "a".repeat(4000)),
    ] {
        let response = server.get(path);
        // A backslash is not allowed in a target, so such a path is answered with 400.
        let refused = response.status == 404 || (response.status == 400 && path.contains('\\'));
        assert!(refused, "{path}: {}", response.head);
        assert!(!response.text().contains(SECRET), "{path}");
    }
    let server = Coring::start(&["serve", &top]);
    assert_eq!(server.get("/in/file").text(), "inside");
}

#[test]
fn a_link_that_changes_during_requests_does_not_lead_outside() {
    let (directory, top) = directory_with_links();
    let top = Path::new(&top);
    let server = Coring::start(&["serve", top.to_str().expect("UTF-8"), "--file-cache", "0"]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let targets = [("in/file", "in"), ("../secret", "../outside")];
            for (file, dir) in targets.into_iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                for (to, name) in [(file, "swapped-file"), (dir, "swapped-dir")] {
                    symlink(to, top.join("new")).expect("a new link");
                    fs::rename(top.join("new"), top.join(name)).expect("a renamed link");
                }
            }
        });
        let mut client = server.connect();
        let started = Instant::now();
        let (mut served, mut refused) = (0, 0);
        while started.elapsed() < Duration::from_secs(3) {
            for path in ["/swapped-file", "/swapped-dir/file", "/swapped-dir/secret"] {
                client.send(get(path));
                let response = client.response();
                match response.status {
                    200 => served += 1,
                    404 => refused += 1,
                    _ => panic!("{path}: {}", response.head),
                }
                let text = response.text();
                assert!(!text.contains(SECRET), "{path}");
                assert!(response.status != 200 || text == "inside", "{path}: {text}");
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(
            served > 0 && refused > 0,
            "{served} served, {refused} refused"
        );
    });
    drop(directory);
}

#[test]
fn only_regular_files_are_served() {
    let directory = TempDir::new();
    let fifo = directory.file("pipe");
    let made = run_with(Command::new("mkfifo").arg(&fifo), b"");
    made.succeeded();
    let _socket =
        std::os::unix::net::UnixListener::bind(directory.file("socket")).expect("a socket");
    let server = Coring::serve(&directory, &[]);
    for path in ["/pipe", "/socket"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn a_file_without_read_permission_is_403() {
    let directory = TempDir::new();
    directory.write("open", "open");
    directory.make("locked");
    directory.make("unlisted");
    directory.write("unlisted/index.html", "open");
    for name in ["private", "locked/file"] {
        directory.write(name, SECRET);
    }
    let lock = |name: &str, mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(directory.file(name), permissions).expect("a file that we own");
    };
    lock("private", 0);
    lock("locked", 0);
    lock("unlisted", 0o711);
    let mut command = coring(&["serve", &directory.file(""), "--bind", "127.0.0.1:0"]);
    if rustix::process::geteuid().is_root() {
        // No permission stops root from reading, so run as the user nobody.
        command.uid(65534).gid(65534);
    }
    let server = Coring::start_as(command);
    assert_eq!(server.get("/open").text(), "open");
    for path in ["/private", "/locked/file", "/locked/"] {
        assert_eq!(server.get(path).status, 403, "{path}");
    }
    // A directory that may be entered but not listed can be served.
    assert_eq!(server.get("/unlisted").status, 301);
    assert_eq!(server.get("/unlisted/").text(), "open");
    drop(server);
    lock("locked", 0o755);
}

#[test]
fn a_path_that_is_not_a_directory_is_a_configuration_error() {
    let directory = TempDir::new();
    let file = directory.write("file", "");
    for (path, word) in [(directory.file("none"), "create it"), (file, "contains it")] {
        let finished = run_with(&mut coring(&["serve", &path]), b"");
        assert_eq!(finished.code, Some(78), "{}", finished.stderr);
        let line = finished.error_line();
        assert!(line.contains(&path) && line.contains(word), "{line}");
    }
    let path = directory.path().to_str().expect("UTF-8");
    let server = Coring::serve(&directory, &[]);
    assert!(
        server.stderr().contains(&format!("the files of {path}")),
        "{}",
        server.stderr()
    );
    // Without a path coring serves its working directory.
    let mut command = coring(&["serve", "--bind", "127.0.0.1:0"]);
    command.current_dir(directory.path());
    let server = Coring::start_as(command);
    assert_eq!(server.get("/file").status, 200);
}
