//! Blocks that nobody holds, as AddressSanitizer is to see them: it reports whoever touches one.
//! In builds without it, which `--cfg asan` tells apart, there is nothing to do.
//!
//! It does not see what the kernel touches.

use std::ptr::NonNull;

/// Nobody may touch these bytes from now on.
#[inline]
pub(super) fn poison(start: NonNull<u8>, len: usize) {
    #[cfg(asan)]
    // SAFETY: it only marks the bytes, which are memory of ours.
    unsafe {
        runtime::__asan_poison_memory_region(start.as_ptr().cast(), len);
    }
    #[cfg(not(asan))]
    let _ = (start, len);
}

/// These bytes may be touched again.
#[inline]
pub(super) fn unpoison(start: NonNull<u8>, len: usize) {
    #[cfg(asan)]
    // SAFETY: as above.
    unsafe {
        runtime::__asan_unpoison_memory_region(start.as_ptr().cast(), len);
    }
    #[cfg(not(asan))]
    let _ = (start, len);
}

/// What the sanitizer's runtime offers (sanitizer/asan_interface.h).
#[cfg(asan)]
pub(super) mod runtime {
    #[cfg(test)]
    use std::ffi::c_int;
    use std::ffi::c_void;

    // SAFETY: declared as in that header; every build with `--cfg asan` links the runtime.
    unsafe extern "C" {
        pub(in crate::buf) fn __asan_poison_memory_region(start: *const c_void, len: usize);
        pub(in crate::buf) fn __asan_unpoison_memory_region(start: *const c_void, len: usize);
        #[cfg(test)]
        pub(in crate::buf) safe fn __asan_address_is_poisoned(address: *const c_void) -> c_int;
    }
}
