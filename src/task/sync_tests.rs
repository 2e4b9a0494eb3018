//! Semaphores, locks, notifications and channels: the order of those who wait, and waits that are
//! dropped.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::channel::local::{Sender, channel};
use super::channel::{Closed, TryRecvError, TrySendError};
use super::mutex::Mutex;
use super::notify::Notify;
use super::run::run;
use super::semaphore::{Semaphore, TryAcquireError};
use super::time::timeout;
use super::*;

/// A waker of which the test sees whether anything still holds it.
struct Counted;

impl Wake for Counted {
    fn wake(self: Arc<Self>) {}
}

/// Polls a future once with a waker of its own, which must be pending, drops it, and asserts that
/// nothing holds the waker any more.
#[track_caller]
fn leaves_no_waker(future: impl Future) {
    let counted = Arc::new(Counted);
    let waker = Waker::from(counted.clone());
    let mut future = Box::pin(future);
    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    assert!(Arc::strong_count(&counted) > 2, "it waits with its waker");
    drop(future);
    assert_eq!(Arc::strong_count(&counted), 2, "the waker was kept");
}

/// Starts a coroutine that logs `name` when `future` is ready.
fn logged<T: 'static>(
    log: &Rc<RefCell<Vec<u32>>>,
    name: u32,
    future: impl Future<Output = T> + 'static,
) -> JoinHandle<()> {
    let log = log.clone();
    spawn(async move {
        let _value = future.await;
        log.borrow_mut().push(name);
    })
}

#[test]
fn dropped_waits_leave_no_waker() {
    run(async {
        let semaphore = Rc::new(Semaphore::new(0));
        leaves_no_waker(semaphore.acquire());
        leaves_no_waker(semaphore.clone().acquire_many_owned(2));
        let mutex = Mutex::new(());
        let held = mutex.lock().await;
        leaves_no_waker(mutex.lock());
        drop(held);
        let notify = Notify::new();
        leaves_no_waker(notify.notified());
        let (sender, receiver) = oneshot::channel::<()>();
        leaves_no_waker(receiver);
        drop(sender);
        let (sender, mut receiver) = channel(1);
        leaves_no_waker(async {
            sender.send(()).await.expect("room");
            let _ = sender.send(()).await;
        });
        receiver.try_recv().expect("a value");
        let (first, second) = Switch::<(), ()>::pair();
        leaves_no_waker(async {
            let mut first = first;
            first.wait().await
        });
        drop(second);
        leaves_no_waker(spawn(std::future::pending::<()>()));
        let waiting = (0..100).map(|_| std::future::pending::<()>());
        leaves_no_waker(async { join_all(waiting).await });
    });
}

#[test]
fn permits_are_taken_in_the_order_of_arrival() {
    run(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let semaphore = Rc::new(Semaphore::new(0));
        for (name, count) in [(1, 3), (2, 1), (3, 2), (4, 1)] {
            let semaphore = semaphore.clone();
            logged(&log, name, async move {
                let permits = semaphore.acquire_many(count).await.expect("it is open");
                permits.forget();
            });
        }
        yield_now().await;
        semaphore.add_permits(2);
        yield_now().await;
        assert!(log.borrow().is_empty(), "the first one wants three");
        assert_eq!(
            semaphore.try_acquire().err(),
            Some(TryAcquireError::NoPermits)
        );
        semaphore.add_permits(2);
        yield_now().await;
        assert_eq!(*log.borrow(), [1, 2]);
        semaphore.add_permits(3);
        yield_now().await;
        assert_eq!(*log.borrow(), [1, 2, 3, 4]);
        assert_eq!(semaphore.available_permits(), 0);
    });
}

/// All of many waiters are woken at once, not one per turn.
#[test]
fn many_permits_wake_many_waiters_in_one_turn() {
    run(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let semaphore = Rc::new(Semaphore::new(0));
        for name in 0..100 {
            let semaphore = semaphore.clone();
            logged(&log, name, semaphore.acquire_owned());
        }
        yield_now().await;
        // Permits of coroutines that have ended come back, so all get one from the first.
        semaphore.add_permits(100);
        yield_now().await;
        assert_eq!(*log.borrow(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn a_dropped_waiter_passes_its_permits_on() {
    run(async {
        let semaphore = Rc::new(Semaphore::new(1));
        let held = semaphore.acquire().await.expect("it is open");
        let waits = |count| {
            let semaphore = semaphore.clone();
            spawn(async move {
                let permits = semaphore.acquire_many(count).await;
                permits.is_ok()
            })
        };
        // The first is dropped when it has been granted its permit; the second before that.
        let (granted, large, last) = (waits(1), waits(100), waits(1));
        yield_now().await;
        drop(held);
        granted.abort();
        assert_eq!(granted.await, Err(JoinError::Cancelled));
        large.abort();
        assert_eq!(timeout(Duration::from_secs(60), last).await, Ok(Ok(true)));
        assert_eq!(semaphore.available_permits(), 1);
    });
}

#[test]
fn a_closed_semaphore_fails_all_who_wait() {
    run(async {
        let semaphore = Rc::new(Semaphore::new(1));
        let held = semaphore.clone().acquire_owned().await.expect("it is open");
        let waits = {
            let semaphore = semaphore.clone();
            spawn(async move { semaphore.acquire().await.is_err() })
        };
        yield_now().await;
        semaphore.close();
        assert_eq!(waits.await, Ok(true));
        drop(held);
        assert_eq!(semaphore.available_permits(), 1);
        assert_eq!(semaphore.try_acquire().err(), Some(TryAcquireError::Closed));
        assert!(semaphore.is_closed() && semaphore.acquire().await.is_err());
    });
}

#[test]
fn a_mutex_is_locked_in_the_order_of_arrival_and_survives_a_panic() {
    run(async {
        let mutex = Rc::new(Mutex::new(Vec::new()));
        let adds = |n| {
            let mutex = mutex.clone();
            spawn(async move {
                let mut values = mutex.lock().await;
                yield_now().await;
                values.push(n);
                if n == 2 {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
            })
        };
        let adding = [1, 2, 3].map(adds);
        yield_now().await;
        assert!(mutex.try_lock().is_err());
        let outcomes = join_all(adding).await;
        assert!(outcomes[1].is_err() && outcomes[2].is_ok());
        assert_eq!(*mutex.lock().await, [1, 2, 3]);
    });
}

#[test]
fn a_lock_that_was_granted_to_a_dropped_waiter_goes_to_the_next() {
    run(async {
        let mutex = Rc::new(Mutex::new(()));
        let held = mutex.lock().await;
        let locks = || {
            let mutex = mutex.clone();
            spawn(async move { drop(mutex.lock().await) })
        };
        let (first, second) = (locks(), locks());
        yield_now().await;
        drop(held);
        first.abort();
        assert_eq!(first.await, Err(JoinError::Cancelled));
        assert_eq!(timeout(Duration::from_secs(60), second).await, Ok(Ok(())));
    });
}

#[test]
fn notifications_reach_those_who_wait_in_their_order() {
    run(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let notify = Rc::new(Notify::new());
        let wait = |name| {
            let notify = notify.clone();
            logged(&log, name, async move { notify.notified().await })
        };
        let handles = [1, 2, 3].map(wait);
        yield_now().await;
        notify.notify_one();
        notify.notify_one();
        // The second one was notified, and is dropped before it runs: the third one is next.
        handles[1].abort();
        yield_now().await;
        yield_now().await;
        assert_eq!(*log.borrow(), [1, 3]);
        // No coroutine waits: one notification is kept, and only one.
        notify.notify_one();
        notify.notify_one();
        notify.notified().await;
        let early = timeout(Duration::from_millis(1), notify.notified()).await;
        assert!(early.is_err());
    });
}

#[test]
fn notify_waiters_counts_from_the_moment_a_wait_is_made() {
    run(async {
        let notify = Notify::new();
        let (made, mut waits) = (notify.notified(), pin!(notify.notified()));
        assert!(poll_fn(|context| Poll::Ready(waits.as_mut().poll(context).is_pending())).await);
        notify.notify_waiters();
        made.await;
        waits.await;
        let later = timeout(Duration::from_millis(1), notify.notified()).await;
        assert!(later.is_err(), "it is not kept");
    });
}

/// A future that `notify_waiters` has woken is dropped. That is no notification for another one.
#[test]
fn a_wait_that_all_were_woken_from_passes_nothing_on() {
    run(async {
        let notify = Rc::new(Notify::new());
        let wait = || {
            let notify = notify.clone();
            spawn(async move { notify.notified().await })
        };
        let woken = wait();
        yield_now().await;
        notify.notify_waiters();
        let later = wait();
        woken.abort();
        yield_now().await;
        yield_now().await;
        assert!(!later.is_finished());
        notify.notify_one();
        assert_eq!(later.await, Ok(()));
    });
}

#[test]
fn a_oneshot_channel_passes_one_value_or_its_end() {
    run(async {
        let (sender, receiver) = oneshot::channel();
        let received = spawn(receiver);
        yield_now().await;
        assert_eq!(sender.send(1), Ok(()));
        assert_eq!(received.await, Ok(Ok(1)));

        let (sender, receiver) = oneshot::channel::<u32>();
        let received = spawn(receiver);
        yield_now().await;
        drop(sender);
        assert_eq!(received.await, Ok(Err(oneshot::RecvError)));

        let (mut sender, mut receiver) = oneshot::channel();
        let closed = spawn(async move {
            sender.closed().await;
            sender.send(1)
        });
        yield_now().await;
        receiver.close();
        assert_eq!(closed.await, Ok(Err(1)));
        assert_eq!(receiver.await, Err(oneshot::RecvError));

        // A value that was sent before the close is still received.
        let (sender, mut receiver) = oneshot::channel();
        sender.send(2).expect("a receiver");
        receiver.close();
        assert_eq!(receiver.await, Ok(2));
    });
}

#[test]
fn a_send_that_does_not_wait_overtakes_nobody() {
    run(async {
        let (sender, mut receiver) = channel(1);
        assert_eq!(sender.try_send(0), Ok(()));
        let waiting = {
            let sender = sender.clone();
            spawn(async move { sender.send(1).await })
        };
        yield_now().await;
        assert_eq!(receiver.try_recv(), Ok(0));
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(waiting.await, Ok(Ok(())));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(sender.try_send(3), Ok(()));
        drop(receiver);
        assert_eq!(sender.try_send(4), Err(TrySendError::Closed(4)));
        assert_eq!(sender.send(5).await, Err(Closed(5)));
    });
}

/// The destructor of a value in a channel may use the channel.
#[test]
fn a_value_may_use_its_channel_when_it_is_dropped() {
    struct Value(Sender<Option<Self>>, Rc<Cell<bool>>);
    impl Drop for Value {
        fn drop(&mut self) {
            self.1.set(self.0.try_send(None).is_err());
        }
    }
    run(async {
        let (sender, receiver) = channel(2);
        let refused = Rc::new(Cell::new(false));
        let value = Value(sender.clone(), refused.clone());
        assert!(sender.try_send(Some(value)).is_ok());
        drop(receiver);
        assert!(refused.get());
    });
}
