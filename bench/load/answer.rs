//! One answer, as it arrives: read as far as it takes to know that it is whole, and whether it is
//! the one that was hoped for. It refuses to know sockets and clocks.

use httparse::{Response, Status};

const FIELDS_MAX: usize = 100;
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The one status that is hoped for.
pub(crate) const OK: u16 = 200;

/// What has been received of an answer.
#[derive(Default)]
pub(crate) struct Answer {
    /// All of it until the head is whole, nothing from then on.
    head: Vec<u8>,
    body: Option<Body>,
}

struct Body {
    left: u64,
    end: End,
}

/// What a whole answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) status: u16,
    /// The server closes the connection behind it.
    pub(crate) closes: bool,
}

impl Answer {
    /// Takes what came next; an answer that is whole is forgotten, for the next one.
    pub(crate) fn take(&mut self, received: &[u8]) -> Result<Option<End>, String> {
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
        Ok(self.body.take().map(|body| body.end))
    }
}

/// Counts off bytes of the body and returns how many are still to come.
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
        Status::Partial if bytes.len() > HEAD_BYTES_MAX => return Err("an endless head".into()),
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
        left: length.ok_or("an answer without `Content-Length`")?,
        end: End {
            status: response.code.unwrap_or(0),
            closes,
        },
    };
    Ok(Some((head_bytes, body)))
}

#[cfg(test)]
mod tests {
    use super::{Answer, End, OK};

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
    const END: End = End {
        status: OK,
        closes: false,
    };

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        for cut in 1..WHOLE.len() {
            let mut answer = Answer::default();
            for _ in 0..2 {
                assert_eq!(answer.take(&WHOLE[..cut]), Ok(None), "cut at {cut}");
                assert_eq!(answer.take(&WHOLE[cut..]), Ok(Some(END)), "cut at {cut}");
            }
        }
    }

    #[test]
    fn status_and_close_are_told() {
        let refusal = b"HTTP/1.1 503 Busy\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n";
        let old = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
        let end = |status| End {
            status,
            closes: true,
        };
        assert_eq!(Answer::default().take(refusal), Ok(Some(end(503))));
        assert_eq!(Answer::default().take(old), Ok(Some(end(OK))));
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let longer = [WHOLE, b"d"].concat();
        for wrong in [&chunked[..], &longer, b"SSH-2.0-x\r\n\r\n"] {
            assert!(Answer::default().take(wrong).is_err());
        }
    }
}
