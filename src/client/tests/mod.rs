//! The client against servers that are scripts over a socket, on both engines.

mod drops;
mod exchanges;
mod limits;
mod streams;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ::http::HeaderMap;

use super::*;
use crate::net::{FullListener, TcpListener, TcpStream};
use crate::task::{JoinHandle, join_all};
use crate::time::sleep;
use crate::{BodyError, EngineChoice, Method, StatusCode, run_with, spawn};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a coroutine made by `coroutine` on each engine.
fn on_each(coroutine: impl AsyncFn() + Copy + 'static) {
    for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
        let outcome = run_with(engine, async move {
            timeout(PATIENCE, coroutine())
                .await
                .expect("an end in time");
        });
        outcome.expect("an engine");
    }
}

/// A server with one step for each connection that it accepts. A step gets the stream and ends when
/// the connection should be dropped.
struct Server {
    address: SocketAddr,
    accepted: Rc<Cell<usize>>,
    serving: JoinHandle<()>,
}

impl Server {
    fn start<F: Future<Output = io::Result<()>> + 'static>(
        connection: impl Fn(usize, TcpStream) -> F + 'static,
    ) -> Self {
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0)).expect("a port");
        let address = listener.local_addr();
        let accepted = Rc::new(Cell::new(0));
        let count = accepted.clone();
        let serving = spawn(async move {
            while let Ok(stream) = listener.accept().await {
                let number = count.get();
                count.set(number + 1);
                drop(spawn(connection(number, stream)));
            }
        });
        Self {
            address,
            accepted,
            serving,
        }
    }

    /// A server that gives `responses` in turn, on any connection, each after a whole head.
    fn of(responses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let responses: VecDeque<String> = responses.into_iter().map(Into::into).collect();
        let responses = Rc::new(std::cell::RefCell::new(responses));
        Self::start(move |_, mut stream| {
            let responses = responses.clone();
            async move {
                while read_head(&mut stream).await?.is_some() {
                    let response = responses.borrow_mut().pop_front();
                    let Some(response) = response else { break };
                    let is_last = response.contains("Connection: close");
                    stream.write_all(response).await?;
                    if is_last {
                        break;
                    }
                }
                Ok(())
            }
        })
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Reads a request's head; `None` if the client has closed the connection.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    while let Some(line) = stream.read_line(8192).await? {
        if line.is_empty() {
            return Ok(Some(lines));
        }
        lines.push(line);
    }
    Ok(None)
}

/// The text of a response, which is small.
async fn text(client: &Client, url: &str) -> String {
    let response = client.get(url).await.expect("a response");
    let content = response.into_body().read(1000).await.expect("a body");
    String::from_utf8(content).expect("text")
}
