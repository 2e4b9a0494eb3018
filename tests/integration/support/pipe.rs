//! A pipe whose reader can stall, and which can be made non-blocking, as another process that
//! shares the pipe might do.

use std::io::{self, PipeReader, PipeWriter, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::process::Lines;

/// A pipe; nothing is read from it until the test calls [`StalledPipe::follow`].
pub(crate) struct StalledPipe {
    reader: PipeReader,
    writer: PipeWriter,
}

impl StalledPipe {
    pub(crate) fn new() -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        Self { reader, writer }
    }

    /// A new descriptor of the writing end, for a child process.
    pub(crate) fn writer(&self) -> PipeWriter {
        self.writer.try_clone().expect("a free descriptor")
    }

    /// Sets or clears `O_NONBLOCK` on the writing end, for all processes that share it.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        let flags = fcntl_getfl(&self.writer).expect("a pipe's flags");
        let flags = match nonblocking {
            true => flags | OFlags::NONBLOCK,
            false => flags - OFlags::NONBLOCK,
        };
        fcntl_setfl(&self.writer, flags).expect("a pipe whose flags can be set");
    }

    /// Fills the pipe, so that the next write to it blocks.
    pub(crate) fn fill(&self) {
        self.set_nonblocking(true);
        for size in [64 << 10, 1] {
            while (&self.writer).write(&vec![b'.'; size]).is_ok() {}
        }
        self.set_nonblocking(false);
    }

    /// Begins to read, until all other processes have closed the writing end.
    pub(crate) fn follow(self) -> Lines {
        drop(self.writer);
        Lines::follow(Some(self.reader))
    }
}
