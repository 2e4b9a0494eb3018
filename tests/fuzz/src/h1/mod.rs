//! The events of a connection: a whole input, and the same input in pieces, must come to the same.

mod body;
mod head;
mod script;

use coring::parts::h1::Limits;

use crate::input::Input;
use script::{Answers, Manner, Script};

/// Inputs beyond this are not also given byte by byte.
const SINGLE_BYTES_MAX: usize = 3000;

/// Gives an input to the parser at once and in pieces, and compares what is reported.
///
/// # Panics
/// When the reports differ, or one of them is not what a naive reader reads.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = limits(&mut input);
    let manner = Manner {
        answers: input.pick(Answers::ALL),
        closes: input.below(8) == 7,
        continues: input.below(2) == 1,
    };
    let cuts: Vec<u64> = (0..8)
        .map(|_| input.number() << 8 | input.number())
        .collect();
    let bytes = input.rest();
    let at = |cut: u64| usize::try_from(cut).expect("16 bits") % (bytes.len() + 1);
    let whole = replay(&[bytes], &limits, manner);
    let (left, right) = bytes.split_at(at(cuts[0]));
    compare(&whole, &replay(&[left, right], &limits, manner));
    let mut cuts: Vec<usize> = cuts.into_iter().map(at).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
    compare(&whole, &replay(&pieces, &limits, manner));
    if bytes.len() <= SINGLE_BYTES_MAX {
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        compare(&whole, &replay(&pieces, &limits, manner));
    }
}

fn limits(input: &mut Input<'_>) -> Limits {
    match input.below(4) {
        0 => Limits::default(),
        1 => Limits {
            head_bytes_max: 512,
            target_bytes_max: 64,
            fields_max: 8,
            body_bytes_max: 64,
        },
        2 => Limits {
            head_bytes_max: 2048,
            target_bytes_max: 128,
            body_bytes_max: u64::MAX,
            ..Limits::default()
        },
        _ => Limits {
            head_bytes_max: u16::MAX,
            target_bytes_max: u16::MAX,
            fields_max: 256,
            body_bytes_max: u64::MAX,
        },
    }
}

fn replay(pieces: &[&[u8]], limits: &Limits, manner: Manner) -> Vec<String> {
    let mut script = Script::new(limits, manner);
    for piece in pieces {
        script.receive(piece);
    }
    // Each call consumes something, ends a piece, or is followed by an answer.
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    let calls_max = 2 * len + 3 * pieces.len() + 8;
    assert!(
        script.calls <= calls_max,
        "{} calls for {len} bytes",
        script.calls
    );
    script.finish()
}

/// The reports are the same, but for the kind of a fault: in pieces, a head with two faults is
/// refused for the one that is seen first.
fn compare(whole: &[String], pieces: &[String]) {
    let until_fault = |report: &[String]| {
        let fault = report.iter().position(|line| script::is_fault(line));
        (
            report[..fault.unwrap_or(report.len())].to_vec(),
            fault.is_some(),
        )
    };
    assert!(
        until_fault(whole) == until_fault(pieces),
        "at once:\n{whole:#?}\nin pieces:\n{pieces:#?}"
    );
}
