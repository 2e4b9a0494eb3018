//! Waiting until a descriptor of any kind is ready. It neither reads nor writes.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::engine::{self, Descriptor, Events};

/// Waits until a descriptor is ready: an eventfd, a pipe, a pidfd, a timerfd, a socket, and
/// whatever else poll(2) supports. What is then to be done with it, such as a read, is the
/// program's, by a system call that does not wait (`O_NONBLOCK`).
///
/// ```
/// use std::io::{Read, Write, pipe};
///
/// use coring::net::{Events, Polling};
///
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let (mut reader, mut writer) = pipe()?;
///     let thread = std::thread::spawn(move || writer.write_all(b"done"));
///     let mut polling = Polling::new(reader.try_clone()?, Events::READABLE);
///     assert!(polling.ready().await?.contains(Events::READABLE));
///     let mut text = String::new();
///     reader.read_to_string(&mut text)?;
///     assert_eq!(text, "done");
///     thread.join().expect("no panic")
/// })
/// # }
/// ```
#[derive(Debug)]
pub struct Polling {
    polling: engine::Polling,
    descriptor: Descriptor,
}

impl Polling {
    /// Takes over a descriptor, to wait for the events of `interest`. That the peer has gone or the
    /// descriptor has failed is reported in any case.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new(descriptor: impl Into<OwnedFd>, interest: Events) -> Self {
        let descriptor = Descriptor::new(descriptor.into());
        Self {
            polling: engine::Polling::new(descriptor.clone(), interest),
            descriptor,
        }
    }

    /// The first call reports the state as it is, each further one what has changed since (as
    /// epoll(7) does, edge-triggered). So read until nothing is left (`WouldBlock`) before the next
    /// call. An event may be reported although it has passed by then. Nothing is lost if the future
    /// is dropped.
    ///
    /// # Errors
    /// When the kernel cannot poll this descriptor: a file on a disk is always ready, which epoll
    /// refuses to report.
    pub async fn ready(&mut self) -> io::Result<Events> {
        poll_fn(|context| self.polling.poll_events(context)).await
    }
}

impl AsFd for Polling {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write, pipe};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::thread;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, Shutdown, shutdown, sockopt};

    use super::*;
    use crate::net::Stream;
    use crate::net::tests::on_each;
    use crate::time::timeout;
    use crate::{EngineChoice, run_with, spawn};

    const BLINK: Duration = Duration::from_millis(30);

    fn doorbell() -> io::Result<OwnedFd> {
        Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
    }

    fn ring(doorbell: &OwnedFd) {
        rustix::io::write(doorbell, &1_u64.to_ne_bytes()).expect("room in the counter");
    }

    /// How often it was rung since this was last called.
    fn rings(doorbell: impl AsFd) -> u64 {
        let mut counter = [0; 8];
        match rustix::io::read(doorbell, &mut counter) {
            Ok(_) => u64::from_ne_bytes(counter),
            Err(errno) => {
                assert_eq!(errno, Errno::AGAIN);
                0
            }
        }
    }

    #[test]
    fn a_doorbell_that_a_thread_rings_is_heard_each_time() {
        on_each(async || {
            let bell = doorbell()?;
            let mut polling = Polling::new(bell.try_clone()?, Events::READABLE);
            assert!(timeout(BLINK, polling.ready()).await.is_err());
            let ringer = thread::spawn(move || (0..1000).for_each(|_| ring(&bell)));
            let mut heard = 0;
            while heard < 1000 {
                assert_eq!(polling.ready().await?, Events::READABLE);
                heard += rings(&polling);
            }
            assert_eq!(heard, 1000);
            ringer.join().expect("no panic");
            // At most one report is left, of a ring that was counted before it came.
            let _ = timeout(BLINK, polling.ready()).await;
            assert!(timeout(BLINK, polling.ready()).await.is_err());
            Ok(())
        });
    }

    #[test]
    fn each_of_several_waiters_for_one_descriptor_is_told() {
        on_each(async || {
            let bell = doorbell()?;
            let waiters = (0..3).map(|_| {
                let polling = bell
                    .try_clone()
                    .map(|fd| Polling::new(fd, Events::READABLE));
                let mut polling = polling.expect("a descriptor");
                spawn(async move { polling.ready().await })
            });
            let waiters: Vec<_> = waiters.collect();
            let descriptor = Descriptor::new(bell.try_clone()?);
            let shared = [Events::READABLE, Events::READABLE, Events::NONE]
                .map(|interest| engine::Polling::new(descriptor.clone(), interest));
            let next = async |n: usize| poll_fn(|context| shared[n].poll_events(context)).await;
            assert!(timeout(BLINK, next(0)).await.is_err());
            assert!(timeout(BLINK, next(2)).await.is_err());
            ring(&bell);
            assert_eq!(next(0).await?, Events::READABLE);
            // This one comes later, when it is readable already.
            assert_eq!(next(1).await?, Events::READABLE);
            assert!(timeout(BLINK, next(2)).await.is_err());
            for waiter in waiters {
                assert_eq!(waiter.await.expect("no panic")?, Events::READABLE);
            }
            Ok(())
        });
    }

    /// A stream whose socket has two polls beside it.
    struct Watched {
        stream: Stream,
        polls: [engine::Polling; 2],
    }

    impl Watched {
        fn new() -> io::Result<(Self, TcpStream)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            let socket = Descriptor::new(listener.accept()?.0.into());
            let watched = Self {
                stream: Stream::new(socket.clone(), AddressFamily::INET),
                polls: [(); 2].map(|()| engine::Polling::new(socket.clone(), Events::NONE)),
            };
            Ok((watched, client))
        }

        /// Waits until each poll has reported one of `events`.
        async fn report(&self, events: Events) -> io::Result<()> {
            for polling in &self.polls {
                while !poll_fn(|context| polling.poll_events(context))
                    .await?
                    .intersects(events)
                {}
            }
            Ok(())
        }

        async fn receive(&self) -> io::Result<Option<crate::Chunk>> {
            poll_fn(|context| self.stream.poll_recv(context)).await
        }
    }

    #[test]
    fn a_fin_and_then_a_reset_are_reported_beside_a_stream_that_receives() {
        on_each(async || {
            let (watched, mut client) = Watched::new()?;
            let early = watched.report(Events::HALF_CLOSED);
            assert!(timeout(BLINK, early).await.is_err());
            client.write_all(b"a")?;
            assert_eq!(watched.receive().await?.as_deref(), Some(&b"a"[..]));
            client.write_all(b"b")?;
            shutdown(&client, Shutdown::Write)?;
            watched.report(Events::HALF_CLOSED).await?;
            assert_eq!(watched.receive().await?.as_deref(), Some(&b"b"[..]));
            assert!(watched.receive().await?.is_none());
            // A half-close is not reported again and again.
            let again = watched.report(Events::HALF_CLOSED);
            let _ = timeout(BLINK, again).await;
            let again = watched.report(Events::HALF_CLOSED);
            assert!(timeout(BLINK, again).await.is_err());
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            drop(client);
            watched.report(Events::HUNG_UP | Events::FAILED).await
        });
    }

    #[test]
    fn a_reset_alone_is_reported() {
        on_each(async || {
            let (watched, client) = Watched::new()?;
            let resetting = spawn(async move {
                crate::time::sleep(BLINK).await;
                rustix::net::connect_unspec(&client)
            });
            watched.report(Events::HUNG_UP | Events::FAILED).await?;
            resetting.await.expect("no panic")?;
            assert!(watched.receive().await.is_err());
            Ok(())
        });
    }

    #[test]
    fn a_descriptor_is_closed_when_its_wait_is_dropped() {
        on_each(async || {
            for waits in [false, true] {
                let (mut reader, writer) = pipe()?;
                let mut polling = Polling::new(writer, Events::NONE);
                if waits {
                    assert!(timeout(BLINK, polling.ready()).await.is_err());
                }
                drop(polling);
                let end = crate::task::blocking(move || reader.read(&mut [0]));
                assert_eq!(end.await??, 0);
            }
            Ok(())
        });
    }

    #[test]
    fn a_number_that_is_used_again_has_none_of_the_former_waits() {
        on_each(async || {
            let bell = doorbell()?;
            let mut former = Polling::new(bell.try_clone()?, Events::READABLE);
            let number = former.as_fd().as_raw_fd();
            assert!(timeout(BLINK, former.ready()).await.is_err());
            ring(&bell);
            drop(former);
            // The ring closes with its next batch.
            crate::time::sleep(BLINK).await;
            let other = doorbell()?;
            let mut later = Polling::new(other.try_clone()?, Events::READABLE);
            for _ in 0..16 {
                if later.as_fd().as_raw_fd() != number {
                    later = Polling::new(other.try_clone()?, Events::READABLE);
                }
            }
            assert!(timeout(BLINK, later.ready()).await.is_err());
            ring(&other);
            assert_eq!(later.ready().await?, Events::READABLE);
            Ok(())
        });
    }

    /// epoll cannot watch a file on a disk, and says so each time.
    #[test]
    fn what_cannot_be_watched_is_an_error_each_time() {
        let outcome = run_with(EngineChoice::Epoll, async {
            let mut polling = Polling::new(File::open("Cargo.toml")?, Events::READABLE);
            for _ in 0..2 {
                let error = polling.ready().await.unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            }
            io::Result::Ok(())
        });
        outcome.expect("an engine").expect("no error");
    }

    #[test]
    fn events_are_printed_by_their_names() {
        let events = Events::READABLE | Events::HUNG_UP;
        assert_eq!(format!("{events:?}"), "{\"READABLE\", \"HUNG_UP\"}");
        assert!(events.contains(Events::HUNG_UP) && events.contains(Events::NONE));
        assert!(!events.contains(Events::HUNG_UP | Events::FAILED));
        assert!(events.intersects(Events::HUNG_UP | Events::FAILED));
    }
}
