//! Waiting until a descriptor is ready, for any number of waiters per descriptor.
//!
//! An epoll instance has one entry per descriptor, which a stream may already use. So these waits
//! use a second instance, which is created for the first of them and watched by the worker's
//! instance. In it all waiters for a descriptor share one entry.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::task::{Context, Poll};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::Timespec;

use super::{Epoll, POLLS};
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{Events, OP_EXISTS, Op, OpId, OpState, PollEvents, Table};
use crate::rt::{ClonedWaker, catch_panic, wake};

/// The most events taken in one visit. The next visit takes the others.
const POLL_EVENTS_MAX: usize = 64;

impl Epoll {
    pub(in crate::engine) fn start_polling(
        &self,
        descriptor: Descriptor,
        interest: Events,
    ) -> OpId {
        let polling = || Op::PollEvents(PollEvents::new(descriptor, interest));
        self.polls.table.borrow_mut().insert(polling).0
    }

    /// The events since the last call that was ready.
    pub(in crate::engine) fn poll_events(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<Events>> {
        let polls = &self.polls;
        let mut waker = ClonedWaker::of(context);
        let mut table = polls.table.borrow_mut();
        let entry = table.get(id).expect(OP_EXISTS);
        if let Some(reported) = polling(&mut entry.op).take() {
            return Poll::Ready(reported);
        }
        waker.store(&mut entry.waker);
        if entry.state == OpState::Idle {
            let instance = polls.instance_in(&self.epoll)?;
            polls.watch(&mut table, id, instance)?;
        }
        Poll::Pending
    }

    pub(in crate::engine) fn end_polling(&self, id: OpId) {
        self.polls.end(id);
    }
}

/// The polls of one worker.
#[derive(Debug)]
pub(super) struct Polls {
    instance: OnceCell<OwnedFd>,
    table: RefCell<Table>,
    /// By descriptor: the operations that wait for it.
    waiters: RefCell<HashMap<RawFd, Vec<OpId>>>,
}

impl Polls {
    pub(super) fn new() -> Self {
        Self {
            instance: OnceCell::new(),
            table: RefCell::new(Table::new()),
            waiters: RefCell::default(),
        }
    }

    /// Removes a waiter, because its owner is gone.
    fn end(&self, id: OpId) {
        let Some(mut entry) = self.table.borrow_mut().remove(id) else {
            return;
        };
        if entry.state != OpState::Idle
            && let Some(instance) = self.instance.get()
        {
            let descriptor = polling(&mut entry.op).descriptor();
            let mut all_waiters = self.waiters.borrow_mut();
            let waiters = all_waiters.entry(descriptor.raw()).or_default();
            waiters.retain(|waiter| *waiter != id);
            if waiters.is_empty() {
                all_waiters.remove(&descriptor.raw());
                // If another process has the same file open, closing our descriptor would not
                // remove it from epoll.
                let _ = epoll::delete(instance, descriptor);
            }
        }
        // Dropped last: it may hold the last reference to its descriptor.
        catch_panic(|| drop(entry));
    }

    /// Takes the reported events, and wakes the waiters that they concern.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub(super) fn visit(&self) -> io::Result<()> {
        let Some(instance) = self.instance.get() else {
            return Ok(());
        };
        let mut events = Vec::with_capacity(POLL_EVENTS_MAX);
        let at_once = Timespec::default();
        epoll::wait(instance, spare_capacity(&mut events), Some(&at_once))?;
        for event in events {
            let number = RawFd::try_from(event.data.u64()).expect("a descriptor's number");
            let flags = event.flags;
            let events = Events::from_bits(flags.bits());
            let mut wakers = Vec::new();
            let mut table = self.table.borrow_mut();
            for id in self.waiters.borrow().get(&number).into_iter().flatten() {
                let entry = table.get(*id).expect(OP_EXISTS);
                if polling(&mut entry.op).report(events) {
                    wakers.extend(entry.waker.take());
                }
            }
            drop(table);
            wakers.into_iter().for_each(wake);
        }
        Ok(())
    }

    /// The inner instance, which `outer` watches. The first call creates it.
    fn instance_in(&self, outer: &OwnedFd) -> io::Result<&OwnedFd> {
        if let Some(instance) = self.instance.get() {
            return Ok(instance);
        }
        let instance = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(outer, &instance, EventData::new_u64(POLLS), EventFlags::IN)?;
        Ok(self.instance.get_or_init(|| instance))
    }

    /// Registers the interests of all waiters for the descriptor. The kernel then reports the
    /// current state, also to waiters that were there before.
    fn watch(&self, table: &mut Table, id: OpId, instance: &OwnedFd) -> io::Result<()> {
        let descriptor = polling(&mut table.get(id).expect(OP_EXISTS).op)
            .descriptor()
            .clone();
        let number = descriptor.raw();
        let mut all_waiters = self.waiters.borrow_mut();
        let waiters = all_waiters.entry(number).or_default();
        let is_first = waiters.is_empty();
        waiters.push(id);
        let interests = waiters.iter().map(|id| {
            let entry = table.get(*id).expect(OP_EXISTS);
            polling(&mut entry.op).interest().bits()
        });
        let flags = EventFlags::from_bits_retain(interests.fold(0, |all, one| all | one));
        let data = EventData::new_u64(number.unsigned_abs().into());
        let change = if is_first { epoll::add } else { epoll::modify };
        let changed = change(instance, &descriptor, data, flags | EventFlags::ET);
        if let Err(errno) = changed {
            waiters.pop();
            if is_first {
                all_waiters.remove(&number);
            }
            return Err(errno.into());
        }
        table.get(id).expect(OP_EXISTS).state = OpState::InKernel;
        Ok(())
    }
}

fn polling(op: &mut Op) -> &mut PollEvents {
    match op {
        Op::PollEvents(polling) => polling,
        _ => unreachable!("the table has only polls"),
    }
}
