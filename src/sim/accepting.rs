//! Accepting on a simulated machine.

use std::os::fd::{IntoRawFd, RawFd};

use super::faults;
use super::flight::Action;
use super::kernel::Kernel;
use super::network::Identity;

/// Accepts on one listener at one instant without a connection: more are a spin.
const ACCEPTS_AT_ONCE_MAX: u32 = 20;

impl Kernel {
    /// Takes an accept from the ring; it may be a multishot.
    pub(super) fn start_accept(&mut self, fd: RawFd, goes_on: bool) -> Action {
        let Some(Identity::Listener(listener)) = self.network.identity(fd) else {
            return self.misuse("accept", fd);
        };
        if self.network.attempts(listener, self.now_ms) > ACCEPTS_AT_ONCE_MAX {
            self.fail(&format!("listener {listener} is asked again and again"));
        }
        Action::Accept {
            fd,
            listener,
            goes_on,
        }
    }

    /// A connection for the server: its descriptor, and the completion's flags.
    pub(super) fn accept(&mut self, fd: RawFd, listener: usize, goes_on: bool) -> (i32, u32) {
        if self.random.chance(self.faults.exhausted) {
            return (-self.random.pick(faults::ACCEPT_EXHAUSTED), 0);
        }
        if self.random.chance(self.faults.passing) {
            return (-self.random.pick(faults::ACCEPT_PASSING), 0);
        }
        match self.network.accept(listener, fd) {
            Some((accepted, number)) => {
                self.note("accept", number, 0);
                let more = if goes_on { self.more() } else { 0 };
                (accepted.into_raw_fd(), more)
            }
            None => (-libc::EAGAIN, 0),
        }
    }
}
