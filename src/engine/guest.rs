//! A worker that is the guest of another executor, its host: a task of the host turns the worker's
//! loop, and the host sleeps. So a coroutine can await what the host offers, its timers, files and
//! clients, beside what coring offers.
//!
//! A turn submits all operations before it says that the host may sleep. Three things end that
//! sleep. A completion makes the guest's descriptor readable: the ring writes to an eventfd, or
//! events can be taken from the epoll instance. The next timer's time is part of what the turn has
//! returned. And a wake-up of a guest's task outside a turn, by another thread or by the host's own
//! code, wakes the host's task directly: through a descriptor it would come late.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::select::{Refused, Selected};
use super::worker::{Engine, RunningWorker, Worker, begin_sleep};
use crate::metrics::WorkerMetrics;
use crate::rt::HostWaker;

/// What the host does after a turn of its guest.
#[derive(Debug)]
pub enum Turned<T> {
    /// The guest's first coroutine has returned this, and the guest is gone.
    Done(T),
    /// The guest has more to do: the host lets its other tasks run, and turns it again.
    Again,
    /// The guest waits. The host turns it again when the waker that it gave is woken, when the
    /// guest's descriptor becomes readable, or after this time, if there is one.
    Waits(Option<Duration>),
}

/// A worker whose loop another executor turns, on the thread that made it. The features `tokio` and
/// `glommio` have the loop for these executors; for any other one, a task does this:
///
/// ```
/// use std::sync::Arc;
/// use std::task::{Wake, Waker};
/// use std::thread::{self, Thread};
///
/// use coring::{EngineChoice, Turned, run_as_guest};
///
/// /// A host that has no task but this one, and looks at nothing but the time and its waker.
/// struct Host(Thread);
///
/// impl Wake for Host {
///     fn wake(self: Arc<Self>) {
///         self.0.unpark();
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let waker = Waker::from(Arc::new(Host(thread::current())));
/// let mut guest = run_as_guest(EngineChoice::Auto, async {
///     coring::time::sleep(std::time::Duration::from_millis(1)).await;
///     42
/// })?;
/// let value = loop {
///     match guest.turn(&waker)? {
///         Turned::Done(value) => break value,
///         Turned::Again => {}
///         // A host that guests do I/O on also waits for `guest.as_fd()`.
///         Turned::Waits(Some(time)) => thread::park_timeout(time),
///         Turned::Waits(None) => thread::park(),
///     }
/// };
/// assert_eq!(value, 42);
/// # Ok(())
/// # }
/// ```
///
/// Its descriptor ([`AsFd`]) becomes readable when the kernel has done something for the guest. The
/// host waits for edges (`EPOLLET`), and never reads from it.
///
/// Dropping a guest drops its coroutines, and returns when the kernel uses no memory and no
/// descriptor of it any more.
pub struct Guest<T> {
    /// `None` when the first coroutine has returned.
    running: Option<RunningWorker<T>>,
    host: Arc<HostWaker>,
    /// The ring writes to it.
    reports: Arc<OwnedFd>,
    waits: bool,
}

/// A worker for a [`Guest`], which has no coroutine yet.
#[derive(Debug)]
pub struct HostedWorker {
    worker: Worker,
    host: Arc<HostWaker>,
    reports: Arc<OwnedFd>,
}

impl HostedWorker {
    /// As [`Worker::new`].
    ///
    /// # Errors
    /// As for [`Worker::new`].
    pub fn new(
        selected: &Selected,
        blocks_max: usize,
        metrics: &Arc<WorkerMetrics>,
    ) -> Result<Self, Refused> {
        let host = Arc::new(HostWaker::default());
        let (worker, reports) = Worker::hosted(selected, blocks_max, metrics, host.clone())?;
        Ok(Self {
            worker,
            host,
            reports,
        })
    }

    /// On the simulated machine of this thread.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(metrics: &Arc<WorkerMetrics>) -> Result<Self, Refused> {
        let mut made = Self::new(&Selected::simulated(), usize::MAX, metrics)?;
        made.worker = made.worker.without_threads();
        Ok(made)
    }

    /// The guest, with `main` as its first coroutine.
    pub fn start<T: 'static>(self, main: impl Future<Output = T> + 'static) -> Guest<T> {
        Guest {
            running: Some(self.worker.start(main)),
            host: self.host,
            reports: self.reports,
            waits: false,
        }
    }
}

impl<T: 'static> Guest<T> {
    /// Whether its engine is epoll, which has no descriptor that can be read from.
    #[cfg(feature = "glommio")]
    pub(crate) fn is_on_epoll(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| matches!(running.worker.engine, Engine::Epoll(_)))
    }

    /// Runs one turn of the worker's loop, which never sleeps: fires due timers, polls each ready
    /// task once, submits operations and applies completions. `host` is the waker of the task that
    /// calls.
    ///
    /// # Errors
    /// If the engine fails. The guest must then be dropped.
    ///
    /// # Panics
    /// If the first coroutine panics, or has returned in an earlier turn.
    pub fn turn(&mut self, host: &Waker) -> io::Result<Turned<T>> {
        let running = self.running.as_ref();
        let running = running.expect("a guest that is done was turned again");
        let waited = std::mem::take(&mut self.waits);
        let turned = running.scope(|| turn(running, &self.host, host, waited))?;
        match &turned {
            Turned::Done(_) => self.running = None,
            Turned::Again => {}
            Turned::Waits(_) => self.waits = true,
        }
        Ok(turned)
    }
}

fn turn<T: 'static>(
    running: &RunningWorker<T>,
    stored: &HostWaker,
    host: &Waker,
    waited: bool,
) -> io::Result<Turned<T>> {
    let Worker {
        engine, executor, ..
    } = &running.worker;
    let wake_queue = executor.wake_queue();
    if waited {
        // Applied before the tasks run, as after a sleep of the worker's own.
        engine.visit_at_once()?;
        wake_queue.awake();
    }
    let turn = match running.run_tasks()? {
        ControlFlow::Break(output) => return Ok(Turned::Done(output)),
        ControlFlow::Continue(turn) => turn,
    };
    let trim_ms = engine.pool().trim(executor.now_ms());
    let may_wait = engine.visit_at_once()?;
    if !may_wait || turn.runnable || executor.is_runnable() {
        return Ok(Turned::Again);
    }
    // From here on, a thread that wakes one of our tasks also wakes the host.
    if !stored.prepare_sleep(host, wake_queue) {
        return Ok(Turned::Again);
    }
    let next_ms = turn.next_ms.into_iter().chain(trim_ms).min();
    Ok(Turned::Waits(begin_sleep(executor, next_ms)))
}

#[cfg(feature = "sim")]
impl<T: 'static> Guest<T> {
    /// The worker; `None` when its first coroutine has returned.
    pub(crate) fn running(&self) -> Option<&RunningWorker<T>> {
        self.running.as_ref()
    }
}

/// Becomes readable when the kernel has done something for the guest.
impl<T> AsFd for Guest<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.running.as_ref().map(|running| &running.worker.engine) {
            Some(Engine::Epoll(epoll)) => epoll.instance(),
            Some(Engine::Uring(_)) | None => self.reports.as_fd(),
        }
    }
}

impl<T> Drop for Guest<T> {
    fn drop(&mut self) {
        self.running = None;
        // The host's waker is dropped on the host's thread.
        self.host.clear();
    }
}

impl<T> fmt::Debug for Guest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("waits", &self.waits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, poll_fn};
    use std::io::Read;
    use std::net::TcpListener;
    use std::pin::{Pin, pin};
    use std::rc::Rc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Poll, Wake};
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::engine::EngineChoice;
    use crate::net::TcpStream;
    use crate::rt::sleep_ms;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Whether the host's task was woken.
    #[derive(Default)]
    struct Host(AtomicBool);

    impl Wake for Host {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn guest<T: 'static>(
        choice: EngineChoice,
        metrics: &Arc<WorkerMetrics>,
        main: impl Future<Output = T> + 'static,
    ) -> Guest<T> {
        let selected = choice.probe().expect("an engine");
        let worker = HostedWorker::new(&selected, usize::MAX, metrics);
        worker.expect("a worker").start(main)
    }

    /// A socket and a timer for which their guest waits.
    type Kept = (TcpStream, Pin<Box<dyn Future<Output = ()>>>);

    /// Lets the host drop what a guest uses, between two turns of that guest.
    fn drop_between_turns(choice: EngineChoice, discard: fn(EngineChoice, Kept)) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let kept = Rc::new(RefCell::new(None));
        let place = kept.clone();
        let metrics = Arc::<WorkerMetrics>::default();
        let mut guest = guest(choice, &metrics, async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let mut sleep = Box::pin(sleep_ms(3_600_000));
            poll_fn(|context| {
                assert!(pin!(stream.read()).poll(context).is_pending());
                assert!(sleep.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
            place.replace(Some((stream, sleep as _)));
            pending::<()>().await;
        });
        let host = Arc::<Host>::default();
        let waker = Waker::from(host.clone());
        let begin = Instant::now();
        let mut turn = || {
            assert!(begin.elapsed() < PATIENCE, "the guest does not go on");
            thread::sleep(Duration::from_millis(1));
            guest.turn(&waker).expect("a turn")
        };
        while kept.borrow().is_none() || !matches!(turn(), Turned::Waits(_)) {
            turn();
        }
        let (mut peer, _) = listener.accept().expect("the connection");
        peer.set_nonblocking(true).expect("a socket");
        host.0.store(false, Ordering::Relaxed);
        discard(choice, kept.take().expect("a socket and a timer"));
        assert!(host.0.load(Ordering::Relaxed), "the host was not woken");
        let would_block = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        while peer.read(&mut [0]).is_err_and(would_block) {
            turn();
        }
        assert_eq!(metrics.timers_live.get(), 0);
    }

    #[test]
    fn the_host_may_drop_what_a_guest_uses() {
        for choice in [EngineChoice::Auto, EngineChoice::Epoll] {
            drop_between_turns(choice, |_, kept| drop(kept));
        }
    }

    #[test]
    fn another_guest_may_drop_what_a_guest_uses() {
        for choice in [EngineChoice::Auto, EngineChoice::Epoll] {
            drop_between_turns(choice, |choice, kept| {
                let mut other = guest(choice, &Arc::default(), async { drop(kept) });
                let turned = other.turn(Waker::noop()).expect("a turn");
                assert!(matches!(turned, Turned::Done(())));
            });
        }
    }
}
