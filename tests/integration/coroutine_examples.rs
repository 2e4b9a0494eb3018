//! The examples without a server: what their coroutines print, and in which order.

use std::process::Command;

use crate::examples::example;

/// What an example without a server prints, when it ends well.
fn printed(command: &mut Command) -> String {
    let output = command.output().expect("its output");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).expect("a text")
}

#[test]
fn coroutines_take_turns_hand_over_and_are_joined() {
    let turns = "left 1\nright 1\nleft 2\nright 2\nleft 3\nright 3\n";
    assert_eq!(printed(&mut example("take_turns")), turns);
    let switches = "ping 0\npong 1\nping 2\npong 3\nping 4\npong 5\n";
    assert_eq!(printed(&mut example("hand_over")), switches);
    let joined = "spawned\ndoubling\nfinished: false\nfinished: true 42\n";
    assert_eq!(printed(&mut example("spawn_join")), joined);
}

/// The figures depend on the build, so only their presence is checked. There is no bar, because
/// standard error is no terminal.
#[test]
fn many_coroutines_sleep_at_the_same_time() {
    let text = printed(example("million").args(["20000", "1"]));
    let (count, rest) = text.split_once(" coroutines in ").expect("a figure");
    assert_eq!(count, "20000");
    assert!(rest.ends_with(" ns of CPU each\n"), "{text}");
    let wrong = example("million").arg("0").output().expect("its output");
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn tasks_take_as_long_as_the_longest_of_them() {
    let output = example("tasks").output().expect("its output");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[..3],
        ["one: 1 of 3", "two: 1 of 3", "three: 1 of 3"],
        "{stdout}"
    );
    assert_eq!(lines.len(), 3 * 3 + 1, "{stdout}");
    let total = lines.last().expect("a line");
    let together = total.strip_prefix("together ").expect("a total");
    let (together, rest) = together.split_once(" s, ").expect("a total");
    assert_eq!(rest, "one after the other 2.7 s");
    let together: f64 = together.parse().expect("a number");
    assert!((1.2..2.7).contains(&together), "{total}");
}
