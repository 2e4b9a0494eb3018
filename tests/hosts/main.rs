//! coring's workers as guests of real executors, over real sockets. The clients are threads with
//! blocking sockets.

mod examples;
mod glommio;
mod tokio;

use std::io::{BufRead, BufReader, Read, Write};
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
        let address = server.addresses()[0].to_string();
        Self::to(address.parse().expect("an address"))
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

/// Sends `count` requests for `path` on each of some connections. Returns the longest time that one
/// has taken.
fn ask_often(server: &Handle, connections: usize, count: usize, path: &str) -> Duration {
    let times = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(server);
                    let request = || {
                        let begin = Instant::now();
                        client.get(path);
                        begin.elapsed()
                    };
                    std::iter::repeat_with(request).take(count).max()
                })
            })
            .collect();
        let times = clients
            .into_iter()
            .map(|client| client.join().expect("a client"));
        times.collect::<Vec<_>>()
    });
    times.into_iter().flatten().max().expect("a request")
}
