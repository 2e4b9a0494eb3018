//! Files in memory: reading one without waiting for its disk, and one that has none.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwrite};

/// The size of a large page where one of the common size has 4 KiB.
pub const LARGE_PAGE_BYTES: usize = 2 << 20;

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

/// An empty file in memory that nobody else can open, nor execute where the kernel can see to that
/// (memfd_create(2), `MFD_NOEXEC_SEAL`, Linux 6.3; `vm.memfd_noexec` may demand it).
///
/// # Errors
/// Those of memfd_create(2).
pub fn anonymous_file(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // An older kernel does not know it.
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// Writes to an anonymous file no more: so the kernel tells whether its pages are still elsewhere,
/// in a socket say (fcntl(2), `F_SEAL_WRITE`). It may wait for them for a sixth of a second.
///
/// # Errors
/// `EBUSY` when they are.
pub fn give_up_writing(file: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_add_seals(file, SealFlags::WRITE)?)
}

/// Makes an empty anonymous file one of [`LARGE_PAGE_BYTES`] zeros, in one large page if the kernel
/// can (madvise(2), `MADV_COLLAPSE`, Linux 6.1), else in small ones.
///
/// # Errors
/// Those of ftruncate(2) and pwrite(2).
pub fn fill_with_large_page(file: &OwnedFd) -> io::Result<()> {
    ftruncate(file, LARGE_PAGE_BYTES as u64)?;
    // Of nothing the kernel makes no page.
    pwrite(file, &[0], 0)?;
    collapse(file);
    Ok(())
}

/// Asks for the page through a mapping, which must lie as the page would.
fn collapse(file: &OwnedFd) {
    let len = LARGE_PAGE_BYTES;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: addresses without memory, wherever they are free.
    let room = unsafe { libc::mmap(ptr::null_mut(), 2 * len, libc::PROT_NONE, flags, -1, 0) };
    if room == libc::MAP_FAILED {
        return;
    }
    let place = room.map_addr(|address| address.next_multiple_of(len));
    let (access, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_FIXED,
    );
    // SAFETY: the place is in `room`, which is nobody else's, and ends within it.
    let mapped = unsafe { libc::mmap(place, len, access, flags, file.as_raw_fd(), 0) };
    if mapped == place {
        // SAFETY: it is mapped, and the advice changes nothing in it. It may fail.
        unsafe { libc::madvise(place, len, libc::MADV_COLLAPSE) };
    }
    // SAFETY: nothing refers to what is mapped there.
    unsafe { libc::munmap(room, 2 * len) };
}

#[cfg(test)]
mod tests {
    use rustix::fs::fstat;
    use rustix::io::pread;

    use super::*;

    #[test]
    fn an_anonymous_file_has_its_zeros_and_takes_what_is_written() {
        let file = anonymous_file("test").expect("an anonymous file");
        fill_with_large_page(&file).expect("memory");
        let stat = fstat(&file).expect("a file");
        assert_eq!(stat.st_size, 2 << 20);
        let knows_noexec = rustix::system::uname()
            .release()
            .to_str()
            .is_ok_and(|release| {
                let mut numbers = release
                    .split(['.', '-'])
                    .map_while(|part| part.parse().ok());
                (numbers.next(), numbers.next()) >= (Some(6_u32), Some(3))
            });
        assert_eq!(stat.st_mode & 0o111 == 0, knows_noexec);
        let mut bytes = [1; 2];
        assert_eq!(pwrite(&file, b"a", LARGE_PAGE_BYTES as u64 - 1), Ok(1));
        assert_eq!(pread(&file, &mut bytes, LARGE_PAGE_BYTES as u64 - 2), Ok(2));
        assert_eq!(bytes, *b"\0a");
    }
}
