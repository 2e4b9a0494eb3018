//! The timer wheel.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::wheel::check(data));
