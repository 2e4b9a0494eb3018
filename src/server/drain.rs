//! The end of a server that loses no request.
//!
//! What the kernel has accepted when the drain begins is served: the listeners' last completions,
//! and what waits in their backlogs, as far as that takes no more than a second. Then for a second
//! every request that arrives is answered, with `Connection: close`, and idle connections stay;
//! then these are closed, and what runs may go on up to the limit. A connection whose handshake
//! ends in the instant between the last look into the backlog and the close of the listener is
//! refused by the kernel: without handing the listener to a successor that cannot be helped.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::control::{Control, Phase};
use super::shared::{Manner, Shared};
use crate::net::Listener;
use crate::rt::{begin_drain, drain_released, sleep_ms, wake_all};

/// For how long after the start of a drain requests may still arrive, in ms.
const GRACE_MS: u64 = 1000;

/// Drains the worker; returns when nothing is left, at the limit, or when it is to stop now.
pub(super) async fn drain(listeners: Vec<Rc<Listener>>, control: &Control, shared: &Rc<Shared>) {
    shared.manner.set(Manner::LastAnswers);
    begin_drain();
    for listener in &listeners {
        listener.stop();
    }
    drop(listeners);
    let orderly = async {
        shared.listeners_closed().await;
        until(ended(shared), sleep_ms(GRACE_MS)).await;
        shared.manner.set(Manner::CloseIdle);
        wake_all();
        until(ended(shared), sleep_ms(shared.limits.drain_timeout_ms)).await;
    };
    until(orderly, control.reached(Phase::Stopping)).await;
}

/// Waits until no connection is left, and no coroutine that the end has to wait for.
async fn ended(shared: &Shared) {
    shared.connections_closed().await;
    drain_released().await;
}

/// Waits for the first of two.
async fn until(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| {
        let done = one.as_mut().poll(context).is_ready() || other.as_mut().poll(context).is_ready();
        if done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
