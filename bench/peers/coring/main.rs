//! coring as a library: a handler on coring's own loop, on glommio and on tokio, and axum's
//! `Router` instead of that handler. They are one program, so that all have the same build of
//! coring.
//!
//! `peer-coring uring|epoll|glommio|tokio|axum --bind ADDRESS:PORT` serves a page with one worker.
//! `peer-coring timer-glommio|timer-tokio --bind ADDRESS:PORT` measures timers (`timer.rs`).

mod timer;

use std::error::Error;
use std::{io, process, thread};

use coring::signal::{SignalKind, signal};
use coring::{
    EngineChoice, Handle, HeaderName, HeaderValue, Request, Response, Server, StatusCode,
};
use peer_shared::{Arguments, PAGE, PAGE_TYPE};
use tokio::runtime::{self, Runtime};

const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let what = words.next().unwrap_or_default();
    let address = Arguments::parse(words).bind;
    let server = |engine| {
        let server = Server::builder().bind(address.to_string());
        server.cores(1).engine(engine)
    };
    match &*what {
        "uring" => end_by_signal(&server(EngineChoice::Uring).start(|| answer)?),
        "epoll" => end_by_signal(&server(EngineChoice::Epoll).start(|| answer)?),
        "axum" => {
            let app = peer_axum::app();
            let service = move || coring::tower(app.clone());
            end_by_signal(&server(EngineChoice::Uring).start(service)?)
        }
        "glommio" => {
            let server = server(EngineChoice::Uring);
            end_by_signal(&coring::glommio::start(server, || answer)?)
        }
        "tokio" => {
            let (handle, guest) = server(EngineChoice::Uring).attach(|| answer)?;
            thread::spawn(move || end_by_signal(&handle));
            runtime()?.block_on(coring::tokio::drive(guest))?;
        }
        "timer-glommio" => timer::in_glommio(address)?,
        "timer-tokio" => timer::in_tokio(address)?,
        _ => return Err("the first argument is unknown; main.rs has them all".into()),
    }
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

async fn answer(request: Request) -> Response {
    match request.path() {
        "/" => Response::new(StatusCode::OK)
            .with_header(CONTENT_TYPE, HeaderValue::from_static(PAGE_TYPE))
            .with_body(PAGE),
        _ => Response::new(StatusCode::NOT_FOUND),
    }
}

/// Waits for SIGTERM. Then it prints the worker's counters, as `coring --stats` does, and exits.
fn end_by_signal(server: &Handle) {
    let terminate = SignalKind::terminate();
    coring::run(async move { signal(terminate).expect("a listener").recv().await });
    for (name, value) in server.metrics()[0].list() {
        println!("{name} {value} [{value}]");
    }
    process::exit(0);
}
