//! HTTP as a language: bytes in, events out. Times are arguments, errors are values.
//!
//! This room refuses to know sockets, clocks, buffers' owners and services: whoever holds the bytes
//! lends them for one call and learns offsets into them. Its words for methods and status codes are
//! those of the `http` crate.

#![forbid(unsafe_code)]

pub mod conditional;
pub mod date;
pub mod fault;
pub mod field;
pub mod field_lines;
pub mod h1;
pub mod head;
mod head_writer;
pub mod range;
pub mod span;
pub mod target;

pub use fault::Fault;
pub use field_lines::{FieldLines, InvalidField};
pub use head::{Head, Version};
pub use span::Span;
