//! glommio's executor, in a thread and in a pool.

use std::time::Duration;

use ::glommio::io::DmaFile;
use ::glommio::timer;
use ::glommio::{Latency, LocalExecutor, Shares, executor, spawn_local_into};
use coring::{EngineChoice, Handle, Request, Response, run_as_guest};

use crate::{Client, address, ask_often, builder, many, report};

async fn answer(request: Request) -> Response {
    match request.path() {
        "/sleep" => {
            timer::sleep(Duration::from_millis(1)).await;
            Response::text("slept")
        }
        "/both" => {
            timer::sleep(Duration::from_millis(1)).await;
            coring::time::sleep(Duration::from_millis(1)).await;
            Response::text("both slept")
        }
        "/file" => {
            let file = DmaFile::open(file!()).await.expect("this file");
            let read = file.read_at(0, 512).await.expect("its beginning");
            let text = read.to_vec();
            drop(read);
            file.close().await.expect("a close");
            Response::text(text)
        }
        _ => Response::text("hello"),
    }
}

/// Whether glommio works here: it needs io_uring and locked memory. If not, says why.
pub(crate) fn is_available() -> bool {
    match coring::glommio::start(builder(), || answer) {
        Ok(server) => {
            server.stop();
            server.wait().expect("an orderly end");
            true
        }
        Err(error) => {
            report(&format!("not tested: guests of glommio: {error}"));
            false
        }
    }
}

/// Serves on an executor of glommio's until `client`, on another thread, has returned.
fn serve_for(client: impl FnOnce(&Handle) + Send + 'static) {
    let builder = builder().engine(EngineChoice::Uring);
    let (handle, guest) = builder.attach(|| answer).expect("a server");
    let server = handle.clone();
    let client = std::thread::spawn(move || {
        client(&server);
        server.stop();
    });
    let driven = LocalExecutor::default().run(coring::glommio::drive(guest));
    client.join().expect("the client");
    driven.expect("the engine");
    handle.wait().expect("an orderly end");
}

#[test]
fn a_coroutine_awaits_timers_of_both() {
    if !is_available() {
        return;
    }
    let guest = run_as_guest(EngineChoice::Uring, async {
        timer::sleep(Duration::from_millis(2)).await;
        coring::time::sleep(Duration::from_millis(2)).await;
        42
    });
    let drive = coring::glommio::drive(guest.expect("an engine"));
    assert_eq!(LocalExecutor::default().run(drive).expect("the engine"), 42);
}

#[test]
fn a_guest_on_epoll_is_refused() {
    if !is_available() {
        return;
    }
    let guest = run_as_guest(EngineChoice::Epoll, async {}).expect("epoll");
    let driven = LocalExecutor::default().run(coring::glommio::drive(guest));
    assert!(
        driven
            .expect_err("no engine")
            .to_string()
            .contains("io_uring")
    );
}

#[test]
fn handlers_await_timers_and_files_of_glommio() {
    if !is_available() {
        return;
    }
    serve_for(|server| {
        let mut client = Client::connect(server);
        for _ in 0..20 {
            assert_eq!(client.get("/"), "hello");
            assert_eq!(client.get("/sleep"), "slept");
            assert_eq!(client.get("/both"), "both slept");
            assert!(client.get("/file").starts_with("//! glommio's executor"));
        }
    });
}

/// A lost wake-up would let a request wait for ever.
#[test]
fn no_wake_up_is_lost() {
    if !is_available() {
        return;
    }
    serve_for(|server| {
        ask_often(address(server), 10 * many(), &["/"]);
        ask_often(address(server), many(), &["/both", "/file"]);
    });
}

/// Tasks of other queues run while the guest always has something to do.
#[test]
fn a_busy_guest_lets_other_tasks_run() {
    if !is_available() {
        return;
    }
    let guest = run_as_guest(EngineChoice::Uring, async {
        loop {
            coring::task::yield_now().await;
        }
    });
    let drive = coring::glommio::drive::<()>(guest.expect("an engine"));
    // Long enough for more turns than glommio can count wakers of one task.
    LocalExecutor::default().run(async {
        let latency = Latency::Matters(Duration::from_millis(1));
        let queue = executor().create_task_queue(Shares::default(), latency, "busy");
        let task = spawn_local_into(drive, queue).expect("a queue");
        timer::sleep(Duration::from_millis(500)).await;
        task.cancel().await;
    });
}

/// A server with an executor of glommio's for each worker.
#[test]
fn a_pool_of_executors_serves() {
    if !is_available() {
        return;
    }
    let server = coring::glommio::start(builder(), || answer).expect("a server");
    ask_often(address(&server), many(), &["/", "/both"]);
    server.drain();
    server.wait().expect("an orderly end");
}
