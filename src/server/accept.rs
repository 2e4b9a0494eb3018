//! Accepts connections, and decides which of them are served.

use std::fmt;
use std::io;
use std::rc::Rc;

use super::close_reason::CloseReason;
use super::connection;
use super::shared::{Admission, Shared};
use crate::net::{Listener, Stream};
use crate::rt::{peer_after_ms, peer_now_ms, sleep_ms, spawn_detached, yield_now};
use crate::service::{Service, ServiceFactory};
use crate::sys::mutants::mutate;

/// How many connections a listener accepts in a row before its coroutine yields.
const ACCEPT_BURST_MAX: u32 = 64;
/// How long to wait after a failed accept(2), in ms: descriptors or memory are exhausted, say.
const ACCEPT_PAUSE_MS: u64 = 100;
/// How long a drain accepts connections from a backlog, in ms. If descriptors are exhausted, other
/// connections can end in this time and release some. A client that keeps connecting cannot extend
/// it.
const BACKLOG_MS: u64 = 1000;

/// A worker's service, with its type erased. Only the call that starts to accept on a listener is
/// virtual; connections call the service directly.
pub(crate) struct Acceptor(Box<dyn Fn(Rc<Listener>, Rc<Shared>)>);

impl Acceptor {
    pub(crate) fn new<S: Service + 'static>(service: S) -> Self {
        let service = Rc::new(service);
        Self(Box::new(move |listener, shared| {
            spawn_detached(accept(listener, service.clone(), shared));
        }))
    }

    /// Starts to accept on `listener`.
    pub(super) fn listen(&self, listener: Rc<Listener>, shared: Rc<Shared>) {
        shared.listener_opened();
        (self.0)(listener, shared);
    }
}

/// Makes one of a server's services, anew for each worker.
pub(super) struct Factory(Box<dyn Fn() -> Acceptor + Send + Sync>);

impl Factory {
    pub(super) fn new<F, K>(factory: F) -> Self
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        Self(Box::new(move || Acceptor::new(factory.make())))
    }

    /// Makes the service on the calling worker's thread.
    pub(super) fn make(&self) -> Acceptor {
        (self.0)()
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory").finish_non_exhaustive()
    }
}

/// Accepts connections until the listener is stopped. Then accepts those in its backlog, and closes
/// it.
async fn accept<S: Service + 'static>(listener: Rc<Listener>, service: Rc<S>, shared: Rc<Shared>) {
    let mut burst = 0;
    loop {
        match std::future::poll_fn(|context| listener.poll_accept(context)).await {
            Some(Ok(stream)) => {
                admit(stream, &service, &shared);
                yield_after_burst(&mut burst).await;
            }
            Some(Err(_)) => {
                // Descriptors or memory are exhausted. New connections wait in the backlog.
                shared.metrics.accept_errors.add(1);
                mutate!(SpinOnExhausted, (), sleep_ms(ACCEPT_PAUSE_MS).await);
            }
            None => break,
        }
    }
    let end_ms = peer_after_ms(BACKLOG_MS);
    while peer_now_ms() < end_ms {
        match mutate!(ForgetBacklog, Ok(None), listener.take_from_backlog()) {
            Ok(Some(stream)) => {
                admit(stream, &service, &shared);
                yield_after_burst(&mut burst).await;
            }
            Err(error) if is_exhausted(&error) => {
                shared.metrics.accept_errors.add(1);
                sleep_ms(ACCEPT_PAUSE_MS).await;
            }
            Ok(None) | Err(_) => break,
        }
    }
    // The drain has dropped the worker's references, so this is the last one.
    if let Some(listener) = Rc::into_inner(listener) {
        listener.close();
    }
    shared.listener_closed();
}

/// Yields after [`ACCEPT_BURST_MAX`] connections in a row, so that a client that keeps connecting
/// does not starve the other connections.
async fn yield_after_burst(burst: &mut u32) {
    *burst += 1;
    if *burst >= ACCEPT_BURST_MAX {
        *burst = 0;
        yield_now().await;
    }
}

/// Whether descriptors or memory are exhausted, which may be temporary.
fn is_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(
        errno,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Serves a connection or sends it a 503, in a coroutine of its own. Beyond the limits for both,
/// closes it.
fn admit<S: Service + 'static>(stream: Stream, service: &Rc<S>, shared: &Rc<Shared>) {
    let admission = shared.admission(stream.number());
    if admission == Admission::Drop {
        shared.metrics.connections_accepted.add(1);
        CloseReason::Shed.counter(&shared.metrics).add(1);
        return;
    }
    if admission == Admission::Refuse {
        spawn_detached(connection::refuse(stream, shared.clone()));
    } else {
        spawn_detached(connection::serve(stream, service.clone(), shared.clone()));
    }
}
