//! Unix signals that coroutines wait for.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use crate::engine::signals::{self, number};
use crate::rt::{ClonedWaker, drop_waker, wake};
use crate::sys::lock::lock;

/// The kind of a signal, by its number on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignalKind(i32);

impl SignalKind {
    /// Any signal, by its number.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The signal's number.
    pub const fn as_raw_value(self) -> i32 {
        self.0
    }

    /// SIGALRM: a timer of the process has expired.
    pub const fn alarm() -> Self {
        Self(number::SIGALRM)
    }

    /// SIGCHLD: a child process has ended or stopped.
    pub const fn child() -> Self {
        Self(number::SIGCHLD)
    }

    /// SIGHUP: the terminal was closed; to services it means that they should read their
    /// configuration again.
    pub const fn hangup() -> Self {
        Self(number::SIGHUP)
    }

    /// SIGINT: Ctrl-C.
    pub const fn interrupt() -> Self {
        Self(number::SIGINT)
    }

    /// SIGQUIT: Ctrl-\.
    pub const fn quit() -> Self {
        Self(number::SIGQUIT)
    }

    /// SIGTERM: the process should end.
    pub const fn terminate() -> Self {
        Self(number::SIGTERM)
    }

    /// SIGUSR1.
    pub const fn user_defined1() -> Self {
        Self(number::SIGUSR1)
    }

    /// SIGUSR2.
    pub const fn user_defined2() -> Self {
        Self(number::SIGUSR2)
    }

    /// SIGWINCH: the size of the terminal has changed.
    pub const fn window_change() -> Self {
        Self(number::SIGWINCH)
    }
}

/// Lets coroutines wait for a signal. From the first call on, and for the rest of the process's
/// life, the signal no longer has its default effect: the process must end itself after a SIGTERM.
/// A thread of its own passes signals on to the workers.
///
/// Child processes do not inherit this (execve(2)).
///
/// ```
/// use coring::signal::{SignalKind, signal};
///
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let mut hangup = signal(SignalKind::hangup())?;
///     let me = std::process::id().to_string();
///     std::process::Command::new("kill").args(["-HUP", &me]).spawn()?;
///     hangup.recv().await;
///     Ok(())
/// })
/// # }
/// ```
///
/// # Errors
/// - `InvalidInput` for signals that cannot be caught (KILL, STOP), that report a fault of the
///   program (SEGV, BUS, FPE, ILL), or that do not exist.
/// - `ResourceBusy` if the program has installed a handler of its own for the signal.
/// - If there is no descriptor left, or no thread can be started.
pub fn signal(kind: SignalKind) -> io::Result<Signal> {
    let listener = Arc::new(Listener {
        kind,
        state: Mutex::default(),
    });
    let mut listeners = lock(&LISTENERS);
    if !listeners.has_thread {
        signals::open()?;
        let thread = std::thread::Builder::new().name("coring-signals".to_owned());
        thread.spawn(pass_on)?;
        listeners.has_thread = true;
    }
    signals::catch(kind.0)?;
    listeners.all.retain(|listener| listener.strong_count() > 0);
    listeners.all.push(Arc::downgrade(&listener));
    Ok(Signal(listener))
}

/// Waits for SIGINT (Ctrl-C). It is caught from the first poll on, as [`signal`] describes.
///
/// ```no_run
/// # async fn work() {}
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     coring::select! {
///         () = work() => Ok(()),
///         caught = coring::signal::ctrl_c() => caught,
///     }
/// })
/// # }
/// ```
///
/// # Errors
/// As [`signal`].
pub async fn ctrl_c() -> io::Result<()> {
    signal(SignalKind::interrupt())?.recv().await;
    Ok(())
}

/// Waits for a signal. Made by [`signal`].
#[derive(Debug)]
pub struct Signal(Arc<Listener>);

impl Signal {
    /// Waits for the next signal of this kind. Signals that have arrived since the last call count
    /// as one. If the future is dropped, no signal is lost.
    pub async fn recv(&mut self) {
        poll_fn(|context| self.0.poll_recv(context)).await;
    }
}

#[derive(Debug)]
struct Listener {
    kind: SignalKind,
    state: Mutex<ListenerState>,
}

#[derive(Debug, Default)]
struct ListenerState {
    has_arrived: bool,
    waiter: Option<Waker>,
}

/// All listeners of this process. The thread runs as long as the process.
struct Listeners {
    has_thread: bool,
    all: Vec<Weak<Listener>>,
}

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners {
    has_thread: false,
    all: Vec::new(),
});

impl Listener {
    fn poll_recv(&self, context: &Context<'_>) -> Poll<()> {
        let mut waker = ClonedWaker::of(context);
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.has_arrived) {
            return Poll::Ready(());
        }
        waker.store(&mut state.waiter);
        Poll::Pending
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        let waiter = lock(&self.0.state).waiter.take();
        waiter.into_iter().for_each(drop_waker);
    }
}

/// The life of the thread: waits for signals, and wakes their listeners.
fn pass_on() {
    loop {
        let arrived = signals::wait();
        let listeners: Vec<_> = lock(&LISTENERS)
            .all
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for listener in listeners {
            if arrived.contains(&listener.kind.0) {
                let mut state = lock(&listener.state);
                state.has_arrived = true;
                let waiter = state.waiter.take();
                drop(state);
                waiter.into_iter().for_each(wake);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal as Number, getpid, kill_process};

    use super::*;
    use crate::task::run::run;

    fn raise(number: Number) {
        kill_process(getpid(), number).expect("this process");
    }

    #[test]
    fn each_listener_gets_each_signal_of_its_kind() {
        let waits = || {
            run(async {
                let mut first = signal(SignalKind::user_defined2()).expect("a listener");
                let mut second = signal(SignalKind::user_defined2()).expect("a listener");
                for _ in 0..3 {
                    raise(Number::USR2);
                    first.recv().await;
                    second.recv().await;
                }
                // Signals that came earlier count as one.
                raise(Number::USR2);
                raise(Number::USR2);
                second.recv().await;
            });
        };
        let other = std::thread::spawn(waits);
        waits();
        other.join().expect("no panic");
    }

    #[test]
    fn signals_that_cannot_be_caught_are_refused() {
        for number in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 0, -1, 1000] {
            let refused = signal(SignalKind::from_raw(number)).expect_err("an error");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{number}");
        }
    }
}
