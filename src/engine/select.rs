//! Which engine to use: found by trying, not by the kernel's version.

use std::fmt;

use super::uring::{self, Refusal};

/// Which engine is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
pub enum Selected {
    /// io_uring, by the ladder's `rung`.
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
pub struct Refused(pub(super) Refusal);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring is refused: {}", self.0)
    }
}

/// Finds an engine.
///
/// # Errors
/// When the one that is wanted does not work, with the reason.
///
/// # Panics
/// When the trial does.
pub fn select(choice: EngineChoice) -> Result<Selected, Refused> {
    if choice == EngineChoice::Epoll {
        return Ok(Selected::Epoll { why: None });
    }
    // A ring takes its leave of the thread that made it with a signal, some time after it was
    // closed; the caller's next system call would fail with EINTR. So the trial has its own.
    let tried = std::thread::scope(|scope| scope.spawn(uring::preflight).join());
    match tried.expect("a trial does not panic") {
        Ok(rung) => Ok(Selected::Uring { rung }),
        Err(refusal) if choice == EngineChoice::Auto => Ok(Selected::instead(&Refused(refusal))),
        Err(refusal) => Err(Refused(refusal)),
    }
}
