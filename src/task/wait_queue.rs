//! The futures that wait for something of which there is a limited amount, in the order of their
//! arrival. What comes free is granted to the first of them, so no other can overtake it. A future
//! that is dropped leaves the queue; what it was granted goes to the next one.
//!
//! The queue knows neither what it grants nor how its users share it. No call runs foreign code:
//! wakers are returned, and the caller wakes or drops them when nothing is borrowed or locked.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;

use crate::rt::ClonedWaker;
use crate::sys::mutants::mutate;

/// Waiting futures, by the number that [`WaitQueue::wait`] has given them.
#[derive(Debug, Default)]
pub(super) struct WaitQueue {
    waiting: BTreeMap<u64, Waiting>,
    /// Futures that were granted what they wait for, and have not been polled since.
    granted: BTreeSet<u64>,
    next_number: u64,
}

#[derive(Debug)]
struct Waiting {
    /// How much the future waits for.
    amount: usize,
    waker: Option<Waker>,
}

/// The result of [`WaitQueue::leave`].
#[derive(Debug, Default)]
#[must_use = "a grant goes to the next future, and a waker is dropped outside the borrow"]
pub(super) struct Left {
    /// The future was granted what it waited for, and has not used it.
    pub(super) had_grant: bool,
    pub(super) waker: Option<Waker>,
}

impl WaitQueue {
    /// Whether no future waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts a future at the end of the queue, or replaces its waker if it has a `number` already.
    /// The waker that was stored before is left in `waker`.
    pub(super) fn wait(
        &mut self,
        number: &mut Option<u64>,
        amount: usize,
        waker: &mut ClonedWaker,
    ) {
        let number = *number.get_or_insert_with(|| {
            self.next_number += 1;
            self.next_number
        });
        let new = Waiting {
            amount,
            waker: None,
        };
        waker.store(&mut self.waiting.entry(number).or_insert(new).waker);
    }

    /// How much the first future waits for.
    pub(super) fn first_amount(&self) -> Option<usize> {
        let (_, first) = self.waiting.first_key_value()?;
        Some(first.amount)
    }

    /// Grants the first future what it waits for, and returns its waker.
    pub(super) fn grant_first(&mut self) -> Option<Waker> {
        let (number, first) = self.waiting.pop_first()?;
        self.granted.insert(number);
        first.waker
    }

    /// Whether the future was granted what it waits for. It uses that now, and loses its number.
    pub(super) fn use_grant(&mut self, number: &mut Option<u64>) -> bool {
        let is_granted = number.is_some_and(|number| self.granted.remove(&number));
        if is_granted {
            *number = None;
        }
        is_granted
    }

    /// Removes a future, which was dropped.
    pub(super) fn leave(&mut self, number: Option<u64>) -> Left {
        let Some(number) = number else {
            return Left::default();
        };
        Left {
            had_grant: mutate!(LoseGrant, false, self.granted.remove(&number)),
            waker: self.waiting.remove(&number).and_then(|left| left.waker),
        }
    }

    /// Removes all futures that wait, and returns their wakers in the order of arrival. Grants
    /// stay.
    pub(super) fn take_all(&mut self) -> Vec<Waker> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting
            .into_values()
            .filter_map(|waiting| waiting.waker)
            .collect()
    }
}
