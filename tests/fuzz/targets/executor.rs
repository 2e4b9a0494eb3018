//! The executor.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::executor::check(data));
