//! How the start of a worker went.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use crate::python::link::{Dispatch, Form};

/// Which interface the application has, and how its workers run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// `wsgi`, `asgi3` or `asgi2`.
    pub interface: String,
    /// `sync`, `gthread`, `gevent` or `asgi`.
    pub class: String,
    /// Requests that each worker runs at a time; 1 for `asgi`, which runs any number.
    pub threads: u32,
    /// What else there is to say: the interpreter's version, the event loop.
    pub detail: String,
}

impl Loaded {
    pub(super) fn dispatch(&self) -> Dispatch {
        match self.class.as_str() {
            "asgi" => Dispatch::Each(Form::Scope),
            "gevent" => Dispatch::Each(Form::Environ),
            _ => Dispatch::Shared,
        }
    }

    /// How many requests of one of `cores` cores a worker runs at a time.
    pub(super) fn width(&self, cores: usize) -> u32 {
        match self.dispatch() {
            Dispatch::Shared => self.threads,
            Dispatch::Each(Form::Scope) => u32::MAX,
            Dispatch::Each(Form::Environ) => {
                (self.threads / u32::try_from(cores).unwrap_or(u32::MAX)).max(1)
            }
        }
    }
}

/// Why no worker could be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A system call failed.
    Io(io::Error),
    /// A worker has said why it cannot start, on standard error, and this is its exit status: 3
    /// when the application did not start, 4 when it could not be loaded.
    Worker(u8),
    /// A worker ended before it was ready.
    Ended(ExitStatus),
    /// A worker was not ready within this time
    /// ([`Options::start_timeout`](crate::python::Options::start_timeout)).
    Late(Duration),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot start a Python process: {error}"),
            Self::Worker(4) => f.write_str("the application could not be loaded"),
            Self::Worker(_) => f.write_str("the application could not be started"),
            Self::Ended(status) => {
                write!(f, "the Python process ended before it was ready: {status}")
            }
            Self::Late(limit) => {
                write!(f, "the Python process was not ready after {limit:?}")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
