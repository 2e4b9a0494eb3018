//! Answers as a client reads them, one after the other.

use super::asked::Asked;

/// An answer, or the beginning of one.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The body has come whole.
    pub(super) whole: bool,
    /// Bytes of it, framing included.
    pub(super) len: usize,
}

impl Answer {
    /// The answer to `asked` at the start of `bytes`, which are all that will come; none if that
    /// is not even a head.
    ///
    /// # Panics
    /// When it is not HTTP.
    pub(super) fn read(bytes: &[u8], asked: Option<&Asked>) -> Option<Self> {
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
        let mut answer = Self {
            status: status.unwrap_or_else(|| panic!("not an answer: {first:?}")),
            fields: fields.collect(),
            body: Vec::new(),
            whole: true,
            len: head_len + 4,
        };
        answer.read_body(&bytes[head_len + 4..], asked);
        Some(answer)
    }

    /// The value of a field that is there once at most.
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

    /// It refuses a request, or all of the connection.
    pub(super) fn is_refusal(&self) -> bool {
        self.status >= 400
    }

    fn read_body(&mut self, rest: &[u8], asked: Option<&Asked>) {
        let length = self
            .field("content-length")
            .map(|length| length.parse().expect("a length"));
        let encoding = self.field("transfer-encoding").map(str::to_owned);
        assert!(length.is_none() || encoding.is_none(), "two framings");
        let is_head = match asked {
            Some(asked) => asked.method == "HEAD",
            // The request was refused before it was read. It may have been HEAD.
            None => rest.is_empty(),
        };
        // A connection that is refused unread gets a body, whatever its first request is.
        let is_refused_unread = self.is_refusal() && self.closes() && length == Some(rest.len());
        let has_none = is_head && !is_refused_unread || matches!(self.status, 204 | 304);
        if self.is_interim() || has_none {
            return;
        }
        if let Some(length) = length {
            self.body = rest[..length.min(rest.len())].to_vec();
            self.whole = self.body.len() == length;
            self.len += self.body.len();
        } else if encoding.is_some() {
            assert_eq!(encoding.as_deref(), Some("chunked"));
            assert!(
                asked.is_some_and(|asked| !asked.is_http10),
                "chunked to HTTP/1.0"
            );
            self.read_chunks(rest);
        } else {
            assert!(asked.is_some_and(|asked| asked.is_http10), "no framing");
            assert!(
                self.closes(),
                "an answer until the end of the connection, which stays"
            );
            // Where it ends can not be told from where it was cut.
            (self.body, self.whole) = (rest.to_vec(), false);
            self.len += rest.len();
        }
    }

    fn read_chunks(&mut self, all: &[u8]) {
        let mut rest = all;
        self.whole = false;
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let size = str::from_utf8(&rest[..end]).expect("a size");
            let size = usize::from_str_radix(size, 16).expect("a size");
            let chunk = &rest[end + 2..];
            if size == 0 {
                // Trailers of a request may have been passed on.
                let Some(len) = trailers_len(chunk) else {
                    break;
                };
                rest = &chunk[len..];
                self.whole = true;
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

/// How many bytes a trailer section has, with the empty line that ends it; none: it is cut.
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
