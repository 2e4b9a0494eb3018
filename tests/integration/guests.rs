//! Workers as guests of another executor. The host here is a plain loop around poll(2).

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use coring::{EngineChoice, Guest, Handle, Request, Response, Turned, run_as_guest};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::support::{Address, Client, GET, HELLO, PATIENCE, builder, engine, eventually};

/// The waker of the host's only task: ends its poll(2).
struct Host(std::os::fd::OwnedFd);

impl Wake for Host {
    fn wake(self: Arc<Self>) {
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).expect("an eventfd");
    }
}

/// Turns a guest until it is done, and returns also how often it waited.
fn drive<T: 'static>(guest: &mut Guest<T>) -> (T, u32) {
    let host = Arc::new(Host(
        eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd"),
    ));
    let waker = Waker::from(host.clone());
    let mut waits = 0;
    loop {
        let time = match guest.turn(&waker).expect("a turn") {
            Turned::Done(output) => return (output, waits),
            Turned::Again => continue,
            Turned::Waits(time) => time,
        };
        waits += 1;
        let time = time.map(|time| time.try_into().expect("a short time"));
        let mut descriptors = [
            PollFd::new(&host.0, PollFlags::IN),
            PollFd::from_borrowed_fd(guest.as_fd(), PollFlags::IN),
        ];
        poll(&mut descriptors, time.as_ref()).expect("poll");
        let reports = !descriptors[1].revents().is_empty();
        let mut counter = [0; 8];
        let _ = rustix::io::read(&host.0, &mut counter);
        // This host does not wait for edges, so it takes the report. An epoll instance cannot be
        // read, and a turn takes its events.
        if reports {
            let _ = rustix::io::read(guest.as_fd(), &mut counter);
        }
    }
}

fn hello() -> impl coring::Service {
    async |request: Request| {
        if request.path() == "/blocking" {
            coring::time::sleep(Duration::from_millis(1)).await;
            let _ = coring::fs::read("/proc/self/status").await;
        }
        Response::html(HELLO)
    }
}

fn connect(handle: &Handle) -> Client {
    let address = handle.addresses()[0].to_string();
    Client::connect(&Address::Tcp(address.parse().expect("an address"))).expect("a connection")
}

#[test]
fn a_guest_returns_what_its_coroutine_returns() {
    let mut guest = run_as_guest(engine(), async {
        let (sender, receiver) = coring::sync::channel(1);
        coring::spawn(async move {
            coring::time::sleep(Duration::from_millis(2)).await;
            sender.send(41).await
        });
        let mut receiver = receiver;
        1 + receiver.recv().await.expect("a number")
    });
    let guest = guest.as_mut().expect("an engine");
    assert_eq!(drive(guest).0, 42);
}

/// Each request needs sleeps of the host: lost wake-ups would let one of them time out.
#[test]
fn a_guest_serves_and_drains() {
    let (handle, mut guest) = builder()
        .bind("127.0.0.1:0")
        .attach(hello)
        .expect("a server");
    let client_handle = handle.clone();
    let client = thread::spawn(move || {
        let mut client = connect(&client_handle);
        for path in ["/", "/blocking"] {
            for _ in 0..200 {
                client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                assert_eq!(client.response().text(), HELLO);
            }
        }
        client_handle.drain();
        // The worker hears of the drain at its next turn, so a response may still keep alive.
        let closes = (0..1000).any(|_| {
            client.send(GET);
            client.response().closes()
        });
        assert!(closes);
        client_handle.wait().expect("an orderly end");
    });
    assert!(handle.wait().is_err(), "it would wait for its own thread");
    let (_, waits) = drive(&mut guest);
    assert!(waits > 200, "the worker sleeps itself: {waits}");
    client.join().expect("the client");
    handle.wait().expect("the end of its own worker");
    let metrics = &handle.metrics()[0];
    let left = [
        &metrics.blocks_in_use,
        &metrics.ops_in_flight,
        &metrics.tasks_live,
        &metrics.timers_live,
    ];
    assert_eq!(left.map(|gauge| gauge.get()), [0; 4]);
}

#[test]
fn attached_threads_share_a_handle() {
    let (handle, seats) = builder()
        .bind("127.0.0.1:0")
        .attach_all(2, hello)
        .expect("a server");
    let threads: Vec<_> = seats
        .into_iter()
        .map(|seat| thread::spawn(move || drive(&mut seat.take().expect("a worker")).0))
        .collect();
    eventually("both workers serve", || {
        let mut client = connect(&handle);
        client.send(GET);
        assert_eq!(client.response().text(), HELLO);
        let served = handle
            .metrics()
            .iter()
            .all(|worker| worker.requests.get() > 0);
        served.then_some(())
    });
    handle.drain();
    handle.wait().expect("an orderly end");
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("a worker"));
}

/// No worker serves without the others.
#[test]
fn a_dropped_seat_or_guest_stops_the_server() {
    let (handle, mut seats) = builder()
        .bind("127.0.0.1:0")
        .attach_all(2, hello)
        .expect("a server");
    let seat = seats.pop().expect("two seats");
    let worker = thread::spawn(move || drive(&mut seat.take().expect("a worker")).0);
    drop(seats);
    worker.join().expect("a worker that was stopped");
    handle.wait().expect("an end");

    let (handle, mut guest) = builder()
        .bind("127.0.0.1:0")
        .attach(hello)
        .expect("a server");
    let _ = guest.turn(Waker::noop()).expect("a turn");
    drop(guest);
    handle.wait().expect("an end");
    let address = handle.addresses()[0].to_string();
    let address = Address::Tcp(address.parse().expect("an address"));
    assert!(Client::connect(&address).is_err(), "the listener is open");
}

/// The drop of the last handle does not wait for a seat, which the same thread may have.
#[test]
fn a_seat_is_void_without_a_handle() {
    let (report, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let bound = builder().bind("127.0.0.1:0");
        let (handle, mut seats) = bound.attach_all(2, hello).expect("a server");
        let seat = seats.pop().expect("two seats");
        let worker = thread::spawn(move || seat.take().map(|mut guest| drive(&mut guest).0));
        drop(handle);
        // It was taken before the drop, or after it.
        let _ = worker.join().expect("a worker that was stopped");
        let seat = seats.pop().expect("another seat");
        let taken = seat.take().map(drop);
        report.send(taken).expect("the test waits");
    });
    let taken = ended.recv_timeout(PATIENCE).expect("the end of the drop");
    let error = taken.expect_err("no server");
    assert!(error.to_string().contains("last handle"), "{error}");
}

/// A waker that is woken by the host's own code, outside a turn, wakes the host.
#[test]
fn the_host_may_wake_a_coroutine() {
    let (sender, waker) = std::sync::mpsc::channel::<Waker>();
    let woken = Rc::new(std::cell::Cell::new(false));
    let seen = woken.clone();
    let wait = std::future::poll_fn(move |context| match seen.get() {
        true => std::task::Poll::Ready(()),
        false => {
            let _ = sender.send(context.waker().clone());
            std::task::Poll::Pending
        }
    });
    let mut guest = run_as_guest(engine(), wait).expect("an engine");
    while !matches!(guest.turn(Waker::noop()).expect("a turn"), Turned::Waits(_)) {}
    struct Flag(std::sync::atomic::AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let host = Arc::new(Flag(std::sync::atomic::AtomicBool::new(false)));
    let host_waker = Waker::from(host.clone());
    while matches!(guest.turn(&host_waker).expect("a turn"), Turned::Again) {}
    woken.set(true);
    waker.recv().expect("a waker").wake();
    assert!(host.0.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(drive(&mut guest).0, ());
}

/// A timer of a guest that does nothing else is not late by the time of a poll.
#[test]
fn a_wait_ends_at_the_next_timer() {
    let sleep = async { coring::time::sleep(Duration::from_millis(20)).await };
    let mut guest = run_as_guest(EngineChoice::Epoll, sleep).expect("epoll");
    let begin = Instant::now();
    let (_, waits) = drive(&mut guest);
    assert!(begin.elapsed() >= Duration::from_millis(20));
    assert!((1..50).contains(&waits), "{waits} waits");
}
