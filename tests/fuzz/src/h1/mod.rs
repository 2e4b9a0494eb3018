//! The events of an HTTP/1.1 connection: the parser must report the same for an input at once and
//! for the same input in pieces.

mod body;
mod head;
mod script;

use coring::parts::h1::MessageLimits;

use crate::input::Input;
use script::{ResponsePolicy, ResponseTiming, Script};

/// The longest input that is also parsed byte by byte.
const SINGLE_BYTES_MAX: usize = 3000;

/// Parses an input at once and in pieces, and compares the reports.
///
/// # Panics
/// If the reports differ, or if the parser disagrees with a naive parser.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = limits(&mut input);
    let policy = ResponsePolicy {
        timing: input.pick(ResponseTiming::ALL),
        closes: input.below(8) == 7,
        continues: input.below(2) == 1,
    };
    let cuts: Vec<u64> = (0..8)
        .map(|_| input.number() << 8 | input.number())
        .collect();
    let bytes = input.rest();
    let at = |cut: u64| usize::try_from(cut).expect("16 bits") % (bytes.len() + 1);
    let whole = replay(&[bytes], &limits, policy);
    let (left, right) = bytes.split_at(at(cuts[0]));
    compare(&whole, &replay(&[left, right], &limits, policy));
    let mut cuts: Vec<usize> = cuts.into_iter().map(at).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
    compare(&whole, &replay(&pieces, &limits, policy));
    if bytes.len() <= SINGLE_BYTES_MAX {
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        compare(&whole, &replay(&pieces, &limits, policy));
    }
}

fn limits(input: &mut Input<'_>) -> MessageLimits {
    match input.below(4) {
        0 => MessageLimits::default(),
        1 => MessageLimits {
            head_bytes_max: 512,
            target_bytes_max: 64,
            fields_max: 8,
            body_bytes_max: 64,
        },
        2 => MessageLimits {
            head_bytes_max: 2048,
            target_bytes_max: 128,
            body_bytes_max: u64::MAX,
            ..MessageLimits::default()
        },
        _ => MessageLimits {
            head_bytes_max: u16::MAX,
            target_bytes_max: u16::MAX,
            fields_max: 256,
            body_bytes_max: u64::MAX,
        },
    }
}

/// Gives `pieces` to a connection, and returns its report.
fn replay(pieces: &[&[u8]], limits: &MessageLimits, policy: ResponsePolicy) -> Vec<String> {
    let mut script = Script::new(limits, policy);
    for piece in pieces {
        script.receive(piece);
    }
    // Each call consumes bytes, ends a piece, or is followed by a response.
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    let calls_max = 2 * len + 3 * pieces.len() + 8;
    assert!(
        script.calls <= calls_max,
        "{} calls for {len} bytes",
        script.calls
    );
    script.finish()
}

/// Asserts that the reports are the same, faults included.
fn compare(whole: &[String], pieces: &[String]) {
    assert!(
        whole == pieces,
        "at once:\n{whole:#?}\nin pieces:\n{pieces:#?}"
    );
}
