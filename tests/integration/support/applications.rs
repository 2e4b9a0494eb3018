//! Python applications under `coring run`, and their worker processes.

use std::fs;

use rustix::process::Pid;

use super::{Coring, TempDir, coring};

const APPLICATIONS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/integration/support/applications"
);

/// A server of an application, with the file in which the application notes what it does.
pub(crate) fn run_application(name: &str, flags: &[&str]) -> (Coring, TempDir) {
    let directory = TempDir::new();
    let application = format!("{APPLICATIONS}/{name}.py");
    let fixed = ["run", &application, "--bind", "127.0.0.1:0", "--stats"];
    let mut command = coring(&[&fixed[..], flags].concat());
    command.env("LEDGER", directory.file("ledger"));
    (Coring::start_as(command), directory)
}

/// The process ids of the children of a process.
pub(crate) fn children(pid: u32) -> Vec<Pid> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(path).expect("a running process");
    let lists = tasks.flatten().map(|task| task.path().join("children"));
    let text: String = lists.flat_map(fs::read_to_string).collect();
    let pids = text.split_whitespace().flat_map(str::parse);
    pids.flat_map(Pid::from_raw).collect()
}
