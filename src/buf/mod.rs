//! Memory that the kernel may own during an operation.
//!
//! Each worker has one [`Pool`] of 4 KiB blocks. It supplies the provided buffers of the ring, the
//! buffers for received bytes and for responses, and the memory of the futures of services. Blocks
//! are reference-counted, not copied: a [`Chunk`] is a span of a block, and the block returns to
//! its pool when its last chunk is dropped. Nothing here depends on sockets, rings or HTTP.

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
