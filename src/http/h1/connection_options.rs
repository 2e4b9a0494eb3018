//! The options of Connection fields that decide whether a connection persists.

use crate::http::Version;
use crate::http::field::tokens;

/// What the Connection fields of a head have said so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
}

impl ConnectionOptions {
    /// Adds a field with this value.
    #[inline]
    pub(super) fn add(&mut self, value: &[u8]) {
        for option in tokens(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Whether the connection may persist after this message (RFC 9112 §9.3).
    #[inline]
    pub(super) fn keeps_alive(self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 => !self.close,
        }
    }
}
