//! Shuts down without failing a request: `cargo run --release --example graceful_shutdown`, then
//! `curl http://127.0.0.1:8000/slow`, and press Ctrl-C while curl waits. The server accepts no more
//! connections, curl gets its response, and the program exits. A second Ctrl-C ends it at once.
//! The address is an optional argument.

#![allow(clippy::print_stdout, reason = "prints the address")]

use std::error::Error;
use std::thread;
use std::time::Duration;

use coring::time::sleep;
use coring::{Limits, Request, Response, Server};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

async fn respond(request: Request) -> Response {
    if request.path() == "/slow" {
        sleep(Duration::from_secs(3)).await;
    }
    Response::text("done\n")
}

fn main() -> Result<(), Box<dyn Error>> {
    // Registered before the server starts, so that no signal is missed.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut limits = Limits::default();
    // The whole shutdown takes up to 2 s longer than this, because the server first accepts from
    // the backlog and responds to new requests. Keep the sum below the time after which the
    // supervisor kills the program (Kubernetes: 30 s by default).
    limits.drain_timeout = Some(Duration::from_secs(20));
    let address = std::env::args().nth(1);
    let server = Server::builder()
        .bind(address.unwrap_or_else(|| "127.0.0.1:8000".to_owned()))
        .limits(limits)
        .start(|| respond)?;
    println!("http://{}/", server.addresses()[0]);
    let handle = server.clone();
    thread::spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        handle.drain();
        signals.next();
        handle.stop();
    });
    server.wait()?;
    println!("every request is answered");
    Ok(())
}
