//! tokio's current-thread runtime.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::TcpStream;
use ::tokio::runtime::{Builder, Runtime};
use ::tokio::task::LocalSet;
use coring::{Handle, Request, Response, run_as_guest};

use crate::{Client, address, answering_server, ask_often, builder, engine, many};

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// Serves on a runtime of tokio's until `client`, on another thread, has returned.
fn serve_for(client: impl FnOnce(&Handle) + Send + 'static) {
    let address = answering_server();
    let service = move || {
        async move |request: Request| match request.path() {
            "/sleep" => {
                ::tokio::time::sleep(Duration::from_millis(1)).await;
                Response::text("slept")
            }
            "/both" => {
                ::tokio::time::sleep(Duration::from_millis(1)).await;
                coring::time::sleep(Duration::from_millis(1)).await;
                Response::text("both slept")
            }
            "/ask" => {
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                stream.write_all(b"ping").await.expect("a send");
                let mut text = String::new();
                stream.read_to_string(&mut text).await.expect("an answer");
                Response::text(text)
            }
            _ => Response::text("hello"),
        }
    };
    let (handle, guest) = builder().attach(service).expect("a server");
    let server = handle.clone();
    let client = std::thread::spawn(move || {
        client(&server);
        server.stop();
    });
    let driven = runtime().block_on(coring::tokio::drive(guest));
    client.join().expect("the client");
    driven.expect("the engine");
    handle.wait().expect("an orderly end");
}

#[test]
fn a_coroutine_awaits_timers_of_both() {
    let guest = run_as_guest(engine(), async {
        ::tokio::time::sleep(Duration::from_millis(2)).await;
        coring::time::sleep(Duration::from_millis(2)).await;
        42
    });
    let driven = runtime().block_on(coring::tokio::drive(guest.expect("an engine")));
    assert_eq!(driven.expect("the engine"), 42);
}

#[test]
fn handlers_await_timers_and_sockets_of_tokio() {
    serve_for(|server| {
        let mut client = Client::connect(server);
        for _ in 0..20 {
            assert_eq!(client.get("/"), "hello");
            assert_eq!(client.get("/sleep"), "slept");
            assert_eq!(client.get("/both"), "both slept");
            assert_eq!(client.get("/ask"), "ping");
        }
    });
}

/// A lost wake-up would let a request wait for ever.
#[test]
fn no_wake_up_is_lost() {
    serve_for(|server| {
        ask_often(address(server), 10 * many(), &["/"]);
        ask_often(address(server), many(), &["/both", "/ask"]);
    });
}

/// Tasks of the runtime run while the guest always has something to do.
#[test]
fn a_busy_guest_lets_other_tasks_run() {
    let guest = run_as_guest(engine(), async {
        loop {
            coring::task::yield_now().await;
        }
    });
    let drive = coring::tokio::drive::<()>(guest.expect("an engine"));
    let timeout = async { ::tokio::time::timeout(Duration::from_millis(20), drive).await };
    let driven = runtime().block_on(timeout);
    assert!(driven.is_err(), "the time has passed");
}

/// A `LocalSet` polls a task that wakes itself 61 times before the runtime looks at its timers.
#[test]
fn timers_fire_beside_a_busy_guest_in_a_local_set() {
    let turns = Rc::new(Cell::new(0));
    let counted = turns.clone();
    let guest = run_as_guest(engine(), async move {
        loop {
            // Longer than the timer.
            std::thread::sleep(Duration::from_millis(5));
            counted.set(counted.get() + 1);
            coring::task::yield_now().await;
        }
    });
    let set = LocalSet::new();
    set.spawn_local(coring::tokio::drive::<()>(guest.expect("an engine")));
    set.block_on(&runtime(), async {
        for _ in 0..10 {
            ::tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(turns.get() < 100, "{} turns for ten timers", turns.get());
}

/// Without a runtime, tokio itself says what is missing.
#[test]
fn tokio_outside_its_runtime_panics() {
    let outcome = coring::run(async {
        let sleep = async { ::tokio::time::sleep(Duration::from_millis(1)).await };
        coring::spawn(sleep).await
    });
    assert!(outcome.is_err(), "a panic of the coroutine");
}
