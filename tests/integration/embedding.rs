//! The library as programs meet that embed it: what a server's handles promise, and what a service
//! may do to it.

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

use crate::support::{Address, Client, Folder, GET, HELLO, builder, eventually, is_timeout};

/// A server of one worker on a free port.
fn start<S: Service + 'static>(factory: impl Fn() -> S + Send + Sync + 'static) -> Handle {
    builder()
        .bind("127.0.0.1:0")
        .cores(1)
        .start(factory)
        .expect("a server")
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
        .expect("our descriptors")
        .count()
}

/// However many operations are under way, a stop waits for the kernel's last word on each.
#[test]
fn a_stop_leaves_nothing_behind() {
    let server = start(hello);
    let address = address(&server);
    let mut clients: Vec<Client> = (0..1500)
        .map(|_| Client::connect(&address).expect("a connection"))
        .collect();
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.answer().text(), HELLO);
    }
    let metrics = &server.metrics()[0];
    // Half a head is memory that is held.
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHo");
    }
    let received = (clients.len() * (GET.len() + 18)) as u64;
    eventually("the halves", || {
        (metrics.bytes_received.get() == received).then_some(())
    });
    server.stop();
    server.wait().expect("an end in order");
    for mut client in clients {
        client.ends();
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
fn servers_come_and_go_in_one_process() {
    // The first one makes what stays: threads' caches, say.
    start(hello).stop();
    let before = descriptors();
    for _ in 0..20 {
        let server = start(hello);
        let mut client = Client::connect(&address(&server)).expect("a connection");
        client.send(GET);
        assert_eq!(client.answer().text(), HELLO);
    }
    // Other tests of this process have descriptors of their own meanwhile; a leak would grow.
    eventually("descriptors back", || {
        (descriptors() < before + 20).then_some(())
    });
}

/// The server lives as long as one of its handles.
#[test]
fn the_last_handle_ends_the_server() {
    let server = start(hello);
    let address = address(&server);
    let mut client = Client::connect(&address).expect("a connection");
    let other = server.clone();
    drop(server);
    client.send(GET);
    assert_eq!(client.answer().text(), HELLO);
    drop(other);
    client.ends();
    assert!(
        Client::connect(&address).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn everybody_may_wait_for_the_end() {
    let server = start(hello);
    thread::scope(|scope| {
        let waiting = [0, 1].map(|_| scope.spawn(|| server.wait()));
        thread::sleep(Duration::from_millis(300));
        assert!(waiting.iter().all(|thread| !thread.is_finished()));
        server.drain();
        for thread in waiting {
            thread.join().expect("no panic").expect("an end in order");
        }
    });
    server.wait().expect("it is over, again and again");
}

/// A handle that a service gives away, or uses itself.
type Place = Arc<Mutex<Option<Handle>>>;

/// A service may keep the only handle, for a `/stop` of its own.
#[test]
fn the_last_handle_may_be_dropped_on_a_worker() {
    for cores in [1, 2] {
        let (place, folder) = (Place::default(), Folder::new());
        let socket = folder.file("last.sock");
        let outcome = Arc::new(Mutex::new(None));
        let (taken, told) = (place.clone(), outcome.clone());
        let server = builder()
            .bind("127.0.0.1:0")
            .bind(format!("unix:{socket}"))
            .cores(cores)
            .start(move || {
                let place = taken.clone();
                let told = told.clone();
                async move |_: Request| {
                    let handle = place.lock().expect("no panic").take();
                    let dropped = catch_unwind(AssertUnwindSafe(|| drop(handle)));
                    *told.lock().expect("no panic") = Some(dropped.is_ok());
                    Response::html(HELLO)
                }
            });
        let server = server.expect("a server");
        let address = address(&server);
        *place.lock().expect("no panic") = Some(server);
        let mut client = Client::connect(&address).expect("a connection");
        client.send(GET);
        eventually("the server's end", || {
            let is_refused = Client::connect(&address).is_err();
            (is_refused && !fs::exists(&socket).expect("a folder")).then_some(())
        });
        let outcome = *outcome.lock().expect("no panic");
        assert_eq!(
            outcome,
            Some(true),
            "{cores}: the drop did not return in order"
        );
    }
}

#[test]
fn a_worker_that_waits_for_its_own_server_gets_an_error() {
    let place = Place::default();
    let own = place.clone();
    let server = start(move || {
        let place = own.clone();
        async move |_: Request| {
            let server = place.lock().expect("no panic").clone();
            let waited = server.expect("a handle").wait();
            Response::text(waited.expect_err("it serves").to_string())
        }
    });
    *place.lock().expect("no panic") = Some(server.clone());
    let mut client = Client::connect(&address(&server)).expect("a connection");
    client.send(GET);
    let answer = client.answer();
    assert!(answer.text().contains("itself"), "{}", answer.text());
    drop(place.lock().expect("no panic").take());
    server.stop();
    server.wait().expect("an end in order");
}

/// The payload of a panic whose destructor panics, too.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("as it was asked to"));
    }
}

#[test]
fn the_payload_of_a_factory_that_panics_may_panic_too() {
    let factory = || -> fn() { std::panic::resume_unwind(Box::new(Bomb)) };
    let started = builder().bind("127.0.0.1:0").start(move || {
        factory();
        async |_: Request| Response::html(HELLO)
    });
    let error = started.map(drop).expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Runtime);
}

/// A factory that panics is an error of the start, not a start that never returns.
#[test]
fn a_factory_that_panics_is_reported() {
    let factory = || -> fn() { panic!("as it was asked to") };
    let server = builder().bind("127.0.0.1:0").start(move || {
        factory();
        hello()
    });
    let error = server.expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert!(error.to_string().contains("panicked"), "{error}");
}

/// Bytes whose owner panics when they are dropped.
struct Spiteful(Vec<u8>);

impl AsRef<[u8]> for Spiteful {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic!("as it was asked to");
    }
}

/// A server belongs to no thread: its rings are made by the workers themselves, so whoever starts
/// it, holds it or ends it may be anybody.
#[test]
fn pitfall_25_a_ring_made_on_another_thread() {
    let started = thread::spawn(|| start(hello)).join();
    let server = started.expect("no panic");
    let mut client = Client::connect(&address(&server)).expect("a connection");
    client.send(GET);
    assert_eq!(client.answer().text(), HELLO);
    let other = server.clone();
    thread::spawn(move || drop(other)).join().expect("no panic");
    client.send(GET);
    assert_eq!(client.answer().text(), HELLO);
    server.drain();
    let waited = thread::spawn(move || server.wait()).join();
    waited.expect("no panic").expect("an end in order");
}

/// Each listener's connections get the service that was made for it, on every worker.
#[test]
fn a_listener_may_have_a_service_of_its_own() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let server = builder()
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
        .bind("127.0.0.1:0")
        .start(hello)
        .expect("a server");
    assert_eq!(MADE.load(Ordering::Relaxed), server.cores().count);
    let connect = |number: usize| {
        let address = server.addresses()[number].to_string();
        let address = address.parse().expect("an IP address");
        Client::connect(&Address::Tcp(address)).expect("a connection")
    };
    let mut admin = connect(0);
    for call in 1..=3 {
        admin.send(GET);
        assert_eq!(admin.answer().text(), format!("admin {call}"));
    }
    for main in [connect(1), connect(3)] {
        let mut main = main;
        main.send(GET);
        assert_eq!(main.answer().text(), HELLO);
    }
    let mut redirect = connect(2);
    redirect.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let answer = redirect.answer();
    assert_eq!(answer.status, 308);
    assert_eq!(answer.field("location"), Some("https://a.example/"));
    admin.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(admin.answer().text(), "admin 4");
    server.drain();
    server.wait().expect("an end in order");
}

/// A service that logs its requests sees what was asked; the body is left to be read.
#[test]
fn a_request_can_be_printed() {
    let server = start(|| async |request: Request| Response::text(format!("{request:?}")));
    let mut client = Client::connect(&address(&server)).expect("a connection");
    client.send("POST /a?b=%20 HTTP/1.1\r\nHost: c\r\nX-Y: é\r\nContent-Length: 1\r\n\r\nz");
    let expected = "Request { method: POST, target: \"/a?b=%20\", fields: {\"Host\": \"c\", \
                    \"X-Y\": \"é\", \"Content-Length\": \"1\"}, .. }";
    assert_eq!(client.answer().text(), expected);
}

/// Gives way once, without anybody else who would wake this task.
async fn give_way() {
    let mut gave_way = false;
    poll_fn(|context| {
        if gave_way {
            return Poll::Ready(());
        }
        gave_way = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Calls that are busy and never block: what others send meanwhile is seen all the same.
#[test]
fn pitfall_18_a_busy_ring_is_not_advanced() {
    let server = start(|| {
        let freed = Rc::new(Cell::new(false));
        move |request: Request| {
            let freed = freed.clone();
            async move {
                if request.path() == "/free" {
                    freed.set(true);
                }
                while !freed.get() {
                    give_way().await;
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
    other.send("GET /free HTTP/1.1\r\nHost: a\r\n\r\n");
    for client in busy.iter_mut().chain([&mut other]) {
        assert_eq!(client.answer().text(), HELLO);
    }
}

/// Who sends much to a service that sleeps is slowed down by TCP, and what it sends is not stored.
#[test]
fn pitfall_21_a_slow_service_stores_nothing() {
    const MOST: u64 = 1 << 20;
    let server = start(|| async |_: Request| std::future::pending().await);
    let Address::Tcp(address) = address(&server) else {
        unreachable!("an address of TCP")
    };
    let mut client = TcpStream::connect(address).expect("a connection");
    client
        .set_write_timeout(Some(Duration::from_secs(2)))
        .expect("an open connection");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 16000000\r\n\r\n";
    client
        .write_all(head.as_bytes())
        .expect("a peer that reads");
    // More than a connection's buffers in both kernels and in the server can be.
    let sent = client.write_all(&vec![b'a'; 15_000_000]);
    assert!(is_timeout(&sent.expect_err("a peer that does not read")));
    let metrics = &server.metrics()[0];
    let (received, blocks) = (metrics.bytes_received.get(), metrics.blocks_in_use.get());
    assert!(received < MOST, "{received} bytes were received");
    assert!(blocks * 4096 < MOST, "{blocks} blocks are held");
}

/// What a service gives away may be dropped anywhere, even by the engine: no worker dies of it.
#[test]
fn a_destructor_that_panics_costs_no_worker() {
    let server = start(|| {
        async |_: Request| {
            let bytes = Bytes::from_owner(Spiteful(vec![b'x'; 10_000]));
            Response::html(HELLO).with_body(bytes)
        }
    });
    for _ in 0..3 {
        let mut client = Client::connect(&address(&server)).expect("a connection");
        client.send(GET);
        assert_eq!(client.answer().body.len(), 10_000);
    }
    server.drain();
    server.wait().expect("an end in order");
}

/// Clients that send and do not read, as many as it takes to use all memory up, keep nobody else
/// from being served.
#[test]
fn a_lack_of_memory_does_not_stop_the_others() {
    let mut limits = Limits::default();
    limits.receive_memory_max = Some(2 << 20);
    let never = || {
        async |request: Request| match request.path() {
            "/never" => std::future::pending().await,
            _ => Response::html(HELLO),
        }
    };
    let server = builder()
        .bind("127.0.0.1:0")
        .cores(1)
        .limits(limits)
        .start(never);
    let server = server.expect("a server");
    let address = address(&server);
    let hoarders: Vec<Client> = (0..300)
        .map(|_| {
            let mut client = Client::connect(&address).expect("a connection");
            client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    let metrics = &server.metrics()[0];
    eventually("requests", || (metrics.requests.get() == 300).then_some(()));
    for mut client in hoarders.iter().map(Client::twin) {
        // What is pipelined behind a request that waits has to wait, too.
        client.send(GET.repeat(400));
    }
    eventually("the limit", || {
        (metrics.blocks_in_use.get() >= 512).then_some(())
    });
    for _ in 0..50 {
        let mut client = Client::connect(&address).expect("a connection");
        client.send(GET);
        assert_eq!(client.answer().text(), HELLO);
    }
    server.stop();
    server.wait().expect("an end in order");
}
