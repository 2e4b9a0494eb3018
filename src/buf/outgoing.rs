//! What one send gives away to the engine; says nothing of how it is sent.

use super::chunk::Chunk;
use super::file_span::FileSpan;
use super::part::Part;

/// What goes out in one send: it is given away until the kernel is done with it.
#[derive(Debug)]
pub enum Outgoing {
    /// The common case: one block's span.
    One(Chunk),
    /// Several parts, for one gathering send.
    Many(Vec<Part>),
    /// A span of a file, behind the memory that comes before it.
    File(Box<HeadAndSpan>),
}

#[allow(
    clippy::len_without_is_empty,
    reason = "nothing goes out without a byte"
)]
impl Outgoing {
    /// Bytes in all parts together.
    pub fn len(&self) -> usize {
        match self {
            Self::One(chunk) => chunk.len(),
            Self::Many(parts) => parts.iter().map(|part| part.len()).sum(),
            Self::File(file) => file.len(),
        }
    }
}

/// A span of a file and what comes before it, the end of an answer's head mostly.
#[derive(Debug)]
pub struct HeadAndSpan {
    /// What stands in memory, if anything does.
    pub head: Option<Chunk>,
    /// The span behind it.
    pub span: FileSpan,
}

impl HeadAndSpan {
    /// Bytes before the span.
    pub fn head_len(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.len())
    }

    /// Bytes of both.
    pub(super) fn len(&self) -> usize {
        self.head_len() + self.span.len()
    }

    /// Leaves out the first `n` bytes, of which there are more.
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
