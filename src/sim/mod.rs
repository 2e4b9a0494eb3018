//! A simulated kernel below the ring's engine: it takes our `Sqe`s and gives our `Cqe`s, has
//! provided buffers, a clock, and connections whose other ends a test holds. All chance comes from
//! one seed, so a life that went wrong can be lived again. For tests only.
//!
//! **Identities are real, bytes are not.** A simulated socket has a real descriptor: a listener is
//! a Unix socket in the abstract namespace, and each connection a real one to it. So whatever the
//! code above does with a plain system call (taking from the backlog, a shutdown, a close) is true,
//! and is seen at the client's real end. What is received and sent goes through here, by the
//! ring or by stand-ins for recv(2) and send(2). Other descriptors (an eventfd, a socket of
//! messages) are real in all they do: chance decides when their operations complete, and how they
//! fail.
//!
//! Nothing runs in parallel: a worker is stepped, and its `enter` gives way (`WouldBlock`) where
//! the real one would sleep. Outside of a step, when an engine is dropped, `enter` moves the clock
//! itself until something completes.

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
pub use network::{Connection, Received};
pub use random::Random;
pub(crate) use ring::Ring;
pub use server::Simulated;
pub use stepped::Step;
pub(crate) use streams::send;

/// A simulated machine: kernel, network and clock. Cloning makes another handle to it.
#[derive(Clone)]
pub struct World(Rc<RefCell<Kernel>>);

thread_local! {
    /// The machine that this thread is in.
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    /// A machine with these faults, whose chances come from `seed`. It prints what happens if it is
    /// to be `traced`.
    pub fn new(seed: u64, faults: Faults, traced: bool) -> Self {
        Self::with_random(Random::new(seed), faults, traced)
    }

    /// As [`World::new`], with the source of its chances.
    pub fn with_random(random: Random, faults: Faults, traced: bool) -> Self {
        Self(Rc::new(RefCell::new(Kernel::new(random, faults, traced))))
    }

    /// Puts this thread into the machine while `body` runs.
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

    /// The machine that this thread is in.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Size of a ring's provided buffers, and the first place in it.
    pub(crate) fn buffers(&self) -> (u16, u16) {
        let mut kernel = self.0.borrow_mut();
        // Mostly close to the end of the numbers, so that they wrap around.
        let first = u16::MAX - u16::try_from(kernel.random.below(300)).unwrap_or(0);
        (kernel.faults.buffers, first)
    }

    /// A listening socket.
    ///
    /// # Errors
    /// When this machine has no more descriptors.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        self.0.borrow_mut().network.listen()
    }

    /// A client's connection to a listener; none when it is refused.
    pub fn connect(&self, listener: usize) -> Option<Connection> {
        let mut kernel = self.0.borrow_mut();
        let window = 1 + kernel.random.below(4);
        let window = kernel.faults.window_max / window;
        let number = kernel.network.connect(listener, window);
        kernel.note("connect", listener, i64::from(number.is_some()));
        number.map(|number| Connection::new(self.clone(), number))
    }

    /// A descriptor to be passed around: when all workers are gone, it must be closed, and so must
    /// all that were passed on instead of it.
    ///
    /// # Errors
    /// When this machine has no more descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.borrow_mut().counted.make()
    }

    /// Connections that the server has accepted.
    pub fn accepted(&self) -> usize {
        self.0.borrow().network.accepted()
    }

    /// Connections to a listener that the server has accepted and not closed. A socket stays open
    /// until the kernel is done with the last operation on it.
    pub fn held(&self, listener: usize) -> usize {
        self.0.borrow().network.held(listener)
    }

    /// The time, in ms.
    pub fn now_ms(&self) -> u64 {
        self.0.borrow().now_ms
    }

    /// Moves time forward.
    pub fn advance(&self, now_ms: u64) {
        let mut kernel = self.0.borrow_mut();
        kernel.now_ms = kernel.now_ms.max(now_ms);
    }

    /// What has gone wrong first, if anything has.
    pub fn violation(&self) -> Option<String> {
        self.0.borrow().violation.clone()
    }

    /// Says that something has gone wrong. The kernel does nothing more from then on.
    pub fn fail(&self, what: impl fmt::Display) {
        self.0.borrow_mut().fail(&what);
    }

    /// A number that two runs share exactly when all that happened in them was the same.
    pub fn trace(&self) -> u64 {
        self.0.borrow().trace
    }

    /// Puts what happened outside the kernel into the trace.
    pub fn note(&self, what: &'static str, which: usize, value: i64) {
        self.0.borrow_mut().note(what, which, value);
    }

    /// Checks what must hold when all workers are gone.
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

/// What accept(2) as a plain system call is to fail with, if it is to.
pub(crate) fn accept_error() -> Option<i32> {
    let world = World::current()?;
    world.with(|kernel| {
        let fails = kernel.random.chance(kernel.faults.aborted);
        fails.then(|| kernel.random.pick(faults::ACCEPT_GONE))
    })
}

/// recvmsg(2) as a plain system call that does not wait, if this thread is in a simulation.
pub(crate) fn recvmsg(
    socket: BorrowedFd<'_>,
    to: &mut [IoSliceMut<'_>],
) -> Option<rustix::io::Result<usize>> {
    let world = World::current()?;
    Some(world.with(|kernel| kernel.recv_at_once(socket.as_raw_fd(), to)))
}

/// Lets time pass in the machine that this thread is in, but not beyond `end_ms`: a task that calls
/// this holds its worker up.
pub fn hold_up(duration_ms: u64, end_ms: u64) {
    if let Some(world) = World::current() {
        world.advance(end_ms.min(world.now_ms() + duration_ms));
    }
}

/// The simulated time in ms, if this thread is in a simulation.
pub(crate) fn now_ms() -> Option<u64> {
    CURRENT.with_borrow(|world| world.as_ref().map(World::now_ms))
}
