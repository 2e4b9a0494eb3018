//! A chat for `nc 127.0.0.1 8000`: each line that a client sends goes to all other clients. All
//! connections belong to one worker, so the list of clients needs no lock.
//!
//! Each connection has two coroutines: one reads lines and sends them to the channels of the other
//! clients, the other writes the lines of its own channel to its client. A channel holds a few
//! lines. A client that does not make room in time is removed from the list.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "prints the address, or an error"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use coring::net::{ReadHalf, TcpListener, TcpStream};
use coring::spawn;
use coring::sync::{Sender, channel};
use coring::time::{sleep, timeout};

/// The lines that a channel holds.
const QUEUED_LINES_MAX: usize = 16;
/// How long a line waits for room in a full channel.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// A client that sends a longer line is disconnected.
const LINE_BYTES_MAX: usize = 4096;

/// The channels of all clients, by the number of the client.
type Room = Rc<RefCell<BTreeMap<u64, Sender<Bytes>>>>;

/// Sends a line to all clients except its author.
async fn broadcast(room: &Room, author: u64, line: &Bytes) {
    let others: Vec<_> = room.borrow().clone().into_iter().collect();
    for (number, sender) in others.into_iter().filter(|(number, _)| *number != author) {
        let sent = timeout(SEND_TIMEOUT, sender.send(line.clone())).await;
        if !matches!(sent, Ok(Ok(()))) {
            room.borrow_mut().remove(&number);
        }
    }
}

/// Reads lines and broadcasts them, until the connection ends.
async fn read_lines(mut reader: ReadHalf, room: &Room, number: u64) -> io::Result<()> {
    let mut unread = Vec::new();
    while let Some(chunk) = reader.read().await? {
        unread.extend_from_slice(&chunk);
        while let Some(end) = unread.iter().position(|&byte| byte == b'\n') {
            let rest = unread.split_off(end + 1);
            let line = std::mem::replace(&mut unread, rest);
            let name = format!("{number}: ").into_bytes();
            broadcast(room, number, &[name, line].concat().into()).await;
        }
        if unread.len() > LINE_BYTES_MAX {
            break;
        }
    }
    Ok(())
}

/// Serves one connection.
async fn serve_client(stream: TcpStream, room: Room, number: u64) {
    let (reader, mut writer) = stream.split();
    let (sender, mut lines) = channel(QUEUED_LINES_MAX);
    let greeting = format!("you are {number}\n");
    room.borrow_mut().insert(number, sender);
    spawn(async move {
        writer.write_all(greeting).await?;
        while let Some(line) = lines.recv().await {
            writer.write_all(line).await?;
        }
        io::Result::Ok(())
    });
    // An error ends the connection like an end of the stream.
    let _ = read_lines(reader, &room, number).await;
    room.borrow_mut().remove(&number);
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let mut listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr());
    let room = Room::default();
    for number in 1.. {
        match listener.accept().await {
            Ok(stream) => drop(spawn(serve_client(stream, room.clone(), number))),
            // For example, the limit of open files is reached.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    match coring::run(serve(address.parse().expect("IP:PORT"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat_lines: {error}");
            ExitCode::FAILURE
        }
    }
}
