//! coring's workers as guests of real executors, over real sockets. The clients are threads with
//! blocking sockets.

mod examples;
mod glommio;
mod tokio;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use coring::{Builder, EngineChoice, Handle, Server};

/// No request of these tests takes this long, unless a wake-up is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// The engine of this run of the tests.
fn engine() -> EngineChoice {
    match std::env::var("CORING_ENGINE").as_deref() {
        Ok("epoll") => EngineChoice::Epoll,
        _ => EngineChoice::Auto,
    }
}

fn builder() -> Builder {
    Server::builder().bind("127.0.0.1:0").engine(engine())
}

/// The address of a server in this process.
fn address(server: &Handle) -> SocketAddr {
    let address = server.addresses()[0].to_string();
    address.parse().expect("an IP address")
}

/// Starts a server that returns what a connection sends first. It runs until the process ends.
fn answering_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut text = [0; 1024];
            let len = stream.read(&mut text).expect("some bytes");
            stream.write_all(&text[..len]).expect("a send");
        }
    });
    address
}

/// A client with one connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(server: &Handle) -> Self {
        Self::to(address(server))
    }

    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    /// Sends a request, and returns the body of the response.
    fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0
            .get_mut()
            .write_all(request.as_bytes())
            .expect("a send");
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a line of the head");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        String::from_utf8(body).expect("a text")
    }
}

/// How many requests a test for lost wake-ups sends. Set the variable to send more of them.
fn many() -> usize {
    const VARIABLE: &str = "CORING_TEST_REQUESTS";
    let count = std::env::var(VARIABLE).ok();
    count.map_or(2000, |count| count.parse().expect(VARIABLE))
}

/// Sends `count` requests on 16 connections, for each of the paths in turn. Prints how long the
/// slowest of them has taken, and asserts that none has waited for a wake-up that was lost.
fn ask_often(server: SocketAddr, count: usize, paths: &[&str]) {
    const CONNECTIONS: usize = 16;
    let ask = |first: usize| {
        let mut client = Client::to(server);
        let requests = (first..count).step_by(CONNECTIONS);
        let times = requests.map(|number| {
            let begin = Instant::now();
            client.get(paths[number / CONNECTIONS % paths.len()]);
            begin.elapsed()
        });
        times.max()
    };
    let slowest = std::thread::scope(|scope| {
        let clients = (0..CONNECTIONS).map(|first| scope.spawn(move || ask(first)));
        let clients: Vec<_> = clients.collect();
        let clients = clients.into_iter();
        let times = clients.map(|client| client.join().expect("a client"));
        times.flatten().max().expect("a request")
    });
    report(&format!(
        "{count} requests for {paths:?}: at most {slowest:?}"
    ));
    assert!(slowest < PATIENCE, "{slowest:?}");
}

/// Prints `line` on standard error, even if the test passes.
fn report(line: &str) {
    // A closed standard error must not fail the test.
    let _ = writeln!(io::stderr(), "{line}");
}
