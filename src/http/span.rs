//! A stretch of received bytes, by offsets. It refuses to know the bytes: they may move between
//! the moment they are parsed and the moment they are read.

use std::fmt;
use std::num::NonZeroU32;

/// A half-open stretch of bytes, counted from the first byte given to the parser.
///
/// Two-byte offsets keep a parsed head small; the parser never looks further than its head limit.
/// They are packed by hand, so that an optional span is written and read in one piece.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Span(NonZeroU32);

/// The furthest offset: not all bits set.
const OFFSET_MAX: u16 = u16::MAX - 1;

impl Span {
    /// Nothing.
    pub(super) const EMPTY: Self = Self(NonZeroU32::MAX);

    /// From `start` up to, not including, `end`; offsets past 64 KiB are cut there.
    #[inline]
    pub(super) fn new(start: usize, end: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "it is cut")]
        let cut = |offset: usize| offset.min(OFFSET_MAX.into()) as u32;
        // Inverted, for nothing at all is a span, but zero is none.
        Self(NonZeroU32::new(!(cut(end) << 16 | cut(start))).unwrap_or(NonZeroU32::MAX))
    }

    /// The bytes of this stretch; nothing where `bytes` is shorter than what was parsed.
    #[inline]
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start()..self.end()).unwrap_or_default()
    }

    /// The same bytes as text; nothing where they are not ASCII, which no validated target is.
    #[inline]
    #[must_use]
    pub fn text(self, bytes: &[u8]) -> &str {
        str::from_utf8(self.of(bytes)).unwrap_or_default()
    }

    /// Where it begins.
    #[inline]
    pub(super) fn start(self) -> usize {
        (!self.0.get() & 0xffff) as usize
    }

    #[inline]
    fn end(self) -> usize {
        (!self.0.get() >> 16) as usize
    }

    /// How many bytes it covers.
    #[must_use]
    pub fn len(self) -> usize {
        self.end().saturating_sub(self.start())
    }

    /// Whether it covers nothing.
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
