//! Connections that have been answered once and then say nothing, to weigh what a server keeps
//! for each. It refuses to know what they weigh.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::answer::{Answer, OK};
use crate::target::Target;

/// For each step towards an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// However long standard input stays open.
const HOLD: Timespec = Timespec {
    tv_sec: 3600,
    tv_nsec: 0,
};

/// Opens the connections, says so, and holds them until standard input closes; then says how many
/// the server has held too.
pub(crate) fn hold(target: &Target, connections: usize) -> io::Result<()> {
    let mut held = Vec::with_capacity(connections);
    for index in 0..connections {
        let stream = open(target, index).map_err(|error| {
            io::Error::other(format!("connection {index} of {connections}: {error}"))
        })?;
        held.push(stream);
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "ready {connections}")?;
    wait_for_end_of_input()?;
    let open = held.iter().filter(|stream| is_open(stream)).count();
    writeln!(stdout, "held {open}")
}

fn open(target: &Target, index: usize) -> io::Result<TcpStream> {
    let mut stream = target.connect(index, Some(PATIENCE))?;
    stream.write_all(&target.request)?;
    let (mut answer, mut buffer) = (Answer::default(), [0; 4096]);
    let end = loop {
        let received = stream.read(&mut buffer)?;
        if received == 0 {
            return Err(io::Error::other("closed without an answer"));
        }
        if let Some(end) = answer.take(&buffer[..received]).map_err(io::Error::other)? {
            break end;
        }
    };
    if end.status != OK || end.closes {
        return Err(io::Error::other(format!(
            "not an answer to stay for: {end:?}"
        )));
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn wait_for_end_of_input() -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut buffer = [0; 4096];
    loop {
        let ready = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&HOLD))?;
        if ready == 0 || stdin.read(&mut buffer)? == 0 {
            return Ok(());
        }
    }
}

/// A server that has ended the connection has sent an end or a reset; one that holds it, nothing.
fn is_open(stream: &TcpStream) -> bool {
    let peeked = stream.peek(&mut [0]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
