//! Reading files from the page cache without waiting for the disk, and files that are in memory
//! only.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwrite};

use super::kernel::page_bytes;

/// The size of a huge page on machines whose normal page has 4 KiB.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Whether the byte at `offset` is in the page cache, as far as the file system can tell. If it is
/// not, the kernel begins to read it (preadv2(2), `RWF_NOWAIT`).
pub fn is_cached(file: impl AsFd, offset: u64) -> bool {
    let mut byte = [0];
    let mut vector = [IoSliceMut::new(&mut byte)];
    preadv2(file, &mut vector, offset, ReadWriteFlags::NOWAIT) == Ok(1)
}

/// Whether all `len` bytes from `offset` on are in the page cache, as far as the file system can
/// tell. `len` must not be 0.
///
/// Linux 6.5 and later counts the pages (cachestat(2)), if this process's user owns the file or may
/// write to it, and if no filter forbids that. Otherwise one byte in each 32 KiB is looked for,
/// because the kernel reads ahead and evicts in pieces of about that size.
pub fn is_range_cached(file: impl AsFd, offset: u64, len: usize) -> bool {
    const STEP: usize = 32 << 10;
    let file = file.as_fd();
    let last = offset + len as u64 - 1;
    // A page that is still being read counts as cached, so the ends are looked at in any case.
    if !is_cached(file, offset) || !is_cached(file, last) {
        return false;
    }
    let page = page_bytes() as u64;
    match cached_pages(file, offset, len as u64) {
        // Some file systems count no pages, although there is the one that was seen above.
        Some(pages) if pages > 0 => pages > last / page - offset / page,
        _ => (STEP..len)
            .step_by(STEP)
            .all(|at| is_cached(file, offset + at as u64)),
    }
}

/// The number of pages in the page cache that have some of the `len` bytes from `offset` on; `None`
/// if the kernel does not tell.
fn cached_pages(file: BorrowedFd<'_>, offset: u64, len: u64) -> Option<u64> {
    // cachestat(2), which has this number on every architecture that coring runs on.
    const CACHESTAT: libc::c_long = 451;
    let range = [offset, len];
    // Pages: cached, dirty, in writeback, evicted, recently evicted.
    let mut counts = [0_u64; 5];
    let file = file.as_raw_fd();
    // SAFETY: the kernel reads two numbers of 64 bits and writes five, during the call.
    let result = unsafe { libc::syscall(CACHESTAT, file, range.as_ptr(), counts.as_mut_ptr(), 0) };
    (result == 0).then_some(counts[0])
}

/// Appends content of the file from `offset` on to `bytes`: as much as is in the page cache and
/// fits the spare capacity. Returns the number of bytes; 0 at the end of the file (preadv2(2),
/// `RWF_NOWAIT`).
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if the next byte must be read from the disk, `EOPNOTSUPP` if the
/// file system does not support the flag, and those of preadv2(2).
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
    // SAFETY: the kernel has written `read` bytes after those that were there.
    unsafe { bytes.set_len(bytes.len() + read) };
    Ok(read)
}

/// An empty file in memory, without a name in the file system. It is not executable if the kernel
/// supports that (memfd_create(2), `MFD_NOEXEC_SEAL`, Linux 6.3; the sysctl `vm.memfd_noexec` may
/// require it).
///
/// # Errors
/// Those of memfd_create(2).
pub fn anonymous_file(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag.
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// Seals an anonymous file against writing (fcntl(2), `F_SEAL_WRITE`). The kernel refuses while its
/// pages are in use elsewhere, for example in a socket's queue. The call may wait for them for
/// about 150 ms.
///
/// # Errors
/// `EBUSY` if the pages are in use elsewhere.
pub fn seal_writes(file: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_add_seals(file, SealFlags::WRITE)?)
}

/// Extends an empty anonymous file to [`HUGE_PAGE_BYTES`] zeros. They are one huge page if the
/// kernel has one (madvise(2), `MADV_COLLAPSE`, Linux 6.1), else normal pages.
///
/// # Errors
/// Those of ftruncate(2) and pwrite(2).
pub fn fill_with_huge_page(file: &OwnedFd) -> io::Result<()> {
    ftruncate(file, HUGE_PAGE_BYTES as u64)?;
    // A file without any page cannot be collapsed.
    pwrite(file, &[0], 0)?;
    collapse(file);
    Ok(())
}

/// Collapses the file into a huge page, through a mapping that is aligned like the page.
fn collapse(file: &OwnedFd) {
    let len = HUGE_PAGE_BYTES;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: reserves unused addresses without memory; the kernel chooses where.
    let room = unsafe { libc::mmap(ptr::null_mut(), 2 * len, libc::PROT_NONE, flags, -1, 0) };
    if room == libc::MAP_FAILED {
        return;
    }
    let place = room.map_addr(|address| address.next_multiple_of(len));
    let (access, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_FIXED,
    );
    // SAFETY: `place` and the `len` bytes after it lie in `room`, which only this function uses.
    let mapped = unsafe { libc::mmap(place, len, access, flags, file.as_raw_fd(), 0) };
    if mapped == place {
        // SAFETY: the range is mapped, and the advice changes no content. It may fail.
        unsafe { libc::madvise(place, len, libc::MADV_COLLAPSE) };
    }
    // SAFETY: nothing refers to the addresses in `room`.
    unsafe { libc::munmap(room, 2 * len) };
}

#[cfg(test)]
mod tests {
    use rustix::fs::fstat;
    use rustix::io::pread;

    use super::*;

    #[test]
    fn an_anonymous_file_is_full_of_zeros_and_can_be_written() {
        let file = anonymous_file("test").expect("an anonymous file");
        fill_with_huge_page(&file).expect("memory");
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
        assert_eq!(pwrite(&file, b"a", HUGE_PAGE_BYTES as u64 - 1), Ok(1));
        assert_eq!(pread(&file, &mut bytes, HUGE_PAGE_BYTES as u64 - 2), Ok(2));
        assert_eq!(bytes, *b"\0a");
    }
}
