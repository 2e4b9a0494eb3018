//! A chat for `nc 127.0.0.1 8000`: whatever line somebody sends, everybody else gets. All
//! connections belong to one worker, so the room is a plain list, without a lock.
//!
//! Each connection is two coroutines: one reads lines and hands them round, one writes what the
//! others have said. Between them are channels with room for a few lines; whoever reads too slowly
//! for too long leaves the room.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it says where it listens, or why not"
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

/// Lines that may wait to be written to one connection.
const LINES_WAITING_MAX: usize = 16;
/// How long one who does not read may keep the others waiting.
const PATIENCE: Duration = Duration::from_millis(500);
/// A longer line ends its connection.
const LINE_BYTES_MAX: usize = 4096;

/// Who is there, by number.
type Room = Rc<RefCell<BTreeMap<u64, Sender<Bytes>>>>;

/// Gives a line to everybody but its author.
async fn tell(room: &Room, author: u64, line: &Bytes) {
    let others: Vec<_> = room.borrow().clone().into_iter().collect();
    for (number, sender) in others.into_iter().filter(|(number, _)| *number != author) {
        let sent = timeout(PATIENCE, sender.send(line.clone())).await;
        if !matches!(sent, Ok(Ok(()))) {
            room.borrow_mut().remove(&number);
        }
    }
}

/// Reads lines until the connection ends.
async fn listen(mut reader: ReadHalf, room: &Room, number: u64) -> io::Result<()> {
    let mut unread = Vec::new();
    while let Some(chunk) = reader.read().await? {
        unread.extend_from_slice(&chunk);
        while let Some(end) = unread.iter().position(|&byte| byte == b'\n') {
            let rest = unread.split_off(end + 1);
            let line = std::mem::replace(&mut unread, rest);
            let name = format!("{number}: ").into_bytes();
            tell(room, number, &[name, line].concat().into()).await;
        }
        if unread.len() > LINE_BYTES_MAX {
            break;
        }
    }
    Ok(())
}

/// One connection, from its greeting to its end.
async fn attend(stream: TcpStream, room: Room, number: u64) {
    let (reader, mut writer) = stream.split();
    let (sender, mut lines) = channel(LINES_WAITING_MAX);
    let greeting = format!("you are {number}\n");
    room.borrow_mut().insert(number, sender);
    spawn(async move {
        writer.write_all(greeting).await?;
        while let Some(line) = lines.recv().await {
            writer.write_all(line).await?;
        }
        io::Result::Ok(())
    });
    // An error ends the connection as an end does.
    let _ = listen(reader, &room, number).await;
    room.borrow_mut().remove(&number);
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let mut listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr());
    let room = Room::default();
    for number in 1.. {
        match listener.accept().await {
            Ok(stream) => drop(spawn(attend(stream, room.clone(), number))),
            // Too many are here, say.
            Err(_) => sleep(PATIENCE).await,
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
