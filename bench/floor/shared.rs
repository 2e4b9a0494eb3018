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

/// How long the kernel keeps a connection from us whose request has not come.
const DEFER_ACCEPT_SECONDS: libc::c_int = 5;

const CONNECTION_CLOSE: &str = "\r\nconnection: close\r\n";

const DEFAULT_ANSWER: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 18\r\n\r\n<b>hello world</b>";

/// What the command line asks for.
pub(crate) struct Arguments {
    bind: String,
    answer: Option<Vec<u8>>,
    defer_accept: bool,
    /// In which of its ways a floor closes the connection after one answer, if it is to.
    pub(crate) close: Option<String>,
}

impl Arguments {
    /// Reads `--bind HOST:PORT`, `--answer-file PATH` (the exact bytes to answer with),
    /// `--defer-accept` and `--close`, which names one of `ways` if there are any.
    pub(crate) fn from_env(ways: &[&str]) -> io::Result<Self> {
        let mut arguments = Self {
            bind: String::from("127.0.0.1:8000"),
            answer: None,
            defer_accept: false,
            close: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(flag) = words.next() {
            let mut value = || words.next().ok_or_else(|| usage(&flag, ways));
            match flag.as_str() {
                "--bind" => arguments.bind = value()?,
                "--answer-file" => arguments.answer = Some(std::fs::read(value()?)?),
                "--defer-accept" => arguments.defer_accept = true,
                "--close" if ways.is_empty() => arguments.close = Some(String::new()),
                "--close" => arguments.close = Some(value()?),
                _ => return Err(usage(&flag, ways)),
            }
        }
        match &arguments.close {
            Some(way) if !way.is_empty() && !ways.contains(&way.as_str()) => Err(usage(way, ways)),
            _ => Ok(arguments),
        }
    }

    /// The answer repeated [`REQUESTS_PER_RECV_MAX`] times; it lives as long as the process, so
    /// that a send of any number of answers copies nothing.
    pub(crate) fn answers(&self) -> io::Result<Answers> {
        let default = match self.close {
            Some(_) => DEFAULT_ANSWER.replacen("\r\n", "\r\nConnection: close\r\n", 1),
            None => DEFAULT_ANSWER.to_owned(),
        };
        let answer = self.answer.as_deref().unwrap_or(default.as_bytes());
        let says_close = String::from_utf8_lossy(answer)
            .to_lowercase()
            .contains(CONNECTION_CLOSE);
        if says_close != self.close.is_some() {
            let cure = "answer `Connection: close` with --close, and only then";
            return Err(io::Error::other(cure));
        }
        Ok(Answers {
            bytes: answer.repeat(REQUESTS_PER_RECV_MAX).leak(),
            one: answer.len(),
        })
    }

    /// A listener whose connections inherit `TCP_NODELAY`; says where it listens on stdout.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(&self.bind)?;
        let fd = listener.as_raw_fd();
        set_tcp_option(fd, libc::TCP_NODELAY, 1)?;
        if self.defer_accept {
            set_tcp_option(fd, libc::TCP_DEFER_ACCEPT, DEFER_ACCEPT_SECONDS)?;
        }
        // SAFETY: no memory is passed. Listening again only replaces std's short backlog.
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

fn usage(word: &str, ways: &[&str]) -> io::Error {
    let close = format!("--close {}", ways.join("|"));
    let close = close.trim_end();
    io::Error::other(format!(
        "{word}: usage: [--bind HOST:PORT] [--answer-file PATH] [--defer-accept] [{close}]"
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
