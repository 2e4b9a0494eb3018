//! The events of an HTTP/1.1 connection, at once and in pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::h1::check(data));
