//! A simulated kernel below the io_uring engine, for tests only. It takes our `Sqe`s and returns
//! our `Cqe`s. It has provided buffers, a clock, and connections whose client ends a test controls.
//! All random decisions come from one seed, so a failed run can be repeated.
//!
//! **Descriptors are real, bytes are simulated.** A simulated listener is a real Unix socket in the
//! abstract namespace, and a simulated connection is a real connection to it. So a plain system
//! call of the code under test (accepting from the backlog, a shutdown, a close) has its real
//! effect, which is visible at the client's real end. Received and sent bytes pass through the
//! simulation, by its ring or by its substitutes for recv(2) and send(2). Other descriptors (an
//! eventfd, a socket for messages) are entirely real. For these, random decisions determine only
//! when operations complete, and which of them fail.
//!
//! Nothing runs in parallel. A test steps the workers, and `enter` returns `WouldBlock` where the
//! real call would sleep. Outside a step, when an engine is dropped, `enter` moves the clock
//! forward until something completes.

mod accepting;
mod buffers;
mod descriptors;
mod faults;
mod files;
mod flight;
mod kernel;
#[cfg(feature = "mutants")]
pub(crate) mod mutants;
mod network;
mod random;
mod ring;
mod server;
mod stepped;
mod streams;

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

pub use crate::rt::sleep_ms;
pub use faults::Faults;
pub(crate) use files::openat2;
use kernel::Kernel;
#[cfg(feature = "mutants")]
pub use mutants::{Mutant, with_mutant};
pub use network::{ClientEnd, Received};
pub use random::Random;
pub(crate) use ring::Ring;
pub use server::Simulated;
pub use stepped::Step;
pub(crate) use streams::send;

/// A simulated machine: kernel, network and clock. A clone is another handle to the same machine.
#[derive(Clone)]
pub struct World(Rc<RefCell<Kernel>>);

thread_local! {
    /// The machine that this thread has entered.
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    /// Makes a machine with these faults, whose random decisions come from `seed`. If `traced`, it
    /// prints each event to standard error.
    pub fn new(seed: u64, faults: Faults, traced: bool) -> Self {
        Self::with_random(Random::new(seed), faults, traced)
    }

    /// As [`World::new`], with a given source of random numbers.
    pub fn with_random(random: Random, faults: Faults, traced: bool) -> Self {
        Self(Rc::new(RefCell::new(Kernel::new(random, faults, traced))))
    }

    /// From now on, workers are made as guests, whose loop never sleeps ([`crate::Guest`]).
    pub fn host_workers(&self) {
        self.0.borrow_mut().hosts_workers = true;
    }

    /// Runs `body` with this machine as the thread's current one.
    pub fn enter<R>(&self, body: impl FnOnce() -> R) -> R {
        struct Restore(Option<World>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        body()
    }

    fn with<R>(&self, body: impl FnOnce(&mut Kernel) -> R) -> R {
        body(&mut self.0.borrow_mut())
    }

    /// The machine that this thread has entered, if any.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// The number of provided buffers of a ring, and the index of the first.
    pub(crate) fn buffers(&self) -> (u16, u16) {
        let mut kernel = self.0.borrow_mut();
        // Close to the largest index, so that indices wrap around.
        let first = u16::MAX - u16::try_from(kernel.random.below(300)).unwrap_or(0);
        (kernel.faults.buffers, first)
    }

    /// Makes a listening socket.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and listen(2), on the real machine.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        self.0.borrow_mut().network.listen()
    }

    /// Connects a client to a listener; `None` if the connection is refused.
    pub fn connect(&self, listener: usize) -> Option<ClientEnd> {
        let mut kernel = self.0.borrow_mut();
        let window = 1 + kernel.random.below(4);
        let window = kernel.faults.window_max / window;
        let number = kernel.network.connect(listener, window);
        kernel.note("connect", listener, i64::from(number.is_some()));
        number.map(|number| ClientEnd::new(self.clone(), number))
    }

    /// Makes a descriptor to be passed in messages. It and all its copies must be closed when all
    /// workers have ended.
    ///
    /// # Errors
    /// Those of pipe(2), on the real machine.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.borrow_mut().counted.make()
    }

    /// The number of connections that the server has accepted.
    pub fn accepted(&self) -> usize {
        self.0.borrow().network.accepted()
    }

    /// The number of connections to a listener that the server has accepted and not closed. A
    /// socket stays open until the last operation on it has completed.
    pub fn held(&self, listener: usize) -> usize {
        self.0.borrow().network.held(listener)
    }

    /// The simulated time, in ms.
    pub fn now_ms(&self) -> u64 {
        self.0.borrow().now_ms
    }

    /// Moves the clock forward to `now_ms`.
    pub fn advance(&self, now_ms: u64) {
        let mut kernel = self.0.borrow_mut();
        kernel.now_ms = kernel.now_ms.max(now_ms);
    }

    /// The first violation of an invariant, if there was one.
    pub fn violation(&self) -> Option<String> {
        self.0.borrow().violation.clone()
    }

    /// Reports a violation. From then on the simulated kernel does nothing.
    pub fn fail(&self, what: impl fmt::Display) {
        self.0.borrow_mut().fail(&what);
    }

    /// A hash of all events so far, for comparing two runs.
    pub fn trace(&self) -> u64 {
        self.0.borrow().trace
    }

    /// Adds an event outside the kernel to the trace.
    pub fn note(&self, what: &'static str, which: usize, value: i64) {
        self.0.borrow_mut().note(what, which, value);
    }

    /// Checks the invariants that must hold when all workers have ended.
    pub fn check_end(&self) {
        let mut kernel = self.0.borrow_mut();
        kernel.observe();
        kernel.check_end();
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// The error that accept(2) as a plain system call must return in the simulation, if any.
pub(crate) fn accept_error() -> Option<i32> {
    let world = World::current()?;
    world.with(|kernel| {
        let fails = kernel.random.chance(kernel.faults.aborted);
        fails.then(|| kernel.random.pick(faults::ACCEPT_GONE))
    })
}

/// recvmsg(2) with `MSG_DONTWAIT` as a plain system call; `None` outside a simulation.
pub(crate) fn recvmsg(
    socket: BorrowedFd<'_>,
    to: &mut [IoSliceMut<'_>],
) -> Option<rustix::io::Result<usize>> {
    let world = World::current()?;
    Some(world.with(|kernel| kernel.recv_at_once(socket.as_raw_fd(), to)))
}

/// Delays the worker of the calling task: moves the machine's clock forward by `duration_ms`, but
/// not beyond `end_ms`.
pub fn delay_worker(duration_ms: u64, end_ms: u64) {
    if let Some(world) = World::current() {
        world.advance(end_ms.min(world.now_ms() + duration_ms));
    }
}

/// The simulated time in ms; `None` outside a simulation.
pub(crate) fn now_ms() -> Option<u64> {
    CURRENT.with_borrow(|world| world.as_ref().map(World::now_ms))
}
