//! Code shared by the floors: arguments, the listener, the constant response, and counting of
//! requests. Each floor receives and sends by itself.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;

use httparse::{Request, Status};

/// The size of one receive buffer, the same for both floors.
pub(crate) const RECV_BUFFER_BYTES: usize = 4096;

/// The shortest request `httparse` accepts: `G / HTTP/1.1` and two line feeds.
const REQUEST_BYTES_MIN: usize = 14;

/// The most requests that one receive can complete: those that fit its buffer, and one that began
/// in an earlier receive.
pub(crate) const REQUESTS_PER_RECV_MAX: usize = RECV_BUFFER_BYTES / REQUEST_BYTES_MIN + 1;

const BACKLOG: i32 = 4096;
const FIELDS_MAX: usize = 100;

/// With `--defer-accept`: how long the kernel withholds a connection whose request has not arrived.
const DEFER_ACCEPT_SECONDS: libc::c_int = 5;

const CONNECTION_CLOSE: &str = "\r\nconnection: close\r\n";

const DEFAULT_RESPONSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 18\r\n\r\n<b>hello world</b>";

/// The command line.
pub(crate) struct Arguments {
    bind: String,
    response: Option<Vec<u8>>,
    defer_accept: bool,
    /// With `--close`: the mode in which the floor closes a connection after one response. Empty if
    /// the floor has only one mode.
    pub(crate) close: Option<String>,
}

impl Arguments {
    /// Reads `--bind HOST:PORT`, `--response-file PATH` (the exact bytes of the response),
    /// `--defer-accept` and `--close`. The latter takes one of `modes`, if there are any.
    pub(crate) fn from_env(modes: &[&str]) -> io::Result<Self> {
        let mut arguments = Self {
            bind: String::from("127.0.0.1:8000"),
            response: None,
            defer_accept: false,
            close: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(flag) = words.next() {
            let mut value = || words.next().ok_or_else(|| usage(&flag, modes));
            match flag.as_str() {
                "--bind" => arguments.bind = value()?,
                "--response-file" => arguments.response = Some(std::fs::read(value()?)?),
                "--defer-accept" => arguments.defer_accept = true,
                "--close" if modes.is_empty() => arguments.close = Some(String::new()),
                "--close" => arguments.close = Some(value()?),
                _ => return Err(usage(&flag, modes)),
            }
        }
        match &arguments.close {
            Some(mode) if !mode.is_empty() && !modes.contains(&mode.as_str()) => {
                Err(usage(mode, modes))
            }
            _ => Ok(arguments),
        }
    }

    /// The response, repeated [`REQUESTS_PER_RECV_MAX`] times. It is never freed, so that a send of
    /// any number of responses copies nothing.
    pub(crate) fn responses(&self) -> io::Result<Responses> {
        let default = match self.close {
            Some(_) => DEFAULT_RESPONSE.replacen("\r\n", "\r\nConnection: close\r\n", 1),
            None => DEFAULT_RESPONSE.to_owned(),
        };
        let response = self.response.as_deref().unwrap_or(default.as_bytes());
        let has_close = String::from_utf8_lossy(response)
            .to_lowercase()
            .contains(CONNECTION_CLOSE);
        if has_close != self.close.is_some() {
            let cure =
                "with --close the response must have `Connection: close`, without it must not";
            return Err(io::Error::other(cure));
        }
        Ok(Responses {
            bytes: response.repeat(REQUESTS_PER_RECV_MAX).leak(),
            len: response.len(),
        })
    }

    /// Opens a listener whose connections inherit `TCP_NODELAY`, and prints its address.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(&self.bind)?;
        let fd = listener.as_raw_fd();
        set_tcp_option(fd, libc::TCP_NODELAY, 1)?;
        if self.defer_accept {
            set_tcp_option(fd, libc::TCP_DEFER_ACCEPT, DEFER_ACCEPT_SECONDS)?;
        }
        // SAFETY: no memory is passed. The second listen(2) only replaces std's short backlog.
        check(unsafe { libc::listen(fd, BACKLOG) })?;
        println!("listening on {}", listener.local_addr()?);
        io::stdout().flush()?;
        Ok(listener)
    }
}

fn set_tcp_option(fd: i32, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let value = (&raw const value).cast();
    // SAFETY: `value` outlives the call and `len` is its size.
    check(unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, option, value, len) })?;
    Ok(())
}

fn usage(word: &str, modes: &[&str]) -> io::Error {
    let close = format!("--close {}", modes.join("|"));
    let close = close.trim_end();
    io::Error::other(format!(
        "{word}: usage: [--bind HOST:PORT] [--response-file PATH] [--defer-accept] [{close}]"
    ))
}

/// The constant response, repeated.
#[derive(Clone, Copy)]
pub(crate) struct Responses {
    bytes: &'static [u8],
    /// The length of one response.
    len: usize,
}

impl Responses {
    /// The bytes that answer `requests` requests, at most [`REQUESTS_PER_RECV_MAX`] of them.
    pub(crate) fn to(self, requests: usize) -> &'static [u8] {
        &self.bytes[..requests * self.len]
    }
}

/// Converts the result of a system call: a negative one becomes the error in `errno`.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Counts the requests that `received` completes. `tail` keeps the bytes of an unfinished request
/// between calls. Assumes that requests have no body.
pub(crate) fn count_requests(tail: &mut Vec<u8>, received: &[u8]) -> io::Result<usize> {
    if tail.is_empty() {
        let (requests, len) = parse(received)?;
        tail.extend_from_slice(&received[len..]);
        return Ok(requests);
    }
    tail.extend_from_slice(received);
    let (requests, len) = parse(tail)?;
    tail.drain(..len);
    Ok(requests)
}

/// Returns the number of complete requests at the start of `bytes`, and their total length.
fn parse(bytes: &[u8]) -> io::Result<(usize, usize)> {
    let mut requests = 0;
    let mut len = 0;
    while len < bytes.len() {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let parsed = Request::new(&mut []).parse_with_uninit_headers(&bytes[len..], &mut fields);
        let status = parsed.map_err(io::Error::other)?;
        let Status::Complete(request_len) = status else {
            break;
        };
        requests += 1;
        len += request_len;
    }
    Ok((requests, len))
}
