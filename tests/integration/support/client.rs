//! A client that sends exactly the bytes it is given and reads answers one by one. It refuses to
//! be helpful: no retries, no redirects, no headers of its own.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::net::{Shutdown, shutdown};

use super::{Address, GET, HELLO, PATIENCE};

/// One connection.
pub(crate) struct Client {
    socket: File,
    /// Received and not yet read.
    pending: Vec<u8>,
    /// A chunk's data was read, and the line end behind it was not.
    within_chunks: bool,
}

/// One answer, interim ones included.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The status line and the field lines.
    pub(crate) head: String,
    /// The body with its chunks joined.
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        let socket = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                std::os::fd::OwnedFd::from(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.into()
            }
        };
        Ok(Self::new(socket.into()))
    }

    fn new(socket: File) -> Self {
        Self {
            socket,
            pending: Vec::new(),
            within_chunks: false,
        }
    }

    /// The same connection once more, for another thread to send on.
    pub(crate) fn twin(&self) -> Self {
        let socket = self.socket.try_clone().expect("a descriptor");
        Self::new(socket)
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("a peer that reads");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// Sends one request and reads its answer.
    pub(crate) fn exchange(&mut self, request: &str) -> io::Result<Option<Answer>> {
        self.try_send(request)?;
        self.try_answer()
    }

    /// Ends our side only: FIN.
    pub(crate) fn half_close(&self) {
        shutdown(&self.socket, Shutdown::Write).expect("an open connection");
    }

    /// Breaks the connection off: RST.
    pub(crate) fn reset(self) {
        set_socket_linger(&self.socket, Some(Duration::ZERO)).expect("an open connection");
    }

    /// Lets the kernel hold so many bytes for us until we read them.
    pub(crate) fn receive_at_most(&self, bytes: usize) {
        set_socket_recv_buffer_size(&self.socket, bytes).expect("an open connection");
    }

    /// The next answer to a request other than HEAD.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer()
            .expect("an answer")
            .expect("an answer before the end")
    }

    /// The next answer, or nothing where the connection ended in order before its first byte.
    ///
    /// # Errors
    /// Among the socket's own, `UnexpectedEof` for an answer that is cut short.
    pub(crate) fn try_answer(&mut self) -> io::Result<Option<Answer>> {
        let Some(head) = self.try_head()? else {
            return Ok(None);
        };
        let body = if has_no_body(head.status) {
            Vec::new()
        } else if head.field("transfer-encoding") == Some("chunked") {
            self.chunks()?
        } else if let Some(len) = head.field("content-length") {
            let len = len.parse().map_err(|_| ErrorKind::InvalidData)?;
            self.take(len)?
        } else {
            self.rest()?
        };
        Ok(Some(Answer { body, ..head }))
    }

    /// The head of the next answer: all there is of an answer to HEAD.
    #[track_caller]
    pub(crate) fn head(&mut self) -> Answer {
        self.try_head()
            .expect("an answer")
            .expect("an answer before the end")
    }

    fn try_head(&mut self) -> io::Result<Option<Answer>> {
        let len = loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                break at + 4;
            }
            match self.fill() {
                Err(error)
                    if error.kind() == ErrorKind::UnexpectedEof && self.pending.is_empty() =>
                {
                    return Ok(None);
                }
                filled => filled?,
            }
        };
        let head = String::from_utf8(self.take(len)?).map_err(|_| ErrorKind::InvalidData)?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.ok_or(ErrorKind::InvalidData)?;
        Ok(Some(Answer {
            status,
            head,
            body: Vec::new(),
        }))
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.pending.len() < len {
            self.fill()?;
        }
        Ok(self.pending.drain(..len).collect())
    }

    /// A chunked body, with nothing left out: each size line, its data, the empty trailer section.
    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend(chunk);
        }
    }

    /// The data of the next chunk, as soon as it is there; empty at the body's end.
    pub(crate) fn chunk(&mut self) -> io::Result<Vec<u8>> {
        if mem::take(&mut self.within_chunks) && !self.line()?.is_empty() {
            return Err(ErrorKind::InvalidData.into());
        }
        let len = usize::from_str_radix(&self.line()?, 16).map_err(|_| ErrorKind::InvalidData)?;
        if len == 0 {
            self.trailers()?;
        }
        // The line end after the data may come with the next chunk.
        self.within_chunks = len > 0;
        self.take(len)
    }

    /// The trailer section behind the last chunk, line by line.
    pub(crate) fn last_chunk(&mut self) -> io::Result<Vec<String>> {
        if mem::take(&mut self.within_chunks) && !self.line()?.is_empty() || self.line()? != "0" {
            return Err(ErrorKind::InvalidData.into());
        }
        self.trailers()
    }

    fn trailers(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            match self.line()? {
                line if line.is_empty() => return Ok(lines),
                line => lines.push(line),
            }
        }
    }

    /// The next line, without its end.
    fn line(&mut self) -> io::Result<String> {
        let len = loop {
            match find(&self.pending, b"\r\n") {
                Some(at) => break at,
                None => self.fill()?,
            }
        };
        let line = self.take(len + 2)?;
        Ok(String::from_utf8_lossy(&line[..len]).into_owned())
    }

    /// Everything up to the peer's FIN.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        self.socket.read_to_end(&mut self.pending)?;
        Ok(mem::take(&mut self.pending))
    }

    /// The peer has ended the connection in order, and nothing was left to read.
    #[track_caller]
    pub(crate) fn ends(&mut self) {
        let rest = self.rest().expect("an end in order");
        assert_eq!(
            String::from_utf8_lossy(&rest),
            "",
            "something came before the end"
        );
    }

    /// The peer has ended the connection one way or another; what came before.
    #[track_caller]
    pub(crate) fn broken(&mut self) -> Vec<u8> {
        match self.socket.read_to_end(&mut self.pending) {
            Err(error) if is_timeout(&error) => panic!("still open after {PATIENCE:?}"),
            _ => mem::take(&mut self.pending),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64 * 1024];
        match self.socket.read(&mut bytes)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            len => {
                self.pending.extend(&bytes[..len]);
                Ok(())
            }
        }
    }
}

impl Answer {
    /// The value of a field; panics where it came twice.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let lines = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.trim());
        assert!(values.next().is_none(), "{name} came twice: {}", self.head);
        value
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// Whether it says that the connection ends after it.
    pub(crate) fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// Asks until the answer says that the connection ends, which it must before it does.
#[track_caller]
pub(crate) fn is_told_to_leave(client: &mut Client) {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        client.send(GET);
        let answer = client.answer();
        assert_eq!(answer.text(), HELLO);
        if answer.closes() {
            return client.ends();
        }
    }
    panic!("not told to leave within {PATIENCE:?}");
}

/// Whether a read or write ended because its time was over.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn has_no_body(status: u16) -> bool {
    status < 200 || status == 204 || status == 304
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
