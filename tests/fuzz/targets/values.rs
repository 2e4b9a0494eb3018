//! Values as clients and operators write them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coring_fuzz::values::check(data));
