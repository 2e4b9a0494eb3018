//! A server embedded in another program: what its handles guarantee, and that no service can break
//! the server.

use std::cell::Cell;
use std::fs;
use std::future::poll_fn;
use std::io::Write;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use ::http::header::LOCATION;
use bytes::Bytes;
use coring::{ErrorKind, Handle, HeaderValue, Limits, Request, Response, Service, StatusCode};

use crate::support::{
    Address, Client, GET, GET_AND_CLOSE, HALF_A_HEAD, HELLO, TempDir, builder, descriptors_left,
    eventually, get, head_with_length, is_timeout, start_server,
};

/// Starts a server with one worker on a free port.
fn start<S: Service + 'static>(factory: impl Fn() -> S + Send + Sync + 'static) -> Handle {
    start_server(builder().bind("127.0.0.1:0"), 1, factory).expect("a server")
}

fn address(server: &Handle) -> Address {
    Address::Tcp(
        server.addresses()[0]
            .to_string()
            .parse()
            .expect("an IP address"),
    )
}

fn hello() -> impl Service {
    async |_: Request| Response::html(HELLO)
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd")
        .expect("this process's descriptors")
        .count()
}

/// With many operations in flight, a stop waits until the kernel has completed each of them.
#[test]
fn a_stop_releases_all_buffers_operations_tasks_and_timers() {
    let server = start(hello);
    let address = address(&server);
    let mut clients: Vec<Client> = (0..1500)
        .map(|_| Client::connect(&address).expect("a connection"))
        .collect();
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.response().text(), HELLO);
    }
    let metrics = &server.metrics()[0];
    // Each incomplete head holds a buffer.
    for client in &mut clients {
        client.send(HALF_A_HEAD);
    }
    let received = (clients.len() * (GET.len() + HALF_A_HEAD.len())) as u64;
    eventually("the incomplete heads", || {
        (metrics.bytes_received.get() == received).then_some(())
    });
    server.stop();
    server.wait().expect("an orderly end");
    for mut client in clients {
        client.expect_fin();
    }
    let left = [
        &metrics.blocks_in_use,
        &metrics.ops_in_flight,
        &metrics.tasks_live,
        &metrics.timers_live,
    ];
    assert_eq!(left.map(|gauge| gauge.get()), [0; 4]);
}

#[test]
fn a_server_that_ends_closes_its_descriptors() {
    // The first server opens descriptors that the process keeps.
    start(hello).stop();
    let before = descriptors();
    for _ in 0..20 {
        let server = start(hello);
        let mut client = Client::connect(&address(&server)).expect("a connection");
        client.send(GET);
        assert_eq!(client.response().text(), HELLO);
    }
    // Other tests in this process open descriptors, too. Twenty leaky servers would add more.
    eventually("the descriptors are closed", || {
        (descriptors() < before + 20 * (1 + descriptors_left())).then_some(())
    });
}

/// The server runs as long as it has a handle.
#[test]
fn dropping_the_last_handle_stops_the_server() {
    let server = start(hello);
    let address = address(&server);
    let mut client = Client::connect(&address).expect("a connection");
    let other = server.clone();
    drop(server);
    client.send(GET);
    assert_eq!(client.response().text(), HELLO);
    drop(other);
    client.expect_fin();
    assert!(
        Client::connect(&address).is_err(),
        "the listener is still open"
    );
}

#[test]
fn several_threads_may_wait_for_the_end() {
    let server = start(hello);
    thread::scope(|scope| {
        let waiting = [0, 1].map(|_| scope.spawn(|| server.wait()));
        thread::sleep(Duration::from_millis(300));
        assert!(waiting.iter().all(|thread| !thread.is_finished()));
        server.drain();
        for thread in waiting {
            thread.join().expect("no panic").expect("an orderly end");
        }
    });
    server.wait().expect("the same result as before");
}

/// A slot through which a service gets the handle of its own server.
type HandleSlot = Arc<Mutex<Option<Handle>>>;

/// A service may hold the only handle, for example to offer a `/stop`.
#[test]
fn the_last_handle_may_be_dropped_on_a_worker() {
    for cores in [1, 2] {
        let (slot, directory) = (HandleSlot::default(), TempDir::new());
        let socket = directory.file("last.sock");
        let outcome = Arc::new(Mutex::new(None));
        let (service_slot, service_outcome) = (slot.clone(), outcome.clone());
        let bound = builder().bind("127.0.0.1:0").bind(format!("unix:{socket}"));
        let server = start_server(bound, cores, move || {
            let slot = service_slot.clone();
            let outcome = service_outcome.clone();
            async move |_: Request| {
                let handle = slot.lock().expect("no panic").take();
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(handle)));
                *outcome.lock().expect("no panic") = Some(dropped.is_ok());
                Response::html(HELLO)
            }
        });
        let server = server.expect("a server");
        let address = address(&server);
        *slot.lock().expect("no panic") = Some(server);
        let mut client = Client::connect(&address).expect("a connection");
        client.send(GET);
        eventually("the server's end", || {
            let is_refused = Client::connect(&address).is_err();
            (is_refused && !fs::exists(&socket).expect("a directory")).then_some(())
        });
        let outcome = *outcome.lock().expect("no panic");
        assert_eq!(
            outcome,
            Some(true),
            "{cores} cores: dropping the handle panicked or did not return"
        );
    }
}

#[test]
fn a_worker_that_waits_for_its_own_server_gets_an_error() {
    let slot = HandleSlot::default();
    let service_slot = slot.clone();
    let server = start(move || {
        let slot = service_slot.clone();
        async move |_: Request| {
            let server = slot.lock().expect("no panic").clone();
            let waited = server.expect("a handle").wait();
            Response::text(waited.expect_err("an error").to_string())
        }
    });
    *slot.lock().expect("no panic") = Some(server.clone());
    let mut client = Client::connect(&address(&server)).expect("a connection");
    client.send(GET);
    let response = client.response();
    assert!(
        response.text().contains("its own server"),
        "{}",
        response.text()
    );
    drop(slot.lock().expect("no panic").take());
    server.stop();
    server.wait().expect("an orderly end");
}

/// A panic payload whose destructor panics, too.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("planted"));
    }
}

#[test]
fn a_factory_whose_panic_payload_panics_is_reported() {
    let factory = || -> fn() { std::panic::resume_unwind(Box::new(Bomb)) };
    let started = builder().bind("127.0.0.1:0").start(move || {
        factory();
        async |_: Request| Response::html(HELLO)
    });
    let error = started.map(drop).expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Runtime);
}

/// `start` returns an error if the factory panics; it must not wait for ever.
#[test]
fn a_factory_that_panics_is_reported() {
    let factory = || -> fn() { panic!("planted") };
    let server = builder().bind("127.0.0.1:0").start(move || {
        factory();
        hello()
    });
    let error = server.expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert!(error.to_string().contains("panicked"), "{error}");
}

/// The owner of a response body. Its destructor panics.
struct PanicWhenDropped(Vec<u8>);

impl AsRef<[u8]> for PanicWhenDropped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for PanicWhenDropped {
    fn drop(&mut self) {
        panic!("planted");
    }
}

/// Each worker makes its own ring, so a server may be started, held and ended on different
/// threads.
#[test]
fn pitfall_25_a_server_may_be_started_and_ended_on_any_thread() {
    let started = thread::spawn(|| start(hello)).join();
    let server = started.expect("no panic");
    let mut client = Client::connect(&address(&server)).expect("a connection");
    client.send(GET);
    assert_eq!(client.response().text(), HELLO);
    let other = server.clone();
    thread::spawn(move || drop(other)).join().expect("no panic");
    client.send(GET);
    assert_eq!(client.response().text(), HELLO);
    server.drain();
    let waited = thread::spawn(move || server.wait()).join();
    waited.expect("no panic").expect("an orderly end");
}

/// `bind_with` gives a listener its own service, which is made once on each worker.
#[test]
fn each_listener_may_have_its_own_service() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let bound = builder()
        .bind_with("127.0.0.1:0", || {
            MADE.fetch_add(1, Ordering::Relaxed);
            let calls = Rc::new(Cell::new(0));
            move |_: Request| {
                let calls = calls.clone();
                async move {
                    calls.set(calls.get() + 1);
                    Response::text(format!("admin {}", calls.get()))
                }
            }
        })
        .bind("127.0.0.1:0")
        .bind_with("127.0.0.1:0", || {
            async |request: Request| {
                let location = format!("https://{}/", request.host().unwrap_or_default());
                Response::new(StatusCode::PERMANENT_REDIRECT)
                    .with_header(LOCATION, HeaderValue::try_from(location).expect("a host"))
            }
        })
        .bind("127.0.0.1:0");
    let server = start_server(bound, 2, hello).expect("a server");
    assert_eq!(MADE.load(Ordering::Relaxed), server.cores().count);
    let connect = |number: usize| {
        let address = server.addresses()[number].to_string();
        let address = address.parse().expect("an IP address");
        Client::connect(&Address::Tcp(address)).expect("a connection")
    };
    let mut admin = connect(0);
    for call in 1..=3 {
        admin.send(GET);
        assert_eq!(admin.response().text(), format!("admin {call}"));
    }
    for main in [connect(1), connect(3)] {
        let mut main = main;
        main.send(GET);
        assert_eq!(main.response().text(), HELLO);
    }
    let mut redirect = connect(2);
    redirect.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let response = redirect.response();
    assert_eq!(response.status, 308);
    assert_eq!(response.field("location"), Some("https://a.example/"));
    admin.send(GET_AND_CLOSE);
    assert_eq!(admin.response().text(), "admin 4");
    server.drain();
    server.wait().expect("an orderly end");
}

/// The debug output of a request has its method, target and fields, and does not consume the body.
#[test]
fn a_request_can_be_printed() {
    let server = start(|| async |request: Request| Response::text(format!("{request:?}")));
    let mut client = Client::connect(&address(&server)).expect("a connection");
    client.send("POST /a?b=%20 HTTP/1.1\r\nHost: c\r\nX-Y: é\r\nContent-Length: 1\r\n\r\nz");
    let expected = "Request { method: POST, target: \"/a?b=%20\", fields: {\"Host\": \"c\", \
                    \"X-Y\": \"é\", \"Content-Length\": \"1\"}, .. }";
    assert_eq!(client.response().text(), expected);
}

/// Yields once. The task wakes itself.
async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Tasks that yield all the time and never wait keep the worker busy. It must still receive from
/// other connections.
#[test]
fn pitfall_18_busy_tasks_do_not_keep_the_worker_from_receiving() {
    let server = start(|| {
        let released = Rc::new(Cell::new(false));
        move |request: Request| {
            let released = released.clone();
            async move {
                if request.path() == "/release" {
                    released.set(true);
                }
                while !released.get() {
                    yield_once().await;
                }
                Response::html(HELLO)
            }
        }
    });
    let connect = || Client::connect(&address(&server)).expect("a connection");
    let mut busy: Vec<Client> = (0..10).map(|_| connect()).collect();
    let mut other = connect();
    for client in &mut busy {
        client.send(GET);
    }
    let requests = &server.metrics()[0].requests;
    eventually("the calls", || (requests.get() == 10).then_some(()));
    other.send(get("/release"));
    for client in busy.iter_mut().chain([&mut other]) {
        assert_eq!(client.response().text(), HELLO);
    }
}

/// A client sends a large body to a service that does not read it. The server stops receiving, so
/// that TCP stops the client, and stores little of the body.
#[test]
fn pitfall_21_a_body_that_is_not_read_is_not_stored() {
    const STORED_BYTES_MAX: u64 = 1 << 20;
    let server = start(|| async |_: Request| std::future::pending().await);
    let Address::Tcp(address) = address(&server) else {
        unreachable!("the server listens on TCP")
    };
    let mut client = TcpStream::connect(address).expect("a connection");
    client
        .set_write_timeout(Some(Duration::from_secs(2)))
        .expect("an open connection");
    let head = head_with_length("POST", "/", 16_000_000);
    client
        .write_all(head.as_bytes())
        .expect("a peer that reads");
    // More than the socket buffers of both sides and the server's own buffers hold together.
    let sent = client.write_all(&vec![b'a'; 15_000_000]);
    assert!(is_timeout(&sent.expect_err("a server that does not read")));
    let metrics = &server.metrics()[0];
    let (received, blocks) = (metrics.bytes_received.get(), metrics.blocks_in_use.get());
    assert!(
        received < STORED_BYTES_MAX,
        "{received} bytes were received"
    );
    assert!(
        blocks * 4096 < STORED_BYTES_MAX,
        "{blocks} blocks are in use"
    );
}

/// The engine drops a response body after sending it. If the body's destructor panics, the worker
/// survives.
#[test]
fn a_body_whose_destructor_panics_does_not_end_the_worker() {
    let server = start(|| {
        async |_: Request| {
            let bytes = Bytes::from_owner(PanicWhenDropped(vec![b'x'; 10_000]));
            Response::html(HELLO).with_body(bytes)
        }
    });
    for _ in 0..3 {
        let mut client = Client::connect(&address(&server)).expect("a connection");
        client.send(GET);
        assert_eq!(client.response().body.len(), 10_000);
    }
    server.drain();
    server.wait().expect("an orderly end");
}

/// Clients that pipeline requests and do not read use up all of the memory for receiving. The
/// server still serves other clients.
#[test]
fn clients_that_use_up_the_receive_memory_do_not_stop_others() {
    let mut limits = Limits::default();
    limits.receive_memory_max = Some(2 << 20);
    let service = || {
        async |request: Request| match request.path() {
            "/never" => std::future::pending().await,
            _ => Response::html(HELLO),
        }
    };
    let bound = builder().bind("127.0.0.1:0").limits(limits);
    let server = start_server(bound, 1, service).expect("a server");
    let address = address(&server);
    let pending: Vec<Client> = (0..300)
        .map(|_| {
            let mut client = Client::connect(&address).expect("a connection");
            client.send(get("/never"));
            client
        })
        .collect();
    let metrics = &server.metrics()[0];
    eventually("the requests", || {
        (metrics.requests.get() == 300).then_some(())
    });
    for mut client in pending.iter().map(Client::twin) {
        // The server keeps these requests until the first one has its response.
        client.send(GET.repeat(400));
    }
    eventually("the limit", || {
        (metrics.blocks_in_use.get() >= 512).then_some(())
    });
    for _ in 0..50 {
        let mut client = Client::connect(&address).expect("a connection");
        client.send(GET);
        assert_eq!(client.response().text(), HELLO);
    }
    server.stop();
    server.wait().expect("an orderly end");
}
