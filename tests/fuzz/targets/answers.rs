//! The messages of Python workers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::answers::check(data));
