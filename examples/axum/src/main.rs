//! axum on coring: coring's workers serve a `Router`. In this directory:
//!
//! ```text
//! cargo run --release -- 127.0.0.1:8000           a worker on each core
//! cargo run --release -- 127.0.0.1:8000 tokio     one worker, in a runtime of tokio
//! curl http://127.0.0.1:8000/
//! curl http://127.0.0.1:8000/greet --json '{"name": "you"}'
//! curl http://127.0.0.1:8000/length --data-binary @FILE
//! curl http://127.0.0.1:8000/zeros/1024 --output /dev/null       MiB, streamed
//! curl http://127.0.0.1:8000/sleep                               on coring's timer
//! curl http://127.0.0.1:8000/sleep/tokio                         on tokio's
//! ```

use std::convert::Infallible;
use std::iter::repeat_n;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{Html, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Json, Router};
use coring::Server;
use futures_util::{StreamExt, stream};
use send_wrapper::SendWrapper;
use serde::{Deserialize, Serialize};

fn main() -> coring::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next();
    let address = address.unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let builder = Server::builder().bind(address);
    let app = app();
    // Each worker has a clone of the router.
    let service = move || coring::tower(app.clone());
    if arguments.next().as_deref() == Some("tokio") {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime of tokio");
        return runtime.block_on(async {
            let (handle, guest) = builder.attach(service)?;
            println!("http://{}/", handle.addresses()[0]);
            coring::tokio::drive(guest).await.expect("the engine works");
            handle.wait()
        });
    }
    let handle = builder.start(service)?;
    println!("http://{}/", handle.addresses()[0]);
    handle.wait()
}

fn app() -> Router {
    Router::new()
        .route("/", get(async || Html("<b>hello world</b>")))
        .route("/peer", get(peer))
        .route("/greet", post(greet))
        .route("/text", post(async |text: String| text))
        .route("/length", post(length))
        .route("/zeros/{count}", get(zeros))
        .route("/sleep", get(sleep))
        .route("/sleep/tokio", get(sleep_in_tokio))
        .route("/socket", any(socket))
}

/// The client's address is among the request's extensions.
async fn peer(Extension(peer): Extension<SocketAddr>) -> String {
    format!("{}\n", peer.ip())
}

#[derive(Deserialize)]
struct Person {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    greeting: String,
}

async fn greet(Json(person): Json<Person>) -> Json<Greeting> {
    let greeting = format!("hello {}", person.name);
    Json(Greeting { greeting })
}

/// Counts a body of any size, part by part. Extractors such as `String` have axum's limit of 2 MiB.
async fn length(body: Body) -> Result<String, StatusCode> {
    let mut length = 0;
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        length += part.map_err(|_| StatusCode::BAD_REQUEST)?.len();
    }
    Ok(format!("{length}\n"))
}

/// Streams `count` MiB, and makes no more than the client takes.
async fn zeros(Path(count): Path<u16>) -> Body {
    let part = Bytes::from_static(&[0; 64 << 10]);
    let parts = repeat_n(Ok::<_, Infallible>(part), usize::from(count) * 16);
    Body::from_stream(stream::iter(parts))
}

/// axum's handlers must be `Send`, and coring's futures are not; but they never leave their worker.
async fn sleep() -> &'static str {
    SendWrapper::new(coring::time::sleep(Duration::from_millis(5))).await;
    "slept in coring\n"
}

/// Needs a runtime of tokio.
async fn sleep_in_tokio() -> &'static str {
    tokio::time::sleep(Duration::from_millis(5)).await;
    "slept in tokio\n"
}

/// coring has no WebSocket yet, so axum answers 426.
async fn socket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |_| {})
}
