//! Which engine to use: found by trying, not by the kernel's version.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::uring::{self, Refusal};
use crate::sys::kernel;

/// Which engine is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EngineChoice {
    /// The best that works here: io_uring, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// An engine that works on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selected {
    /// io_uring, with a ring of the kind that `rung` names.
    Uring {
        /// The kernel that first had a ring of this kind.
        rung: &'static str,
    },
    /// epoll; if io_uring was refused, `why`, and what would help.
    Epoll {
        /// The refusal, if there was one.
        why: Option<String>,
    },
}

impl Selected {
    /// What to use when a worker could not have what was selected.
    pub(crate) fn instead(refused: &Refused) -> Self {
        Self::Epoll {
            why: Some(refused.to_string()),
        }
    }
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring { rung } => write!(f, "io_uring (rung {rung}: probed, works)"),
            Self::Epoll { why: None } => f.write_str("epoll (as asked for)"),
            Self::Epoll { why: Some(why) } => write!(f, "epoll ({why})"),
        }
    }
}

/// Why an engine does not work here: one line with the cause and the cure.
#[derive(Debug)]
pub struct Refused(Cause);

#[derive(Debug)]
enum Cause {
    Ring(Refusal),
    Call(&'static str, Errno),
    Thread(io::Error),
}

impl Refused {
    pub(super) fn ring(refusal: Refusal) -> Self {
        Self(Cause::Ring(refusal))
    }

    /// A system call that has no substitute.
    pub(super) fn call(name: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self(Cause::Call(name, errno))
    }

    /// Whether it is io_uring that is refused: epoll may still work.
    pub(crate) fn is_of_ring(&self) -> bool {
        matches!(self.0, Cause::Ring(_))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Ring(refusal) => write!(f, "io_uring is refused: {refusal}"),
            Cause::Call(name, errno) => write!(f, "{name} failed: {errno}; {}", cure(*errno)),
            Cause::Thread(error) => write!(f, "cannot start a thread: {error}; allow more"),
        }
    }
}

/// What would help where a system call that has no substitute failed.
fn cure(errno: Errno) -> String {
    match errno {
        Errno::PERM | Errno::ACCESS | Errno::NOSYS if kernel::seccomp_filtered() => {
            "a seccomp filter forbids it: allow it in the profile".to_owned()
        }
        Errno::PERM | Errno::ACCESS => "a security policy forbids it: allow it there".to_owned(),
        Errno::MFILE | Errno::NFILE => "allow more open files, or run fewer cores".to_owned(),
        _ => format!("this kernel is {}", kernel::release()),
    }
}

impl EngineChoice {
    /// Tries which engine works here, as a server does when it starts.
    ///
    /// # Errors
    /// When the one that is wanted does not work, with the reason.
    ///
    /// # Panics
    /// When the trial does.
    pub fn probe(self) -> Result<Selected, Refused> {
        if self == Self::Epoll {
            return Ok(Selected::Epoll { why: None });
        }
        // A ring takes its leave of the thread that made it with a signal, some time after it was
        // closed; the caller's next system call would fail with EINTR. So the trial has its own.
        let tried = std::thread::scope(|scope| {
            let trial = std::thread::Builder::new().spawn_scoped(scope, uring::preflight);
            trial.map(|trial| trial.join().expect("a trial does not panic"))
        });
        match tried.map_err(|error| Refused(Cause::Thread(error)))? {
            Ok(rung) => Ok(Selected::Uring { rung }),
            Err(refusal) => match Refused::ring(refusal) {
                refused if self == Self::Auto => Ok(Selected::instead(&refused)),
                refused => Err(refused),
            },
        }
    }
}
