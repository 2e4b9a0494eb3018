//! Transports on both engines, connected to sockets of the standard library.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use rustix::net::sockopt;

use super::*;
use crate::buf::Part;
use crate::engine::{self, EngineChoice};
use crate::rt::{peer_after_ms, peer_now_ms};
use crate::time::{sleep, timeout};
use crate::{run_with, spawn};

const TEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time that a wake-up may come after its deadline, in ms.
const LATE_MS_MAX: u64 = 10_000;
/// More bytes than the buffers of two sockets hold.
const LARGE_BYTES: usize = 20_000_000;

type Pair = (Transport, std::net::TcpStream);

/// Runs a coroutine made by `coroutine` on each engine.
fn on_each(coroutine: impl AsyncFn() + Copy + 'static) {
    for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
        let outcome = run_with(
            engine,
            async move { timeout(TEST_TIMEOUT, coroutine()).await },
        );
        outcome.expect("an engine").expect("an end");
    }
}

async fn connect(make: impl FnOnce(Stream) -> Transport) -> Pair {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    // Connections inherit this size. With a larger buffer, the kernel might take all bytes of a
    // test at once.
    sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let stream = Stream::connect(address.into()).await.expect("a listener");
    let (peer, _) = listener.accept().expect("a connection");
    (make(stream), peer)
}

async fn with_limits(limits: SendLimits) -> Pair {
    connect(|stream| Transport::with_deadlines(stream, Rc::new(limits))).await
}

/// A transport with deadlines, but without limits for its sends.
async fn without_limits() -> Pair {
    with_limits(SendLimits::new(u64::MAX, 0)).await
}

async fn receive(transport: &mut Transport) -> Result<RecvOutcome, TransportError> {
    poll_fn(|context| transport.poll_recv(context)).await
}

/// Receives until the outcome is not bytes. Returns the number of bytes, and that outcome.
async fn receive_all(transport: &mut Transport) -> (usize, Result<RecvOutcome, TransportError>) {
    let mut received = 0;
    loop {
        match receive(transport).await {
            Ok(RecvOutcome::Bytes(bytes)) => received += bytes,
            end => return (received, end),
        }
    }
}

async fn peer_of(transport: &mut Transport) -> Peer {
    poll_fn(|context| Poll::Ready(transport.poll_peer(context))).await
}

/// Reads to the end of the stream without blocking the worker.
async fn read_to_end(mut peer: std::net::TcpStream) -> Vec<u8> {
    peer.set_nonblocking(true).expect("a socket");
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match peer.read(&mut buffer) {
            Ok(0) => return received,
            Ok(n) => received.extend_from_slice(&buffer[..n]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Queues ten megabytes, in blocks and in parts, and returns these bytes.
fn queue_many(transport: &mut Transport) -> Vec<u8> {
    let pool = engine::pool();
    let mut expected = Vec::new();
    for n in 0..=u8::MAX {
        let head = [n; 300];
        let body: Vec<u8> = (0..40_000_u32)
            .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1] ^ n)
            .collect();
        transport.send_queue.write(&pool, &head);
        expected.extend(head);
        expected.extend(&body);
        transport.send_queue.push(Part::from(body));
    }
    expected
}

#[test]
fn the_rest_of_a_cancelled_send_is_sent_next() {
    on_each(async || {
        let (mut transport, peer) = without_limits().await;
        let expected = queue_many(&mut transport);
        let reader = spawn(read_to_end(peer));
        let mut cancelled = 0;
        let finished = poll_fn(|context| {
            let finished = transport.poll_finish(context);
            if finished.is_pending() && cancelled < 1000 {
                cancelled += 1;
                transport.stream.cancel_send();
            }
            finished
        });
        assert_eq!(finished.await, Ok(()));
        assert!(cancelled > 0, "all bytes were sent at once");
        assert!(!transport.has_unsent());
        transport.shutdown_write();
        let received = reader.await.expect("no panic");
        assert!(received == expected, "{} bytes came", received.len());
    });
}

#[test]
fn a_fin_is_distinguished_from_a_reset() {
    on_each(async || {
        let (mut transport, mut peer) = without_limits().await;
        assert_eq!(peer_of(&mut transport).await, Peer::Present);
        peer.write_all(&[1; 10_000]).expect("a peer");
        peer.shutdown(Shutdown::Write).expect("a socket");
        assert_eq!(
            receive_all(&mut transport).await,
            (10_000, Ok(RecvOutcome::Fin))
        );
        assert_eq!(transport.recv_buf.unread().len(), 10_000);
        assert!(transport.has_fin());
        assert_eq!(
            receive(&mut transport).await,
            Ok(RecvOutcome::Fin),
            "once more"
        );
        assert_eq!(peer_of(&mut transport).await, Peer::HalfClosed);
        transport
            .send_queue
            .push(Part::from("the peer still reads"));
        let flushed = poll_fn(|context| transport.poll_flush(context)).await;
        assert_eq!(flushed, Ok(()));

        let (mut transport, mut peer) = without_limits().await;
        peer.write_all(&[1; 10_000]).expect("a peer");
        sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("a socket");
        drop(peer);
        let reset = Err(TransportError::Broken(Errno::CONNRESET));
        assert_eq!(receive_all(&mut transport).await, (10_000, reset));
        assert!(!transport.has_fin());
        assert_eq!(peer_of(&mut transport).await, Peer::Gone);
    });
}

#[test]
fn nothing_is_sent_after_a_failed_send() {
    on_each(async || {
        let (mut transport, peer) = without_limits().await;
        sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("a socket");
        drop(peer);
        transport.send_queue.push(Part::from("lost"));
        let flushed = poll_fn(|context| transport.poll_flush(context)).await;
        assert!(
            matches!(flushed, Err(TransportError::Broken(_))),
            "{flushed:?}"
        );
        assert!(transport.is_broken() && transport.has_unsent());
        for _ in 0..2 {
            transport.send_queue.push(Part::from("too late"));
            let flushed = poll_fn(|context| transport.poll_flush(context)).await;
            assert_eq!(flushed, Err(TransportError::Broken(Errno::PIPE)));
            assert!(transport.send_queue.is_empty(), "its memory is released");
        }
    });
}

#[test]
fn a_receive_is_overdue_only_if_nothing_waits_in_the_kernel() {
    on_each(async || {
        let (mut transport, mut peer) = without_limits().await;
        peer.write_all(b"there").expect("a peer");
        transport.set_recv_deadline(0);
        assert_eq!(receive(&mut transport).await, Ok(RecvOutcome::Bytes(5)));
        assert_eq!(receive(&mut transport).await, Ok(RecvOutcome::Overdue));
        transport.clear_recv_deadline();
        peer.write_all(b"more").expect("a peer");
        assert_eq!(receive(&mut transport).await, Ok(RecvOutcome::Bytes(4)));
    });
}

/// A poll of a transport. Returns whether the caller must wait.
type Wait = fn(&mut Transport, &mut Context<'_>) -> bool;

const WAITS: [(&str, Wait); 5] = [
    ("receive", |transport, context| {
        transport.poll_recv(context).is_pending()
    }),
    ("receive and send", |transport, context| {
        transport
            .poll_recv_and_send(Interest::Failure, context)
            .is_pending()
    }),
    ("flush", |transport, context| {
        transport.poll_flush(context).is_pending()
    }),
    ("finish", |transport, context| {
        transport.poll_finish(context).is_pending()
    }),
    ("peer", |transport, context| {
        transport.poll_peer(context) == Peer::Present
    }),
];

/// Waits with `wait` until `deadline_ms`. Only the transport's timer wakes this task.
async fn assert_woken(name: &str, wait: Wait, transport: &mut Transport, deadline_ms: u64) {
    let woken_ms = poll_fn(|context| {
        let waits = wait(transport, context);
        match peer_now_ms() {
            now_ms if now_ms >= deadline_ms => Poll::Ready(now_ms),
            _ => {
                assert!(waits, "{name}: ready before the deadline");
                Poll::Pending
            }
        }
    });
    let late_ms = woken_ms.await - deadline_ms;
    assert!(late_ms < LATE_MS_MAX, "{name}: woken {late_ms} ms late");
}

/// Queues more bytes than the kernel takes, and starts to send them.
async fn start_sending(transport: &mut Transport) {
    transport.send_queue.push(Part::from(vec![0; LARGE_BYTES]));
    poll_fn(|context| Poll::Ready(transport.poll_flush(context).is_pending())).await;
}

#[test]
fn every_poll_that_waits_has_armed_the_deadline_of_the_receive() {
    on_each(async || {
        for (name, wait) in WAITS {
            let (mut transport, _peer) = with_limits(SendLimits::new(60_000, 0)).await;
            start_sending(&mut transport).await;
            let deadline_ms = peer_after_ms(100);
            transport.set_recv_deadline(deadline_ms);
            assert_woken(name, wait, &mut transport, deadline_ms).await;
        }
    });
}

#[test]
fn every_poll_that_waits_has_armed_the_deadline_of_the_send() {
    on_each(async || {
        for (name, wait) in WAITS {
            let (mut transport, _peer) = with_limits(SendLimits::new(200, 0)).await;
            start_sending(&mut transport).await;
            transport.set_recv_deadline(peer_after_ms(60_000));
            // The send is checked after half its timeout.
            assert_woken(name, wait, &mut transport, peer_after_ms(90)).await;
            let flushed = poll_fn(|context| transport.poll_flush(context)).await;
            assert_eq!(flushed, Err(TransportError::SendTimeout), "{name}");
        }
    });
}

#[test]
fn a_send_times_out_while_the_caller_receives() {
    on_each(async || {
        for timeout_ms in [1, 200] {
            let (mut transport, _peer) = with_limits(SendLimits::new(timeout_ms, 0)).await;
            transport.send_queue.push(Part::from(vec![0; LARGE_BYTES]));
            let received =
                poll_fn(|context| transport.poll_recv_and_send(Interest::Failure, context)).await;
            assert_eq!(
                received,
                Err(TransportError::SendTimeout),
                "{timeout_ms} ms"
            );
        }
    });
}

#[test]
fn a_transport_without_deadlines_waits_for_a_slow_peer() {
    on_each(async || {
        let (mut transport, peer) = connect(Transport::new).await;
        let expected = queue_many(&mut transport);
        let reader = spawn(async move {
            sleep(Duration::from_millis(300)).await;
            read_to_end(peer).await
        });
        let finished = poll_fn(|context| transport.poll_finish(context)).await;
        assert_eq!(finished, Ok(()));
        transport.shutdown_write();
        let received = reader.await.expect("no panic");
        assert!(received == expected, "{} bytes came", received.len());
        assert_eq!(receive(&mut transport).await, Ok(RecvOutcome::Fin));
    });
}
