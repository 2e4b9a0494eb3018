//! A server in this process, started through the public API, for services of the tests' own.

use std::future::poll_fn;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use coring::{Builder, Handle, Limits, Result, Service};

use super::{Address, Client, builder, start_server};

/// A server with one worker; stopped when dropped.
pub(crate) struct Local {
    handle: Handle,
    address: Address,
}

impl Local {
    /// Starts a server with the service that `factory` makes and the default limits.
    #[track_caller]
    pub(crate) fn start<S: Service + 'static>(
        factory: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        Self::start_within(Limits::default(), factory)
    }

    /// Like [`Local::start`], with these limits.
    #[track_caller]
    pub(crate) fn start_within<S: Service + 'static>(
        limits: Limits,
        factory: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(builder().limits(limits), factory)
    }

    /// Like [`Local::start`], with this builder. Clients connect to the builder's first address if
    /// it has one, and to a free port otherwise.
    #[track_caller]
    pub(crate) fn start_with<S: Service + 'static>(
        builder: Builder,
        factory: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        Self::of(start_server(builder.bind("127.0.0.1:0"), 1, factory))
    }

    /// A server that was started otherwise.
    #[track_caller]
    pub(crate) fn of(started: Result<Handle>) -> Self {
        let handle = started.expect("a server");
        let address = handle.addresses()[0].to_string();
        let address = match address.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => Address::Tcp(address.parse().expect("an IP address")),
        };
        Self { handle, address }
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.address).expect("a connection")
    }

    /// The current value of the worker's counter `name`.
    #[track_caller]
    pub(crate) fn count(&self, name: &str) -> u64 {
        let list = self.handle.metrics()[0].list();
        let found = list.into_iter().find(|(known, _)| *known == name);
        found.expect("a counter of that name").1
    }

    /// Begins a drain.
    pub(crate) fn drain(&self) {
        self.handle.drain();
    }

    /// Waits until the server has ended, and asserts that it reports no error.
    #[track_caller]
    pub(crate) fn wait(self) {
        self.handle.wait().expect("an orderly end");
    }

    /// Stops the server and asserts that it reports no error.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.handle.stop();
        self.handle.wait().expect("an orderly end");
    }

    /// Like [`Local::stop`]; returns the last value of the counter `name`.
    #[track_caller]
    pub(crate) fn stop_and_count(self, name: &str) -> u64 {
        self.handle.stop();
        self.handle.wait().expect("an orderly end");
        self.count(name)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// Sleeps within a service without coring's timers: another thread wakes the task.
pub(crate) async fn nap(duration: Duration) {
    let end = Instant::now() + duration;
    let mut is_set = false;
    poll_fn(|context| {
        if Instant::now() >= end {
            return Poll::Ready(());
        }
        if !is_set {
            is_set = true;
            let waker = context.waker().clone();
            thread::spawn(move || {
                thread::sleep(end - Instant::now());
                waker.wake();
            });
        }
        Poll::Pending
    })
    .await;
}
