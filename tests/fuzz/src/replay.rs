//! Replays the corpus. Each file in it is an input that found a bug, or that reaches code which no
//! other input reaches.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use coring::sim::with_mutant;

#[expect(
    clippy::print_stdout,
    reason = "the last line before a failure is the input's path"
)]
fn replay(name: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut count = 0;
    for entry in fs::read_dir(corpus.join(name)).expect("a folder of inputs") {
        let path = entry.expect("a file").path();
        println!("{}", path.display());
        check(&fs::read(path).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "no input for {name}");
}

#[test]
fn answers() {
    replay("answers", crate::answers::check);
}

/// The inputs would not prove much if they did not notice faults.
#[test]
fn answers_detect_faults() {
    for &mutant in crate::answers::MUTANTS {
        let outcome = with_mutant(mutant, || {
            catch_unwind(|| replay("answers", crate::answers::check))
        });
        assert!(outcome.is_err(), "{mutant:?} is not detected");
    }
}

#[test]
fn buffers() {
    replay("buffers", crate::buffers::check);
}

#[test]
fn connections() {
    replay("connections", crate::connections::check);
}

#[test]
fn executor() {
    replay("executor", crate::executor::check);
}

#[test]
fn h1() {
    replay("h1", crate::h1::check);
}

#[test]
fn responses() {
    replay("responses", crate::responses::check);
}

#[test]
fn values() {
    replay("values", crate::values::check);
}

#[test]
fn wheel() {
    replay("wheel", crate::wheel::check);
}
