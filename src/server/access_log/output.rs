//! Opens the file or the stream that the access log is written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::AccessLog;
use crate::sys::output::{BlockingWriter, copy_named};

/// Opens what a log is written to. The error is a line with cause and cure.
pub(super) fn open_output(log: &AccessLog) -> Result<Box<dyn Write + Send>, String> {
    let AccessLog::File(path) = log else {
        return Ok(Box::new(Stdout));
    };
    match open_file(path) {
        Ok(file) => Ok(Box::new(BlockingWriter(file))),
        Err(error) => {
            let cure = match error.raw_os_error() {
                Some(libc::ENXIO) => {
                    "the pipe has no reader, or it is a socket; start the reader first"
                }
                _ => "check the path and its permissions",
            };
            let path = path.display();
            Err(format!(
                "cannot open the access log {path}: {error}; {cure}"
            ))
        }
    }
}

/// Opens a log for appending. If it is a pipe, open(2) must not wait for a reader, because the
/// program would handle no signals meanwhile; hence `O_NONBLOCK`. A write by [`BlockingWriter`]
/// does wait for the reader, but returns once some bytes are written. So the number of written
/// lines is known even if the process ends during a write.
///
/// A descriptor that this process has already is not opened, but copied: the pipe may belong to
/// another user, and a socket cannot be opened.
fn open_file(path: &Path) -> io::Result<File> {
    if let Some(copied) = copy_named(path) {
        return copied.map(File::from);
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

/// Standard output, locked for each write, because the program may write to it, too.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BlockingWriter(io::stdout().lock()).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
