//! Decodes request bodies that are chunked or have a Content-Length (RFC 9112 §6 and §7.1). The
//! decoder keeps no bytes: it returns which range of its input is data, and which range is the line
//! of a trailer field (RFC 9110 §6.5). It validates that line.

use std::ops::Range;

use super::chunk_line::Element;
use super::parse::MessageLimits;
use crate::http::Fault;
use crate::http::field::{find, is_token, is_value, split_line};

/// The result of [`Decoder::decode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BodyEvent {
    /// The input is incomplete: more bytes are needed.
    NeedData,
    /// Data of the body.
    Data(Range<usize>),
    /// The line of a trailer field, without its CR LF.
    Trailer(Range<usize>),
    /// The body is complete, including its trailer section.
    End,
}

/// Decodes one body.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// Data bytes of the body or the current chunk that are not yet decoded. While a chunk size is
    /// read: its value so far.
    left: u64,
    /// The sum of all chunk sizes read so far, in bytes.
    announced: u64,
    /// Bytes of chunked framing so far that the chunks do not need: those of extensions, and zeros
    /// before a size. In the trailer section: the bytes of that section.
    overhead: u32,
    /// Trailer fields so far.
    trailers: u16,
    /// Digits of the current chunk size so far.
    size_digits: u8,
    syntax: Syntax,
}

/// The syntax element that the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    /// Data of a body with a Content-Length. Also the state after the trailer section.
    Counted,
    /// The line with the size of a chunk.
    ChunkLine(Element),
    ChunkData,
    /// The CR after the data of a chunk.
    DataReturn,
    /// The LF after the data of a chunk.
    DataLineFeed,
    Trailers,
}

/// The largest number of hexadecimal digits in a chunk size: as many as fit a `u64`.
const SIZE_DIGITS_MAX: u8 = 16;

impl Decoder {
    /// A decoder for a body of `length` bytes.
    pub(super) const fn counted(length: u64) -> Self {
        Self::new(length, Syntax::Counted)
    }

    /// A decoder for a chunked body.
    pub(super) const fn chunked() -> Self {
        Self::new(0, Syntax::ChunkLine(Element::SizeStart))
    }

    const fn new(left: u64, syntax: Syntax) -> Self {
        Self {
            left,
            announced: 0,
            overhead: 0,
            trailers: 0,
            size_digits: 0,
            syntax,
        }
    }

    /// The bytes of data that are known to follow: those of the body or, if it is chunked, of the
    /// current chunk.
    pub(super) fn known_left(&self) -> u64 {
        match self.syntax {
            Syntax::Counted | Syntax::ChunkData => self.left,
            _ => 0,
        }
    }

    /// Decodes the next event at the start of `bytes`. Returns how many bytes to consume, and the
    /// event, whose range lies within the consumed bytes. `scanned` is kept between calls: how many
    /// bytes of an incomplete trailer line were already searched for its end.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        scanned: &mut u32,
        limits: &MessageLimits,
    ) -> Result<(usize, BodyEvent), Fault> {
        let mut at = 0;
        loop {
            match self.syntax {
                Syntax::Counted if self.left == 0 => return Ok((at, BodyEvent::End)),
                Syntax::Counted | Syntax::ChunkData => return Ok(self.take_data(bytes, at)),
                Syntax::Trailers => return self.take_trailers(bytes, at, scanned, limits),
                _ => {
                    let Some(&byte) = bytes.get(at) else {
                        return Ok((at, BodyEvent::NeedData));
                    };
                    self.take_framing(byte, limits)?;
                    at += 1;
                }
            }
        }
    }

    /// Takes the data at offset `at`, as much as `bytes` has.
    fn take_data(&mut self, bytes: &[u8], at: usize) -> (usize, BodyEvent) {
        let here = bytes.len() - at;
        if here == 0 {
            return (at, BodyEvent::NeedData);
        }
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(here);
        self.left -= len as u64;
        if self.left == 0 && self.syntax == Syntax::ChunkData {
            self.syntax = Syntax::DataReturn;
        }
        (at + len, BodyEvent::Data(at..at + len))
    }

    /// Reads one byte of a chunk's first line, or of the CRLF after its data.
    fn take_framing(&mut self, byte: u8, limits: &MessageLimits) -> Result<(), Fault> {
        self.syntax = match (self.syntax, byte) {
            (Syntax::ChunkLine(element), _) => {
                let element = element.next(byte).ok_or(Fault::BadChunk)?;
                match element {
                    Element::Size => self.take_digit(byte)?,
                    Element::LineFeed => {}
                    Element::End => return self.begin_chunk(limits),
                    _ => self.count_overhead()?,
                }
                Syntax::ChunkLine(element)
            }
            (Syntax::DataReturn, b'\r') => Syntax::DataLineFeed,
            (Syntax::DataLineFeed, b'\n') => Syntax::ChunkLine(Element::SizeStart),
            _ => return Err(Fault::BadChunk),
        };
        Ok(())
    }

    /// Reads a digit of a chunk size.
    fn take_digit(&mut self, digit: u8) -> Result<(), Fault> {
        let digit = char::from(digit).to_digit(16).ok_or(Fault::BadChunk)?;
        if self.size_digits == SIZE_DIGITS_MAX {
            return Err(Fault::BadChunk);
        }
        self.left = self.left << 4 | u64::from(digit);
        self.size_digits += 1;
        match self.left {
            0 => self.count_overhead(),
            _ => Ok(()),
        }
    }

    /// Counts a byte of framing that a chunk does not need. Above the limit, three such bytes may
    /// come with each byte of data: some clients sign each chunk.
    fn count_overhead(&mut self) -> Result<(), Fault> {
        self.overhead = self.overhead.saturating_add(1);
        let is_free = self.overhead <= MessageLimits::FRAMING_BYTES_FREE;
        match is_free || self.announced >= u64::from(self.overhead) / 3 {
            true => Ok(()),
            false => Err(Fault::TooMuchFraming),
        }
    }

    /// Begins the chunk whose size was read. The size 0 begins the trailer section.
    fn begin_chunk(&mut self, limits: &MessageLimits) -> Result<(), Fault> {
        self.size_digits = 0;
        if self.left == 0 {
            self.syntax = Syntax::Trailers;
            self.overhead = 0;
            return Ok(());
        }
        self.syntax = Syntax::ChunkData;
        self.announced = self
            .announced
            .checked_add(self.left)
            .ok_or(Fault::BodyTooLarge)?;
        if limits.is_body_too_large(self.announced) {
            Err(Fault::BodyTooLarge)
        } else {
            Ok(())
        }
    }

    /// Reads the trailer line at offset `at`, or the empty line that ends the body.
    fn take_trailers(
        &mut self,
        bytes: &[u8],
        at: usize,
        scanned: &mut u32,
        limits: &MessageLimits,
    ) -> Result<(usize, BodyEvent), Fault> {
        let rest = &bytes[at..];
        let before = (*scanned as usize).min(rest.len());
        let end = find(&rest[before..], b'\n').map(|end| before + end + 1);
        let len = u32::try_from(end.unwrap_or(rest.len())).unwrap_or(u32::MAX);
        if self.overhead.saturating_add(len) > limits.head_bytes_max.into() {
            return Err(Fault::HeadTooLarge);
        }
        let Some(end) = end else {
            *scanned = len;
            return Ok((at, BodyEvent::NeedData));
        };
        *scanned = 0;
        self.overhead += len;
        let (start, at) = (at, at + end);
        let line = rest[..end]
            .strip_suffix(b"\r\n")
            .ok_or(Fault::BareLineFeed)?;
        if line.is_empty() {
            self.syntax = Syntax::Counted;
            return Ok((at, BodyEvent::End));
        }
        if self.trailers == limits.fields_max {
            return Err(Fault::TooManyFields);
        }
        self.trailers += 1;
        check_trailer(line)?;
        Ok((at, BodyEvent::Trailer(start..start + line.len())))
    }
}

/// Refuses a trailer line that is not a valid field, or whose field would change the framing, the
/// routing or the decoding of the message (RFC 9110 §6.5.1).
fn check_trailer(line: &[u8]) -> Result<(), Fault> {
    const FORBIDDEN: [&[u8]; 4] = [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"content-encoding",
    ];
    let (name, value) = split_line(line).ok_or(Fault::BadTrailer)?;
    let is_forbidden = FORBIDDEN.iter().any(|each| name.eq_ignore_ascii_case(each));
    if is_forbidden || !is_token(name) || !is_value(value) {
        return Err(Fault::BadTrailer);
    }
    Ok(())
}
