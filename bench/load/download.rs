//! One download beside the requests, by the same thread: another would take its turns from the
//! generator, and be measured as the server's delay. It refuses to look at what comes.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::target::Target;

/// How long the head of the answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes taken at a time.
const TAKE_BYTES: usize = 256 * 1024;

/// A download that has begun.
pub(crate) struct Download {
    stream: TcpStream,
    /// Where nothing is ever put: the kernel throws away what is taken (`MSG_TRUNC`, tcp(7)).
    nothing: Vec<u8>,
    /// Bytes of the body that have come.
    pub(crate) received: u64,
    length: u64,
}

impl Download {
    /// Asks, and waits for the head of the answer.
    pub(crate) fn start(target: &Target) -> io::Result<Self> {
        let mut stream = target.connect(0, Some(PATIENCE))?;
        stream.write_all(&target.request)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|value| value.trim().parse().ok());
        match length {
            Some(length) if head.starts_with("http/1.1 200 ") => Ok(Self {
                stream,
                nothing: vec![0; TAKE_BYTES],
                received: 0,
                length,
            }),
            _ => Err(io::Error::other(format!("--beside: no download: {head}"))),
        }
    }

    /// Takes what has come, up to a bound, but no more than this `share` of the body.
    pub(crate) fn take(&mut self, share: f64) -> io::Result<()> {
        if self.received == self.length || self.received as f64 > self.length as f64 * share {
            return Ok(());
        }
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        match recv(&self.stream, &mut self.nothing[..], flags) {
            Ok((_, 0)) => Err(io::Error::other("--beside: the download broke off")),
            Ok((_, len)) => {
                self.received += len as u64;
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
