//! Waiting for the first, for all, and for the next of several futures.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn, ready};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::task::channel::local::channel;
use crate::task::interval::{MissedTickBehavior, interval};
use crate::task::run::run;
use crate::task::time::{sleep, timeout};
use crate::task::*;

/// Counts how many of these are dropped.
struct Witness(Rc<Cell<u32>>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// A future that is never ready, and owns a witness.
async fn never(witness: Witness) {
    let _witness = witness;
    pending::<()>().await;
}

#[test]
fn the_first_of_a_race_wins_and_the_others_are_dropped() {
    run(async {
        let dropped = Rc::new(Cell::new(0));
        let runner = |ms: Option<u64>| {
            let witness = Witness(dropped.clone());
            async move {
                match ms {
                    Some(ms) => sleep(Duration::from_millis(ms)).await,
                    None => never(witness).await,
                }
                ms
            }
        };
        let winner = race([None, Some(20), Some(1), None].map(runner)).await;
        assert_eq!(winner, Some(1));
        assert_eq!(dropped.get(), 4);
    });
}

#[test]
fn select_drops_the_other_futures_before_the_code_of_a_branch_runs() {
    run(async {
        let dropped = Rc::new(Cell::new(0));
        let seen = select! {
            () = never(Witness(dropped.clone())) => unreachable!(),
            n = ready(7) => (n, dropped.get()),
            () = never(Witness(dropped.clone())) => unreachable!(),
        };
        assert_eq!(seen, (7, 2));
    });
}

#[test]
fn a_branch_whose_condition_is_false_or_whose_value_does_not_match_is_disabled() {
    run(async {
        let enabled = false;
        let chosen = select! {
            _ = ready(1), if enabled => "disabled",
            Some(mut text) = ready(None::<String>) => {
                text.push('x');
                panic!("{text}")
            }
            Err(ref error) = async { Ok::<u32, String>(1) } => panic!("{error}"),
            2 | 3 = async { sleep(Duration::from_millis(5)).await; 3 } => "matched",
        };
        assert_eq!(chosen, "matched");
        let chosen = select! {
            Some(()) = ready(None) => "matched",
            else => "none",
        };
        assert_eq!(chosen, "none");
        // Values that are not `Copy` reach the branch whole.
        let text =
            select! { Some(text) = ready(Some("a".to_owned())) => text, else => String::new() };
        assert_eq!(text, "a");
    });
}

#[test]
fn select_without_else_panics_if_no_branch_is_left() {
    run(async {
        let outcome = spawn(async {
            select! { Some(()) = ready(None) => () }
        });
        let message = "all branches are disabled and there is no else branch".into();
        assert_eq!(outcome.await, Err(JoinError::Panicked(message)));
    });
}

#[test]
fn select_is_fair_unless_it_is_biased() {
    run(async {
        let mut chosen = [0; 3];
        for _ in 0..300 {
            let n = select! { () = ready(()) => 0, () = ready(()) => 1, () = ready(()) => 2 };
            chosen[n] += 1;
        }
        assert!(chosen.iter().all(|&times| times > 50), "{chosen:?}");
        for _ in 0..100 {
            let n = select! { biased; () = ready(()) => 0, () = ready(()) => 1 };
            assert_eq!(n, 0);
        }
    });
}

#[test]
fn code_of_branches_may_return_break_and_wait() {
    async fn double(value: Option<u32>) -> Option<u32> {
        select! {
            found = ready(value) => {
                yield_now().await;
                if found == Some(0) {
                    return Some(0);
                }
                Some(found? * 2)
            }
        }
    }
    run(async {
        assert_eq!(double(Some(3)).await, Some(6));
        assert_eq!(double(Some(0)).await, Some(0));
        assert_eq!(double(None).await, None);
        let mut rounds = 0;
        loop {
            select! {
                () = yield_now() => rounds += 1,
                else => break,
            }
            if rounds == 3 {
                break;
            }
        }
        assert_eq!(rounds, 3);
    });
}

/// A receive that loses every race loses no value.
#[test]
fn a_receive_that_is_dropped_by_select_loses_nothing() {
    run(async {
        let (sender, mut receiver) = channel(1);
        spawn(async move {
            for n in 0..100 {
                sender.send(n).await.expect("a receiver");
                yield_now().await;
            }
        });
        let mut received = Vec::new();
        loop {
            select! {
                value = receiver.recv() => match value {
                    Some(n) => received.push(n),
                    None => break,
                },
                () = yield_now() => {}
            }
        }
        assert_eq!(received, (0..100).collect::<Vec<_>>());
    });
}

/// Each future is polled when it is woken, and not when others are.
#[test]
fn join_all_polls_many_plain_futures_by_group() {
    const COUNT: usize = 1000;
    run(async {
        let polls = Rc::new(Cell::new(0));
        let futures = (0..COUNT).map(|n| {
            let polls = polls.clone();
            let mut waits = Box::pin(sleep(Duration::from_millis(5 * (n as u64 % 2))));
            poll_fn(move |context| {
                polls.set(polls.get() + 1);
                waits.as_mut().poll(context).map(|()| n)
            })
        });
        assert_eq!(join_all(futures).await, (0..COUNT).collect::<Vec<_>>());
        assert!(polls.get() < 8 * COUNT, "{} polls", polls.get());

        let (send, receive) = (0..COUNT).map(|_| oneshot::channel()).unzip();
        let (send, receive): (Vec<_>, Vec<_>) = (send, receive);
        let mut all = Box::pin(join_all(receive));
        let polled = poll_fn(|context| Poll::Ready(all.as_mut().poll(context).is_pending())).await;
        assert!(polled);
        for (n, sender) in send.into_iter().enumerate().rev() {
            sender.send(n).expect("a receiver");
        }
        let values: Vec<_> = all.await.into_iter().flatten().collect();
        assert_eq!(values, (0..COUNT).collect::<Vec<_>>());
    });
}

#[test]
fn join_all_of_nothing_is_ready() {
    run(async {
        assert!(
            join_all(Vec::<std::future::Ready<()>>::new())
                .await
                .is_empty()
        )
    });
}

#[test]
fn a_dropped_join_all_drops_its_futures() {
    run(async {
        for count in [2, 100] {
            let dropped = Rc::new(Cell::new(0));
            let futures = (0..count).map(|_| never(Witness(dropped.clone())));
            let waited = timeout(Duration::from_millis(1), join_all(futures)).await;
            assert!(waited.is_err());
            assert_eq!(dropped.get(), count);
        }
    });
}

#[test]
fn a_join_set_returns_outcomes_in_the_order_in_which_they_came() {
    run(async {
        let mut set = JoinSet::new();
        for ms in [30, 10, 20] {
            set.spawn(async move {
                sleep(Duration::from_millis(ms)).await;
                ms
            });
        }
        let aborted = set.spawn(pending());
        aborted.abort();
        set.spawn(async { std::panic::resume_unwind(Box::new("on purpose")) });
        assert_eq!(set.len(), 5);
        let mut outcomes = Vec::new();
        while let Some(outcome) = set.join_next().await {
            outcomes.push(outcome);
        }
        assert_eq!(outcomes[2..], [Ok(10), Ok(20), Ok(30)]);
        assert!(
            outcomes[..2].contains(&Err(JoinError::Cancelled)),
            "{outcomes:?}"
        );
        let panicked = JoinError::Panicked("on purpose".into());
        assert!(outcomes[..2].contains(&Err(panicked)), "{outcomes:?}");
    });
}

#[test]
fn a_dropped_join_set_aborts_its_coroutines_and_a_detached_one_does_not() {
    run(async {
        let dropped = Rc::new(Cell::new(0));
        for detach in [false, true] {
            let mut set = JoinSet::new();
            set.spawn(never(Witness(dropped.clone())));
            yield_now().await;
            if detach {
                set.detach_all();
            }
            drop(set);
            yield_now().await;
            assert_eq!(dropped.get(), 1);
        }
        let mut set = JoinSet::new();
        set.spawn(never(Witness(dropped.clone())));
        set.spawn(never(Witness(dropped.clone())));
        set.shutdown().await;
        assert_eq!((dropped.get(), set.len()), (3, 0));
    });
}

#[test]
fn a_dropped_join_next_loses_no_outcome() {
    run(async {
        let mut set = JoinSet::new();
        set.spawn(sleep(Duration::from_millis(20)));
        let early = timeout(Duration::from_millis(1), set.join_next()).await;
        assert!(early.is_err());
        assert_eq!(set.join_next().await, Some(Ok(())));
        assert_eq!(set.join_next().await, None);
    });
}

#[test]
fn a_finished_coroutine_is_known_before_it_is_awaited() {
    run(async {
        let handles = [spawn(ready(())), spawn(pending())];
        handles[1].abort();
        let abort = handles[1].abort_handle();
        assert!(handles.iter().all(|handle| !handle.is_finished()) && !abort.is_finished());
        yield_now().await;
        assert!(handles.iter().all(JoinHandle::is_finished) && abort.is_finished());
        assert_eq!(join_all(handles).await, [Ok(()), Err(JoinError::Cancelled)]);
    });
}

#[test]
fn an_interval_ticks_at_multiples_of_its_period() {
    run(async {
        let period = Duration::from_millis(20);
        let mut interval = interval(period);
        let first = interval.tick().await;
        assert!(
            timeout(Duration::from_millis(1), interval.tick())
                .await
                .is_err()
        );
        assert_eq!(interval.tick().await, first + period);
        assert!(first.elapsed() >= period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        std::thread::sleep(Duration::from_millis(90));
        interval.tick().await;
        let next = interval.tick().await;
        let offset = next.duration_since(first).as_millis();
        assert!(offset >= 120 && offset % 20 == 0, "{offset} ms");
    });
}

/// The one that is switched to runs before others that have been ready for longer, and these run
/// in the same turn.
#[test]
fn a_switch_lets_the_other_coroutine_run_next() {
    run(async {
        let log = Rc::new(RefCell::new(String::new()));
        let (mut here, mut there) = Switch::pair();
        let other = log.clone();
        spawn(async move {
            let mut value = there.wait().await;
            while let Some(letter) = value {
                other.borrow_mut().push(letter);
                value = there.switch(()).await;
            }
        });
        yield_now().await;
        let third = log.clone();
        spawn(async move { third.borrow_mut().push('!') });
        for letter in ['a', 'b', 'c'] {
            assert_eq!(here.switch(letter).await, Some(()));
        }
        drop(here);
        yield_now().await;
        assert_eq!(*log.borrow(), "abc!");
    });
}

/// Two coroutines that only switch do not keep a third one from running.
#[test]
fn endless_switches_starve_nobody() {
    run(async {
        let (mut here, mut there) = Switch::<u64, u64>::pair();
        spawn(async move {
            let mut value = there.wait().await;
            while let Some(n) = value {
                value = there.switch(n + 1).await;
            }
        });
        let switching = spawn(async move {
            let mut n = 0;
            while let Some(next) = here.switch(n).await {
                n = next;
            }
        });
        for _ in 0..3 {
            sleep(Duration::from_millis(1)).await;
            yield_now().await;
        }
        switching.abort();
        assert_eq!(switching.await, Err(JoinError::Cancelled));
    });
}

#[test]
fn a_switch_ends_when_the_other_end_is_dropped() {
    run(async {
        let (mut here, there) = Switch::<u32, u32>::pair();
        let dropped = spawn(async move {
            yield_now().await;
            drop(there);
        });
        assert_eq!(here.switch(1).await, None);
        assert_eq!(here.switch(2).await, None);
        assert_eq!(here.wait().await, None);
        assert_eq!(dropped.await, Ok(()));
    });
}
