//! Python applications under `coring run`, and their worker processes.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Pid;
use sha2::{Digest, Sha256};

use super::{
    Coring, PYTHON, TempDir, coring, eventually, get, head_with_length, noise, python_with_tools,
};

const APPLICATIONS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/integration/support/applications"
);

/// A server of an application, with the file in which the application notes what it does. With the
/// flag `gevent`, on an interpreter that has that module.
pub(crate) fn run_application(name: &str, flags: &[&str]) -> (Coring, TempDir) {
    let directory = TempDir::new();
    let application = format!("{APPLICATIONS}/{name}.py");
    let fixed = ["run", &application, "--bind", "127.0.0.1:0", "--stats"];
    let mut command = coring(&[&fixed[..], flags].concat());
    command.env("LEDGER", directory.file("ledger"));
    if flags.contains(&"gevent") {
        command.env(PYTHON, python_with_tools());
    }
    (Coring::start_as(command), directory)
}

/// The name of the process that workers are forked from.
const ZYGOTE: &str = "coring-zygote\n";

/// The process ids of the children of a server, without the one that workers are forked from.
pub(crate) fn children(pid: u32) -> Vec<Pid> {
    let children = all_children(pid).into_iter();
    children.filter(|child| name(*child) != ZYGOTE).collect()
}

/// The process that workers are forked from; none while there is none.
pub(crate) fn zygote(pid: u32) -> Option<Pid> {
    let children = all_children(pid).into_iter();
    // A worker that it has just forked has its name for a moment.
    let named = children.filter(|child| name(*child) == ZYGOTE);
    named.min_by_key(|child| child.as_raw_nonzero())
}

/// The name of a process; none if it has gone.
fn name(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default()
}

fn all_children(pid: u32) -> Vec<Pid> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(path).expect("a running process");
    let lists = tasks.flatten().map(|task| task.path().join("children"));
    let text: String = lists.flat_map(fs::read_to_string).collect();
    let pids = text.split_whitespace().flat_map(str::parse);
    pids.flat_map(Pid::from_raw).collect()
}

/// Waits until an application of [`run_application`] has noted `line` that often. Each note ends
/// with the number of a process.
#[track_caller]
pub(crate) fn wait_for_notes(directory: &TempDir, line: &str, count: usize) {
    let start = format!("{line} ");
    eventually(line, || {
        let ledger = fs::read_to_string(directory.file("ledger")).unwrap_or_default();
        let noted = ledger.lines().filter(|noted| noted.starts_with(&start));
        (noted.count() >= count).then_some(())
    });
}

/// Waits until two workers of a WSGI application answer. Each has at most four threads.
#[track_caller]
pub(crate) fn wait_for_two_workers(server: &Coring) {
    eventually("answers of two workers", || {
        // More than the threads of one worker.
        let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(get("/pid/0.2"));
        }
        let pids = clients
            .iter_mut()
            .map(|client| client.response().text().to_owned());
        (pids.collect::<HashSet<_>>().len() == 2).then_some(())
    });
}

/// Sets a flag when it is dropped, also by a panic.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs clients that ask one request after the other, among them uploads, while `disturb` runs.
/// Every response is that of the application.
pub(crate) fn under_load(server: &Coring, what: &str, disturb: impl FnOnce()) {
    let body = noise(100_000);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _is_over = SetWhenDropped(&is_over);
        for number in 0..8 {
            let (body, is_over) = (&body, &is_over);
            scope.spawn(move || {
                let mut client = server.connect();
                for count in number.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    match count % 4 {
                        0 => {
                            client.send(head_with_length("POST", "/digest", body.len()));
                            client.send(body);
                        }
                        1 => client.send(get("/sleep/0.02")),
                        _ => client.send(get("/")),
                    }
                    let response = client.response();
                    assert_eq!(response.status, 200, "{what}: {}", response.text());
                }
            });
        }
        disturb();
    });
}

/// `LENGTH SHA-256`, as the applications answer to an upload.
pub(crate) fn digest(body: &[u8]) -> String {
    let hex: String = Sha256::digest(body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{} {hex}", body.len())
}
