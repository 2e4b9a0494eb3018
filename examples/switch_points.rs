//! A service that waits three times: it reads a file, asks another HTTP server, and writes a file.
//! `cargo run --release --example switch_points -- 127.0.0.1:8000 directory http://127.0.0.1:8001/`
//!
//! The same in Python, with gevent, whose patched functions switch to another coroutine where they
//! would block:
//!
//! ```python
//! def application(environ, start_response):
//!     greeting = open("greeting").read()                # not in gevent: a file blocks the worker
//!     answer = requests.get("http://127.0.0.1:8001/")   # switches while it connects and waits
//!     open("last", "w").write(greeting + answer.text)   # blocks, too
//!     start_response("200 OK", [("Content-Type", "text/plain")])
//!     return [(greeting + answer.text).encode()]
//! ```
//!
//! Here each `.await` is such a point, and there are no others: while this request waits for a disk
//! or for the other server, its worker serves other requests. Between two of them nothing can
//! interrupt the code, so a counter in a `Cell` needs no lock.

#![allow(clippy::print_stdout, reason = "prints the address")]

use std::cell::Cell;
use std::error::Error;
use std::path::Path;
use std::rc::Rc;

use coring::client::Client;
use coring::{Request, Response, Server, StatusCode, fs};

/// The largest response of the other server, in bytes.
const CONTENT_BYTES_MAX: usize = 1 << 20;

/// A worker's state.
#[derive(Default)]
struct State {
    client: Client,
    count: Cell<u64>,
}

async fn greet(directory: &Path, url: &str, state: &State) -> Result<String, Box<dyn Error>> {
    let greeting = fs::read(directory.join("greeting")).await?; // switches
    let response = state.client.get(url).await?; // switches
    let content = response.into_body().read(CONTENT_BYTES_MAX).await?; // switches
    state.count.set(state.count.get() + 1);
    let mut text = String::from_utf8_lossy(&greeting).into_owned();
    text.push_str(&String::from_utf8_lossy(&content));
    fs::write(directory.join("last"), text.clone()).await?; // switches
    Ok(format!("{}: {text}", state.count.get()))
}

fn main() -> coring::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let directory = arguments.next().unwrap_or_else(|| ".".to_owned());
    let url = arguments
        .next()
        .unwrap_or_else(|| "http://127.0.0.1:8001/".to_owned());
    let server = Server::builder().bind(address).cores(1).start(move || {
        let (directory, url) = (directory.clone(), url.clone());
        let state = Rc::new(State::default());
        move |_: Request| {
            let (directory, url, state) = (directory.clone(), url.clone(), state.clone());
            async move {
                match greet(Path::new(&directory), &url, &state).await {
                    Ok(text) => Response::text(text),
                    Err(error) => {
                        Response::text(format!("{error}\n")).with_status(StatusCode::BAD_GATEWAY)
                    }
                }
            }
        }
    })?;
    println!("http://{}/", server.addresses()[0]);
    server.wait()
}
