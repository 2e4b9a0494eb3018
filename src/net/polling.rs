//! Waiting until a descriptor of any kind is ready, without reading or writing.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::engine::{self, Descriptor, Events};

/// Waits until a descriptor is ready: an eventfd, a pipe, a pidfd, a timerfd, a socket, or anything
/// else that poll(2) supports. The program itself then reads or writes, by a system call that does
/// not block (`O_NONBLOCK`).
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
    /// Takes over a descriptor, to wait for the events of `interest`. `HALF_CLOSED`, `HUNG_UP` and
    /// `FAILED` are always reported.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new(descriptor: impl Into<OwnedFd>, interest: Events) -> Self {
        Self::sharing(&Descriptor::new(descriptor.into()), interest)
    }

    /// As [`Polling::new`], for a descriptor that has other users.
    pub(crate) fn sharing(descriptor: &Descriptor, interest: Events) -> Self {
        Self {
            polling: engine::Polling::new(descriptor.clone(), interest),
            descriptor: descriptor.clone(),
        }
    }

    /// The first call returns the current state. Each further call waits for a change and returns
    /// it (edge-triggered, as in epoll(7)). So read until `WouldBlock` before the next call. An
    /// event may be reported after it has passed. If the future is dropped, no event is lost.
    ///
    /// # Errors
    /// If the kernel cannot poll this descriptor. For example, epoll refuses regular files, because
    /// they are always ready.
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

    const EVENT_WAIT: Duration = Duration::from_millis(30);

    fn new_eventfd() -> io::Result<OwnedFd> {
        Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
    }

    fn signal(eventfd: &OwnedFd) {
        rustix::io::write(eventfd, &1_u64.to_ne_bytes()).expect("room in the counter");
    }

    /// Reads the number of signals since the last call.
    fn take_signals(eventfd: impl AsFd) -> u64 {
        let mut counter = [0; 8];
        match rustix::io::read(eventfd, &mut counter) {
            Ok(_) => u64::from_ne_bytes(counter),
            Err(errno) => {
                assert_eq!(errno, Errno::AGAIN);
                0
            }
        }
    }

    #[test]
    fn every_signal_of_another_thread_is_reported() {
        on_each(async || {
            let eventfd = new_eventfd()?;
            let mut polling = Polling::new(eventfd.try_clone()?, Events::READABLE);
            assert!(timeout(EVENT_WAIT, polling.ready()).await.is_err());
            let sender = thread::spawn(move || (0..1000).for_each(|_| signal(&eventfd)));
            let mut received = 0;
            while received < 1000 {
                assert_eq!(polling.ready().await?, Events::READABLE);
                received += take_signals(&polling);
            }
            assert_eq!(received, 1000);
            sender.join().expect("no panic");
            // At most one report is left, of a signal that was read before the report came.
            let _ = timeout(EVENT_WAIT, polling.ready()).await;
            assert!(timeout(EVENT_WAIT, polling.ready()).await.is_err());
            Ok(())
        });
    }

    #[test]
    fn every_waiter_for_one_descriptor_gets_a_report() {
        on_each(async || {
            let eventfd = new_eventfd()?;
            let waiters = (0..3).map(|_| {
                let polling = eventfd
                    .try_clone()
                    .map(|fd| Polling::new(fd, Events::READABLE));
                let mut polling = polling.expect("a descriptor");
                spawn(async move { polling.ready().await })
            });
            let waiters: Vec<_> = waiters.collect();
            let descriptor = Descriptor::new(eventfd.try_clone()?);
            let shared = [Events::READABLE, Events::READABLE, Events::NONE]
                .map(|interest| engine::Polling::new(descriptor.clone(), interest));
            let next = async |n: usize| poll_fn(|context| shared[n].poll_events(context)).await;
            assert!(timeout(EVENT_WAIT, next(0)).await.is_err());
            assert!(timeout(EVENT_WAIT, next(2)).await.is_err());
            signal(&eventfd);
            assert_eq!(next(0).await?, Events::READABLE);
            // This one is first polled when the descriptor is readable already.
            assert_eq!(next(1).await?, Events::READABLE);
            assert!(timeout(EVENT_WAIT, next(2)).await.is_err());
            for waiter in waiters {
                assert_eq!(waiter.await.expect("no panic")?, Events::READABLE);
            }
            Ok(())
        });
    }

    /// A stream, and two polls of the same socket.
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
    fn a_fin_and_a_later_reset_are_reported_while_a_stream_receives() {
        on_each(async || {
            let (watched, mut client) = Watched::new()?;
            let early = watched.report(Events::HALF_CLOSED);
            assert!(timeout(EVENT_WAIT, early).await.is_err());
            client.write_all(b"a")?;
            assert_eq!(watched.receive().await?.as_deref(), Some(&b"a"[..]));
            client.write_all(b"b")?;
            shutdown(&client, Shutdown::Write)?;
            watched.report(Events::HALF_CLOSED).await?;
            assert_eq!(watched.receive().await?.as_deref(), Some(&b"b"[..]));
            assert!(watched.receive().await?.is_none());
            // At most one more report of the half-close is left.
            let again = watched.report(Events::HALF_CLOSED);
            let _ = timeout(EVENT_WAIT, again).await;
            let again = watched.report(Events::HALF_CLOSED);
            assert!(timeout(EVENT_WAIT, again).await.is_err());
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
                crate::time::sleep(EVENT_WAIT).await;
                rustix::net::connect_unspec(&client)
            });
            watched.report(Events::HUNG_UP | Events::FAILED).await?;
            resetting.await.expect("no panic")?;
            assert!(watched.receive().await.is_err());
            Ok(())
        });
    }

    #[test]
    fn a_descriptor_is_closed_when_its_polling_is_dropped() {
        on_each(async || {
            for is_polled in [false, true] {
                let (mut reader, writer) = pipe()?;
                let mut polling = Polling::new(writer, Events::NONE);
                if is_polled {
                    assert!(timeout(EVENT_WAIT, polling.ready()).await.is_err());
                }
                drop(polling);
                let end = crate::task::blocking(move || reader.read(&mut [0]));
                assert_eq!(end.await??, 0);
            }
            Ok(())
        });
    }

    #[test]
    fn a_reused_descriptor_number_gets_no_report_of_its_former_descriptor() {
        on_each(async || {
            let eventfd = new_eventfd()?;
            let mut former = Polling::new(eventfd.try_clone()?, Events::READABLE);
            let number = former.as_fd().as_raw_fd();
            assert!(timeout(EVENT_WAIT, former.ready()).await.is_err());
            signal(&eventfd);
            drop(former);
            // The ring closes the descriptor with its next batch.
            crate::time::sleep(EVENT_WAIT).await;
            let other = new_eventfd()?;
            let mut later = Polling::new(other.try_clone()?, Events::READABLE);
            for _ in 0..16 {
                if later.as_fd().as_raw_fd() != number {
                    later = Polling::new(other.try_clone()?, Events::READABLE);
                }
            }
            assert!(timeout(EVENT_WAIT, later.ready()).await.is_err());
            signal(&other);
            assert_eq!(later.ready().await?, Events::READABLE);
            Ok(())
        });
    }

    /// epoll cannot watch a regular file; each call returns that error.
    #[test]
    fn a_descriptor_that_cannot_be_polled_is_an_error_each_time() {
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
