//! Idle connections: each sends one request, receives the response, and then stays open and silent.
//! The harness measures the server's memory meanwhile.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::response::{OK, ResponseParser};
use crate::target::Target;

/// The timeout of each step until the response is complete.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that connections are held, even if standard input stays open.
const HOLD_MAX: Timespec = Timespec {
    tv_sec: 3600,
    tv_nsec: 0,
};

/// Opens the connections, prints `ready N`, and holds them until standard input closes. Then prints
/// `held N`, the number of connections that the server has not closed.
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
    let mut stream = target.connect(index, Some(TIMEOUT))?;
    stream.write_all(&target.request)?;
    let (mut parser, mut buffer) = (ResponseParser::default(), [0; 4096]);
    let outcome = loop {
        let received = stream.read(&mut buffer)?;
        if received == 0 {
            return Err(io::Error::other("closed without a response"));
        }
        let taken = parser.take(&buffer[..received]);
        if let Some(outcome) = taken.map_err(io::Error::other)? {
            break outcome;
        }
    };
    if outcome.status != OK || outcome.closes {
        return Err(io::Error::other(format!(
            "expected status {OK} on a connection that is kept, got {outcome:?}"
        )));
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn wait_for_end_of_input() -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut buffer = [0; 4096];
    loop {
        let ready = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&HOLD_MAX))?;
        if ready == 0 || stdin.read(&mut buffer)? == 0 {
            return Ok(());
        }
    }
}

/// Whether the server has kept the connection. If it has closed it, a FIN or a reset has arrived,
/// and peek returns something else than `WouldBlock`.
fn is_open(stream: &TcpStream) -> bool {
    let peeked = stream.peek(&mut [0]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
