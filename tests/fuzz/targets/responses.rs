//! The events of responses that a client receives, at once and in pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::responses::check(data));
