//! The line before the data of a chunk, byte by byte:
//! `chunk-size *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ) CRLF`
//! (RFC 9112 §7.1.1). Extensions mean nothing to this server, but they are read by the grammar: a
//! server that takes their end for something else finds another body.

use crate::http::field::is_token;

/// The syntax element that the next byte of the line belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// The first digit of the size.
    SizeStart,
    /// A further digit of the size, or what follows it.
    Size,
    /// White space before a `;`.
    BeforeSemicolon,
    /// White space before a name, or the name's first byte.
    NameStart,
    Name,
    /// White space after a name, before a `=` or a `;`.
    AfterName,
    /// White space before a value, or the value's first byte.
    ValueStart,
    Token,
    Quoted,
    /// The byte behind a backslash in a quoted string.
    Escaped,
    /// After a quoted string.
    AfterQuoted,
    /// The LF at the end of the line.
    LineFeed,
    /// The line is complete.
    End,
}

impl Element {
    /// The element of the byte after `byte`; `None` if `byte` has no place here.
    pub(super) fn next(self, byte: u8) -> Option<Self> {
        let is_space = matches!(byte, b' ' | b'\t');
        Some(match self {
            Self::SizeStart | Self::Size if byte.is_ascii_hexdigit() => Self::Size,
            Self::Size | Self::Name | Self::Token | Self::AfterQuoted if byte == b'\r' => {
                Self::LineFeed
            }
            Self::Name if is_token(&[byte]) => Self::Name,
            Self::Token if is_token(&[byte]) => Self::Token,
            Self::Name | Self::AfterName if byte == b'=' => Self::ValueStart,
            Self::Name | Self::AfterName if is_space => Self::AfterName,
            Self::Size | Self::Token | Self::AfterQuoted | Self::BeforeSemicolon if is_space => {
                Self::BeforeSemicolon
            }
            Self::Size
            | Self::BeforeSemicolon
            | Self::Name
            | Self::AfterName
            | Self::Token
            | Self::AfterQuoted
                if byte == b';' =>
            {
                Self::NameStart
            }
            Self::NameStart | Self::ValueStart if is_space => self,
            Self::NameStart if is_token(&[byte]) => Self::Name,
            Self::ValueStart if byte == b'"' => Self::Quoted,
            Self::ValueStart if is_token(&[byte]) => Self::Token,
            Self::Quoted if byte == b'"' => Self::AfterQuoted,
            Self::Quoted if byte == b'\\' => Self::Escaped,
            Self::Quoted | Self::Escaped if is_text(byte) => Self::Quoted,
            Self::LineFeed if byte == b'\n' => Self::End,
            _ => return None,
        })
    }
}

/// Whether a quoted string may contain `byte`.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}
