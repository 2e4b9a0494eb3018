//! The orderly end of a worker, which completes the requests that its clients have sent.
//!
//! 1. The worker stops accepting. For up to a second it serves the connections that the kernel has
//!    already accepted: completed accepts and the backlogs. Then it closes the listeners.
//! 2. For a second more, idle connections stay open. Every request that arrives is answered with
//!    `Connection: close`.
//! 3. Idle connections are closed. Running requests may continue up to the limit.
//!
//! The kernel resets a connection whose handshake completes after the last accept and before the
//! close of the listener. Only passing the listener to a successor process would avoid that.

use std::rc::Rc;

use super::control::{Control, Phase};
use super::shared::{DrainState, Shared};
use crate::net::Listener;
use crate::rt::{begin_drain, drain_released, either, sleep_ms, wake_all};

/// How long requests may still arrive after the listeners are closed, in ms.
const GRACE_MS: u64 = 1000;

/// Drains the worker. Returns when all connections are closed and no coroutine holds the drain, at
/// the limit, or when the server is stopped.
pub(super) async fn drain(listeners: Vec<Rc<Listener>>, control: &Control, shared: &Rc<Shared>) {
    shared.drain_state.set(DrainState::LastResponses);
    begin_drain();
    for listener in &listeners {
        listener.stop();
    }
    drop(listeners);
    let orderly = async {
        shared.listeners_closed().await;
        either(ended(shared), sleep_ms(GRACE_MS)).await;
        shared.drain_state.set(DrainState::CloseIdle);
        wake_all();
        either(ended(shared), sleep_ms(shared.limits.drain_timeout_ms)).await;
    };
    either(orderly, control.reached(Phase::Stopping)).await;
}

/// Waits until all connections are closed and no coroutine holds the drain (`hold_drain`).
async fn ended(shared: &Shared) {
    shared.connections_closed().await;
    drain_released().await;
}
