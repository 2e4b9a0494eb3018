//! The queue between the threads that report messages and the thread that writes them. Its output
//! may be any [`Write`].

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::sys::lock::lock;

/// The largest number of queued messages.
const MESSAGES_MAX: usize = 1024;
/// The largest total size of the queued messages, in bytes. An empty queue accepts a message of any
/// size.
const BYTES_MAX: usize = 256 << 10;

/// A bounded queue of messages to be written.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct QueueState {
    waiting: VecDeque<String>,
    /// The total size of the queued messages, in bytes.
    bytes: usize,
    /// The number of messages that were lost since a message was last written.
    lost: u64,
    /// Whether a message was taken from the queue and is not yet written.
    is_writing: bool,
    /// Whether a thread runs that writes the queued messages. It never ends.
    pub(super) has_writer: bool,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self {
            state: Mutex::new(QueueState {
                waiting: VecDeque::new(),
                bytes: 0,
                lost: 0,
                is_writing: false,
                has_writer: false,
            }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, QueueState> {
        lock(&self.state)
    }

    /// Queues a message, or counts it as lost if the queue is full. Returns whether all earlier
    /// messages have been written.
    pub(super) fn push(&self, message: String) -> bool {
        let mut state = self.lock();
        let was_idle = state.is_idle();
        if state.has_room_for(&message) {
            state.bytes += message.len();
            state.waiting.push_back(message);
            self.changed.notify_all();
        } else {
            state.lost += 1;
        }
        was_idle
    }

    /// Waits until all messages are written, but not beyond `end`. Returns whether all are written.
    pub(super) fn wait_until_idle(&self, end: Instant) -> bool {
        let mut state = self.lock();
        while !state.is_idle() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Writes messages as they are queued. Never returns.
    pub(super) fn write_to(&self, mut output: impl Write) -> ! {
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() {
                let changed = self.changed.wait(state);
                state = changed.unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            self.write_one(&mut output);
        }
    }

    /// Writes the first queued message. If messages were lost before it, writes a line with their
    /// number first. A message that cannot be written is lost. Returns false if none is queued.
    pub(super) fn write_one(&self, output: &mut impl Write) -> bool {
        let mut state = self.lock();
        let Some(message) = state.waiting.pop_front() else {
            return false;
        };
        state.bytes -= message.len();
        state.is_writing = true;
        let lost = mem::take(&mut state.lost);
        drop(state);
        let written = write(lost, &message, output);
        let mut state = self.lock();
        state.is_writing = false;
        if written.is_err() {
            state.lost += lost + 1;
        }
        self.changed.notify_all();
        true
    }
}

/// Writes `message`, after a line with the number of `lost` messages if there are any.
fn write(lost: u64, message: &str, output: &mut impl Write) -> io::Result<()> {
    if lost > 0 {
        let noun = if lost == 1 { "message" } else { "messages" };
        let note = format!("coring: {lost} {noun} could not be written here\n");
        output.write_all(note.as_bytes())?;
    }
    output.write_all(message.as_bytes())
}

impl QueueState {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_writing
    }

    fn has_room_for(&self, message: &str) -> bool {
        self.waiting.is_empty()
            || self.waiting.len() < MESSAGES_MAX && self.bytes + message.len() <= BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Takes all messages from `queue` and returns their text.
    fn written(queue: &Queue) -> String {
        let mut output = Vec::new();
        while queue.write_one(&mut output) {}
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn messages_are_written_in_order() {
        let queue = Queue::new();
        assert!(queue.push("a\n".into()));
        assert!(!queue.push("b\n".into()));
        assert_eq!(written(&queue), "a\nb\n");
        assert!(queue.push("c\n".into()));
        assert_eq!(written(&queue), "c\n");
    }

    #[test]
    fn messages_lost_to_a_full_queue_are_reported_before_the_next_message() {
        let queue = Queue::new();
        for number in 0..MESSAGES_MAX + 7 {
            queue.push(format!("{number}\n"));
        }
        let text = written(&queue);
        let mut lines = text.lines();
        let note = "coring: 7 messages could not be written here";
        assert_eq!(lines.next(), Some(note));
        assert!(lines.eq((0..MESSAGES_MAX).map(|number| number.to_string())));
        assert!(queue.push("more\n".into()));
        assert_eq!(written(&queue), "more\n");
    }

    #[test]
    fn the_queued_bytes_are_bounded_but_a_single_message_is_not() {
        let queue = Queue::new();
        let large = "x".repeat(2 * BYTES_MAX);
        queue.push(large.clone());
        queue.push("lost".into());
        let note = "coring: 1 message could not be written here\n";
        assert_eq!(written(&queue), format!("{note}{large}"));
        queue.push("x".repeat(BYTES_MAX - 1));
        queue.push("y".into());
        queue.push("z".into());
        assert!(written(&queue).ends_with("xy"));
    }

    /// An output that fails twice, then accepts everything.
    struct Failing(u32, Vec<u8>);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 | 2 => Err(io::ErrorKind::StorageFull.into()),
                _ => self.1.write(bytes),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn messages_lost_to_errors_are_reported_after_the_next_successful_write() {
        let queue = Queue::new();
        let mut output = Failing(0, Vec::new());
        for message in ["a\n", "b\n", "c\n"] {
            queue.push(message.into());
            assert!(queue.write_one(&mut output));
        }
        let note = b"coring: 2 messages could not be written here\nc\n";
        assert_eq!(output.1, note);
    }

    #[test]
    fn wait_until_idle_times_out() {
        let queue = Queue::new();
        assert!(queue.wait_until_idle(Instant::now()));
        queue.push("a\n".into());
        assert!(!queue.wait_until_idle(Instant::now()));
        assert!(!queue.wait_until_idle(Instant::now() + Duration::from_millis(10)));
        thread::scope(|scope| {
            scope.spawn(|| written(&queue));
            assert!(queue.wait_until_idle(Instant::now() + Duration::from_secs(60)));
        });
    }
}
