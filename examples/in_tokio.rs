//! coring on tokio: a worker of coring's runs in a task of tokio's current-thread runtime, so that
//! handlers await tokio's timers and sockets, and clients that are built on them.
//!
//! ```text
//! cargo run --features tokio --example in_tokio -- 127.0.0.1:8000
//! curl http://127.0.0.1:8000/sleep             sleeps on tokio's timer
//! curl http://127.0.0.1:8000/ask/ADDRESS       asks another HTTP server through tokio's sockets
//! ```

#![expect(clippy::print_stdout, reason = "prints the address")]

use std::io;
use std::time::Duration;

use coring::{Request, Response, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() -> coring::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of tokio");
    runtime.block_on(serve(&address))
}

async fn serve(address: &str) -> coring::Result<()> {
    let (handle, guest) = Server::builder().bind(address).attach(|| answer)?;
    println!("listening on {}", handle.addresses()[0]);
    coring::tokio::drive(guest).await.expect("the engine works");
    handle.wait()
}

async fn answer(request: Request) -> Response {
    match request.path() {
        "/" => Response::html("<b>hello world</b>"),
        "/sleep" => {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Response::text("slept in tokio\n")
        }
        path => match path.strip_prefix("/ask/") {
            Some(server) => match ask(server).await {
                Ok(answer) => Response::text(answer),
                Err(error) => Response::text(format!("{server}: {error}\n")),
            },
            None => Response::not_found("<h1>Not Found</h1>"),
        },
    }
}

/// The response of another HTTP server, with its head.
async fn ask(server: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
