//! Connections of several clients to a server on a simulated kernel.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::connections::check(data));
