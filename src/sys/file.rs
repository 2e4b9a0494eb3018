//! Reading a file without waiting for its disk.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{ReadWriteFlags, preadv2};

/// Whether the byte at `offset` is in memory, as far as the file system can tell. If it is not, the
/// kernel begins to read it (preadv2(2), `RWF_NOWAIT`).
pub fn is_cached(file: impl AsFd, offset: u64) -> bool {
    let mut byte = [0];
    let mut vector = [IoSliceMut::new(&mut byte)];
    preadv2(file, &mut vector, offset, ReadWriteFlags::NOWAIT) == Ok(1)
}

/// Appends to `bytes` what is in memory of the file's content from `offset` on, as far as there is
/// room: how many bytes that was; 0 at the end of the file (preadv2(2), `RWF_NOWAIT`).
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when the next byte has to come from the disk, `EOPNOTSUPP` where
/// the file system cannot tell, and those of preadv2(2).
pub fn read_cached(file: impl AsFd, bytes: &mut Vec<u8>, offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let room: &mut [MaybeUninit<u8>] = bytes.spare_capacity_mut();
    let vector = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    let file = file.as_fd().as_raw_fd();
    // SAFETY: the one vector covers `room`, which the kernel may write to during the call.
    let read = unsafe { libc::preadv2(file, &raw const vector, 1, offset, libc::RWF_NOWAIT) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written so many bytes behind the ones that were there.
    unsafe { bytes.set_len(bytes.len() + read) };
    Ok(read)
}
