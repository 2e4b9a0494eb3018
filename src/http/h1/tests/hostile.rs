//! Randomly mutated requests: they cause no panic and no endless loop, and they yield the same
//! events however they are split.

use super::replay;
use crate::http::h1::MessageLimits;

const SEED: u64 = 0x5eed_c0de_0001;
const MUTATED_INPUTS: usize = if cfg!(miri) { 20 } else { 6000 };

/// A xorshift generator. It yields the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % bound
    }
}

/// Valid requests, to be mutated.
const VALID: [&str; 8] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a?b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HEAD http://a:80/ HTTP/1.0\r\nHost: a:80\r\nConnection: keep-alive\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost:\r\nX: y\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 11\r\n\r\nhello world",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
     5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n",
    "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
];

/// Bytes to insert: delimiters, invalid bytes, framing fields, and some ordinary bytes.
const INSERTS: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"/",
    b"?",
    b"#",
    b"%",
    b"0",
    b"9",
    b"f",
    b"A",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\r\n\r\n",
    b"Host: b\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"ffffffffffffffff",
    b"HTTP/1.1",
    b"\n\n",
];

/// One to three valid requests with up to four mutations.
fn mutate(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(3) {
        bytes.extend_from_slice(VALID[random.below(VALID.len())].as_bytes());
    }
    for _ in 0..random.below(5) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        let insert = INSERTS[random.below(INSERTS.len())];
        match random.below(4) {
            0 => drop(bytes.remove(at)),
            1 => drop(bytes.splice(at..at, insert.iter().copied())),
            2 => bytes[at] = insert[0],
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

#[test]
fn mutated_requests_yield_the_same_events_however_split() {
    let limits = MessageLimits {
        head_bytes_max: 512,
        target_bytes_max: 64,
        ..MessageLimits::default()
    };
    let mut random = Random(SEED);
    let mut refused = 0;
    for round in 0..MUTATED_INPUTS {
        let bytes = mutate(&mut random);
        let whole = replay([bytes.as_slice()], &limits);
        let split = random.below(bytes.len() + 1);
        let halves = replay([&bytes[..split], &bytes[split..]], &limits);
        let single = replay(bytes.chunks(1), &limits);
        refused += usize::from(whole.last().is_some_and(|last| !last.contains(' ')));
        let text = String::from_utf8_lossy(&bytes);
        for parts in [halves, single] {
            assert_eq!(parts, whole, "seed {SEED:#x}, round {round}: {text:?}");
        }
    }
    assert!(
        refused > MUTATED_INPUTS / 10 && refused < MUTATED_INPUTS,
        "too few or too many mutations are refused: {refused}"
    );
}
