//! Connecting to the first address of a peer that accepts (Happy Eyeballs, RFC 8305 §5).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;

use super::resolve::{Lookup, ToAddresses};
use super::stream::Stream;
use crate::rt::{Timer, now_ms};

/// The time from the start of one attempt to the start of the next, in ms (RFC 8305 §8). An attempt
/// that fails earlier is followed at once.
const ATTEMPT_DELAY_MS: u64 = 250;

/// Connects a TCP socket to `peer`. If it has several addresses, they are tried one after the
/// other, [`ATTEMPT_DELAY_MS`] apart, and the first connection wins.
///
/// If the future is dropped, all attempts are cancelled.
///
/// # Errors
/// If the name cannot be resolved, or the error of the first attempt if all fail.
pub async fn connect_tcp(peer: impl ToAddresses) -> io::Result<Stream> {
    let stream = match peer.to_lookup() {
        Lookup::Known(address) => Stream::connect(address.into()).await?,
        lookup => {
            let mut race = Race::new(lookup.addresses().await?);
            poll_fn(|context| race.poll(context)).await?
        }
    };
    stream.set_tcp_options()?;
    Ok(stream)
}

/// The attempts to connect to one peer.
struct Race {
    waiting: vec::IntoIter<SocketAddr>,
    running: Vec<Pin<Box<dyn Future<Output = io::Result<Stream>>>>>,
    next_start: Timer,
    /// The error of the first attempt that failed.
    error: Option<io::Error>,
}

impl Race {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            waiting: addresses.into_iter(),
            running: Vec::new(),
            next_start: Timer::new(),
            error: None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        loop {
            let mut has_failed = false;
            let mut index = 0;
            while let Some(attempt) = self.running.get_mut(index) {
                match attempt.as_mut().poll(context) {
                    Poll::Pending => index += 1,
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok(stream)),
                    Poll::Ready(Err(error)) => {
                        drop(self.running.swap_remove(index));
                        self.error.get_or_insert(error);
                        has_failed = true;
                    }
                }
            }
            let is_due = has_failed
                || self.running.is_empty()
                || self.next_start.poll_expired(context).is_ready();
            if !is_due {
                return Poll::Pending;
            }
            match self.waiting.next() {
                Some(address) => {
                    self.running.push(Box::pin(Stream::connect(address.into())));
                    self.next_start
                        .set(now_ms().saturating_add(ATTEMPT_DELAY_MS));
                }
                None if self.running.is_empty() => {
                    let none = || io::ErrorKind::NotFound.into();
                    return Poll::Ready(Err(self.error.take().unwrap_or_else(none)));
                }
                None => {
                    self.next_start.set(u64::MAX);
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::{Duration, Instant};

    use rustix::net::{AddressFamily, SocketType};

    use super::*;
    use crate::net::TcpStream;
    use crate::net::tests::on_each;
    use crate::time::timeout;

    /// Addresses that nothing listens on, and that refuse a connection at once.
    fn refusing() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.local_addr().expect("its address")
    }

    /// A listener whose backlog is full, so that connects to it wait. It accepts none.
    pub(crate) struct FullListener {
        pub(crate) address: SocketAddr,
        _sockets: Vec<std::os::fd::OwnedFd>,
    }

    impl FullListener {
        pub(crate) fn new() -> Self {
            let socket = || rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
            let listener = socket().expect("a socket");
            rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
            rustix::net::listen(&listener, 0).expect("a listener");
            let address = rustix::net::getsockname(&listener).expect("its address");
            let address = address.try_into().expect("an IP address");
            let mut sockets = vec![listener];
            for _ in 0..8 {
                let client = socket().expect("a socket");
                rustix::io::ioctl_fionbio(&client, true).expect("a socket");
                // The first one or two connect, the others wait for room.
                let _ = rustix::net::connect(&client, &address);
                sockets.push(client);
            }
            Self {
                address,
                _sockets: sockets,
            }
        }
    }

    #[test]
    fn a_connect_can_have_a_timeout() {
        on_each(async || {
            let full = FullListener::new();
            let connect = TcpStream::connect(full.address);
            let outcome = timeout(Duration::from_millis(100), connect).await;
            assert!(outcome.is_err(), "the backlog was not full");
            Ok(())
        });
    }

    #[test]
    fn an_address_that_refuses_is_followed_by_the_next_at_once() {
        on_each(async || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?;
            let addresses = vec![refusing(), refusing(), address];
            let stream = TcpStream::connect(addresses).await?;
            assert_eq!(stream.peer_addr()?, address);
            let none = TcpStream::connect(vec![refusing(), refusing()]).await;
            assert_eq!(none.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            Ok(())
        });
    }

    #[test]
    fn an_address_that_does_not_respond_delays_the_next_by_one_attempt() {
        on_each(async || {
            let full = FullListener::new();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?;
            let started = Instant::now();
            let stream = TcpStream::connect(vec![full.address, address]).await?;
            assert_eq!(stream.peer_addr()?, address);
            // The delay begins with the worker's turn, which may have begun long before `started`.
            assert!(started.elapsed() >= Duration::from_millis(ATTEMPT_DELAY_MS / 2));
            // Dropped while both attempts run: their sockets close when the run ends at the latest.
            let race = TcpStream::connect(vec![full.address, full.address]);
            let outcome = timeout(Duration::from_millis(2 * ATTEMPT_DELAY_MS), race).await;
            assert!(outcome.is_err());
            Ok(())
        });
    }

    #[test]
    fn a_name_is_resolved_and_connected() {
        on_each(async || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?;
            let stream = TcpStream::connect(format!("localhost:{}", address.port())).await?;
            assert_eq!(stream.peer_addr()?, address);
            Ok(())
        });
    }
}
