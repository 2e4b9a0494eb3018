//! Parsers of values that clients and operators write.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::values::check(data));
