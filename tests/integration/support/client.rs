//! A client that sends exactly the given bytes and reads the responses one by one. It does not
//! retry, follow redirects or add header fields.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::net::{Shutdown, shutdown};

use super::{Address, GET, HELLO, PATIENCE};

/// One connection to a server.
pub(crate) struct Client {
    socket: File,
    /// Bytes received and not yet returned to the test.
    pending: Vec<u8>,
    /// Whether the next bytes are the CRLF that ends the data of the last chunk.
    within_chunks: bool,
}

/// One response. It may be an interim response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReceivedResponse {
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

    /// A second handle to the same connection, so that another thread can send on it.
    pub(crate) fn twin(&self) -> Self {
        let socket = self.socket.try_clone().expect("a free descriptor");
        Self::new(socket)
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("a peer that reads");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// Sends one request and reads its response.
    pub(crate) fn exchange(&mut self, request: &str) -> io::Result<Option<ReceivedResponse>> {
        self.try_send(request)?;
        self.try_response()
    }

    /// Shuts down the client's sending side (FIN). The client can still receive.
    pub(crate) fn half_close(&self) {
        shutdown(&self.socket, Shutdown::Write).expect("an open connection");
    }

    /// Resets the connection (RST).
    pub(crate) fn reset(self) {
        set_socket_linger(&self.socket, Some(Duration::ZERO)).expect("an open connection");
    }

    /// Sets the size of the socket's receive buffer, so that a client that does not read soon
    /// stops the server from sending.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) {
        set_socket_recv_buffer_size(&self.socket, bytes).expect("an open connection");
    }

    /// Reads the next response to a request other than HEAD.
    #[track_caller]
    pub(crate) fn response(&mut self) -> ReceivedResponse {
        self.try_response()
            .expect("a response")
            .expect("a response before the FIN")
    }

    /// Reads the next response. Returns `None` if the server closed the connection (FIN) before
    /// the first byte.
    ///
    /// # Errors
    /// The errors of the socket, and `UnexpectedEof` if the response is cut short.
    pub(crate) fn try_response(&mut self) -> io::Result<Option<ReceivedResponse>> {
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
        Ok(Some(ReceivedResponse { body, ..head }))
    }

    /// Reads the head of the next response. A response to HEAD has nothing else.
    #[track_caller]
    pub(crate) fn head(&mut self) -> ReceivedResponse {
        self.try_head()
            .expect("a response")
            .expect("a response before the FIN")
    }

    fn try_head(&mut self) -> io::Result<Option<ReceivedResponse>> {
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
        Ok(Some(ReceivedResponse {
            status,
            head,
            body: Vec::new(),
        }))
    }

    /// Reads the next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.pending.len() < len {
            self.fill()?;
        }
        Ok(self.pending.drain(..len).collect())
    }

    /// Reads a whole chunked body with its trailer section and returns the data.
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

    /// Reads the next chunk and returns its data, which is empty at the end of the body. Does not
    /// wait for the CRLF after the data.
    pub(crate) fn chunk(&mut self) -> io::Result<Vec<u8>> {
        if mem::take(&mut self.within_chunks) && !self.line()?.is_empty() {
            return Err(ErrorKind::InvalidData.into());
        }
        let len = usize::from_str_radix(&self.line()?, 16).map_err(|_| ErrorKind::InvalidData)?;
        if len == 0 {
            self.trailers()?;
        }
        // The server may send the CRLF after the data together with the next chunk.
        self.within_chunks = len > 0;
        self.take(len)
    }

    /// Reads the last chunk and returns the lines of its trailer section.
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

    /// Reads the next line and returns it without its CRLF.
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

    /// Reads everything up to the server's FIN.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        self.socket.read_to_end(&mut self.pending)?;
        Ok(mem::take(&mut self.pending))
    }

    /// Asserts that the server closes the connection with a FIN and sends nothing before it.
    #[track_caller]
    pub(crate) fn expect_fin(&mut self) {
        let rest = self.rest().expect("a FIN");
        assert_eq!(
            String::from_utf8_lossy(&rest),
            "",
            "bytes arrived before the FIN"
        );
    }

    /// Asserts that the server ends the connection, by FIN or RST, and returns the bytes received
    /// before that.
    #[track_caller]
    pub(crate) fn expect_fin_or_reset(&mut self) -> Vec<u8> {
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

impl ReceivedResponse {
    /// The value of a field, if the response has it. Panics if the field occurs twice.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let lines = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.trim());
        assert!(
            values.next().is_none(),
            "{name} occurs twice: {}",
            self.head
        );
        value
    }

    /// The value of a field. Panics if the response does not have it.
    #[track_caller]
    pub(crate) fn expect_field(&self, name: &str) -> &str {
        let value = self.field(name);
        value.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// Whether the response has `Connection: close`.
    pub(crate) fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// Repeats [`GET`] until a response has `Connection: close`, and asserts that a FIN follows it.
/// Panics if the connection ends without such a response.
#[track_caller]
pub(crate) fn read_until_told_to_close(client: &mut Client) {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        client.send(GET);
        let response = client.response();
        assert_eq!(response.text(), HELLO);
        if response.closes() {
            return client.expect_fin();
        }
    }
    panic!("no response had `Connection: close` within {PATIENCE:?}");
}

/// Whether a read or write of the client's socket timed out.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn has_no_body(status: u16) -> bool {
    status < 200 || status == 204 || status == 304
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}
