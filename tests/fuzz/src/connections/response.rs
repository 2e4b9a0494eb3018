//! A simple parser of the responses that a client has received.

use super::requests::ParsedRequest;

/// A response, or the beginning of one.
#[derive(Debug)]
pub(super) struct ParsedResponse {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The whole body has arrived.
    pub(super) complete: bool,
    /// The length of the response in bytes, framing included.
    pub(super) len: usize,
}

impl ParsedResponse {
    /// The response to `request` at the start of `bytes`. No more bytes will arrive: a response may
    /// be incomplete, and without a complete head the result is `None`.
    ///
    /// # Panics
    /// If the bytes are not HTTP.
    pub(super) fn read(bytes: &[u8], request: Option<&ParsedRequest>) -> Option<Self> {
        let head_len = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..head_len]);
        let mut lines = head.split("\r\n");
        let first = lines.next().expect("a line");
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        let status = status.and_then(|status| status.parse().ok());
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a field");
            assert!(!name.contains([' ', '\t']), "{line:?}");
            (name.to_ascii_lowercase(), value.to_owned())
        });
        let mut response = Self {
            status: status.unwrap_or_else(|| panic!("not a response: {first:?}")),
            fields: fields.collect(),
            body: Vec::new(),
            complete: true,
            len: head_len + 4,
        };
        response.read_body(&bytes[head_len + 4..], request);
        Some(response)
    }

    /// The value of a field that may occur only once.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut named = self.fields.iter().filter(|(field, _)| field == name);
        let (_, value) = named.next()?;
        assert!(
            named.next().is_none(),
            "two fields {name} in {:?}",
            self.fields
        );
        Some(value)
    }

    pub(super) fn is_interim(&self) -> bool {
        self.status < 200
    }

    pub(super) fn closes(&self) -> bool {
        self.field("connection") == Some("close")
    }

    /// An error response to a request, or to the connection.
    pub(super) fn is_refusal(&self) -> bool {
        self.status >= 400
    }

    fn read_body(&mut self, rest: &[u8], request: Option<&ParsedRequest>) {
        let length = self
            .field("content-length")
            .map(|length| length.parse().expect("a length"));
        let encoding = self.field("transfer-encoding").map(str::to_owned);
        assert!(length.is_none() || encoding.is_none(), "two framings");
        let is_head = match request {
            Some(request) => request.method == "HEAD",
            // The server refused a request that it could not parse, perhaps a HEAD.
            None => rest.is_empty(),
        };
        // If the server refuses a connection before it reads a request, the response has a body,
        // even if the client has sent a HEAD request.
        let is_refused_unread = self.is_refusal() && self.closes() && length == Some(rest.len());
        let has_none = is_head && !is_refused_unread || matches!(self.status, 204 | 304);
        if self.is_interim() || has_none {
            return;
        }
        if let Some(length) = length {
            self.body = rest[..length.min(rest.len())].to_vec();
            self.complete = self.body.len() == length;
            self.len += self.body.len();
        } else if encoding.is_some() {
            assert_eq!(encoding.as_deref(), Some("chunked"));
            assert!(
                request.is_some_and(|request| !request.is_http10),
                "chunked to HTTP/1.0"
            );
            self.read_chunks(rest);
        } else {
            assert!(
                request.is_some_and(|request| request.is_http10),
                "no framing"
            );
            assert!(
                self.closes(),
                "a response without framing, but the connection stays open"
            );
            // The end of the connection ends the body, so a cut body looks like a complete one.
            (self.body, self.complete) = (rest.to_vec(), false);
            self.len += rest.len();
        }
    }

    fn read_chunks(&mut self, all: &[u8]) {
        let mut rest = all;
        self.complete = false;
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let size = str::from_utf8(&rest[..end]).expect("a size");
            let size = usize::from_str_radix(size, 16).expect("a size");
            let chunk = &rest[end + 2..];
            if size == 0 {
                // An echo passes on the trailers of its request.
                let Some(len) = trailers_len(chunk) else {
                    break;
                };
                rest = &chunk[len..];
                self.complete = true;
                self.len += all.len() - rest.len();
                return;
            }
            if chunk.len() < size + 2 {
                self.body.extend(&chunk[..size.min(chunk.len())]);
                break;
            }
            self.body.extend(&chunk[..size]);
            assert_eq!(&chunk[size..size + 2], b"\r\n");
            rest = &chunk[size + 2..];
        }
        self.len += all.len();
    }
}

/// The length of a trailer section, including the empty line that ends it. `None` if it is cut.
fn trailers_len(bytes: &[u8]) -> Option<usize> {
    let mut len = 0;
    loop {
        let line = bytes[len..].windows(2).position(|two| two == b"\r\n")?;
        len += line + 2;
        if line == 0 {
            return Some(len);
        }
    }
}
