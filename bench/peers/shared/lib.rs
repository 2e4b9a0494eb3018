//! Code shared by the peers: the command line, the listener, the page, and HTTP with `httparse` for
//! those that are only a runtime.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::process;
use std::str::FromStr;
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};

pub const PAGE: &str = "<b>hello world</b>";
pub const PAGE_TYPE: &str = "text/html";

const BACKLOG: i32 = 4096;
const FIELDS_MAX: usize = 64;
const REQUEST_BYTES_MAX: usize = 64 * 1024;

const PAGE_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 18\r\n\r\n<b>hello world</b>";
const CLOSING_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\
    Content-Length: 18\r\nConnection: close\r\n\r\n<b>hello world</b>";
const NOT_FOUND_RESPONSE: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

/// The command line.
#[derive(Clone, Copy)]
pub struct Arguments {
    pub bind: SocketAddr,
    pub workers: usize,
}

impl Arguments {
    /// The arguments of this process.
    pub fn from_env() -> Self {
        Self::parse(std::env::args().skip(1))
    }

    /// Reads `--bind HOST:PORT` and `--workers N`. Exits with status 2 if either is invalid.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Self {
        let (mut bind, mut workers) = (None, NonZeroUsize::MIN);
        while let Some(flag) = words.next() {
            let value = words.next().unwrap_or_default();
            match flag.as_str() {
                "--bind" => bind = Some(parse(&flag, &value)),
                "--workers" => workers = parse(&flag, &value),
                _ => usage(&flag),
            }
        }
        Self {
            bind: bind.unwrap_or_else(|| usage("--bind is missing")),
            workers: workers.get(),
        }
    }

    /// Opens a nonblocking listener. Each worker has one of its own: with `SO_REUSEPORT` the kernel
    /// distributes the connections among them. Connections inherit `TCP_NODELAY`.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let domain = Domain::for_address(self.bind);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&self.bind.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }

    /// Runs `worker` on `--workers` threads, each with its own listener. When one of them returns,
    /// the process exits.
    pub fn run(self, worker: fn(TcpListener) -> io::Result<()>) -> io::Result<()> {
        for _ in 1..self.workers {
            let listener = self.listen()?;
            thread::spawn(move || {
                let ended = worker(listener);
                eprintln!("a worker ended: {ended:?}");
                process::exit(1);
            });
        }
        worker(self.listen()?)
    }
}

fn parse<T: FromStr>(flag: &str, value: &str) -> T {
    let invalid = || usage(&format!("{flag} {value:?} is invalid"));
    value.parse().unwrap_or_else(|_| invalid())
}

fn usage(error: &str) -> ! {
    eprintln!("{error}; usage: --bind ADDRESS:PORT [--workers N]");
    process::exit(2)
}

/// How to continue with the connection after the responses have been sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Keep,
    Close,
}

/// Removes all complete requests from `input`, and appends their responses to `output`. Assumes
/// that requests have no body.
pub fn answer_all(input: &mut Vec<u8>, output: &mut Vec<u8>) -> Next {
    let mut done = 0;
    let next = loop {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&input[done..]) {
            Ok(httparse::Status::Complete(bytes)) => done += bytes,
            Ok(httparse::Status::Partial) if input.len() - done < REQUEST_BYTES_MAX => {
                break Next::Keep;
            }
            Ok(httparse::Status::Partial) | Err(_) => break Next::Close,
        }
        let closes = request.headers.iter().any(|field| {
            field.name.eq_ignore_ascii_case("connection")
                && field.value.eq_ignore_ascii_case(b"close")
        });
        output.extend_from_slice(match request.path {
            Some("/") if closes => CLOSING_RESPONSE,
            Some("/") => PAGE_RESPONSE,
            _ => NOT_FOUND_RESPONSE,
        });
        if closes {
            break Next::Close;
        }
    };
    input.drain(..done);
    next
}
