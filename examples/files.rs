//! Serves a directory: `cargo run --release --example files -- 127.0.0.1:8000 site`, then open
//! <http://127.0.0.1:8000/>. The default directory is the working directory.

#![allow(clippy::print_stdout, reason = "prints the address")]

use std::error::Error;

use coring::{Files, Server, fs::Root};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next();
    let directory = arguments.next().unwrap_or_else(|| ".".to_owned());
    let root =
        Root::open(&directory).map_err(|error| format!("cannot serve {directory}: {error}"))?;
    let server = Server::builder()
        .bind(address.unwrap_or_else(|| "127.0.0.1:8000".to_owned()))
        .start(move || Files::new(root.clone()))?;
    println!("http://{}/", server.addresses()[0]);
    Ok(server.wait()?)
}
