//! HTTP without I/O: the caller passes in received bytes and gets events. Times are arguments,
//! errors are return values.
//!
//! Nothing in this module depends on sockets, clocks, buffers or services: the caller lends its
//! bytes for one call and gets offsets into them. Methods and status codes are the types of the
//! `http` crate.

#![forbid(unsafe_code)]

pub mod conditional;
pub mod date;
pub mod fault;
pub mod field;
pub mod field_lines;
pub mod forwarded;
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
