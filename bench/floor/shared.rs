//! What both floors share: arguments, the listener, the answer and the counting of requests.
//! It refuses to know how bytes come and go, and what a request asks for.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;

use httparse::{Request, Status};

/// The size of one receive buffer, the same for both floors.
pub(crate) const RECV_BUFFER_BYTES: usize = 4096;

/// The shortest request `httparse` accepts: `G / HTTP/1.1` and two line feeds.
const REQUEST_BYTES_MIN: usize = 14;

/// The most requests one receive buffer completes: those it holds, and one that began before it.
pub(crate) const REQUESTS_PER_RECV_MAX: usize = RECV_BUFFER_BYTES / REQUEST_BYTES_MIN + 1;

const BACKLOG: i32 = 4096;
const FIELDS_MAX: usize = 100;

const DEFAULT_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 18\r\n\r\n<b>hello world</b>";

/// What the command line asks for.
pub(crate) struct Arguments {
    bind: String,
    answer: Vec<u8>,
}

impl Arguments {
    /// Reads `--bind HOST:PORT` and `--answer-file PATH` (the exact bytes to answer with).
    pub(crate) fn from_env() -> io::Result<Self> {
        let mut arguments = Self {
            bind: String::from("127.0.0.1:8000"),
            answer: DEFAULT_ANSWER.to_vec(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| usage(&flag))?;
            match flag.as_str() {
                "--bind" => arguments.bind = value,
                "--answer-file" => arguments.answer = std::fs::read(value)?,
                _ => return Err(usage(&flag)),
            }
        }
        Ok(arguments)
    }

    /// The answer repeated [`REQUESTS_PER_RECV_MAX`] times; it lives as long as the process, so
    /// that a send of any number of answers copies nothing.
    pub(crate) fn answers(&self) -> Answers {
        let repeated = self.answer.repeat(REQUESTS_PER_RECV_MAX);
        Answers {
            bytes: repeated.leak(),
            one: self.answer.len(),
        }
    }

    /// A listener whose connections inherit `TCP_NODELAY`; says where it listens on stdout.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(&self.bind)?;
        let fd = listener.as_raw_fd();
        let on: libc::c_int = 1;
        let len = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
        // SAFETY: `on` outlives the call and `len` is its size.
        check(unsafe {
            libc::setsockopt(
                fd,
                libc::IPPROTO_TCP,
                libc::TCP_NODELAY,
                (&raw const on).cast(),
                len,
            )
        })?;
        // SAFETY: no memory is passed. Listening again only replaces std's short backlog.
        check(unsafe { libc::listen(fd, BACKLOG) })?;
        println!("listening on {}", listener.local_addr()?);
        io::stdout().flush()?;
        Ok(listener)
    }
}

fn usage(flag: &str) -> io::Error {
    io::Error::other(format!(
        "{flag}: usage: [--bind HOST:PORT] [--answer-file PATH]"
    ))
}

/// The constant answer, many times over.
#[derive(Clone, Copy)]
pub(crate) struct Answers {
    bytes: &'static [u8],
    one: usize,
}

impl Answers {
    /// The bytes that answer `requests` requests, at most [`REQUESTS_PER_RECV_MAX`] of them.
    pub(crate) fn to(self, requests: usize) -> &'static [u8] {
        &self.bytes[..requests * self.one]
    }
}

/// Turns the -1 of a system call into the error it stands for.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Counts the requests that `received` completes; `tail` keeps what is left of an unfinished one
/// between calls. Requests are taken to have no body.
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

/// How many whole requests `bytes` begins with, and their length.
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
