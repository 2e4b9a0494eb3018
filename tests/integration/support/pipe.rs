//! Pipes whose reader stalls, and pipes that another process has made non-blocking.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// A pipe that nobody reads from until the test does.
pub(crate) struct StalledPipe {
    reader: PipeReader,
    writer: PipeWriter,
}

impl StalledPipe {
    pub(crate) fn new() -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        Self { reader, writer }
    }

    /// The end that a child process writes to.
    pub(crate) fn writer(&self) -> PipeWriter {
        self.writer.try_clone().expect("a descriptor")
    }

    /// Sets or clears `O_NONBLOCK` for all processes that share the writer's end.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        let flags = fcntl_getfl(&self.writer).expect("a pipe's flags");
        let flags = match nonblocking {
            true => flags | OFlags::NONBLOCK,
            false => flags - OFlags::NONBLOCK,
        };
        fcntl_setfl(&self.writer, flags).expect("a pipe that takes flags");
    }

    /// Fills the pipe, so that the next write to it blocks.
    pub(crate) fn fill(&self) {
        self.set_nonblocking(true);
        for size in [64 << 10, 1] {
            while (&self.writer).write(&vec![b'.'; size]).is_ok() {}
        }
        self.set_nonblocking(false);
    }

    /// Reads all that was written, once no other process has the writer's end.
    pub(crate) fn read_to_end(self) -> Vec<u8> {
        let Self { mut reader, writer } = self;
        drop(writer);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("a pipe");
        bytes
    }
}
