//! A simple parser of the responses that a simulated client receives. It does not know the
//! requests.

/// A response that has arrived completely.
#[derive(Debug)]
pub(crate) struct ParsedResponse {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The trailer lines behind a chunked body.
    pub(crate) trailers: Vec<String>,
    /// The response has `Connection: close`.
    pub(crate) closes: bool,
    /// The length of the whole response in bytes, framing included.
    pub(crate) len: usize,
}

impl ParsedResponse {
    /// The response at the start of `bytes`, or `None` while it is incomplete.
    ///
    /// # Errors
    /// If `bytes` are not a valid response; the text describes the fault.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, String> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end])
            .map_err(|_| "got a head that is not UTF-8".to_owned())?;
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| format!("got a head that is not HTTP: {head:?}"))?;
        let field = |name: &str| {
            let named = |line: &&str| line.to_ascii_lowercase().starts_with(name);
            head.lines()
                .find(named)
                .map(|line| line[name.len()..].trim())
        };
        let (body, trailers, len) = match field("content-length:") {
            Some(length) => {
                let length: usize = length
                    .parse()
                    .map_err(|_| "got a Content-Length that is not a number".to_owned())?;
                let Some(body) = bytes.get(end + 4..end + 4 + length) else {
                    return Ok(None);
                };
                (body.to_vec(), Vec::new(), end + 4 + length)
            }
            None if field("transfer-encoding:").is_some() => match chunks(bytes, end + 4)? {
                Some(whole) => whole,
                None => return Ok(None),
            },
            None => (Vec::new(), Vec::new(), end + 4),
        };
        Ok(Some(Self {
            status,
            body,
            trailers,
            closes: field("connection:").is_some_and(|value| value == "close"),
            len,
        }))
    }
}

/// A body, its trailers, and the offset behind both.
type Chunked = (Vec<u8>, Vec<String>, usize);

/// The chunked body that begins at offset `at`, or `None` while it is incomplete.
fn chunks(bytes: &[u8], mut at: usize) -> Result<Option<Chunked>, String> {
    let mut body = Vec::new();
    loop {
        let rest = &bytes[at..];
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&rest[..line]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or("got a chunk without a size")?;
        if size == 0 {
            let trailers = trailers(bytes, at + line + 2);
            return Ok(trailers.map(|(trailers, end)| (body, trailers, end)));
        }
        let Some(chunk) = rest.get(line + 2..line + 4 + size) else {
            return Ok(None);
        };
        at += line + 4 + size;
        if !chunk.ends_with(b"\r\n") {
            return Err("got a chunk without CRLF behind it".to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

/// The trailer lines that begin at offset `at`, and the offset behind the empty line that ends
/// them. `None` while that line is missing.
fn trailers(bytes: &[u8], mut at: usize) -> Option<(Vec<String>, usize)> {
    let mut lines = Vec::new();
    loop {
        let rest = &bytes[at..];
        let len = rest.windows(2).position(|two| two == b"\r\n")?;
        at += len + 2;
        if len == 0 {
            return Some((lines, at));
        }
        lines.push(String::from_utf8_lossy(&rest[..len]).into_owned());
    }
}
