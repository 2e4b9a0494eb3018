//! A stretch of received bytes, by offsets. It refuses to know the bytes: they may move between
//! the moment they are parsed and the moment they are read.

/// A half-open stretch of bytes, counted from the first byte given to the parser.
///
/// Two-byte offsets keep a parsed head small; the parser never looks further than its head limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// Nothing.
    pub(super) const EMPTY: Self = Self { start: 0, end: 0 };

    /// From `start` up to, not including, `end`; offsets past 64 KiB are cut there.
    pub(super) fn new(start: usize, end: usize) -> Self {
        let cut = |offset| u16::try_from(offset).unwrap_or(u16::MAX);
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
            .get(self.start.into()..self.end.into())
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
        self.start.into()
    }

    /// How many bytes it covers.
    #[must_use]
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start).into()
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}
