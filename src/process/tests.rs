//! Waiting for children, on both engines.

use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::wait;
use crate::EngineChoice;
use crate::time::{sleep, timeout};
use crate::{run_with, spawn};

/// Runs `coroutine` on each engine.
fn on_each(coroutine: impl AsyncFn() -> io::Result<()> + Copy + 'static) {
    for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
        let outcome = run_with(engine, async move { coroutine().await });
        outcome.expect("an engine").expect("no error");
    }
}

#[test]
fn the_status_of_a_child_can_be_read_repeatedly() {
    on_each(async || {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn()?;
        assert_eq!(wait(&mut child).await?.code(), Some(7));
        assert_eq!(wait(&mut child).await?.code(), Some(7));
        Ok(())
    });
}

#[test]
fn after_a_dropped_wait_the_child_can_be_waited_for_again() {
    on_each(async || {
        let mut child = Command::new("sleep").arg("1000").spawn()?;
        let waited = timeout(Duration::from_millis(20), wait(&mut child)).await;
        assert!(waited.is_err());
        child.kill()?;
        assert!(!wait(&mut child).await?.success());
        Ok(())
    });
}

#[test]
fn a_child_that_reads_its_input_to_the_end_exits() {
    on_each(async || {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
        assert!(wait(&mut child).await?.success());
        Ok(())
    });
}

#[test]
fn other_coroutines_run_while_a_child_is_waited_for() {
    on_each(async || {
        let mut child = Command::new("sh")
            .args(["-c", "read line"])
            .stdin(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let waiting = spawn(async move { wait(&mut child).await });
        sleep(Duration::from_millis(20)).await;
        drop(stdin);
        let status = waiting.await.expect("no panic")?;
        assert_eq!(status.code(), Some(1), "`read` fails at the end");
        Ok(())
    });
}
