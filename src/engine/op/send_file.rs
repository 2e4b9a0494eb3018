//! Sending a span of a file without reading it (sendfile(2)).
//!
//! io_uring has no such operation, and its splice always goes to a thread of the kernel's. So the
//! call is made here, at once and with the same form on either engine, until the socket takes no
//! more; then the engine reports when it does. Asking before would wait for a third of the socket's
//! buffer to be free where a span has room already. Reading from the disk would block the
//! call, so a caller queues a span only if it is in memory.

use rustix::buffer::spare_capacity;
use rustix::fs::sendfile;
use rustix::io::{Errno, pread};
use rustix::net::{SendFlags, send};

use crate::buf::FileSpan;
use crate::engine::descriptor::Descriptor;

/// Bytes that are read at a time where the file itself cannot be sent.
const READ_BYTES_MAX: usize = 64 << 10;

/// Sends what the socket takes of `span` but its first `sent` bytes; 0 at the end of the file.
///
/// Only `O_NONBLOCK` keeps sendfile(2) from waiting for room. It stays set: no operation on a
/// socket waits for anything but poll(2), on either engine.
///
/// Nothing keeps it from raising SIGPIPE, so the thread blocks that (`sys::signals`).
pub(super) fn send_file(socket: &Descriptor, span: &FileSpan, sent: usize) -> Result<usize, Errno> {
    let mut offset = span.offset() + sent as u64;
    socket.make_nonblocking()?;
    match sendfile(socket, span, Some(&mut offset), span.len() - sent) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => read_and_send(socket, span, sent),
        result => result,
    }
}

/// The same where sendfile(2) is not to be had: some file systems do without it, some filters
/// forbid it. What the socket does not take is read again.
#[cold]
fn read_and_send(socket: &Descriptor, span: &FileSpan, sent: usize) -> Result<usize, Errno> {
    let mut bytes = Vec::with_capacity((span.len() - sent).min(READ_BYTES_MAX));
    let offset = span.offset() + sent as u64;
    match pread(span, spare_capacity(&mut bytes), offset)? {
        0 => Ok(0),
        _ => {
            // There may have been more room than was asked for.
            bytes.truncate(span.len() - sent);
            send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        }
    }
}
