//! Receive buffers, send queues and boxes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::buffers::check(data));
