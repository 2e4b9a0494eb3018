//! The error of a server that could not start or that failed: one line with the cause and the cure.

use std::fmt;
use std::io;

use crate::engine::Refused;

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An address cannot be bound.
    Address,
    /// The requested engine does not work on this machine.
    Engine,
    /// A setting is invalid, or refers to something that does not exist.
    Configuration,
    /// A resource of this machine is missing (a thread, say), or a worker failed while running.
    Runtime,
}

/// A failure of the server itself, never of a client. Its message is one line.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
        }
    }

    /// No engine can be used. Only a refusal of io_uring is the engine's; otherwise this machine
    /// lacks a resource that every engine needs.
    pub(crate) fn no_engine(refused: Refused) -> Self {
        let kind = match refused.is_uring() {
            true => ErrorKind::Engine,
            false => ErrorKind::Runtime,
        };
        Self::new(kind, refused)
    }

    /// The executor that was to turn the workers does not work here.
    #[cfg(feature = "glommio")]
    pub(crate) fn no_host(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Engine, message)
    }

    /// The engine of a running worker failed.
    pub(crate) fn engine_failed(error: &io::Error) -> Self {
        let message = format!("a worker's engine failed: {error}");
        Self::new(ErrorKind::Runtime, message)
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// As [`Display`](fmt::Display), because Rust prints this form if `main` returns an error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
