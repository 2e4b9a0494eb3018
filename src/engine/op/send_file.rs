//! Sending a file span without reading it (sendfile(2)).
//!
//! io_uring has no such operation, and its splice always runs on a kernel thread (io-wq). So on
//! both engines this module makes the system call, until the socket accepts no more; the engine
//! then waits for room. The first attempt does not wait for a report of room, because poll(2)
//! reports room only when a third of the socket's buffer is free, and a span may fit before. If the
//! call had to read from the disk it would block the worker, so a caller queues a span only if it
//! is in the page cache.

use rustix::buffer::spare_capacity;
use rustix::fs::sendfile;
use rustix::io::{Errno, pread};
use rustix::net::{SendFlags, send};

use crate::buf::FileSpan;
use crate::engine::descriptor::Descriptor;

/// The most bytes to read at a time if the file itself cannot be sent.
const READ_BYTES_MAX: usize = 64 << 10;

/// Sends what the socket accepts of `span` after its first `sent` bytes. 0 at the end of the file.
///
/// Only `O_NONBLOCK` keeps sendfile(2) from waiting for room. The flag stays set, which changes
/// nothing else: on both engines, operations on a socket wait by poll(2) only.
///
/// sendfile(2) has no flag against SIGPIPE, so the thread blocks that signal (`sys::signals`).
pub(super) fn send_file(socket: &Descriptor, span: &FileSpan, sent: usize) -> Result<usize, Errno> {
    let mut offset = span.offset() + sent as u64;
    socket.make_nonblocking()?;
    match sendfile(socket, span, Some(&mut offset), span.len() - sent) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => read_and_send(socket, span, sent),
        result => result,
    }
}

/// The fallback for sendfile(2): some file systems do not support it, and some seccomp filters
/// forbid it. Bytes that the socket does not accept are read again later.
#[cold]
fn read_and_send(socket: &Descriptor, span: &FileSpan, sent: usize) -> Result<usize, Errno> {
    let mut bytes = Vec::with_capacity((span.len() - sent).min(READ_BYTES_MAX));
    let offset = span.offset() + sent as u64;
    match pread(span, spare_capacity(&mut bytes), offset)? {
        0 => Ok(0),
        _ => {
            // The capacity may be larger than requested.
            bytes.truncate(span.len() - sent);
            send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        }
    }
}
