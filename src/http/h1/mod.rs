//! HTTP/1.0 and HTTP/1.1 (RFC 9112): heads, bodies, and the order of messages on a connection. It
//! does no I/O, and it does not interpret requests.

pub mod body;
mod chunk_line;
pub mod codec;
mod codings;
mod connection_options;
pub mod encode;
mod encode_request;
pub mod parse;
mod parse_response;
mod request_line;
mod requester;
pub mod state;

pub use codec::{Codec, DATA_SUFFIX, Event};
pub use encode::{BodyLength, ResponseHead};
pub use encode_request::RequestHead;
pub use parse::{FIELDS_MAX, Framing, MessageLimits, is_blank};
pub use parse_response::ReceivedHead;
pub use requester::{Requester, ResponseEvent};

#[cfg(test)]
mod tests;
