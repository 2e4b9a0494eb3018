//! Streams and listeners on both engines, with each other and with the standard library's, which
//! knows nothing of ours.

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

const PATIENCE: Duration = Duration::from_secs(30);
const BLINK: Duration = Duration::from_millis(50);

/// Runs what `coroutine` makes on each engine.
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

/// A client of the standard library's, on a thread of its own.
fn std_client<T: Send + 'static>(
    address: SocketAddr,
    client: impl FnOnce(std::net::TcpStream) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::spawn(move || {
        let stream = std::net::TcpStream::connect(address).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        client(stream)
    })
}

#[test]
fn what_is_written_is_read_at_the_other_end() {
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
fn unix_sockets_are_the_same_by_a_path() {
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
        assert!(!path.exists(), "the file goes with its listener");
        let refused = UnixStream::connect(&path).await.expect_err("nobody there");
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        Ok(())
    });
}

#[test]
fn nobody_there_is_an_error() {
    on_each(async || {
        let address = listen()?.local_addr();
        // The listener is closed with the worker's next batch.
        sleep(BLINK).await;
        let refused = TcpStream::connect(address).await.expect_err("nobody there");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok(())
    });
}

#[test]
fn a_taken_port_is_an_error_of_one_line() {
    on_each(async || {
        let listener = listen()?;
        let error = TcpListener::bind(listener.local_addr()).expect_err("it is taken");
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

/// A listener whose backlog is full answers nobody: what connects waits, until its time is over.
#[test]
fn a_connect_can_be_given_up() {
    let deaf = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    );
    let deaf = deaf.expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    rustix::net::bind(&deaf, &any).expect("a port");
    rustix::net::listen(&deaf, 0).expect("a listener");
    let address = rustix::net::getsockname(&deaf).expect("a name");
    let address = SocketAddr::try_from(address).expect("an IP address");
    let started = Instant::now();
    on_each(async move || {
        let mut connected = Vec::new();
        let given_up = loop {
            match timeout(BLINK * 4, TcpStream::connect(address)).await {
                Ok(stream) => connected.push(stream?),
                Err(Elapsed) => break connected.len(),
            }
        };
        assert!(given_up < 10, "a backlog of none holds few");
        let aborted = spawn(TcpStream::connect(address));
        sleep(BLINK).await;
        aborted.abort();
        let outcome = aborted.await.map(drop);
        assert_eq!(outcome, Err(JoinError::Cancelled));
        Ok(())
    });
    assert!(started.elapsed() < PATIENCE, "the kernel was told");
}

#[test]
fn a_read_that_is_given_up_loses_nothing() {
    on_each(async || {
        let mut listener = listen()?;
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let client = std_client(listener.local_addr(), move |mut stream| {
            gate.recv().expect("a word");
            stream.write_all(b"late").expect("a peer");
        });
        let mut stream = listener.accept().await?;
        for _ in 0..3 {
            let given_up = timeout(BLINK, stream.read()).await;
            assert!(given_up.is_err(), "nothing was sent: {given_up:?}");
        }
        go.send(()).expect("a client");
        assert_eq!(stream.read().await?.as_deref(), Some(&b"late"[..]));
        assert!(stream.read().await?.is_none());
        client.join().expect("no panic");
        Ok(())
    });
}

#[test]
fn a_write_that_is_given_up_keeps_its_place() {
    on_each(async || {
        let mut listener = listen()?;
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let client = std_client(listener.local_addr(), move |mut stream| {
            gate.recv().expect("a word");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("an end in order");
            received
        });
        let mut stream = listener.accept().await?;
        let large = pattern(20_000_000);
        let given_up = timeout(BLINK, stream.write_all(large.clone())).await;
        assert!(given_up.is_err(), "nobody reads: {given_up:?}");
        go.send(()).expect("a client");
        stream.write_all("and the end").await?;
        drop(stream);
        // Its last bytes are sent while the worker lives.
        while !client.is_finished() {
            sleep(BLINK).await;
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
        assert!(stream.write_all("nobody").await.is_err());
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
        sleep(BLINK).await;
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

/// What a peer receives until the end of a stream, and how it ended; it begins when told to.
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

/// Waits for a thread, with the worker at work.
async fn join<T>(thread: thread::JoinHandle<T>) -> T {
    while !thread.is_finished() {
        sleep(BLINK).await;
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
        let given_up = timeout(BLINK, stream.write_all(pattern(20_000_000))).await;
        assert!(given_up.is_err(), "nobody reads: {given_up:?}");
        drop(stream);
        drop(go);
        assert_reset(join(client).await);
        Ok(())
    });
}

#[test]
fn a_stream_that_a_panic_drops_is_reset() {
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

/// The other half may live on, waiting for a peer that waits for the rest.
#[test]
fn the_writing_half_of_a_stream_that_is_cut_is_reset_at_once() {
    on_each(async || {
        let mut listener = listen()?;
        let (go, client) = read_to_end(listener.local_addr());
        let (mut reader, mut writer) = listener.accept().await?.split();
        let given_up = timeout(BLINK, writer.write_all(pattern(20_000_000))).await;
        assert!(given_up.is_err(), "nobody reads: {given_up:?}");
        let reading = spawn(async move { reader.read().await.map(drop) });
        drop(writer);
        drop(go);
        assert_reset(join(client).await);
        timeout(PATIENCE, reading)
            .await
            .expect("an end")
            .expect("no panic")
            .expect_err("a reset");
        Ok(())
    });
}

/// All was sent and its end as well: whatever happens then cuts nothing.
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
            end.expect("an end in order");
            assert_eq!(received, "the whole".len());
        }
        Ok(())
    });
}

/// Reads `len` bytes that are there.
async fn read_all(mut read: impl AsyncFnMut() -> io::Result<Option<Chunk>>, len: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < len {
        let piece = timeout(PATIENCE / 6, read()).await;
        let piece = piece.unwrap_or_else(|_| panic!("{} of {len} bytes", received.len()));
        received.extend_from_slice(&piece.expect("no error").expect("more"));
    }
    received
}

/// A receive ends at the mark of an urgent byte, with more behind it.
#[test]
fn urgent_data_hides_nothing_behind_it() {
    on_each(async || {
        let mut listener = listen()?;
        let client = std::net::TcpStream::connect(listener.local_addr())?;
        let mut stream = listener.accept().await?;
        for _ in 0..3 {
            // All of it is there before the worker looks.
            (&client).write_all(b"before")?;
            rustix::net::send(&client, b"!", rustix::net::SendFlags::OOB)?;
            (&client).write_all(b"behind")?;
            let received = read_all(async || stream.read().await, 12).await;
            assert_eq!(received, b"beforebehind");
        }
        Ok(())
    });
}

/// A receive ends behind the bytes that a descriptor came with, and at the mark of an urgent byte.
#[test]
fn descriptors_that_come_along_hide_nothing_behind_them() {
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
            // Not every kernel has urgent data here.
            let _ = send(&client, b"!", SendFlags::OOB);
            (&client).write_all(b"behind")?;
            let received = read_all(async || stream.read().await, 12).await;
            assert_eq!(received, b"beforebehind");
        }
        Ok(())
    });
}

/// Somebody else's waker, which comes back to the engine when it is woken and when it is dropped.
struct Meddler;

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Meddler {
    fn drop(&mut self) {
        drop(listen());
    }
}

#[test]
fn a_waker_of_others_may_use_sockets() {
    on_each(async || {
        let mut listener = listen()?;
        let mut client = std::net::TcpStream::connect(listener.local_addr())?;
        let mut stream = listener.accept().await?;
        let mut reading = Box::pin(stream.read());
        // The second takes the place of the first, and is woken.
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(Meddler));
            let read = reading.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(read.is_pending());
        }
        client.write_all(b"a byte")?;
        sleep(BLINK).await;
        assert_eq!(reading.await?.as_deref(), Some(&b"a byte"[..]));
        // Given up while it is woken for, twice.
        let mut writing = Box::pin(stream.write_all(pattern(20_000_000)));
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(Meddler));
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

/// Carries what `made` makes into another run, where `used` uses it beside sockets that may have
/// the numbers of those that were carried: on each engine that must panic.
#[track_caller]
fn is_a_stranger<T: 'static>(
    made: impl AsyncFn() -> io::Result<T> + Clone + 'static,
    used: impl AsyncFn(T) -> io::Result<()> + Clone + 'static,
) {
    for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
        let (made, used) = (made.clone(), used.clone());
        let carried = run_with(engine, async move { made().await });
        let carried = carried.expect("an engine").expect("sockets");
        let elsewhere = async move {
            let (mut client, mut server) = pair().await?;
            client.write_all("not yours").await?;
            server.write_all("nor yours").await?;
            // Nor is it to wait for ever.
            timeout(PATIENCE, used(carried)).await.unwrap_or(Ok(()))
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| run_with(engine, elsewhere)));
        let outcome = outcome.map(|outcome| outcome.expect("an engine"));
        assert!(outcome.is_err(), "{engine:?}: it was told {outcome:?}");
    }
}

#[test]
fn a_stream_is_read_in_the_run_that_made_it_only() {
    is_a_stranger(pair, async |(mut client, _server)| {
        client.read().await.map(drop)
    });
}

#[test]
fn a_stream_is_written_in_the_run_that_made_it_only() {
    is_a_stranger(pair, async |(mut client, _server)| {
        client.write_all("a word").await
    });
}

/// Bytes that were under way when a run ended have not all gone out, so a later write that went
/// well would leave a hole.
#[test]
fn a_write_that_the_end_of_its_run_cut_off_is_not_continued() {
    let interrupted = async || {
        let (mut client, server) = pair().await?;
        let given_up = timeout(BLINK, client.write_all(pattern(20_000_000))).await;
        assert!(given_up.is_err(), "nobody reads: {given_up:?}");
        Ok((client, server))
    };
    is_a_stranger(interrupted, async |(mut client, _server)| {
        client.write_all("").await
    });
}

#[test]
fn a_listener_accepts_in_the_run_that_made_it_only() {
    let listening = async || listen();
    is_a_stranger(listening, async |mut listener| {
        let _client = std::net::TcpStream::connect(listener.local_addr())?;
        listener.accept().await.map(drop)
    });
}

/// Connections that wait in the kernel's backlog of a listener (proc_net_tcp(5)).
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

/// Clients that connect and send their number.
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
        let accepted = timeout(PATIENCE, listener.accept()).await;
        let mut stream = accepted.expect("no connection is lost")?;
        let chunk = stream.read().await?.expect("a number");
        numbers.push(u32::from_le_bytes(
            chunk[..].try_into().expect("four bytes"),
        ));
    }
    Ok(numbers)
}

#[test]
fn a_listener_takes_what_is_asked_for_and_leaves_the_rest_in_the_backlog() {
    on_each(async || {
        let mut listener = listen()?;
        let _clients = std_clients(listener.local_addr(), 0..100);
        let mut numbers = numbers_of(&mut listener, 1).await?;
        sleep(BLINK).await;
        assert_eq!(backlog(listener.local_addr()), 99);
        numbers.extend(numbers_of(&mut listener, 99).await?);
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..100));
        Ok(())
    });
}

#[test]
fn a_program_that_stops_accepting_is_given_a_bounded_number_of_connections() {
    on_each(async || {
        let mut listener = listen()?;
        let address = listener.local_addr();
        let mut clients = std_clients(address, 0..20);
        // It keeps up at first.
        for _ in 0..20 {
            listener.accept().await?;
        }
        let accepting = timeout(BLINK, listener.accept()).await;
        assert!(accepting.is_err(), "nobody connects: {accepting:?}");
        let more = thread::spawn(move || std_clients(address, 20..420));
        while !more.is_finished() {
            sleep(BLINK).await;
        }
        clients.extend(more.join().expect("no panic"));
        sleep(BLINK).await;
        let waiting = backlog(address);
        assert!(waiting >= 200, "{waiting} of 400 are left in the backlog");
        let mut numbers = numbers_of(&mut listener, 400).await?;
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(20..420));
        Ok(())
    });
}

#[test]
fn a_listener_that_cannot_be_watched_says_so_each_time() {
    on_each(async || {
        let file = std::fs::File::open("/proc/self/exe")?;
        let listener = Listener::new(OwnedFd::from(file));
        for _ in 0..3 {
            let accepted = poll_fn(|context| listener.poll_accept(context));
            let accepted = timeout(PATIENCE, accepted).await.expect("an answer");
            assert!(matches!(accepted, Some(Err(_))), "{accepted:?}");
        }
        Ok(())
    });
}
