//! A small JSON API: `cargo run --release --features json --example todo`, then
//! `curl --json '{"text":"milk"}' http://127.0.0.1:8000/todos`. Ctrl-C drains the server.

#![allow(clippy::print_stdout, reason = "prints the address")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use coring::{ContentError, Request, Response, Router, Server, StatusCode};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Clone, Serialize)]
struct Todo {
    id: u64,
    text: String,
    done: bool,
}

/// The body of a request. Both fields are optional.
#[derive(Deserialize)]
struct Change {
    text: Option<String>,
    done: Option<bool>,
}

/// The list, which all workers share.
type Todos = Arc<Mutex<BTreeMap<u64, Todo>>>;

/// Lists all entries; with `?done=true`, those that are done, with `?done=false`, the others.
fn list(todos: &Todos, request: &Request) -> Response {
    let wanted = request.query_pairs().find(|(name, _)| name == "done");
    let wanted = wanted.map(|(_, value)| value == "true");
    let todos = todos.lock().unwrap();
    let listed = todos
        .values()
        .filter(|todo| wanted.is_none_or(|done| todo.done == done));
    Response::json(&listed.collect::<Vec<_>>())
}

async fn create(todos: &Todos, mut request: Request) -> Result<Response, ContentError> {
    let change: Change = request.json(4096).await?;
    let mut todos = todos.lock().unwrap();
    let todo = Todo {
        id: todos.last_key_value().map_or(1, |(id, _)| id + 1),
        text: change.text.unwrap_or_default(),
        done: change.done.unwrap_or_default(),
    };
    todos.insert(todo.id, todo.clone());
    Ok(Response::json(&todo).with_status(StatusCode::CREATED))
}

async fn update(todos: &Todos, mut request: Request) -> Result<Response, ContentError> {
    let change: Change = request.json(4096).await?;
    let mut todos = todos.lock().unwrap();
    let Some(todo) = id(&request).and_then(|id| todos.get_mut(&id)) else {
        return Ok(StatusCode::NOT_FOUND.into());
    };
    todo.text = change.text.unwrap_or_else(|| todo.text.clone());
    todo.done = change.done.unwrap_or(todo.done);
    Ok(Response::json(&*todo))
}

fn delete(todos: &Todos, request: &Request) -> StatusCode {
    match id(request).and_then(|id| todos.lock().unwrap().remove(&id)) {
        Some(_) => StatusCode::NO_CONTENT,
        None => StatusCode::NOT_FOUND,
    }
}

fn id(request: &Request) -> Option<u64> {
    request.param("id")?.parse().ok()
}

fn router(todos: &Todos) -> Router {
    let [for_list, for_create, for_update, for_delete] = [(); 4].map(|()| todos.clone());
    Router::new()
        .get("/todos", async move |request: Request| {
            list(&for_list, &request)
        })
        .post("/todos", async move |request: Request| {
            create(&for_create, request).await
        })
        .patch("/todos/{id}", async move |request: Request| {
            update(&for_update, request).await
        })
        .delete("/todos/{id}", async move |request: Request| {
            delete(&for_delete, &request)
        })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let address = std::env::args().nth(1);
    let todos = Todos::default();
    let server = Server::builder()
        .bind(address.unwrap_or_else(|| "127.0.0.1:8000".to_owned()))
        .start(move || router(&todos))?;
    println!("http://{}/", server.addresses()[0]);
    let handle = server.clone();
    std::thread::spawn(move || {
        signals.forever().next();
        handle.drain();
    });
    Ok(server.wait()?)
}

#[test]
fn a_todo_is_created_and_listed() {
    use coring::Service;

    coring::run(async {
        let router = router(&Todos::default());
        let request = Request::builder()
            .method("POST")
            .uri("/todos")
            .header("Content-Type", "application/json")
            .body(r#"{"text":"milk"}"#);
        let response = router.call(request.unwrap()).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        let request = Request::builder().uri("/todos?done=false").body("");
        let mut response = router.call(request.unwrap()).await;
        let listed = response.body().read(1000).await.unwrap();
        assert_eq!(listed, br#"[{"id":1,"text":"milk","done":false}]"#);
    });
}
