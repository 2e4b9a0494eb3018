//! coring's workers as guests of glommio (feature `glommio`): a handler can await glommio's files
//! and timers beside what coring offers.
//!
//! glommio needs io_uring, and 512 KiB of memory that may be locked (`ulimit -l`); so its guests
//! use the engine io_uring, too.
//!
//! ```no_run
//! use coring::{EngineChoice, run_as_guest};
//! use glommio::LocalExecutor;
//!
//! let guest = run_as_guest(EngineChoice::Uring, async {
//!     glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
//!     42
//! })?;
//! let value = LocalExecutor::default().run(coring::glommio::drive(guest))?;
//! assert_eq!(value, 42);
//! # std::io::Result::Ok(())
//! ```

use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use ::glommio::io::BufferedFile;
use ::glommio::timer::Timer;
use ::glommio::{
    CpuSet, Latency, LocalExecutorPoolBuilder, PoolPlacement, PoolThreadHandles, Shares, executor,
    spawn_local_into,
};
use rustix::process::{Resource, getrlimit};

use crate::engine::{EngineChoice, Guest, Turned};
use crate::server::{Builder, Cores, Error, Handle, Result, Seat};
use crate::service::{Service, ServiceFactory};
use crate::sys::glommio::counter;
use crate::sys::lock::lock;

/// Within this time glommio lets another queue run, if the guest always has something to do.
const LATENCY: Duration = Duration::from_millis(1);
/// glommio makes no executor if less memory may be locked (0.9.0).
const MEMLOCK_MIN: u64 = 512 << 10;

/// Turns a guest until its first coroutine has returned. Dropping this future drops the guest.
/// Spawn it into a task queue of a short latency, as [`serve`] does: otherwise a busy guest lets
/// tasks of other queues wait for up to 100 ms.
///
/// # Errors
/// If the guest's engine is not io_uring, or fails.
///
/// # Panics
/// If the guest's first coroutine panics, or no executor of glommio's runs on this thread.
pub async fn drive<T: 'static>(mut guest: Guest<T>) -> io::Result<T> {
    if guest.is_on_epoll() {
        return Err(io::Error::other(
            "a guest of glommio needs the engine io_uring: choose EngineChoice::Uring",
        ));
    }
    // One descriptor for the whole life of the guest.
    let reports = counter(guest.as_fd().try_clone_to_owned()?);
    let mut alarms = Alarms::default();
    let outcome = turn_until_done(&mut guest, &reports, &mut alarms).await;
    // A file that is dropped is closed later, and not at all if its executor ends first.
    reports.close().await.map_err(io::Error::from)?;
    outcome
}

/// Turns a guest, whose ring writes to `reports`. Reads from there once for each report.
async fn turn_until_done<T: 'static>(
    guest: &mut Guest<T>,
    reports: &BufferedFile,
    alarms: &mut Alarms,
) -> io::Result<T> {
    let read = || reports.read_at(0, size_of::<u64>());
    let mut report = pin!(read());
    let reported = Arc::new(Reported {
        is_new: AtomicBool::new(true),
        host: Mutex::new(Waker::noop().clone()),
    });
    let waker = Waker::from(reported.clone());
    let outcome = poll_fn(|context| {
        reported.host().clone_from(context.waker());
        // Before the turn: what the kernel reports later wakes this task.
        if reported.is_new.swap(false, Ordering::Acquire) {
            let mut reading = Context::from_waker(&waker);
            while let Poll::Ready(outcome) = report.as_mut().poll(&mut reading) {
                outcome.map_err(io::Error::from)?;
                report.set(read());
            }
        }
        let time = match guest.turn(context.waker())? {
            Turned::Done(output) => return Poll::Ready(Ok(output)),
            Turned::Again => {
                context.waker().wake_by_ref();
                None
            }
            Turned::Waits(time) => time,
        };
        alarms.wake_after(time, context);
        Poll::Pending
    })
    .await;
    // glommio may keep the waker of the last read, which must not keep the task.
    reported.host().clone_from(Waker::noop());
    outcome
}

/// The waker of the read of reports. glommio keeps each waker that a pending read was polled with,
/// so a guest that is busy must not poll its read in each turn, but only when it was woken.
struct Reported {
    is_new: AtomicBool,
    host: Mutex<Waker>,
}

impl Reported {
    fn host(&self) -> MutexGuard<'_, Waker> {
        lock(&self.host)
    }
}

impl Wake for Reported {
    fn wake(self: Arc<Self>) {
        self.is_new.store(true, Ordering::Release);
        let host = self.host().clone();
        host.wake();
    }
}

/// Serves with one worker on the calling thread's executor, in a task queue of its own, until the
/// server is drained or stopped through a handle, or fails. For a [`Handle`], call
/// [`Builder::attach`] and [`drive`].
///
/// ```no_run
/// use std::time::Duration;
///
/// use coring::{Request, Response, Server};
/// use glommio::LocalExecutor;
///
/// fn main() -> coring::Result<()> {
///     let service = || async |_: Request| {
///         glommio::timer::sleep(Duration::from_millis(5)).await;
///         Response::text("slept in glommio")
///     };
///     let server = Server::builder().bind("127.0.0.1:8000");
///     LocalExecutor::default().run(coring::glommio::serve(server, service))
/// }
/// ```
///
/// # Errors
/// Those of [`Builder::attach`]. Also fails if the worker's engine fails.
///
/// # Panics
/// If no executor of glommio's runs on this thread.
pub async fn serve<F, K>(builder: Builder, factory: F) -> Result<()>
where
    F: ServiceFactory<K> + Send + Sync + 'static,
    F::Service: Service + 'static,
{
    let (handle, guest) = builder.engine(EngineChoice::Uring).attach(factory)?;
    in_queue(guest).await?;
    handle.wait()
}

/// Starts a server as [`Builder::start`] does, with an executor of glommio's on each worker's
/// thread. glommio places the threads if the workers are to be pinned.
///
/// # Errors
/// Those of [`Builder::start`]. Also fails if glommio does not work here; the message has the cause
/// and the cure.
pub fn start<F, K>(builder: Builder, factory: F) -> Result<Handle>
where
    F: ServiceFactory<K> + Send + Sync + 'static,
    F::Service: Service + 'static,
{
    preflight()?;
    let (handle, seats) = builder.engine(EngineChoice::Uring).attach_cores(factory)?;
    let count = seats.len();
    let (started, starts) = channel();
    let seats = Arc::new(Seats {
        free: Mutex::new(seats),
        started,
    });
    let late = Arc::downgrade(&seats);
    let pool = executors(placement(handle.cores()), seats)?;
    let again = || match late.upgrade().filter(|seats| !seats.free().is_empty()) {
        Some(seats) => executors(PoolPlacement::Unbound(1), seats).map(drop),
        None => Ok(()),
    };
    if all_started(count, &starts, PATIENCE, again)? {
        return Ok(handle);
    }
    handle.stop();
    let outcomes = pool.join_all().into_iter();
    let failure = outcomes.filter_map(|outcome| outcome.err()).next();
    Err(failure.map_or_else(|| failed("a thread ended"), failed))
}

/// How long a thread may take to take its seat, before another one is started as well.
const PATIENCE: Duration = Duration::from_secs(1);

/// The seats of a server. Each thread takes one, and tells so.
struct Seats {
    free: Mutex<Vec<Seat>>,
    started: Sender<Result<()>>,
}

impl Seats {
    fn free(&self) -> MutexGuard<'_, Vec<Seat>> {
        lock(&self.free)
    }
}

/// Starts executors of glommio's, which take the seats.
fn executors(placement: PoolPlacement, seats: Arc<Seats>) -> Result<PoolThreadHandles<()>> {
    LocalExecutorPoolBuilder::new(placement)
        .name("coring")
        .on_all_shards(move || work(seats))
        .map_err(failed)
}

/// Waits until `count` seats are taken. Returns false if the threads end before: a thread that
/// could not make its executor drops its share of the seats, and the last one their sender.
///
/// An executor may fall asleep before it has run anything, for the reason that [`Alarms`] tells,
/// and has no timer yet that could wake it. So `again` starts another one, if one is late. The
/// first of the two takes the seat.
fn all_started(
    count: usize,
    starts: &Receiver<Result<()>>,
    patience: Duration,
    mut again: impl FnMut() -> Result<()>,
) -> Result<bool> {
    let mut taken = 0;
    while taken < count {
        match starts.recv_timeout(patience) {
            Ok(outcome) => {
                outcome?;
                taken += 1;
            }
            Err(RecvTimeoutError::Timeout) => again()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
    Ok(true)
}

/// One worker, on its thread: takes a seat, tells so, and serves.
async fn work(seats: Arc<Seats>) {
    let seat = seats.free().pop();
    // This thread was late, and another one has started in its place.
    let Some(seat) = seat else { return };
    let failures = seat.failures();
    let (guest, outcome) = match seat.take() {
        Ok(guest) => (Some(guest), Ok(())),
        Err(error) => (None, Err(error)),
    };
    // Fails if the start has failed already.
    let _ = seats.started.send(outcome);
    drop(seats);
    if let Some(guest) = guest
        && let Err(error) = in_queue(guest).await
        && let Some(failures) = failures
    {
        // Fails if nothing waits for the server's end.
        let _ = failures.send(error);
    }
}

/// Turns a guest in a task queue of its own.
async fn in_queue(guest: Guest<()>) -> Result<()> {
    let queue =
        executor().create_task_queue(Shares::default(), Latency::Matters(LATENCY), "coring");
    let mut task = pin!(spawn_local_into(drive(guest), queue).expect("the queue was just made"));
    let mut alarms = Alarms::default();
    let outcome = poll_fn(|context| {
        // glommio may also fall asleep when the guest has ended, beside the task that runs this.
        alarms.wake_after(None, context);
        task.as_mut().poll(context)
    });
    outcome.await.map_err(|error| Error::engine_failed(&error))
}

/// The timers of a task that must not stay ready for long.
///
/// glommio (0.9.0) falls asleep beside a task that is ready if its thread had to wait for the
/// processor, and the time slice of its queues was over before it looked at them. (Pull request 53
/// of github.com/glommio/glommio mends that; no release has it.) A timer ends that sleep, and then
/// the same can happen again. So there is a row of timers. Each is twice as far away as the one
/// before: timers that pass while the thread has no processor all end the same sleep, and others
/// must be left then. (With eight within 400 ms none was left after a longer wait.)
#[derive(Default)]
struct Alarms {
    /// The last waker of the task, which the timers wake.
    waker: Option<Waker>,
    /// When each of the row ends glommio's sleep, in their order.
    row: Vec<(Instant, Timer)>,
    /// The one that the task has asked for last.
    next: Option<(Instant, Timer)>,
}

impl Alarms {
    /// The number of timers in the row. The last one fires after half an hour.
    const COUNT: u32 = 16;
    /// The time until the first one.
    const PERIOD: Duration = Duration::from_millis(50);

    /// Lets the task be woken after `time` and after [`Self::PERIOD`] at the latest. A timer that
    /// fires earlier stays: to move it with every turn would cost more than the turn that it
    /// causes.
    fn wake_after(&mut self, time: Option<Duration>, context: &mut Context<'_>) {
        let (now, waker) = (Instant::now(), context.waker());
        if !self.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *self = Self::default();
            self.waker = Some(waker.clone());
        }
        if self.row.first().is_none_or(|(until, _)| *until <= now) {
            let times = (0..Self::COUNT).map(|number| now + Self::PERIOD * 2_u32.pow(number));
            self.row = times.map(|until| armed(until, context)).collect();
        }
        let asked = time.map(|time| now + time);
        let until = asked.filter(|until| *until < self.row[0].0);
        let stays = |until: Instant| {
            let next = self.next.as_ref();
            next.is_some_and(|(next, _)| (now..=until).contains(next))
        };
        if let Some(until) = until.filter(|until| !stays(*until)) {
            self.next = Some(armed(until, context));
        }
    }
}

/// A timer that wakes the task.
fn armed(until: Instant, context: &mut Context<'_>) -> (Instant, Timer) {
    let mut timer = Timer::new(until.saturating_duration_since(Instant::now()));
    if Pin::new(&mut timer).poll(context).is_ready() {
        context.waker().wake_by_ref();
    }
    (until, timer)
}

/// Tries what glommio needs. It would panic where io_uring is forbidden.
fn preflight() -> Result<()> {
    EngineChoice::Uring.probe().map_err(Error::no_engine)?;
    let limit = getrlimit(Resource::Memlock).current;
    if limit.is_some_and(|bytes| bytes < MEMLOCK_MIN) {
        return Err(failed(format_args!(
            "it needs {} KiB of locked memory, and the limit is {} KiB; raise it (ulimit -l, \
             systemd LimitMEMLOCK=), or use --engine uring",
            MEMLOCK_MIN >> 10,
            limit.unwrap_or(0) >> 10
        )));
    }
    Ok(())
}

fn failed(why: impl Display) -> Error {
    Error::no_host(format_args!("glommio does not work here: {why}"))
}

/// A CPU for each worker if they are to be pinned and glommio can tell which CPUs there are.
fn placement(cores: &Cores) -> PoolPlacement {
    let allowed: Vec<usize> = cores.numbers().collect();
    match CpuSet::online() {
        Ok(online) if cores.pinned => {
            let ours = online.filter(|cpu| allowed.contains(&cpu.cpu));
            PoolPlacement::MaxSpread(cores.count, Some(ours))
        }
        _ => PoolPlacement::Unbound(cores.count),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use ::glommio::LocalExecutor;

    use super::*;

    #[test]
    fn a_thread_that_does_not_start_is_replaced() {
        let (started, starts) = channel();
        let mut sleeping = 2;
        let all = all_started(3, &starts, Duration::from_millis(1), || {
            sleeping -= 1;
            started.send(Ok(())).expect("a receiver");
            if sleeping == 0 {
                started.send(Ok(())).expect("a receiver");
            }
            Ok(())
        });
        assert!(all.expect("no failure"));
        assert_eq!(sleeping, 0, "threads that were not replaced");
    }

    #[test]
    fn a_start_fails_when_all_threads_have_ended() {
        let (started, starts) = channel();
        started.send(Ok(())).expect("a receiver");
        drop(started);
        let all = all_started(2, &starts, PATIENCE, || unreachable!("no thread is late"));
        assert!(!all.expect("no failure"));
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As glommio may fall asleep again, one more wake-up would not be enough. Some more that come
    /// at the same time would not be either: the thread had no processor until then.
    #[test]
    fn a_task_that_was_woken_but_did_not_run_is_woken_again() {
        const STALL: Duration = Duration::from_millis(500);
        if let Err(error) = preflight() {
            return crate::messages::report(format_args!("not tested: the alarms: {error}"));
        }
        let count = Arc::<Count>::default();
        let waker = Waker::from(count.clone());
        LocalExecutor::default().run(async {
            let mut alarms = Alarms::default();
            alarms.wake_after(None, &mut Context::from_waker(&waker));
            std::thread::sleep(STALL);
            Timer::new(Alarms::PERIOD).await;
            let before = count.0.load(Ordering::Relaxed);
            assert!(before > 0, "the stall ends with a wake-up");
            let begin = Instant::now();
            while count.0.load(Ordering::Relaxed) == before {
                assert!(begin.elapsed() < 10 * STALL, "no alarm is left");
                Timer::new(Alarms::PERIOD).await;
            }
        });
    }
}
