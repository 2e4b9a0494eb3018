//! Writes what the workers have logged, on a thread of its own. It knows no worker and no file.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};

use super::{Batch, Losses};
use crate::messages::report;

/// Writes the batches of the workers. If a write fails (the disk is full, say), the server
/// continues: the lines are lost, and counted. The first failure is reported. When a write succeeds
/// again, the number of lost lines is reported. So it is when the thread has caught up with the
/// workers, for lines that found no room.
pub(super) struct BatchWriter<W> {
    output: W,
    losses: Arc<Losses>,
    /// The last write failed.
    is_failing: bool,
    /// A write has failed since lost lines were last reported.
    has_failed: bool,
    /// The last write ended within a line.
    ends_within_line: bool,
}

impl<W: Write> BatchWriter<W> {
    pub(super) fn new(output: W, losses: Arc<Losses>) -> Self {
        Self {
            output,
            losses,
            is_failing: false,
            has_failed: false,
            ends_within_line: false,
        }
    }

    /// Writes the batches, until all workers and the server's handle are gone. If `reopen` returns
    /// another output, further batches go there.
    pub(super) fn write_all(
        mut self,
        receiver: &Receiver<Option<Batch>>,
        mut reopen: impl FnMut() -> Option<W>,
    ) {
        loop {
            let received = match receiver.try_recv() {
                Ok(received) => received,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    if !self.is_failing {
                        self.losses.report(match self.has_failed {
                            true => "the access log is written again",
                            false => "the access log could not keep up",
                        });
                        self.has_failed = false;
                    }
                    let Ok(received) = receiver.recv() else {
                        break;
                    };
                    received
                }
            };
            if let Some(output) = reopen() {
                self.output = output;
                self.ends_within_line = false;
            }
            let Some(mut batch) = received else { continue };
            let written = self.write(&mut batch);
            if self.losses.is_over.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = &written {
                if !self.is_failing {
                    report(format_args!(
                        "cannot write the access log: {error}; lines are being lost"
                    ));
                }
                let lost = batch.left;
                batch.counts.waiting.fetch_sub(lost, Ordering::Relaxed);
                batch.counts.add_lost(lost);
            }
            self.is_failing = written.is_err();
            self.has_failed |= self.is_failing;
        }
        self.losses.report("the access log has ended");
    }

    /// Writes a batch. If the last write ended within a line, ends that first. Counts each line as
    /// soon as it is written.
    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        if self.ends_within_line {
            self.output.write_all(b"\n")?;
            self.ends_within_line = false;
        }
        let mut rest = &batch.lines[..];
        while !rest.is_empty() {
            let len = match self.output.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let written;
            (written, rest) = rest.split_at(len);
            self.ends_within_line = !written.ends_with(b"\n");
            let lines = match rest.is_empty() {
                true => batch.left,
                false => count_lines(written),
            };
            batch.left -= lines;
            batch.counts.waiting.fetch_sub(lines, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Counts the line ends in `bytes`. Text of a client has none: it is escaped.
fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::server::access_log::{LineCounts, Room};

    /// Writes half of the first batch, fails twice, and then writes everything.
    struct FullDisk(usize, Arc<Mutex<Vec<u8>>>);

    impl Write for FullDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            let taken = match self.0 {
                1 => bytes.len() / 2,
                2 | 3 => return Err(io::ErrorKind::StorageFull.into()),
                _ => bytes.len(),
            };
            self.1.lock().expect("a lock").extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_whole_or_counted_as_lost() {
        let (batches, receiver) = channel();
        let losses = Arc::new(Losses::default());
        let counts = Arc::new(LineCounts {
            metrics: Arc::default(),
            waiting: AtomicU64::new(0),
            losses: losses.clone(),
        });
        let waiting_bytes = Arc::default();
        for lines in ["a\nbcde\n", "lost\nlost\n", "whole\n", "more\n"] {
            let lines = lines.as_bytes().to_vec();
            let left = count_lines(&lines);
            counts.waiting.fetch_add(left, Ordering::Relaxed);
            let batch = Batch {
                lines,
                left,
                counts: counts.clone(),
                _room: Room::take(&waiting_bytes, 9).expect("room"),
            };
            batches.send(Some(batch)).expect("a receiver");
        }
        drop(batches);
        let written = Arc::new(Mutex::new(Vec::new()));
        BatchWriter::new(FullDisk(0, written.clone()), losses).write_all(&receiver, || None);
        let written = written.lock().expect("a lock");
        assert_eq!(written.escape_ascii().to_string(), r"a\nb\nwhole\nmore\n");
        assert_eq!(counts.metrics.log_lines_dropped.get(), 3);
        assert_eq!(counts.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(waiting_bytes.load(Ordering::Relaxed), 0);
    }
}
