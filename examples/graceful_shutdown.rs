//! Ends without failing a request: `cargo run --release --example graceful_shutdown`, then
//! `curl http://127.0.0.1:8000/slow`, and press Ctrl-C while curl waits. The server accepts no more
//! connections, curl gets its response, and the program exits. A second Ctrl-C ends it at once.
//! Another address may be given as its argument.

#![allow(clippy::print_stdout, reason = "it says where it listens")]

use std::error::Error;
use std::thread;
use std::time::Duration;

use coring::time::sleep;
use coring::{Limits, Request, Response, Server};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

async fn answer(request: Request) -> Response {
    if request.path() == "/slow" {
        sleep(Duration::from_secs(3)).await;
    }
    Response::text("done\n")
}

fn main() -> Result<(), Box<dyn Error>> {
    // Before the server starts, so that no signal comes too early.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut limits = Limits::default();
    // A supervisor that kills after 30 s (Kubernetes, for one) should wait longer than this, plus
    // two seconds in which the server still answers what arrives.
    limits.drain_timeout = Some(Duration::from_secs(20));
    let address = std::env::args().nth(1);
    let server = Server::builder()
        .bind(address.unwrap_or_else(|| "127.0.0.1:8000".to_owned()))
        .limits(limits)
        .start(|| answer)?;
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
