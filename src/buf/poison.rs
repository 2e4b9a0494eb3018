//! Marks free blocks for AddressSanitizer, which reports any access to them. In builds without
//! `--cfg asan` these functions do nothing.
//!
//! AddressSanitizer does not see accesses by the kernel.

use std::ptr::NonNull;

/// Marks these bytes as inaccessible.
#[inline]
pub(super) fn poison(start: NonNull<u8>, len: usize) {
    #[cfg(asan)]
    // SAFETY: the call only marks the bytes, which are allocated memory of ours.
    unsafe {
        runtime::__asan_poison_memory_region(start.as_ptr().cast(), len);
    }
    #[cfg(not(asan))]
    let _ = (start, len);
}

/// Marks these bytes as accessible.
#[inline]
pub(super) fn unpoison(start: NonNull<u8>, len: usize) {
    #[cfg(asan)]
    // SAFETY: as in `poison`.
    unsafe {
        runtime::__asan_unpoison_memory_region(start.as_ptr().cast(), len);
    }
    #[cfg(not(asan))]
    let _ = (start, len);
}

/// Functions of the sanitizer's runtime (sanitizer/asan_interface.h).
#[cfg(asan)]
pub(super) mod runtime {
    #[cfg(test)]
    use std::ffi::c_int;
    use std::ffi::c_void;

    // SAFETY: the declarations are those of the header, and every build with `--cfg asan` links the
    // runtime.
    unsafe extern "C" {
        pub(in crate::buf) fn __asan_poison_memory_region(start: *const c_void, len: usize);
        pub(in crate::buf) fn __asan_unpoison_memory_region(start: *const c_void, len: usize);
        #[cfg(test)]
        pub(in crate::buf) safe fn __asan_address_is_poisoned(address: *const c_void) -> c_int;
    }
}
