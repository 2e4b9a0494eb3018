//! One download that runs beside the requests, on the same thread. A second thread or process would
//! take CPU time from the generator, and its delay would be counted as the server's. The received
//! bytes are discarded.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::target::Target;

/// The timeout of each step until the response head is complete.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes that one recv(2) takes.
const RECV_BYTES_MAX: usize = 256 * 1024;

/// A download that has begun.
pub(crate) struct Download {
    stream: TcpStream,
    /// A buffer for recv(2), which is never written to: with `MSG_TRUNC` the kernel discards the
    /// received bytes (tcp(7)).
    discarded: Vec<u8>,
    /// The number of body bytes received so far.
    pub(crate) received: u64,
    length: u64,
}

impl Download {
    /// Sends the request, and waits for the head of the response.
    pub(crate) fn start(target: &Target) -> io::Result<Self> {
        let mut stream = target.connect(0, Some(TIMEOUT))?;
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
                discarded: vec![0; RECV_BYTES_MAX],
                received: 0,
                length,
            }),
            _ => Err(io::Error::other(format!(
                "--beside: expected status 200 and a Content-Length, got: {head}"
            ))),
        }
    }

    /// Receives once, unless more than this `share` of the body has already been received.
    pub(crate) fn take(&mut self, share: f64) -> io::Result<()> {
        if self.received == self.length || self.received as f64 > self.length as f64 * share {
            return Ok(());
        }
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        match recv(&self.stream, &mut self.discarded[..], flags) {
            Ok((_, 0)) => Err(io::Error::other(
                "--beside: the server closed the connection before the end of the download",
            )),
            Ok((_, len)) => {
                self.received += len as u64;
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
