//! From bytes to a request's body: counted or chunked (RFC 9112 §6 and §7.1). It refuses to keep
//! bytes: it says which stretch of what it was shown is body, and which is a trailer field
//! (RFC 9110 §6.5), whose line it has checked.

use std::ops::Range;

use super::parse::Limits;
use crate::http::Fault;
use crate::http::field::{find, is_token, is_value, split_line};

/// What the bytes at hand hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Nothing whole; more bytes have to come.
    NeedData,
    /// A stretch of the body.
    Data(Range<usize>),
    /// A trailer field's line, without its end.
    Trailer(Range<usize>),
    /// The body's end, after its last byte and its trailer section.
    End,
}

/// Reads one body.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// Bytes left of the body, or of the chunk; while a chunk's size is read, the size so far.
    left: u64,
    /// Bytes of chunk data announced so far.
    announced: u64,
    /// Bytes of framing so far; from the trailer section on, bytes of that section.
    overhead: u32,
    trailers: u16,
    size_digits: u8,
    stage: Stage,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Counted,
    ChunkSize,
    ChunkExtension,
    SizeLineFeed,
    ChunkData,
    DataReturn,
    DataLineFeed,
    Trailers,
}

/// Digits of a chunk size that fit a `u64`.
const SIZE_DIGITS_MAX: u8 = 16;

/// Framing of a chunked body may take this many bytes; beyond, no more than three bytes for each
/// byte of data. One-byte chunks and endless extensions cost us more than the peer.
const OVERHEAD_BYTES_FREE: u32 = 100 * 1024;

impl Decoder {
    /// For a body of `length` bytes.
    pub(super) const fn counted(length: u64) -> Self {
        Self::new(length, Stage::Counted)
    }

    /// For a chunked body.
    pub(super) const fn chunked() -> Self {
        Self::new(0, Stage::ChunkSize)
    }

    const fn new(left: u64, stage: Stage) -> Self {
        Self {
            left,
            announced: 0,
            overhead: 0,
            trailers: 0,
            size_digits: 0,
            stage,
        }
    }

    /// Takes from the start of `bytes` what belongs together: how many, and what they hold.
    /// `scanned` remembers across calls how much of an unfinished trailer line was searched.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        scanned: &mut u32,
        limits: &Limits,
    ) -> Result<(usize, Piece), Fault> {
        let mut at = 0;
        loop {
            match self.stage {
                Stage::Counted if self.left == 0 => return Ok((at, Piece::End)),
                Stage::Counted | Stage::ChunkData => return Ok(self.take_data(bytes, at)),
                Stage::Trailers => return self.take_trailers(bytes, at, scanned, limits),
                _ => {
                    let Some(&byte) = bytes.get(at) else {
                        return Ok((at, Piece::NeedData));
                    };
                    self.take_framing(byte, limits)?;
                    at += 1;
                }
            }
        }
    }

    /// The data at `at`, as far as it has come.
    fn take_data(&mut self, bytes: &[u8], at: usize) -> (usize, Piece) {
        let here = bytes.len() - at;
        if here == 0 {
            return (at, Piece::NeedData);
        }
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(here);
        self.left -= len as u64;
        if self.left == 0 && self.stage == Stage::ChunkData {
            self.stage = Stage::DataReturn;
        }
        (at + len, Piece::Data(at..at + len))
    }

    /// One byte of `chunk-size [chunk-ext] CRLF`, or of the CRLF after a chunk's data. White space
    /// around the size is refused, and what an extension says is not looked at.
    fn take_framing(&mut self, byte: u8, limits: &Limits) -> Result<(), Fault> {
        self.overhead = self.overhead.saturating_add(1);
        if self.overhead > OVERHEAD_BYTES_FREE && self.announced < u64::from(self.overhead) / 3 {
            return Err(Fault::BadChunk);
        }
        self.stage = match (self.stage, byte) {
            (Stage::ChunkSize, b'\r') if self.size_digits > 0 => Stage::SizeLineFeed,
            (Stage::ChunkSize, b';') if self.size_digits > 0 => Stage::ChunkExtension,
            (Stage::ChunkSize, _) if self.size_digits < SIZE_DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).ok_or(Fault::BadChunk)?;
                self.left = self.left << 4 | u64::from(digit);
                self.size_digits += 1;
                Stage::ChunkSize
            }
            (Stage::ChunkExtension, b'\r') => Stage::SizeLineFeed,
            (Stage::ChunkExtension, _) if is_value(&[byte]) => Stage::ChunkExtension,
            (Stage::SizeLineFeed, b'\n') => return self.begin_chunk(limits),
            (Stage::DataReturn, b'\r') => Stage::DataLineFeed,
            (Stage::DataLineFeed, b'\n') => Stage::ChunkSize,
            _ => return Err(Fault::BadChunk),
        };
        Ok(())
    }

    /// A chunk's size is known. The size 0 ends the data.
    fn begin_chunk(&mut self, limits: &Limits) -> Result<(), Fault> {
        self.size_digits = 0;
        if self.left == 0 {
            self.stage = Stage::Trailers;
            self.overhead = 0;
            return Ok(());
        }
        self.stage = Stage::ChunkData;
        self.announced = self
            .announced
            .checked_add(self.left)
            .ok_or(Fault::BodyTooLarge)?;
        if limits.forbid_body(self.announced) {
            Err(Fault::BodyTooLarge)
        } else {
            Ok(())
        }
    }

    /// The trailer line at `at`, or the empty line that ends the body.
    fn take_trailers(
        &mut self,
        bytes: &[u8],
        at: usize,
        scanned: &mut u32,
        limits: &Limits,
    ) -> Result<(usize, Piece), Fault> {
        let rest = &bytes[at..];
        let before = (*scanned as usize).min(rest.len());
        let end = find(&rest[before..], b'\n').map(|end| before + end + 1);
        let len = u32::try_from(end.unwrap_or(rest.len())).unwrap_or(u32::MAX);
        if self.overhead.saturating_add(len) > limits.head_bytes_max.into() {
            return Err(Fault::HeadTooLarge);
        }
        let Some(end) = end else {
            *scanned = len;
            return Ok((at, Piece::NeedData));
        };
        *scanned = 0;
        self.overhead += len;
        let (start, at) = (at, at + end);
        let line = rest[..end]
            .strip_suffix(b"\r\n")
            .ok_or(Fault::BareLineFeed)?;
        if line.is_empty() {
            self.stage = Stage::Counted;
            return Ok((at, Piece::End));
        }
        if self.trailers == limits.fields_max {
            return Err(Fault::TooManyFields);
        }
        self.trailers += 1;
        check_trailer(line)?;
        Ok((at, Piece::Trailer(start..start + line.len())))
    }
}

/// A trailer line must be a valid field, and none that would change how the message is framed or
/// routed (RFC 9110 §6.5.1).
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
