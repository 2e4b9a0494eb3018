//! The events of responses that a client receives: the parser must report the same for an input at
//! once and in pieces, and a naive parser must agree about the first head and its framing.

use coring::parts::Fault;
use coring::parts::h1::{BodyLength, MessageLimits, RequestHead, Requester, ResponseEvent};
use http::{HeaderMap, Method};

use crate::input::Input;

/// The longest input that is also parsed byte by byte.
const SINGLE_BYTES_MAX: usize = 3000;

/// Parses an input as responses, at once and in pieces, and compares the reports.
///
/// # Panics
/// If the reports differ, or if the parser disagrees with the naive one.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let is_head = input.below(4) == 3;
    let limits = match input.below(3) {
        0 => MessageLimits::default(),
        1 => MessageLimits {
            head_bytes_max: 256,
            fields_max: 4,
            body_bytes_max: 32,
            ..MessageLimits::default()
        },
        _ => MessageLimits {
            head_bytes_max: u16::MAX,
            fields_max: 256,
            body_bytes_max: u64::MAX,
            ..MessageLimits::default()
        },
    };
    let cut = input.number() << 8 | input.number();
    let bytes = input.rest();
    let whole = replay(&mut [bytes].into_iter(), is_head, &limits);
    let (left, right) = bytes.split_at(usize::try_from(cut).expect("16 bits") % (bytes.len() + 1));
    assert_eq!(
        replay(&mut [left, right].into_iter(), is_head, &limits),
        whole
    );
    if bytes.len() <= SINGLE_BYTES_MAX {
        assert_eq!(replay(&mut bytes.chunks(1), is_head, &limits), whole);
    }
    compare(bytes, is_head, &limits, &whole);
}

/// What a client receives, one response after the other, each to a request of its own.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    /// Statuses, trailers, faults and ends, in their order.
    log: Vec<String>,
    /// The data of all bodies.
    data: Vec<u8>,
}

fn replay(
    pieces: &mut dyn Iterator<Item = &[u8]>,
    is_head: bool,
    limits: &MessageLimits,
) -> Report {
    let mut requester = Requester::new();
    request(&mut requester, is_head);
    let (mut unread, mut report) = (Vec::new(), Report::default());
    for piece in pieces {
        unread.extend_from_slice(piece);
        if receive(&mut requester, &mut unread, is_head, limits, &mut report).is_err() {
            return report;
        }
    }
    let end = match requester.is_idle() {
        true => "idle".to_owned(),
        false => format!("{:?}", requester.receive_eof()),
    };
    report.log.push(end);
    report
}

fn request(requester: &mut Requester, is_head: bool) {
    let head = RequestHead {
        method: if is_head { &Method::HEAD } else { &Method::GET },
        target: "/",
        authority: "a",
        fields: &HeaderMap::new(),
        length: BodyLength::Known(0),
    };
    requester.encode_request(&head).expect("a valid head");
}

/// Decodes all events of `unread`.
///
/// # Errors
/// If a fault has ended the connection.
fn receive(
    requester: &mut Requester,
    unread: &mut Vec<u8>,
    is_head: bool,
    limits: &MessageLimits,
    report: &mut Report,
) -> Result<(), Fault> {
    loop {
        let step = requester.next_event(unread, limits);
        let (used, event) = step.inspect_err(|fault| report.log.push(format!("{fault:?}")))?;
        let bytes: Vec<u8> = unread.drain(..used).collect();
        match event {
            ResponseEvent::NeedData => return Ok(()),
            ResponseEvent::Excess => {
                if !requester.is_idle() {
                    return Ok(());
                }
                request(requester, is_head);
            }
            ResponseEvent::Interim(head) => report.log.push(format!("interim {}", head.status)),
            ResponseEvent::Response(head) => {
                let fields = head.fields(&bytes).count();
                let length = requester.response_length();
                report
                    .log
                    .push(format!("{} {fields} {length:?}", head.status));
            }
            ResponseEvent::Data(range) => report.data.extend_from_slice(&bytes[range]),
            ResponseEvent::Trailer(range) => {
                report
                    .log
                    .push(String::from_utf8_lossy(&bytes[range]).into_owned());
            }
            ResponseEvent::End => report.log.push("end".to_owned()),
        }
    }
}

/// A naive reading of the first head: split into lines and at colons. If it finds an ordinary head
/// with one Content-Length, or with none and no Transfer-Encoding, the parser must have found the
/// same. If it finds both, the parser must have refused the head.
fn compare(bytes: &[u8], is_head: bool, limits: &MessageLimits, report: &Report) {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return;
    };
    let Ok(head) = str::from_utf8(&bytes[..end]) else {
        return;
    };
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default().strip_prefix("HTTP/1.1 2");
    let is_ordinary = |text: &str| text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    let Some(status) = status.filter(|rest| rest.get(2..3) == Some(" ") && is_ordinary(rest))
    else {
        return;
    };
    let fields: Option<Vec<_>> = lines.map(|line| line.split_once(": ")).collect();
    let Some(fields) = fields else { return };
    let is_plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic());
    let fits = end + 4 <= limits.head_bytes_max.into() && fields.len() <= limits.fields_max.into();
    if !fits || !status[..2].bytes().all(|byte| byte.is_ascii_digit()) || is_head {
        return;
    }
    let is_known = |name: &str| ["Content-Length", "Transfer-Encoding"].contains(&name);
    let is_other = |name: &str| is_plain(name) && !name.eq_ignore_ascii_case("connection");
    let all =
        |(name, value): &(&str, &str)| is_ordinary(value) && (is_known(name) || is_other(name));
    if !fields.iter().all(all) || &status[..2] == "04" {
        return;
    }
    let values = |wanted: &str| {
        let found = fields.iter().filter(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.trim()).collect::<Vec<_>>()
    };
    let first = report.log.first().map(String::as_str).unwrap_or_default();
    let accepted = first.starts_with('2');
    match (
        &values("Content-Length")[..],
        &values("Transfer-Encoding")[..],
    ) {
        ([], []) => assert!(accepted && first.ends_with(" None"), "{first}"),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            match length.parse::<u64>() {
                Ok(length) if length <= limits.body_bytes_max => {
                    assert!(first.ends_with(&format!("Some({length})")), "{first}");
                }
                _ => assert!(!accepted, "{first}"),
            }
        }
        // Names of codings are case-insensitive.
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => {
            assert!(accepted && first.ends_with(" None"), "{first}");
        }
        _ => assert!(!accepted, "{first}"),
    }
}
