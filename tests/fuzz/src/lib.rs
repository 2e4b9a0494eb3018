//! Checks that take any bytes: each is a target of libFuzzer, and replays its corpus as an
//! ordinary test.
//!
//! A check reads its input as a list of decisions, makes them on the real code and on a naive
//! model, and panics where the two differ. The models do things the slow and obvious way, so that
//! a reader can see that they are right.
//!
//! ```text
//! tests/run --all                                        each target for a minute
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz h1       one target, until it finds something
//! cargo test --features mutants --test fuzz              the corpus, on a stable compiler
//! ```
//!
//! An input that found a fault is put into `corpus/`, under a name that tells what it found.

pub mod buffers;
pub mod connections;
pub mod executor;
pub mod h1;
mod input;
mod planned;
#[cfg(test)]
mod replay;
pub mod values;
pub mod wheel;
