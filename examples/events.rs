//! Server-sent events: `cargo run --release --example events`, then open
//! <http://127.0.0.1:8000/> in two windows and write something in one of them.
//!
//! Every page has a response of its own that does not end, and each event is written to all of
//! them. A page that reads too slowly is cut off, so that it keeps neither memory nor the others
//! waiting; the browser then connects again by itself. All pages belong to one worker, so the list
//! of them needs no lock. With several workers each has a list, and events go from one to the other
//! through a channel for threads (of `async-channel` or `tokio::sync`, say), which a coroutine can
//! await.

#![allow(clippy::print_stdout, reason = "it says where it listens")]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use coring::time::sleep;
use coring::{
    Body, BodySender, HeaderName, HeaderValue, Method, Request, Response, Server, StatusCode, spawn,
};

/// What may wait to be sent to one page.
const WAITING_BYTES_MAX: usize = 64 << 10;
/// What somebody may say at once.
const WORDS_BYTES_MAX: usize = 8 << 10;
/// A comment is sent so often: it finds out who has left, and keeps proxies from closing what they
/// take for idle.
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

/// The writers of all pages.
#[derive(Clone, Default)]
struct Pages(Rc<RefCell<Vec<BodySender>>>);

impl Pages {
    /// Adds a page, whose response this is.
    fn join(&self) -> Body {
        let (sender, body) = Body::channel(WAITING_BYTES_MAX);
        self.0.borrow_mut().push(sender);
        if self.0.borrow().len() == 1 {
            spawn(self.clone().send_comments());
        }
        body
    }

    /// Writes `bytes` to all pages. Those that have left or are too slow are dropped.
    fn write(&self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let mut senders = self.0.borrow_mut();
        senders.retain_mut(|sender| sender.try_write(bytes.clone()).is_ok());
    }

    /// Runs while there are pages.
    async fn send_comments(self) {
        while !self.0.borrow().is_empty() {
            sleep(COMMENT_PAUSE).await;
            self.write(": still there\n\n");
        }
    }
}

/// An event with these words, in the form of `text/event-stream`.
fn event(words: &str) -> String {
    let lines = words.lines().map(|line| format!("data: {line}\n"));
    lines.chain(["\n".to_owned()]).collect()
}

async fn answer(mut request: Request, pages: Pages) -> Response {
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
        (&Method::POST, "/say") => match request.body().read(WORDS_BYTES_MAX).await {
            Ok(words) => {
                pages.write(event(&String::from_utf8_lossy(&words)));
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
            move |request: Request| answer(request, pages.clone())
        })?;
    println!("http://{}/", server.addresses()[0]);
    server.wait()
}
