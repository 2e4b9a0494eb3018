//! `struct msghdr` for one message and the descriptors that it carries (sendmsg(2), recvmsg(2),
//! cmsg(3)).

use std::cell::UnsafeCell;
use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

/// The most descriptors that one message may carry, in either direction.
pub const DESCRIPTORS_MAX: usize = 16;

/// Bytes of control data for [`DESCRIPTORS_MAX`] descriptors.
const CONTROL_BYTES: usize = control_bytes(DESCRIPTORS_MAX);

/// A `msghdr` with its one `iovec` and its control data, at addresses that do not change. `Rc`, not
/// `Box`: moving a `Box` asserts that there is no other pointer to its content.
pub(super) struct MsgHeader(Rc<UnsafeCell<HeaderParts>>);

struct HeaderParts {
    header: libc::msghdr,
    vector: libc::iovec,
    /// `u64` aligns it for a `cmsghdr`.
    control: [u64; CONTROL_BYTES.div_ceil(size_of::<u64>())],
}

impl MsgHeader {
    pub(super) fn new() -> Self {
        // SAFETY: all fields are integers or pointers, for which zero is valid.
        Self(Rc::new(unsafe { std::mem::zeroed() }))
    }

    /// Prepares a receive into the `len` bytes at `to`. The kernel must not be using the header.
    pub(super) fn prepare_receive(&mut self, to: *mut u8, len: usize) -> *mut libc::msghdr {
        self.set_up(to, len, CONTROL_BYTES)
    }

    /// Prepares a send of the `len` bytes at `from`, with at most [`DESCRIPTORS_MAX`] descriptors.
    /// The kernel must not be using the header.
    pub(super) fn prepare_send(
        &mut self,
        from: *const u8,
        len: usize,
        descriptors: &[OwnedFd],
    ) -> *const libc::msghdr {
        let count = descriptors.len();
        assert!(
            count <= DESCRIPTORS_MAX,
            "a message carries at most DESCRIPTORS_MAX descriptors"
        );
        if count == 0 {
            return self.set_up(from.cast_mut(), len, 0);
        }
        let header = self.set_up(from.cast_mut(), len, control_bytes(count));
        // SAFETY: as in `new`.
        let mut first = unsafe { std::mem::zeroed::<libc::cmsghdr>() };
        // SAFETY: this only computes a length.
        first.cmsg_len = unsafe { libc::CMSG_LEN(bytes_of(count)) } as _;
        first.cmsg_level = libc::SOL_SOCKET;
        first.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: `set_up` gave the header its control data.
        let control = unsafe { libc::CMSG_FIRSTHDR(header) };
        // SAFETY: the control data is aligned, and has room for this header and `count`
        // descriptors.
        unsafe { control.write(first) };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(control) }.cast::<RawFd>();
        for (n, descriptor) in descriptors.iter().enumerate() {
            // SAFETY: as above.
            let place = unsafe { data.add(n) };
            // SAFETY: as above.
            unsafe { place.write_unaligned(descriptor.as_raw_fd()) };
        }
        header
    }

    /// Takes the descriptors that a receive brought, and the flags of the header. Call it once
    /// after each successful receive and at no other time, because it takes ownership of open
    /// descriptors.
    pub(super) fn take_received(&mut self) -> (Vec<OwnedFd>, libc::c_int) {
        // SAFETY: the kernel has finished with the header, and there is no other reference.
        let parts = unsafe { &mut *self.0.get() };
        parts.header.msg_control = parts.control.as_mut_ptr().cast();
        let header = &raw const parts.header;
        let mut descriptors = Vec::new();
        // SAFETY: the kernel has stored the length of the control data in the header.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        // SAFETY: as above; after the last control message the pointer is null.
        while let Some(control) = unsafe { next.as_ref() } {
            if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                // SAFETY: this only computes a length.
                let empty = unsafe { libc::CMSG_LEN(0) } as usize;
                let len: usize = control.cmsg_len as _;
                let bytes = len.saturating_sub(empty);
                // SAFETY: the data follows its header.
                let data = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
                for n in 0..bytes / size_of::<RawFd>() {
                    // SAFETY: `cmsg_len` covers this descriptor.
                    let place = unsafe { data.add(n) };
                    // SAFETY: as above.
                    let fd = unsafe { place.read_unaligned() };
                    // SAFETY: the kernel has just created this descriptor, and no other code knows
                    // it.
                    descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            // SAFETY: as for the first control message.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        let flags = parts.header.msg_flags;
        // A second call must not take the same descriptors again.
        parts.header.msg_controllen = 0;
        (descriptors, flags)
    }

    fn set_up(&mut self, bytes: *mut u8, len: usize, control_len: usize) -> *mut libc::msghdr {
        // SAFETY: the kernel is not using the header, and there is no other reference.
        let parts = unsafe { &mut *self.0.get() };
        parts.vector = libc::iovec {
            iov_base: bytes.cast(),
            iov_len: len,
        };
        parts.header.msg_iov = &raw mut parts.vector;
        parts.header.msg_iovlen = 1;
        parts.header.msg_flags = 0;
        parts.header.msg_control = parts.control.as_mut_ptr().cast();
        parts.header.msg_controllen = control_len as _;
        &raw mut parts.header
    }
}

impl fmt::Debug for MsgHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MsgHeader").finish_non_exhaustive()
    }
}

const fn control_bytes(descriptors: usize) -> usize {
    // SAFETY: this only computes a length.
    unsafe { libc::CMSG_SPACE(bytes_of(descriptors)) as usize }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "there are at most DESCRIPTORS_MAX descriptors"
)]
const fn bytes_of(descriptors: usize) -> u32 {
    (descriptors * size_of::<RawFd>()) as u32
}
