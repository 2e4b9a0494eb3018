//! Server-sent events: `cargo run --release --example events`, then open
//! <http://127.0.0.1:8000/> in two windows and write something in one of them.
//!
//! Every page gets a response that does not end, and each event is written to all of these
//! responses. A page that reads too slowly is disconnected, so that it neither occupies memory nor
//! delays the others; the browser then reconnects by itself. All pages belong to one worker, so the
//! list of them needs no lock. With several workers, each worker would have a list, and events
//! would go between the workers through channels for threads (of `async-channel` or `tokio::sync`),
//! which a coroutine can await.

#![allow(clippy::print_stdout, reason = "prints the address")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use coring::time::sleep;
use coring::{
    Body, BodySender, HeaderName, HeaderValue, Method, Request, Response, Server, StatusCode, spawn,
};

/// The bytes that are queued for one page at most.
const QUEUED_BYTES_MAX: usize = 64 << 10;
/// The longest message in bytes.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// The pause between two comments. A comment detects pages that have gone, and keeps proxies from
/// closing connections that seem idle.
const COMMENT_PAUSE: Duration = Duration::from_secs(15);

const PAGE: &str = r#"<!doctype html>
<title>events</title>
<form><input autofocus autocomplete="off"><button>say</button></form>
<ul></ul>
<script>
  new EventSource("/events").onmessage = event =>
    document.querySelector("ul").appendChild(document.createElement("li")).textContent = event.data;
  document.querySelector("form").onsubmit = submit => {
    submit.preventDefault();
    const input = document.querySelector("input");
    fetch("/say", { method: "POST", body: input.value });
    input.value = "";
  };
</script>
"#;

/// All pages of the worker.
#[derive(Clone, Default)]
struct Pages(Rc<PagesState>);

#[derive(Default)]
struct PagesState {
    /// The writers of the pages.
    senders: RefCell<Vec<BodySender>>,
    /// A coroutine sends comments.
    sends_comments: Cell<bool>,
}

impl Pages {
    /// Adds a page. Returns the body of its response.
    fn join(&self) -> Body {
        let (sender, body) = Body::channel(QUEUED_BYTES_MAX);
        self.0.senders.borrow_mut().push(sender);
        if !self.0.sends_comments.replace(true) {
            spawn(self.clone().send_comments());
        }
        body
    }

    /// Writes `bytes` to all pages, and drops pages that have gone or whose queue is full.
    fn write(&self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let mut senders = self.0.senders.borrow_mut();
        senders.retain_mut(|sender| sender.try_write(bytes.clone()).is_ok());
    }

    /// Sends comments as long as there are pages.
    async fn send_comments(self) {
        while !self.0.senders.borrow().is_empty() {
            sleep(COMMENT_PAUSE).await;
            self.write(": still there\n\n");
        }
        self.0.sends_comments.set(false);
    }
}

/// A message in the format of `text/event-stream`. There a lone CR ends a line, too; without the
/// split at it, a message could contain other fields.
fn event(message: &str) -> String {
    let lines = message.lines().flat_map(|line| line.split('\r'));
    let lines = lines.map(|line| format!("data: {line}\n"));
    lines.chain(["\n".to_owned()]).collect()
}

async fn respond(mut request: Request, pages: Pages) -> Response {
    match (request.method(), request.path()) {
        (&Method::GET, "/") => Response::html(PAGE),
        (&Method::GET, "/events") => {
            let kind = HeaderValue::from_static("text/event-stream");
            let no_cache = HeaderValue::from_static("no-cache");
            Response::new(StatusCode::OK)
                .with_header(HeaderName::from_static("content-type"), kind)
                .with_header(HeaderName::from_static("cache-control"), no_cache)
                .with_body(pages.join())
        }
        (&Method::POST, "/say") => match request.body().read(MESSAGE_BYTES_MAX).await {
            Ok(message) => {
                pages.write(event(&String::from_utf8_lossy(&message)));
                Response::new(StatusCode::NO_CONTENT)
            }
            Err(_) => Response::new(StatusCode::PAYLOAD_TOO_LARGE),
        },
        _ => Response::not_found("<h1>Not Found</h1>"),
    }
}

fn main() -> coring::Result<()> {
    let address = std::env::args().nth(1);
    let server = Server::builder()
        .bind(address.unwrap_or_else(|| "127.0.0.1:8000".to_owned()))
        .cores(1)
        .start(|| {
            let pages = Pages::default();
            move |request: Request| respond(request, pages.clone())
        })?;
    println!("http://{}/", server.addresses()[0]);
    server.wait()
}
