//! Fuzz targets. Each check takes arbitrary bytes. libFuzzer calls it with new inputs, and an
//! ordinary test calls it with the inputs of the corpus.
//!
//! A check interprets its input as a list of operations, applies them to the real code and to a
//! naive model, and panics if the results differ. The models are slow and simple, so that a reader
//! can see that they are correct.
//!
//! ```text
//! tests/run --all                                        each target for a minute
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz h1       one target, until it finds something
//! cargo test --features mutants --test fuzz              the corpus, on a stable compiler
//! ```
//!
//! An input that found a bug is added to `corpus/`, with a name that describes the bug.

pub mod answers;
pub mod buffers;
pub mod connections;
pub mod executor;
pub mod h1;
mod input;
mod planned;
#[cfg(test)]
mod replay;
pub mod responses;
pub mod values;
pub mod wheel;
