//! The files in `deploy/`: runs `deploy/tests/check.py`, which checks them against the program.
//! `sandbox` runs the program under the restrictions that they set.

use std::process::Command;

use crate::support::{python_with_tools, run_with};

#[test]
fn the_manifests_the_image_and_the_unit_match_the_program() {
    let mut check = Command::new(python_with_tools());
    check.current_dir(env!("CARGO_MANIFEST_DIR"));
    check.args(["deploy/tests/check.py", env!("CARGO_BIN_EXE_coring")]);
    let finished = run_with(&mut check, b"");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("Ran "), "{}", finished.stderr);
}
