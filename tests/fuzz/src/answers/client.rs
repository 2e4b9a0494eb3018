//! A client of the link: it reads a response, or stalls, or goes.

use std::cell::{Cell, RefCell};

use coring::parts::{LinkBench, yield_now};
use coring::{Body, Response};

/// The parts of a response that a client has got.
#[derive(Default)]
pub(super) struct Got {
    pub(super) status: Cell<u16>,
    pub(super) lines: RefCell<Vec<u8>>,
    pub(super) body: RefCell<Vec<u8>>,
    /// Whether the body was whole, once it has ended.
    pub(super) end: Cell<Option<bool>>,
    /// There is no response.
    pub(super) has_failed: Cell<bool>,
    pub(super) is_stalled: Cell<bool>,
    pub(super) has_gone: Cell<bool>,
}

/// Reads a response as its connection does.
pub(super) async fn read(mut response: Response, got: &Got, is_head: bool) {
    got.lines.replace(LinkBench::head_lines(&response));
    got.status.set(response.status().as_u16());
    let mut body = std::mem::replace(response.body(), Body::empty());
    if is_head {
        return;
    }
    loop {
        while got.is_stalled.get() && !got.has_gone.get() {
            yield_now().await;
        }
        if got.has_gone.get() {
            return;
        }
        match body.part().await {
            Ok(Some(part)) => got.body.borrow_mut().extend_from_slice(&part),
            end => return got.end.set(Some(end.is_ok())),
        }
    }
}

/// A head that has nothing in it which another reader could take for the end of a line.
pub(super) fn check_head(status: u16, lines: &[u8]) {
    assert!(matches!(status, 0 | 200..600), "{status}");
    let mut rest = lines;
    while let Some(line) = rest.strip_prefix(b"\r\n") {
        let len = line
            .iter()
            .position(|byte| *byte == b'\r')
            .unwrap_or(line.len());
        let (line, others) = line.split_at(len);
        rest = others;
        let colon = line.iter().position(|byte| *byte == b':').expect("a name");
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        assert!(
            colon > 0 && line[..colon].iter().all(is_name),
            "{}",
            line.escape_ascii()
        );
        let is_value = |byte: &u8| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f;
        assert!(
            line[colon..].iter().all(is_value),
            "{}",
            line.escape_ascii()
        );
    }
    assert!(rest.is_empty(), "{}", lines.escape_ascii());
}
