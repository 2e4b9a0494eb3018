//! Messages and descriptors on both engines. The tests pass writing ends of pipes: the reading end
//! of a pipe reports when all copies of its writing end are closed.

use std::future::{Future, poll_fn};
use std::io::{IoSlice, PipeReader, Write, pipe};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, shutdown};

use super::*;
use crate::net::tests::on_each;
use crate::net::{Events, Polling};
use crate::spawn;
use crate::task::yield_now;
use crate::time::{sleep, timeout};

const MESSAGE_WAIT: Duration = Duration::from_millis(20);
/// A length in bytes that is more than a block, and less than a socket's buffer.
const LONG: usize = 100_000;

fn ends() -> io::Result<(UnixSeqpacket, UnixSeqpacket)> {
    let (near, far) = UnixSeqpacket::pair()?;
    Ok((near, UnixSeqpacket::new(far)?))
}

/// Pipes whose writing ends are passed in messages.
#[derive(Default)]
struct Pipes(Vec<PipeReader>);

impl Pipes {
    /// Makes `count` pipes, and returns their writing ends.
    fn make(&mut self, count: usize) -> Vec<OwnedFd> {
        let new = (0..count).map(|_| {
            let (reader, writer) = pipe().expect("a pipe");
            self.0.push(reader);
            writer.into()
        });
        new.collect()
    }

    /// Waits until all writing ends are closed.
    fn assert_closed(&self) {
        for reader in &self.0 {
            let patience = Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            let mut fds = [PollFd::new(reader, PollFlags::IN)];
            let ready = poll(&mut fds, Some(&patience)).expect("a pipe");
            assert!(ready == 1, "a descriptor is left open");
        }
    }
}

async fn next(socket: &mut UnixSeqpacket, len_max: usize) -> io::Result<Message> {
    let message = socket.recv(Vec::with_capacity(len_max)).await?;
    Ok(message.expect("a message"))
}

#[test]
fn messages_arrive_as_they_were_sent() {
    on_each(async || {
        let (mut near, mut far) = ends()?;
        let lengths = [1, 4095, 4096, 4097, LONG];
        for len in lengths {
            near.send(vec![7; len], Vec::new()).await?;
            let message = next(&mut far, LONG).await?;
            assert!(message.bytes == vec![7; len]);
            assert!(message.descriptors.is_empty());
        }
        far.send("a", Vec::new()).await?;
        far.send("bc", Vec::new()).await?;
        drop(far);
        assert_eq!(next(&mut near, 9).await?.bytes, b"a");
        assert_eq!(next(&mut near, 9).await?.bytes, b"bc");
        for _ in 0..2 {
            assert!(near.recv(Vec::with_capacity(9)).await?.is_none());
        }
        let error = near.send("d", Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        Ok(())
    });
}

#[test]
fn recv_waits_for_a_message() {
    on_each(async || {
        let (mut near, mut far) = ends()?;
        let receiving = spawn(async move { next(&mut far, 9).await });
        sleep(MESSAGE_WAIT).await;
        near.send("late", Vec::new()).await?;
        assert_eq!(receiving.await.expect("no panic")?.bytes, b"late");
        Ok(())
    });
}

#[test]
fn a_message_carries_descriptors_up_to_the_limit() {
    on_each(async || {
        let (mut near, mut far) = ends()?;
        let mut pipes = Pipes::default();
        for count in [0, 1, 3, UnixSeqpacket::DESCRIPTORS_MAX] {
            near.send("a", pipes.make(count)).await?;
            let message = next(&mut far, 1).await?;
            assert_eq!(message.descriptors.len(), count);
            for descriptor in &message.descriptors {
                assert!(fcntl_getfd(descriptor)?.contains(FdFlags::CLOEXEC));
            }
        }
        let too_many = pipes.make(UnixSeqpacket::DESCRIPTORS_MAX + 1);
        let error = near.send("a", too_many).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        pipes.assert_closed();
        let (mut reader, writer) = pipe()?;
        near.send("a", vec![writer.into()]).await?;
        let mut message = next(&mut far, 1).await?;
        let writer = message.descriptors.pop().expect("a descriptor");
        std::fs::File::from(writer).write_all(b"by the other end")?;
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text)?;
        assert_eq!(text, "by the other end");
        Ok(())
    });
}

#[test]
fn a_message_longer_than_its_buffer_is_an_error_and_leaks_no_descriptor() {
    on_each(async || {
        let (mut near, mut far) = ends()?;
        let mut pipes = Pipes::default();
        for (len, capacity) in [(1, 0), (2, 1), (LONG, LONG - 1)] {
            near.send(vec![7; len], pipes.make(2)).await?;
            let mut buffer = Vec::with_capacity(capacity);
            buffer.shrink_to(capacity);
            assert_eq!(buffer.capacity(), capacity);
            let error = far.recv(buffer).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            pipes.assert_closed();
        }
        near.send("b", Vec::new()).await?;
        assert_eq!(next(&mut far, 1).await?.bytes, b"b");
        Ok(())
    });
}

/// Sends a message with any number of descriptors, without the limit of `UnixSeqpacket::send`.
fn send_many(socket: impl AsFd, descriptors: &[OwnedFd]) {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let bytes = [IoSlice::new(b"many")];
    rustix::net::sendmsg(socket, &bytes, &mut control, SendFlags::empty()).expect("room");
}

#[test]
fn more_descriptors_than_the_limit_are_an_error_and_closed() {
    on_each(async || {
        let (mut near, far) = UnixSeqpacket::pair()?;
        let mut pipes = Pipes::default();
        for count in [UnixSeqpacket::DESCRIPTORS_MAX + 1, 64] {
            send_many(&far, &pipes.make(count));
            let error = near.recv(Vec::with_capacity(9)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            pipes.assert_closed();
        }
        send_many(&far, &pipes.make(UnixSeqpacket::DESCRIPTORS_MAX));
        assert_eq!(next(&mut near, 9).await?.bytes, b"many");
        pipes.assert_closed();
        Ok(())
    });
}

/// With `SO_PASSCRED`, the sender's credentials precede the descriptors.
#[test]
fn descriptors_are_found_after_other_control_data() {
    on_each(async || {
        let (mut far, near) = UnixSeqpacket::pair()?;
        sockopt::set_socket_passcred(&near, true)?;
        let mut near = UnixSeqpacket::new(near)?;
        let mut pipes = Pipes::default();
        far.send("a", pipes.make(2)).await?;
        assert_eq!(next(&mut near, 9).await?.descriptors.len(), 2);
        pipes.assert_closed();
        Ok(())
    });
}

#[test]
fn an_empty_message_and_another_type_of_socket_are_refused() {
    on_each(async || {
        let (mut near, far) = UnixSeqpacket::pair()?;
        let error = near.send("", Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let (stream, _) = std::os::unix::net::UnixStream::pair()?;
        let (datagram, _) = std::os::unix::net::UnixDatagram::pair()?;
        let tcp = std::net::TcpListener::bind("127.0.0.1:0")?;
        for socket in [stream.into(), datagram.into(), tcp.into()] {
            let error = UnixSeqpacket::new(socket).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        // An empty message of the peer cannot be told from the end of the stream.
        rustix::net::send(&far, b"", SendFlags::empty())?;
        assert!(near.recv(Vec::with_capacity(9)).await?.is_none());
        Ok(())
    });
}

#[test]
fn a_message_that_is_longer_than_the_sockets_buffer_is_an_error() {
    on_each(async || {
        let (mut near, mut far) = ends()?;
        let error = near.send(vec![7; 64 << 20], Vec::new()).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        near.send("a", Vec::new()).await?;
        assert_eq!(next(&mut far, 9).await?.bytes, b"a");
        Ok(())
    });
}

#[test]
fn a_dropped_receive_loses_no_message() {
    on_each(async || {
        let (mut near, mut far) = ends()?;
        for n in 0..20 {
            let dropped = far.recv(Vec::with_capacity(9));
            assert!(timeout(MESSAGE_WAIT / 10, dropped).await.is_err());
            if n == 0 {
                let error = far.try_recv(Vec::new()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
            }
            near.send(vec![n; 1], Vec::new()).await?;
            for _ in 0..n % 4 {
                yield_now().await;
            }
            assert_eq!(next(&mut far, 9).await?.bytes, [n]);
        }
        Ok(())
    });
}

/// Sends until the socket's buffer is full. Returns the number of messages; the last of them is
/// still to be sent.
async fn send_until_full(socket: &mut UnixSeqpacket) -> usize {
    let mut count = 1_usize;
    while let Ok(sent) = timeout(
        MESSAGE_WAIT,
        socket.send(count.to_ne_bytes().repeat(1000), Vec::new()),
    )
    .await
    {
        sent.expect("a peer");
        count += 1;
    }
    count
}

#[test]
fn the_message_of_a_dropped_send_precedes_later_messages() {
    on_each(async || {
        let (mut near, mut far) = ends()?;
        let count = send_until_full(&mut near).await;
        let sending = spawn(async move { near.send("last", Vec::new()).await });
        for n in 1..=count {
            let message = next(&mut far, LONG).await?;
            assert_eq!(message.bytes[..8], n.to_ne_bytes());
        }
        assert_eq!(next(&mut far, LONG).await?.bytes, b"last");
        sending.await.expect("no panic")
    });
}

/// A poll of the ring for room completes at once while the peer is half-closed, so such polls must
/// not be repeated.
#[test]
fn a_full_socket_with_a_half_closed_peer_is_not_polled_in_a_loop() {
    on_each(async || {
        let (mut near, far) = UnixSeqpacket::pair()?;
        send_until_full(&mut near).await;
        shutdown(&far, Shutdown::Write)?;
        let mut polls = 0;
        let mut sending = pin!(near.send("a", Vec::new()));
        let counting = poll_fn(|context| {
            polls += 1;
            sending.as_mut().poll(context)
        });
        assert!(timeout(10 * MESSAGE_WAIT, counting).await.is_err());
        assert!(polls < 20, "polled {polls} times");
        Ok(())
    });
}

#[test]
fn both_directions_are_used_at_once() {
    on_each(async || {
        let (near, far) = ends()?;
        let (mut receiver, mut sender) = near.split();
        let (mut echo_in, mut echo_out) = far.split();
        let echo = spawn(async move {
            while let Some(message) = echo_in.recv(Vec::with_capacity(LONG)).await? {
                echo_out.send(message.bytes, message.descriptors).await?;
            }
            io::Result::Ok(())
        });
        let sending = spawn(async move {
            for n in 0..100 {
                sender.send(vec![n; 10_000], Vec::new()).await?;
            }
            io::Result::Ok(sender)
        });
        for n in 0..100 {
            let message = receiver.recv(Vec::with_capacity(LONG)).await?;
            assert!(message.expect("an echo").bytes == vec![n; 10_000]);
        }
        drop((sending.await.expect("no panic")?, receiver));
        echo.await.expect("no panic")
    });
}

/// As in a link to a worker process: the program waits for an eventfd, and then collects messages
/// by `try_recv`.
#[test]
fn messages_are_collected_when_an_eventfd_is_signalled() {
    on_each(async || {
        let (mut near, far) = UnixSeqpacket::pair()?;
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut polling = Polling::new(signal.try_clone()?, Events::READABLE);
        let worker = thread::spawn(move || {
            for n in 0..100_u8 {
                rustix::net::send(&far, &[n], SendFlags::empty()).expect("room");
                if n % 10 == 9 {
                    rustix::io::write(&signal, &1_u64.to_ne_bytes()).expect("room");
                }
            }
            far
        });
        let mut expected = 0;
        while expected < 100 {
            polling.ready().await?;
            let _ = rustix::io::read(&polling, &mut [0; 8]);
            loop {
                match near.try_recv(Vec::with_capacity(9)) {
                    Ok(message) => assert_eq!(message.expect("a message").bytes, [expected]),
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        break;
                    }
                }
                expected += 1;
            }
        }
        drop(worker.join().expect("no panic"));
        assert!(near.try_recv(Vec::with_capacity(9))?.is_none());
        Ok(())
    });
}

/// Polls a future up to `times` times, with a turn of the loop in between, and drops it.
async fn poll_times(times: usize, future: impl Future) {
    let mut future = pin!(future);
    for _ in 0..times {
        if poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await {
            return;
        }
        yield_now().await;
    }
}

#[test]
fn no_descriptor_is_left_open_whenever_futures_are_dropped() {
    on_each(async || {
        let mut pipes = Pipes::default();
        for (sends, receives, ends_first) in (0..48).map(|n| (n % 4, n / 4 % 4, n / 16)) {
            let (mut near, mut far) = ends()?;
            if ends_first == 2 {
                // The receive is in the kernel before the message is.
                poll_times(receives, far.recv(Vec::with_capacity(9))).await;
            }
            for _ in 0..2 {
                poll_times(sends, near.send("a", pipes.make(3))).await;
                poll_times(receives, far.recv(Vec::with_capacity(9))).await;
            }
            if ends_first == 0 {
                drop(near);
                yield_now().await;
                drop(far);
            } else {
                drop(far);
                drop(near);
            }
        }
        // Time for the final completions of the dropped operations.
        sleep(MESSAGE_WAIT).await;
        pipes.assert_closed();
        Ok(())
    });
}

#[test]
fn the_end_of_a_run_closes_descriptors_in_flight() {
    for engine in [crate::EngineChoice::Auto, crate::EngineChoice::Epoll] {
        let outcome = crate::run_with(engine, async {
            let mut pipes = Pipes::default();
            let (mut near, mut far) = ends()?;
            poll_times(1, far.recv(Vec::with_capacity(9))).await;
            poll_times(1, near.send("a", pipes.make(3))).await;
            spawn(async move {
                let _ends = (near, far);
                std::future::pending::<()>().await;
            });
            io::Result::Ok(pipes)
        });
        let pipes = outcome.expect("an engine").expect("no error");
        pipes.assert_closed();
    }
}

#[test]
fn a_socket_is_used_in_the_run_that_made_it_only() {
    let (mut near, far) = crate::run(async { UnixSeqpacket::pair() }).expect("a pair");
    rustix::net::send(&far, b"a", SendFlags::empty()).expect("room");
    let receive = async move { near.recv(Vec::with_capacity(9)).await.map(drop) };
    let carried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| crate::run(receive)));
    assert!(carried.is_err());
}
