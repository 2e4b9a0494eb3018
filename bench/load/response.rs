//! An incremental parser for one response. It finds the end of the response and its status, and
//! skips everything else. It uses no sockets and no clocks.

use httparse::{Response, Status};

const FIELDS_MAX: usize = 100;
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The only status that counts as success.
pub(crate) const OK: u16 = 200;

/// The parser's state. After a complete response it is ready for the next one.
#[derive(Default)]
pub(crate) struct ResponseParser {
    /// The bytes received so far, until the head is complete. Empty while the body is received.
    head: Vec<u8>,
    body: Option<Body>,
}

struct Body {
    left: u64,
    outcome: Outcome,
}

/// The facts about a complete response that callers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    /// The server closes the connection after this response.
    pub(crate) closes: bool,
}

impl ResponseParser {
    /// Takes the next received bytes. Returns the outcome when they complete the response.
    pub(crate) fn take(&mut self, received: &[u8]) -> Result<Option<Outcome>, String> {
        let rest = match &mut self.body {
            Some(body) => shorten(body, received.len())?,
            None => {
                self.head.extend_from_slice(received);
                let Some((head_bytes, mut body)) = parse(&self.head)? else {
                    return Ok(None);
                };
                let rest = shorten(&mut body, self.head.len() - head_bytes)?;
                self.head.clear();
                self.body = Some(body);
                rest
            }
        };
        if rest > 0 {
            return Ok(None);
        }
        Ok(self.body.take().map(|body| body.outcome))
    }
}

/// Subtracts received bytes from the body, and returns the number of bytes that are missing.
fn shorten(body: &mut Body, received: usize) -> Result<u64, String> {
    let left = body.left.checked_sub(received as u64);
    body.left = left.ok_or("more bytes than `Content-Length` says")?;
    Ok(body.left)
}

fn parse(bytes: &[u8]) -> Result<Option<(usize, Body)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = Response::new(&mut fields);
    let head_bytes = match response.parse(bytes).map_err(|error| error.to_string())? {
        Status::Complete(head_bytes) => head_bytes,
        Status::Partial if bytes.len() > HEAD_BYTES_MAX => {
            return Err(format!(
                "a response head of more than {HEAD_BYTES_MAX} bytes"
            ));
        }
        Status::Partial => return Ok(None),
    };
    let (mut length, mut closes) = (None, response.version == Some(0));
    for field in response.headers.iter() {
        let value = str::from_utf8(field.value).unwrap_or_default().trim();
        if field.name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok();
        } else if field.name.eq_ignore_ascii_case("connection") {
            closes = value.eq_ignore_ascii_case("close");
        }
    }
    let body = Body {
        left: length.ok_or("a response without `Content-Length`")?,
        outcome: Outcome {
            status: response.code.unwrap_or(0),
            closes,
        },
    };
    Ok(Some((head_bytes, body)))
}

#[cfg(test)]
mod tests {
    use super::{OK, Outcome, ResponseParser};

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
    const KEPT: Outcome = Outcome {
        status: OK,
        closes: false,
    };

    #[test]
    fn a_response_is_complete_with_its_last_byte() {
        for cut in 1..WHOLE.len() {
            let mut parser = ResponseParser::default();
            for _ in 0..2 {
                assert_eq!(parser.take(&WHOLE[..cut]), Ok(None), "cut at {cut}");
                assert_eq!(parser.take(&WHOLE[cut..]), Ok(Some(KEPT)), "cut at {cut}");
            }
        }
    }

    #[test]
    fn status_and_close_are_reported() {
        let refusal = b"HTTP/1.1 503 Busy\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n";
        let old = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
        let closing = |status| Outcome {
            status,
            closes: true,
        };
        assert_eq!(
            ResponseParser::default().take(refusal),
            Ok(Some(closing(503)))
        );
        assert_eq!(ResponseParser::default().take(old), Ok(Some(closing(OK))));
    }

    #[test]
    fn chunked_overlong_and_malformed_responses_are_errors() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let longer = [WHOLE, b"d"].concat();
        for wrong in [&chunked[..], &longer, b"SSH-2.0-x\r\n\r\n"] {
            assert!(ResponseParser::default().take(wrong).is_err());
        }
    }
}
