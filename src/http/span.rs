//! A range of received bytes, stored as offsets. It does not borrow the bytes, because they may
//! move after they were parsed.

use std::fmt;
use std::num::NonZeroU32;

/// A half-open range of bytes, counted from the first byte passed to the parser.
///
/// The offsets have 16 bits, to keep a parsed head small; the limit of a head has 16 bits as well.
/// The two offsets are packed into one word by hand, so that an `Option<Span>` is loaded and stored
/// as a word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Span(NonZeroU32);

/// The largest offset. It is not `u16::MAX`, so that the inverted word is never zero.
const OFFSET_MAX: u16 = u16::MAX - 1;

impl Span {
    /// The span `0..0`.
    pub(super) const EMPTY: Self = Self(NonZeroU32::MAX);

    /// The range from `start` up to, but not including, `end`. An offset above `OFFSET_MAX` becomes
    /// `OFFSET_MAX`.
    #[inline]
    pub(super) fn new(start: usize, end: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the offset is clamped")]
        let clamp = |offset: usize| offset.min(OFFSET_MAX.into()) as u32;
        // The word is stored inverted: the span `0..0` is valid, but a `NonZeroU32` cannot be 0.
        Self(NonZeroU32::new(!(clamp(end) << 16 | clamp(start))).unwrap_or(NonZeroU32::MAX))
    }

    /// The bytes in this range; empty if `bytes` is too short.
    #[inline]
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start()..self.end()).unwrap_or_default()
    }

    /// The bytes in this range as text; empty if they are not UTF-8. Validated targets and hosts
    /// are ASCII.
    #[inline]
    #[must_use]
    pub fn text(self, bytes: &[u8]) -> &str {
        str::from_utf8(self.of(bytes)).unwrap_or_default()
    }

    /// The offset of the first byte.
    #[inline]
    pub(super) fn start(self) -> usize {
        (!self.0.get() & 0xffff) as usize
    }

    /// The offset behind the last byte.
    #[inline]
    pub(super) fn end(self) -> usize {
        (!self.0.get() >> 16) as usize
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.end().saturating_sub(self.start())
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start(), self.end())
    }
}
