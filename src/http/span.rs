//! A stretch of received bytes, by offsets. It refuses to know the bytes: they may move between
//! the moment they are parsed and the moment they are read.

/// A half-open stretch of bytes, counted from the first byte given to the parser.
///
/// Four-byte offsets keep a parsed head small; the parser never looks further than its head limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Nothing.
    pub(super) const EMPTY: Self = Self { start: 0, end: 0 };

    /// From `start` up to, not including, `end`; offsets past 4 GiB are cut there.
    pub(super) fn new(start: usize, end: usize) -> Self {
        let cut = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
        Self {
            start: cut(start),
            end: cut(end),
        }
    }

    /// The bytes of this stretch; nothing where `bytes` is shorter than what was parsed.
    #[inline]
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    /// The same bytes as text; nothing where they are not ASCII, which no validated target is.
    #[inline]
    #[must_use]
    pub fn text(self, bytes: &[u8]) -> &str {
        str::from_utf8(self.of(bytes)).unwrap_or_default()
    }

    /// Where it begins.
    pub(super) fn start(self) -> usize {
        self.start as usize
    }

    /// How many bytes it covers.
    #[must_use]
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}
