//! The time that a peer has for the last answer, if it may still send.

use std::future::poll_fn;

use crate::net::{Filled, Transport};
use crate::rt::peer_after_ms;

/// After an answer to a request that was not read to its end, or that more had followed: the peer
/// may go on sending for this long without a pause, and in all, in ms. A close with bytes unread
/// would reset the connection and could take the answer with it.
const LINGER_PAUSE_MS: u64 = 2_000;
const LINGER_MS: u64 = 10_000;

/// As long as it goes on, so many bytes are received for the sake of the last answer: a client that
/// reads only once it has sent everything may have a whole body of the default limit left to send.
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Tells the peer that no more will come, and receives until the peer has told the same.
pub(super) async fn linger(transport: &mut Transport) {
    transport.shutdown_write();
    let end_ms = peer_after_ms(LINGER_MS);
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        transport.set_recv_deadline(end_ms.min(peer_after_ms(LINGER_PAUSE_MS)));
        let unread = transport.inbox.unread().len();
        transport.inbox.consume(unread);
        match poll_fn(|context| transport.poll_fill(context)).await {
            Ok(Filled::Bytes(received)) => left = left.saturating_sub(received),
            Ok(Filled::Fin | Filled::Overdue) | Err(_) => break,
        }
    }
}
