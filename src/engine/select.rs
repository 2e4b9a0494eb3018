//! The choice of the engine: by trying it, not by the kernel's version.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::uring::{self, Refusal};
use crate::sys::kernel;

/// The engine that a program asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EngineChoice {
    /// io_uring if it works here, else epoll.
    #[default]
    Auto,
    /// io_uring; an error if it does not work here.
    Uring,
    /// epoll.
    Epoll,
}

/// An engine that works on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selected {
    /// io_uring, with a ring of the feature level that `feature_level` names.
    Uring {
        /// The Linux release that introduced this feature level, for example "6.6".
        feature_level: &'static str,
    },
    /// epoll.
    Epoll {
        /// Why io_uring cannot be used, and the cure; `None` if the program asked for epoll.
        why: Option<String>,
    },
}

impl Selected {
    /// The ring of a simulated machine.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated() -> Self {
        Self::Uring {
            feature_level: "sim",
        }
    }

    /// The fallback when io_uring was refused: epoll.
    pub(crate) fn epoll_fallback(refused: &Refused) -> Self {
        Self::Epoll {
            why: Some(refused.to_string()),
        }
    }
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring { feature_level } => {
                write!(f, "io_uring (feature level: Linux {feature_level})")
            }
            Self::Epoll { why: None } => f.write_str("epoll (as requested)"),
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

    /// The failure of a system call that has no substitute.
    pub(super) fn call(name: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self(Cause::Call(name, errno))
    }

    /// Whether io_uring was refused, so that epoll may still work.
    pub(crate) fn is_uring(&self) -> bool {
        matches!(self.0, Cause::Ring(_))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Ring(refusal) => write!(f, "io_uring is refused: {refusal}"),
            Cause::Call(name, errno) => write!(f, "{name} failed: {errno}; {}", cure(*errno)),
            Cause::Thread(error) => write!(
                f,
                "cannot start a thread: {error}; raise the limit of threads (ulimit -u)"
            ),
        }
    }
}

/// The cure when a system call that has no substitute failed.
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
    /// ```
    /// let engine = coring::EngineChoice::Auto.probe().expect("an engine");
    /// println!("{engine}"); // for example: io_uring (feature level: Linux 6.6)
    /// ```
    ///
    /// # Errors
    /// If the requested engine does not work here, with the reason.
    ///
    /// # Panics
    /// If the thread that tries the engine panics.
    pub fn probe(self) -> Result<Selected, Refused> {
        if self == Self::Epoll {
            return Ok(Selected::Epoll { why: None });
        }
        // Some time after a ring is closed, the kernel interrupts the thread that made it, as a
        // signal would. A later system call of the caller would then fail with EINTR. So another
        // thread makes the ring.
        let tried = std::thread::scope(|scope| {
            let trial = std::thread::Builder::new().spawn_scoped(scope, uring::preflight);
            trial.map(|trial| trial.join().expect("the probe does not panic"))
        });
        match tried.map_err(|error| Refused(Cause::Thread(error)))? {
            Ok(feature_level) => Ok(Selected::Uring { feature_level }),
            Err(refusal) => match Refused::ring(refusal) {
                refused if self == Self::Auto => Ok(Selected::epoll_fallback(&refused)),
                refused => Err(refused),
            },
        }
    }
}
