//! Accepting on a simulated machine.

use std::os::fd::{IntoRawFd, RawFd};

use super::faults;
use super::flight::Action;
use super::kernel::Kernel;
use super::network::Identity;

/// How many accepts may be submitted on one listener at one time without a connection; more are a
/// busy loop.
const ACCEPTS_AT_ONCE_MAX: u32 = 20;

impl Kernel {
    /// Starts an accept.
    pub(super) fn start_accept(&mut self, fd: RawFd, is_multishot: bool) -> Action {
        let Some(Identity::Listener(listener)) = self.network.identity(fd) else {
            return self.misuse("accept", fd);
        };
        if self.network.attempts(listener, self.now_ms) > ACCEPTS_AT_ONCE_MAX {
            self.fail(&format!(
                "accepts on listener {listener} are repeated in a loop"
            ));
        }
        Action::Accept {
            fd,
            listener,
            is_multishot,
        }
    }

    /// Accepts a connection. Returns its descriptor or an error, and the flags of the completion.
    pub(super) fn accept(&mut self, fd: RawFd, listener: usize, is_multishot: bool) -> (i32, u32) {
        if self.random.chance(self.faults.exhausted) {
            return (-self.random.pick(faults::ACCEPT_EXHAUSTED), 0);
        }
        if self.random.chance(self.faults.transient) {
            return (-self.random.pick(faults::ACCEPT_TRANSIENT), 0);
        }
        match self.network.accept(listener, fd) {
            Some((accepted, number)) => {
                self.note("accept", number, 0);
                let more = if is_multishot { self.more() } else { 0 };
                (accepted.into_raw_fd(), more)
            }
            None => (-libc::EAGAIN, 0),
        }
    }
}
