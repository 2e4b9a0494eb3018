//! Reads numbers from the bytes of an input.

/// The rest of an input. At its end, every number is 0.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next byte, or `None` at the end.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// A number below 256.
    pub(crate) fn number(&mut self) -> u64 {
        self.byte().unwrap_or(0).into()
    }

    /// A number below `end`, which is 256 at most.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % end
    }

    /// A number up to `max`: often a small one, else a large one or one close to `max`.
    pub(crate) fn up_to(&mut self, max: usize) -> usize {
        let first = usize::from(self.byte().unwrap_or(0));
        let number = match first {
            0..=127 => first,
            128..=191 => (first & 63) << 8 | self.below(256),
            192..=223 => max.saturating_sub(first & 31),
            _ => (first & 31) << 12 | self.below(256),
        };
        number.min(max)
    }

    /// A number of up to 44 bits.
    pub(crate) fn span(&mut self) -> u64 {
        let bits = self.number() % 44;
        let number = self.number() << 8 | self.number();
        match bits {
            0..=15 => number & ((1 << bits) - 1),
            _ => number << (bits - 16) | 1,
        }
    }

    /// Up to `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// The remaining bytes.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A copy of `bytes` in an allocation of exactly their length, so that AddressSanitizer detects a
/// read beyond their end.
pub(crate) fn exact(bytes: &[u8]) -> Box<[u8]> {
    bytes.into()
}
