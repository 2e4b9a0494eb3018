//! The data of one send, of which the engine takes ownership.

use super::chunk::Chunk;
use super::file_span::FileSpan;
use super::part::Part;

/// The data of one send. The operation owns it until the kernel no longer uses it.
#[derive(Debug)]
pub enum Outgoing {
    /// One span of a block, which is the common case.
    One(Chunk),
    /// Several parts, for one gathering send (sendmsg(2)).
    Many(Vec<Part>),
    /// A span of a file, and bytes in memory that precede it.
    File(Box<HeadAndSpan>),
}

#[allow(clippy::len_without_is_empty, reason = "a send is never empty")]
impl Outgoing {
    /// The total length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::One(chunk) => chunk.len(),
            Self::Many(parts) => parts.iter().map(|part| part.len()).sum(),
            Self::File(file) => file.len(),
        }
    }
}

/// A span of a file and the bytes that precede it, which usually are the head of a response.
#[derive(Debug)]
pub struct HeadAndSpan {
    /// The bytes to send before the span, if there are any.
    pub head: Option<Chunk>,
    /// The span to send after them.
    pub span: FileSpan,
}

impl HeadAndSpan {
    /// The number of bytes before the span.
    pub fn head_len(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.len())
    }

    /// The total length in bytes.
    pub(super) fn len(&self) -> usize {
        self.head_len() + self.span.len()
    }

    /// Removes the first `n` bytes. There must be more than `n`.
    pub(super) fn advance(&mut self, n: usize) {
        let head_len = self.head_len();
        match &mut self.head {
            Some(head) if n < head_len => head.advance(n),
            head => {
                *head = None;
                self.span.advance(n - head_len);
            }
        }
    }
}
