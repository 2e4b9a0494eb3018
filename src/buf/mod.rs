//! Bytes the kernel may own.
//!
//! One [`Pool`] of 4 KiB blocks per worker serves everything: the ring's provided buffers, what is
//! received and not yet understood, answers being written, and the futures of services. A block is
//! counted, not copied: a [`Chunk`] is a span of a block, and the block returns to its pool when
//! the last chunk of it is gone. Nothing here knows a socket, a ring or HTTP.

mod boxed;
mod chunk;
mod file_span;
mod outgoing;
mod part;
mod poison;
mod pool;
mod recv_buf;
mod send_queue;

pub use boxed::PoolBox;
pub use chunk::{Block, Chunk};
pub use file_span::FileSpan;
pub use outgoing::Outgoing;
pub use part::Part;
pub use pool::{BLOCK_BYTES, Pool};
pub use recv_buf::RecvBuf;
pub use send_queue::SendQueue;
