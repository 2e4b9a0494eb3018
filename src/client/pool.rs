//! The connections that a client keeps between requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::Shared;
use super::connection::Connection;
use super::request::Origin;
use crate::rt::{now_ms, sleep_until};
use crate::task::spawn;

/// Idle connections by the host and port that they lead to.
#[derive(Debug, Default)]
pub(super) struct Pool(RefCell<PoolState>);

#[derive(Debug, Default)]
struct PoolState {
    /// Of each host, the connection that was used last is the last.
    hosts: HashMap<Origin, Vec<Idle>>,
    count: usize,
    /// A coroutine closes connections that have been idle for too long.
    is_swept: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    expires_ms: u64,
}

impl PoolState {
    /// Removes the connection to a host that `take` takes.
    fn remove(
        &mut self,
        origin: &Origin,
        take: impl FnOnce(&mut Vec<Idle>) -> Option<Idle>,
    ) -> Option<Idle> {
        let list = self.hosts.get_mut(origin)?;
        let idle = take(list);
        if list.is_empty() {
            self.hosts.remove(origin);
        }
        self.count -= usize::from(idle.is_some());
        idle
    }

    /// The host of the connection that was used least recently.
    fn oldest(&self) -> Option<Origin> {
        let first = |(_, list): &(&Origin, &Vec<Idle>)| list.first().map(|idle| idle.expires_ms);
        let oldest = self.hosts.iter().min_by_key(first);
        oldest.map(|(origin, _)| origin.clone())
    }
}

impl Pool {
    /// Takes a connection that seems to be alive; `None` if there is none. It is always ready.
    pub(super) fn poll_take(
        &self,
        origin: &Origin,
        context: &mut Context<'_>,
    ) -> Poll<Option<Connection>> {
        while let Some(idle) = self.pop(origin) {
            let mut connection = idle.connection;
            if idle.expires_ms > now_ms() && connection.is_still_reusable(context) {
                return Poll::Ready(Some(connection));
            }
        }
        Poll::Ready(None)
    }

    fn pop(&self, origin: &Origin) -> Option<Idle> {
        self.0.borrow_mut().remove(origin, Vec::pop)
    }

    /// Adds a connection. Returns the one that it displaces, if the host or the pool has no room:
    /// the one that was used least recently, which the server is the most likely to have closed.
    fn push(&self, origin: Origin, idle: Idle, per_host_max: usize, max: usize) -> Option<Idle> {
        if per_host_max == 0 || max == 0 {
            return Some(idle);
        }
        let mut state = self.0.borrow_mut();
        let len = state.hosts.get(&origin).map_or(0, Vec::len);
        let full = if len >= per_host_max {
            Some(origin.clone())
        } else if state.count >= max {
            state.oldest()
        } else {
            None
        };
        let displaced = full.and_then(|full| state.remove(&full, |list| Some(list.remove(0))));
        state.count += 1;
        state.hosts.entry(origin).or_default().push(idle);
        displaced
    }

    /// Closes the connections that have expired. Returns when the next one does.
    fn sweep(&self, now_ms: u64) -> Option<u64> {
        let mut state = self.0.borrow_mut();
        let mut expired = Vec::new();
        state.hosts.retain(|_, list| {
            expired.extend(list.extract_if(.., |idle| idle.expires_ms <= now_ms));
            !list.is_empty()
        });
        state.count -= expired.len();
        let idle = state.hosts.values().flatten();
        let next_ms = idle.map(|idle| idle.expires_ms).min();
        state.is_swept = next_ms.is_some();
        drop(state);
        // Last: a destructor may run code of the program.
        drop(expired);
        next_ms
    }

    /// The number of connections that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.borrow().count
    }
}

/// Keeps a connection whose exchange is complete, if it can be used again and there is room.
pub(super) fn keep(
    shared: &Rc<Shared>,
    origin: Origin,
    mut connection: Connection,
    context: &mut Context<'_>,
) {
    let bounds = &shared.bounds;
    if bounds.idle_timeout_ms == 0 || !connection.is_reusable(context) {
        return;
    }
    let expires_ms = now_ms().saturating_add(bounds.idle_timeout_ms);
    let idle = Idle {
        connection,
        expires_ms,
    };
    let pool = &shared.pool;
    drop(pool.push(origin, idle, bounds.idle_per_host_max, bounds.idle_max));
    let needs_sweep = {
        let mut state = pool.0.borrow_mut();
        state.count > 0 && !std::mem::replace(&mut state.is_swept, true)
    };
    if needs_sweep {
        drop(spawn(sweep(Rc::downgrade(shared), expires_ms)));
    }
}

/// Closes connections when they have been idle for too long, as long as there are any.
async fn sweep(shared: Weak<Shared>, mut next_ms: u64) {
    loop {
        sleep_until(next_ms).await;
        let next = shared
            .upgrade()
            .and_then(|shared| shared.pool.sweep(now_ms()));
        match next {
            Some(ms) => next_ms = ms,
            None => return,
        }
    }
}
