//! Instant messages in rooms, by server-sent events: `cargo run --release --example events`, then
//! open <http://127.0.0.1:8000/> in two windows and write something in one of them. Another path,
//! such as `/tea`, is another room.
//!
//! Every page gets a response that does not end, and each message is written to all of these
//! responses in its room. A page that reads too slowly is disconnected, so that it neither occupies
//! memory nor delays the others; the browser then reconnects by itself, and gets the messages that
//! it has missed. All pages belong to one worker, so the rooms need no lock. With several workers,
//! each worker would have its own, and messages would go between the workers through channels for
//! threads (of `async-channel` or `tokio::sync`), which a coroutine can await.
//!
//! In Python with gevent, a room is a list of queues, and a page is a coroutine of its own:
//!
//! ```python
//! def events(environ, start_response):
//!     queue = gevent.queue.Queue(64)
//!     rooms[environ["PATH_INFO"]].append(queue)
//!     start_response("200 OK", [("Content-Type", "text/event-stream")])
//!     for message in queue:                # switches to other coroutines until there is one
//!         yield b"data: %s\n\n" % message
//! ```

#![allow(clippy::print_stdout, reason = "prints the address")]

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use coring::time::sleep;
use coring::{
    Body, BodySender, HeaderName, HeaderValue, Request, Response, Router, Server, StatusCode, spawn,
};

/// The bytes that are queued for one page at most.
const QUEUED_BYTES_MAX: usize = 64 << 10;
/// The longest message in bytes.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// The messages that a room keeps for pages that join or reconnect: fewer if they are long, so that
/// all of them fit into the queue of a page.
const KEPT_MESSAGES_MAX: usize = 4;
/// A message in another room than these is refused.
const ROOMS_MAX: usize = 1000;
/// The pause between two comments. A comment detects pages that have gone, and keeps proxies from
/// closing connections that seem idle.
const COMMENT_PAUSE: Duration = Duration::from_secs(15);

const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>messages</title>
<h1></h1>
<form><input autofocus autocomplete="off"><button>say</button></form>
<ul></ul>
<script>
  const room = location.pathname.slice(1) || "lobby";
  document.querySelector("h1").textContent = decodeURIComponent(room);
  new EventSource(`/${room}/events`).onmessage = event =>
    document.querySelector("ul").appendChild(document.createElement("li")).textContent = event.data;
  document.querySelector("form").onsubmit = submit => {
    submit.preventDefault();
    const input = document.querySelector("input");
    fetch(`/${room}/say`, { method: "POST", body: input.value });
    input.value = "";
  };
</script>
"#;

/// All rooms of the worker, by name.
#[derive(Clone, Default)]
struct Rooms(Rc<RefCell<HashMap<String, Rc<Room>>>>);

impl Rooms {
    /// The room called `name`; `None` if there are too many others.
    fn get(&self, name: &str) -> Option<Rc<Room>> {
        let mut rooms = self.0.borrow_mut();
        if !rooms.contains_key(name) {
            if rooms.len() >= ROOMS_MAX {
                rooms.retain(|_, room| !room.senders.borrow().is_empty());
            }
            if rooms.len() >= ROOMS_MAX {
                return None;
            }
        }
        Some(rooms.entry(name.to_owned()).or_default().clone())
    }
}

#[derive(Default)]
struct Room {
    /// The writers of the pages.
    senders: RefCell<Vec<BodySender>>,
    /// The last messages, as events, with their numbers.
    kept: RefCell<VecDeque<(u64, Bytes)>>,
    /// The number of the last message.
    last: Cell<u64>,
    /// A coroutine sends comments.
    sends_comments: Cell<bool>,
}

impl Room {
    /// Adds a page that has seen the messages up to the number `seen`. Returns the body of its
    /// response.
    fn join(self: &Rc<Self>, seen: u64) -> Body {
        let (mut sender, body) = Body::channel(QUEUED_BYTES_MAX);
        for (_, event) in self
            .kept
            .borrow()
            .iter()
            .filter(|(number, _)| *number > seen)
        {
            // The queue has room for all kept messages.
            let _ = sender.try_write(event.clone());
        }
        self.senders.borrow_mut().push(sender);
        if !self.sends_comments.replace(true) {
            spawn(self.clone().send_comments());
        }
        body
    }

    /// Sends a message to all pages.
    fn say(&self, message: &str) {
        let number = self.last.get() + 1;
        self.last.set(number);
        let event = Bytes::from(event(number, message));
        let mut kept = self.kept.borrow_mut();
        kept.push_back((number, event.clone()));
        let mut bytes: usize = kept.iter().map(|(_, event)| event.len()).sum();
        while (kept.len() > KEPT_MESSAGES_MAX || bytes > QUEUED_BYTES_MAX)
            && let Some((_, oldest)) = kept.pop_front()
        {
            bytes -= oldest.len();
        }
        self.write(event);
    }

    /// Writes `bytes` to all pages, and drops pages that have gone or whose queue is full.
    fn write(&self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let mut senders = self.senders.borrow_mut();
        senders.retain_mut(|sender| sender.try_write(bytes.clone()).is_ok());
    }

    /// Sends comments as long as there are pages.
    async fn send_comments(self: Rc<Self>) {
        while !self.senders.borrow().is_empty() {
            sleep(COMMENT_PAUSE).await;
            self.write(": still there\n\n");
        }
        self.sends_comments.set(false);
    }
}

/// A message in the format of `text/event-stream`. There a lone CR ends a line, too; without the
/// split at it, a message could contain other fields.
fn event(number: u64, message: &str) -> String {
    let lines = message.lines().flat_map(|line| line.split('\r'));
    let lines = lines.map(|line| format!("data: {line}\n"));
    let id = format!("id: {number}\n");
    std::iter::once(id)
        .chain(lines)
        .chain(["\n".to_owned()])
        .collect()
}

/// The room that the request names.
fn room(request: &Request, rooms: &Rooms) -> Option<Rc<Room>> {
    rooms.get(request.param("room").unwrap_or("lobby"))
}

/// A response that does not end, with the messages of a room.
fn events(request: &Request, rooms: &Rooms) -> Response {
    let Some(room) = room(request, rooms) else {
        return Response::new(StatusCode::SERVICE_UNAVAILABLE);
    };
    let seen = request.header("last-event-id");
    let seen = seen.and_then(|value| str::from_utf8(value).ok()?.parse().ok());
    let kind = HeaderValue::from_static("text/event-stream");
    let no_cache = HeaderValue::from_static("no-cache");
    Response::new(StatusCode::OK)
        .with_header(HeaderName::from_static("content-type"), kind)
        .with_header(HeaderName::from_static("cache-control"), no_cache)
        .with_body(room.join(seen.unwrap_or(0)))
}

async fn say(mut request: Request, rooms: &Rooms) -> Response {
    let Ok(message) = request.body().read(MESSAGE_BYTES_MAX).await else {
        return Response::new(StatusCode::PAYLOAD_TOO_LARGE);
    };
    match room(&request, rooms) {
        Some(room) => {
            room.say(&String::from_utf8_lossy(&message));
            Response::new(StatusCode::NO_CONTENT)
        }
        None => Response::new(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn service() -> Router {
    let rooms = Rooms::default();
    let (joined, said) = (rooms.clone(), rooms);
    Router::new()
        .get("/", async |_: Request| Response::html(PAGE))
        .get("/{room}", async |_: Request| Response::html(PAGE))
        .get("/{room}/events", move |request: Request| {
            std::future::ready(events(&request, &joined))
        })
        .post("/{room}/say", move |request: Request| {
            let rooms = said.clone();
            async move { say(request, &rooms).await }
        })
}

fn main() -> coring::Result<()> {
    let address = std::env::args().nth(1);
    let server = Server::builder()
        .bind(address.unwrap_or_else(|| "127.0.0.1:8000".to_owned()))
        .cores(1)
        .start(service)?;
    println!("http://{}/", server.addresses()[0]);
    server.wait()
}
