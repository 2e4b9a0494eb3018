//! Streams and listeners on both engines, connected to each other and to sockets of the standard
//! library.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::Chunk;
use crate::engine::EngineChoice;
use crate::sync::channel;
use crate::task::{JoinError, join_all};
use crate::time::{Elapsed, sleep, timeout};
use crate::{run_with, spawn};

const TEST_TIMEOUT: Duration = Duration::from_secs(30);
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// Runs a coroutine made by `coroutine` on each engine.
pub(super) fn on_each(coroutine: impl AsyncFn() -> io::Result<()> + Copy + 'static) {
    for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
        let outcome = run_with(engine, async move { coroutine().await });
        outcome.expect("an engine").expect("no error");
    }
}

fn listen() -> io::Result<TcpListener> {
    TcpListener::bind(([127, 0, 0, 1], 0))
}

/// Bytes without a short period.
fn pattern(len: usize) -> Vec<u8> {
    let bytes = (0..len).map(|n| (n * 31 + n / 256 * 7) % 251);
    bytes.map(|byte| u8::try_from(byte).unwrap()).collect()
}

/// A client with a socket of the standard library, on its own thread.
fn std_client<T: Send + 'static>(
    address: SocketAddr,
    client: impl FnOnce(std::net::TcpStream) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::spawn(move || {
        let stream = std::net::TcpStream::connect(address).expect("a listener");
        stream
            .set_read_timeout(Some(TEST_TIMEOUT))
            .expect("a socket");
        client(stream)
    })
}

#[test]
fn written_bytes_are_read_at_the_other_end() {
    on_each(async || {
        let mut listener = listen()?;
        let address = listener.local_addr();
        let server = spawn(async move {
            let mut stream = listener.accept().await?;
            let mut received = Vec::new();
            while let Some(chunk) = stream.read().await? {
                received.extend_from_slice(&chunk);
            }
            stream.write_all(received).await
        });
        let mut stream = TcpStream::connect(address).await?;
        assert_eq!(stream.peer_addr()?, address);
        let sent = pattern(3_000_000);
        stream.write_all(sent.clone()).await?;
        stream.shutdown_write();
        let mut received = Vec::new();
        while let Some(chunk) = stream.read().await? {
            received.extend_from_slice(&chunk);
        }
        assert!(received == sent, "{} bytes came back", received.len());
        server.await.expect("no panic")
    });
}

#[test]
fn both_directions_flow_at_once() {
    on_each(async || {
        let mut listener = listen()?;
        let address = listener.local_addr();
        let echo = spawn(async move {
            let (mut reader, mut writer) = listener.accept().await?.split();
            let (sender, mut receiver) = channel(4);
            let writing = spawn(async move {
                while let Some(chunk) = receiver.recv().await {
                    writer.write_all(chunk).await?;
                }
                io::Result::Ok(())
            });
            while let Some(chunk) = reader.read().await? {
                sender.send(chunk).await.expect("a writer");
            }
            drop(sender);
            writing.await.expect("no panic")
        });
        let (mut reader, mut writer) = TcpStream::connect(address).await?.split();
        let sent = pattern(3_000_000);
        let copy = sent.clone();
        let writing = spawn(async move { writer.write_all(copy).await });
        let mut received = Vec::new();
        while let Some(chunk) = reader.read().await? {
            received.extend_from_slice(&chunk);
        }
        assert!(received == sent, "{} bytes came back", received.len());
        let outcomes = join_all([writing, echo]).await;
        assert!(matches!(outcomes[..], [Ok(Ok(())), Ok(Ok(()))]));
        Ok(())
    });
}

#[test]
fn unix_streams_are_connected_by_a_path() {
    on_each(async || {
        let name = format!("coring-net-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut listener = UnixListener::bind(&path)?;
        assert_eq!(listener.path(), path);
        let server = spawn(async move {
            let mut stream = listener.accept().await?;
            let chunk = stream.read().await?.expect("a greeting");
            stream.write_all(chunk).await
        });
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all("hello").await?;
        assert_eq!(stream.read().await?.as_deref(), Some(&b"hello"[..]));
        server.await.expect("no panic")?;
        assert!(!path.exists(), "the listener has removed its file");
        let refused = UnixStream::connect(&path).await.expect_err("no listener");
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        Ok(())
    });
}

#[test]
fn connecting_without_a_listener_is_an_error() {
    on_each(async || {
        let address = listen()?.local_addr();
        // The listener is closed with the worker's next batch.
        sleep(SHORT_WAIT).await;
        let refused = TcpStream::connect(address).await.expect_err("no listener");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok(())
    });
}

#[test]
fn a_taken_port_is_an_error_of_one_line() {
    on_each(async || {
        let listener = listen()?;
        let error = TcpListener::bind(listener.local_addr()).expect_err("a taken port");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let line = error.to_string();
        let (address, pid) = (listener.local_addr(), std::process::id());
        assert!(line.starts_with(&format!("cannot listen on {address}: ")));
        assert!(
            line.contains(&format!("(pid {pid}) has the port")),
            "{line}"
        );
        assert!(!line.contains('\n'));
        Ok(())
    });
}

/// With a full backlog, a listener does not complete connections, so connecting times out.
#[test]
fn a_connect_can_be_cancelled() {
    let listener = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    );
    let listener = listener.expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    rustix::net::bind(&listener, &any).expect("a port");
    rustix::net::listen(&listener, 0).expect("a listener");
    let address = rustix::net::getsockname(&listener).expect("a name");
    let address = SocketAddr::try_from(address).expect("an IP address");
    let started = Instant::now();
    on_each(async move || {
        let mut connected = Vec::new();
        let backlog = loop {
            match timeout(SHORT_WAIT * 4, TcpStream::connect(address)).await {
                Ok(stream) => connected.push(stream?),
                Err(Elapsed) => break connected.len(),
            }
        };
        assert!(backlog < 10, "a backlog of 0 accepts few connections");
        let aborted = spawn(TcpStream::connect(address));
        sleep(SHORT_WAIT).await;
        aborted.abort();
        let outcome = aborted.await.map(drop);
        assert_eq!(outcome, Err(JoinError::Cancelled));
        Ok(())
    });
    assert!(
        started.elapsed() < TEST_TIMEOUT,
        "the connects were cancelled"
    );
}

#[test]
fn a_dropped_read_loses_no_bytes() {
    on_each(async || {
        let mut listener = listen()?;
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let client = std_client(listener.local_addr(), move |mut stream| {
            gate.recv().expect("a signal");
            stream.write_all(b"late").expect("a peer");
        });
        let mut stream = listener.accept().await?;
        for _ in 0..3 {
            let read = timeout(SHORT_WAIT, stream.read()).await;
            assert!(read.is_err(), "nothing was sent: {read:?}");
        }
        go.send(()).expect("a client");
        assert_eq!(stream.read().await?.as_deref(), Some(&b"late"[..]));
        assert!(stream.read().await?.is_none());
        client.join().expect("no panic");
        Ok(())
    });
}

#[test]
fn the_bytes_of_a_dropped_write_precede_those_of_later_writes() {
    on_each(async || {
        let mut listener = listen()?;
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let client = std_client(listener.local_addr(), move |mut stream| {
            gate.recv().expect("a signal");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("a clean end");
            received
        });
        let mut stream = listener.accept().await?;
        let large = pattern(20_000_000);
        let written = timeout(SHORT_WAIT, stream.write_all(large.clone())).await;
        assert!(written.is_err(), "the client does not read: {written:?}");
        go.send(()).expect("a client");
        stream.write_all("and the end").await?;
        drop(stream);
        // The worker must run until the last bytes are sent.
        while !client.is_finished() {
            sleep(SHORT_WAIT).await;
        }
        let received = client.join().expect("no panic");
        assert!(received == [&large[..], b"and the end"].concat());
        Ok(())
    });
}

#[test]
fn a_broken_connection_is_an_error() {
    on_each(async || {
        let mut listener = listen()?;
        let client = std_client(listener.local_addr(), |stream| {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))
        });
        let mut stream = listener.accept().await?;
        let error = stream.read().await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(stream.write_all("lost").await.is_err());
        client.join().expect("no panic")?;
        Ok(())
    });
}

#[test]
fn bytes_that_arrived_before_a_reset_are_received() {
    on_each(async || {
        let mut listener = listen()?;
        let client = std_client(listener.local_addr(), |mut stream| {
            stream.write_all(&pattern(10_000))?;
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            io::Result::Ok(())
        });
        let mut stream = listener.accept().await?;
        join(client).await?;
        // The kernel reports the reset meanwhile.
        sleep(SHORT_WAIT).await;
        let mut received = Vec::new();
        let error = loop {
            match stream.read().await {
                Ok(Some(chunk)) => received.extend_from_slice(&chunk),
                end => break end.expect_err("a reset"),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(received.len(), 10_000);
        assert!(received == pattern(10_000));
        assert!(stream.read().await.is_err(), "it stays broken");
        Ok(())
    });
}

/// Starts a client that reads to the end of its stream once the returned sender sends or is
/// dropped. The client returns how many bytes it received, and how the stream ended.
fn read_to_end(
    address: SocketAddr,
) -> (
    std::sync::mpsc::Sender<()>,
    thread::JoinHandle<(usize, io::Result<()>)>,
) {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let client = std_client(address, move |mut stream| {
        let _ = gate.recv();
        let mut received = Vec::new();
        let end = stream.read_to_end(&mut received);
        (received.len(), end.map(drop))
    });
    (go, client)
}

/// Waits for a thread without blocking the worker.
async fn join<T>(thread: thread::JoinHandle<T>) -> T {
    while !thread.is_finished() {
        sleep(SHORT_WAIT).await;
    }
    thread.join().expect("no panic")
}

fn assert_reset((received, end): (usize, io::Result<()>)) {
    let error = end.expect_err(&format!("a clean end after {received} bytes"));
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_stream_that_is_dropped_with_bytes_unsent_is_reset() {
    on_each(async || {
        let mut listener = listen()?;
        let (go, client) = read_to_end(listener.local_addr());
        let mut stream = listener.accept().await?;
        let written = timeout(SHORT_WAIT, stream.write_all(pattern(20_000_000))).await;
        assert!(written.is_err(), "the client does not read: {written:?}");
        drop(stream);
        drop(go);
        assert_reset(join(client).await);
        Ok(())
    });
}

#[test]
fn a_stream_that_is_dropped_by_a_panic_is_reset() {
    on_each(async || {
        let mut listener = listen()?;
        let (go, client) = read_to_end(listener.local_addr());
        let mut stream = listener.accept().await?;
        let failed = spawn(async move {
            stream.write_all("the first half").await.expect("a peer");
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(failed.await.is_err());
        drop(go);
        assert_reset(join(client).await);
        Ok(())
    });
}

/// The reading half may still be in use: it waits for a peer that waits for the missing bytes.
#[test]
fn dropping_a_writing_half_with_bytes_unsent_resets_the_stream_at_once() {
    on_each(async || {
        let mut listener = listen()?;
        let (go, client) = read_to_end(listener.local_addr());
        let (mut reader, mut writer) = listener.accept().await?.split();
        let written = timeout(SHORT_WAIT, writer.write_all(pattern(20_000_000))).await;
        assert!(written.is_err(), "the client does not read: {written:?}");
        let reading = spawn(async move { reader.read().await.map(drop) });
        drop(writer);
        drop(go);
        assert_reset(join(client).await);
        timeout(TEST_TIMEOUT, reading)
            .await
            .expect("an end")
            .expect("no panic")
            .expect_err("a reset");
        Ok(())
    });
}

/// Everything was sent, and a FIN: a later panic does not truncate the stream.
#[test]
fn a_stream_that_has_ended_is_not_reset() {
    on_each(async || {
        let mut listener = listen()?;
        for split in [false, true] {
            let (go, client) = read_to_end(listener.local_addr());
            let mut stream = listener.accept().await?;
            let failed = spawn(async move {
                if split {
                    let (_reader, mut writer) = stream.split();
                    writer.write_all("the whole").await.expect("a peer");
                    drop(writer);
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
                stream.write_all("the whole").await.expect("a peer");
                stream.shutdown_write();
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            assert!(failed.await.is_err());
            drop(go);
            let (received, end) = join(client).await;
            end.expect("a clean end");
            assert_eq!(received, "the whole".len());
        }
        Ok(())
    });
}

/// Reads `len` bytes that have been sent already.
async fn read_all(mut read: impl AsyncFnMut() -> io::Result<Option<Chunk>>, len: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < len {
        let chunk = timeout(TEST_TIMEOUT / 6, read()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("{} of {len} bytes", received.len()));
        received.extend_from_slice(&chunk.expect("no error").expect("more bytes"));
    }
    received
}

/// A receive ends at the mark of an urgent byte, even if more bytes follow.
#[test]
fn bytes_after_an_urgent_byte_are_received() {
    on_each(async || {
        let mut listener = listen()?;
        let client = std::net::TcpStream::connect(listener.local_addr())?;
        let mut stream = listener.accept().await?;
        for _ in 0..3 {
            // All of it has arrived before the worker receives.
            (&client).write_all(b"before")?;
            rustix::net::send(&client, b"!", rustix::net::SendFlags::OOB)?;
            (&client).write_all(b"behind")?;
            let received = read_all(async || stream.read().await, 12).await;
            assert_eq!(received, b"beforebehind");
        }
        Ok(())
    });
}

/// A receive ends after the bytes that carry a descriptor, and at the mark of an urgent byte.
#[test]
fn bytes_after_a_passed_descriptor_are_received() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
    on_each(async || {
        let name = format!("coring-net-rights-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut listener = UnixListener::bind(&path)?;
        let client = std::os::unix::net::UnixStream::connect(&path)?;
        let mut stream = listener.accept().await?;
        let descriptors = [std::os::fd::AsFd::as_fd(&client)];
        for _ in 0..3 {
            let mut space = [std::mem::MaybeUninit::uninit(); 64];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
            let first = [io::IoSlice::new(b"before")];
            sendmsg(&client, &first, &mut control, SendFlags::empty())?;
            (&client).write_all(b"behind")?;
            let received = read_all(async || stream.read().await, 12).await;
            assert_eq!(received, b"beforebehind");
            (&client).write_all(b"before")?;
            // Not every kernel supports urgent data on Unix sockets.
            let _ = send(&client, b"!", SendFlags::OOB);
            (&client).write_all(b"behind")?;
            let received = read_all(async || stream.read().await, 12).await;
            assert_eq!(received, b"beforebehind");
        }
        Ok(())
    });
}

/// A foreign waker that uses the engine when it is dropped, which also follows a wake-up.
struct ReentrantWaker;

impl Wake for ReentrantWaker {
    fn wake(self: Arc<Self>) {}
}

impl Drop for ReentrantWaker {
    fn drop(&mut self) {
        drop(listen());
    }
}

#[test]
fn a_foreign_waker_may_use_sockets() {
    on_each(async || {
        let mut listener = listen()?;
        let mut client = std::net::TcpStream::connect(listener.local_addr())?;
        let mut stream = listener.accept().await?;
        let mut reading = Box::pin(stream.read());
        // The second waker replaces the first, which is dropped. The second is woken.
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(ReentrantWaker));
            let read = reading.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(read.is_pending());
        }
        client.write_all(b"a byte")?;
        sleep(SHORT_WAIT).await;
        assert_eq!(reading.await?.as_deref(), Some(&b"a byte"[..]));
        // The write is dropped while it has a waker, which has replaced another.
        let mut writing = Box::pin(stream.write_all(pattern(20_000_000)));
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(ReentrantWaker));
            let written = writing.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(written.is_pending());
        }
        drop(writing);
        drop(stream);
        Ok(())
    });
}

async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let mut listener = listen()?;
    let client = TcpStream::connect(listener.local_addr()).await?;
    Ok((client, listener.accept().await?))
}

/// Makes a value in one run and uses it in another, on each engine. The use must panic. The second
/// run has sockets of its own, whose operations may have the ids of the first run's.
#[track_caller]
fn assert_panics_in_another_run<T: 'static>(
    make: impl AsyncFn() -> io::Result<T> + Clone + 'static,
    use_it: impl AsyncFn(T) -> io::Result<()> + Clone + 'static,
) {
    for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
        let (make, use_it) = (make.clone(), use_it.clone());
        let value = run_with(engine, async move { make().await });
        let value = value.expect("an engine").expect("sockets");
        let second_run = async move {
            let (mut client, mut server) = pair().await?;
            client.write_all("other bytes").await?;
            server.write_all("other bytes").await?;
            // A use that waits for ever fails the test as well.
            timeout(TEST_TIMEOUT, use_it(value)).await.unwrap_or(Ok(()))
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| run_with(engine, second_run)));
        let outcome = outcome.map(|outcome| outcome.expect("an engine"));
        assert!(outcome.is_err(), "{engine:?}: no panic, but {outcome:?}");
    }
}

#[test]
fn a_stream_is_read_in_the_run_that_made_it_only() {
    assert_panics_in_another_run(pair, async |(mut client, _server)| {
        client.read().await.map(drop)
    });
}

#[test]
fn a_stream_is_written_in_the_run_that_made_it_only() {
    assert_panics_in_another_run(pair, async |(mut client, _server)| {
        client.write_all("a word").await
    });
}

/// The end of a run discards unsent bytes, so a later write that succeeded would leave a gap in the
/// stream.
#[test]
fn a_write_that_the_end_of_its_run_has_interrupted_is_not_continued() {
    let interrupted = async || {
        let (mut client, server) = pair().await?;
        let written = timeout(SHORT_WAIT, client.write_all(pattern(20_000_000))).await;
        assert!(written.is_err(), "the server does not read: {written:?}");
        Ok((client, server))
    };
    assert_panics_in_another_run(interrupted, async |(mut client, _server)| {
        client.write_all("").await
    });
}

#[test]
fn a_listener_accepts_in_the_run_that_made_it_only() {
    let listening = async || listen();
    assert_panics_in_another_run(listening, async |mut listener| {
        let _client = std::net::TcpStream::connect(listener.local_addr())?;
        listener.accept().await.map(drop)
    });
}

/// The number of connections in a listener's backlog (proc_net_tcp(5)).
fn backlog(address: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of sockets");
    let local = format!(" 0100007F:{:04X} ", address.port());
    let row = table
        .lines()
        .find(|row| row.contains(&local) && row.contains(" 00000000:0000 0A "));
    let queues = row.and_then(|row| row.split_whitespace().nth(4));
    let waiting = queues.and_then(|queues| queues.split_once(':'));
    usize::from_str_radix(waiting.expect("a listener").1, 16).expect("a number")
}

/// Connects a client for each of `numbers`, which sends its number.
fn std_clients(address: SocketAddr, numbers: std::ops::Range<u32>) -> Vec<std::net::TcpStream> {
    let connect = |number: u32| {
        let mut client = std::net::TcpStream::connect(address).expect("a listener");
        client.write_all(&number.to_le_bytes()).expect("a peer");
        client
    };
    numbers.map(connect).collect()
}

/// Accepts `count` connections and returns what their clients sent.
async fn numbers_of(listener: &mut TcpListener, count: usize) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        let accepted = timeout(TEST_TIMEOUT, listener.accept()).await;
        let mut stream = accepted.expect("no connection is lost")?;
        let chunk = stream.read().await?.expect("a number");
        numbers.push(u32::from_le_bytes(
            chunk[..].try_into().expect("four bytes"),
        ));
    }
    Ok(numbers)
}

#[test]
fn a_listener_accepts_one_connection_per_call_and_leaves_the_rest_in_the_backlog() {
    on_each(async || {
        let mut listener = listen()?;
        let _clients = std_clients(listener.local_addr(), 0..100);
        let mut numbers = numbers_of(&mut listener, 1).await?;
        sleep(SHORT_WAIT).await;
        assert_eq!(backlog(listener.local_addr()), 99);
        numbers.extend(numbers_of(&mut listener, 99).await?);
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..100));
        Ok(())
    });
}

#[test]
fn a_listener_that_is_not_polled_takes_a_bounded_number_of_connections() {
    on_each(async || {
        let mut listener = listen()?;
        let address = listener.local_addr();
        let mut clients = std_clients(address, 0..20);
        // At first the program accepts every connection.
        for _ in 0..20 {
            listener.accept().await?;
        }
        let accepting = timeout(SHORT_WAIT, listener.accept()).await;
        assert!(accepting.is_err(), "no client connects: {accepting:?}");
        // The kernel accepts all that wait before the executor's next turn, so each turn gets few.
        for first in (20..420).step_by(20) {
            clients.extend(std_clients(address, first..first + 20));
            sleep(Duration::from_millis(1)).await;
        }
        sleep(SHORT_WAIT).await;
        let waiting = backlog(address);
        assert!(waiting >= 200, "{waiting} of 400 are left in the backlog");
        let mut numbers = numbers_of(&mut listener, 400).await?;
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(20..420));
        Ok(())
    });
}

#[test]
fn accepting_on_a_file_is_an_error_each_time() {
    on_each(async || {
        let file = std::fs::File::open("/proc/self/exe")?;
        let listener = Listener::new(OwnedFd::from(file));
        for _ in 0..3 {
            let accepted = poll_fn(|context| listener.poll_accept(context));
            let accepted = timeout(TEST_TIMEOUT, accepted).await.expect("an outcome");
            assert!(matches!(accepted, Some(Err(_))), "{accepted:?}");
        }
        Ok(())
    });
}
