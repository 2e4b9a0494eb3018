//! Finds the process that listens on a TCP port, for the error message when the port is taken.

use std::fmt;
use std::fs;
use std::path::Path;

/// A process. `Display` prints it as "name (pid N)".
#[derive(Debug)]
pub struct Process {
    name: String,
    pub pid: u32,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The process that listens on `port`; `None` if this process may not see it, for example because
/// it belongs to another user.
pub fn listener_of(port: u16) -> Option<Process> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let sockets: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let path = process.path();
        let pid = process.file_name().to_string_lossy().parse();
        if let Ok(pid) = pid
            && holds_one_of(&path, &sockets)
        {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let name = name.trim().to_owned();
            return Some(Process { name, pid });
        }
    }
    None
}

/// The inodes of the listening sockets on `port`, from a table of proc_net_tcp(5): column 2 is the
/// local address, column 4 the state (0A: listening), column 10 the inode.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|columns| columns.len() > 9 && columns[1].ends_with(&port) && columns[3] == "0A")
        .map(|columns| columns[9].to_owned())
        .collect()
}

fn holds_one_of(process: &Path, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|target| {
            sockets
                .iter()
                .any(|socket| target.as_os_str() == socket.as_str())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_our_own_listener_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pid = format!("(pid {})", std::process::id());
        assert!(listener_of(port).is_some_and(|process| process.to_string().ends_with(&pid)));
        drop(listener);
        assert!(listener_of(port).is_none());
    }
}
