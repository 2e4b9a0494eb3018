//! Accepting connections, and which of them are let in.

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

/// Connections that are taken in a row.
const BURST_MAX: u32 = 64;
/// How long to wait when no connection can be accepted, for want of descriptors say, in ms.
const ACCEPT_PAUSE_MS: u64 = 100;
/// How long the last look into a backlog may take, in ms: long enough for who is answered meanwhile
/// to give a descriptor back, and not for ever where there are always more.
const BACKLOG_MS: u64 = 1000;

/// A worker's own service, which gets the connections of its listeners. Its type is forgotten here,
/// once for each listener: no call of a connection is a virtual one.
pub(crate) struct Acceptor(Box<dyn Fn(Rc<Listener>, Rc<Shared>)>);

impl Acceptor {
    pub(crate) fn new<S: Service + 'static>(service: S) -> Self {
        let service = Rc::new(service);
        Self(Box::new(move |listener, shared| {
            spawn_detached(accept(listener, service.clone(), shared));
        }))
    }

    /// Starts to accept on one more listener.
    pub(super) fn listen(&self, listener: Rc<Listener>, shared: Rc<Shared>) {
        shared.listener_opened();
        (self.0)(listener, shared);
    }
}

/// Makes one of the services of each worker.
pub(super) struct Factory(Box<dyn Fn() -> Acceptor + Send + Sync>);

impl Factory {
    pub(super) fn new<F, K>(factory: F) -> Self
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        Self(Box::new(move || Acceptor::new(factory.make())))
    }

    /// Makes the service of this thread's worker.
    pub(super) fn make(&self) -> Acceptor {
        (self.0)()
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory").finish_non_exhaustive()
    }
}

/// Accepts connections until the listener is stopped; then takes those that the kernel had
/// already accepted, and closes it.
async fn accept<S: Service + 'static>(listener: Rc<Listener>, service: Rc<S>, shared: Rc<Shared>) {
    let mut burst = 0;
    loop {
        match std::future::poll_fn(|context| listener.poll_accept(context)).await {
            Some(Ok(stream)) => {
                admit(stream, &service, &shared);
                let_others(&mut burst).await;
            }
            Some(Err(_)) => {
                // Descriptors or memory are exhausted: the backlog keeps who comes meanwhile.
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
                let_others(&mut burst).await;
            }
            Err(error) if is_exhausted(&error) => {
                shared.metrics.accept_errors.add(1);
                sleep_ms(ACCEPT_PAUSE_MS).await;
            }
            Ok(None) | Err(_) => break,
        }
    }
    if let Some(listener) = Rc::into_inner(listener) {
        listener.close();
    }
    shared.listener_closed();
}

/// After so many connections in a row others have their turn: whoever connects all the time must
/// not have the worker for himself.
async fn let_others(burst: &mut u32) {
    *burst += 1;
    if *burst >= BURST_MAX {
        *burst = 0;
        yield_now().await;
    }
}

/// Whether descriptors or memory have run out, which may pass.
fn is_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(
        errno,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Starts a connection's coroutine, unless there are too many connections, or descriptors in use.
fn admit<S: Service + 'static>(stream: Stream, service: &Rc<S>, shared: &Rc<Shared>) {
    let admission = shared.admission(stream.number());
    if admission == Admission::Drop {
        shared.metrics.connections_accepted.add(1);
        CloseReason::Shed.counter(&shared.metrics).add(1);
        return;
    }
    if admission == Admission::Refuse {
        spawn_detached(connection::shed(stream, shared.clone()));
    } else {
        spawn_detached(connection::serve(stream, service.clone(), shared.clone()));
    }
}
