//! The access log. Each worker gathers lines in memory, and one thread writes them, so that no
//! request waits for the file. It does not know what a line contains.

mod escape;
mod format;
mod line;
mod lines;
mod output;

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::{Error, ErrorKind};
use crate::messages::report;
use crate::metrics::WorkerMetrics;
use crate::sys::signals::block_write_signals;
pub use format::{AccessLogFormat, InvalidFormat};
pub(super) use line::Line;
pub(super) use lines::Lines;
use output::open_output;

/// Where requests are logged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AccessLog {
    /// Requests are not logged.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// A file, which lines are appended to. It is created if it does not exist. A pipe (FIFO) must
    /// have a reader.
    File(PathBuf),
}

/// A worker passes its lines on at this size, in bytes, or [`WorkerLog::LINE_DELAY_MS`] after the
/// first of them.
const BATCH_BYTES: usize = 32 << 10;
/// How many batches may wait for the log thread. Further ones are dropped, and counted.
const BATCHES_MAX: usize = 256;

/// How long a worker that ends waits for room for its last lines, and how long the server that ends
/// then waits for the log thread, in ms. If the log is a pipe, its reader may hang.
const LAST_LINES_MS: u64 = 2_000;
const LOG_THREAD_END_MS: u64 = 5_000;

/// The server's handle of the thread that writes the log.
#[derive(Debug)]
pub(super) struct LogThread {
    batches: SyncSender<Option<Batch>>,
    reopening: Arc<Reopening>,
    /// Disconnected when the thread ends.
    ended: Receiver<()>,
    all_counts: Vec<Arc<LineCounts>>,
    losses: Arc<Losses>,
    unlogged_paths: Arc<[String]>,
    format: Arc<AccessLogFormat>,
    is_terminal: bool,
}

/// Asks the thread to open the log's file anew: the file may have been renamed.
#[derive(Debug)]
pub(super) struct Reopening {
    is_due: Arc<AtomicBool>,
    /// Wakes the thread, by no batch; none when the log has ended.
    batches: Mutex<Option<SyncSender<Option<Batch>>>>,
}

impl Reopening {
    /// Has the thread open the file before it writes further lines.
    pub(super) fn ask(&self) {
        self.is_due.store(true, Ordering::Relaxed);
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batches) = &*batches {
            // A thread that has no room is awake.
            let _ = batches.try_send(None);
        }
    }
}

/// Lines of one worker, which are passed on together.
#[derive(Debug)]
struct Batch {
    lines: Vec<u8>,
    /// How many of the lines have not been written.
    left: u64,
    counts: Arc<LineCounts>,
}

/// Counts the lines of one worker that wait or are lost.
#[derive(Debug)]
struct LineCounts {
    metrics: Arc<WorkerMetrics>,
    /// Lines that were passed on, and are neither written nor lost.
    waiting: AtomicU64,
    losses: Arc<Losses>,
}

/// Counts the lost lines of all workers.
#[derive(Debug, Default)]
struct Losses {
    /// Lines that were lost since the last report.
    unreported: AtomicU64,
    /// The waiting lines have been counted as lost, so the thread must not write them any more.
    is_over: AtomicBool,
}

impl LineCounts {
    /// Counts `lines` as lost.
    fn add_lost(&self, lines: u64) {
        self.metrics.log_lines_dropped.add_shared(lines);
        self.losses.unreported.fetch_add(lines, Ordering::Relaxed);
    }
}

impl Losses {
    /// Reports the number of lines that were lost since the last report, if any, with the `cause`.
    fn report(&self, cause: &str) {
        match self.unreported.swap(0, Ordering::Relaxed) {
            0 => {}
            1 => report(format_args!("{cause}: 1 line was lost")),
            lines => report(format_args!("{cause}: {lines} lines were lost")),
        }
    }
}

impl LogThread {
    /// Opens the log and starts its thread. Returns `None` if the log is off.
    pub(super) fn open(
        log: &AccessLog,
        unlogged_paths: Vec<String>,
        format: AccessLogFormat,
    ) -> Result<Option<Self>, Error> {
        if *log == AccessLog::Off {
            return Ok(None);
        }
        let output =
            open_output(log).map_err(|message| Error::new(ErrorKind::Configuration, message))?;
        let (batches, receiver) = sync_channel(BATCHES_MAX);
        let (hang_up, ended) = sync_channel(0);
        let losses = Arc::new(Losses::default());
        let is_terminal = *log == AccessLog::Stdout && io::stdout().is_terminal();
        let batch_writer = BatchWriter::new(output, losses.clone());
        let is_due = Arc::<AtomicBool>::default();
        let reopening = Arc::new(Reopening {
            is_due: is_due.clone(),
            batches: Mutex::new(Some(batches.clone())),
        });
        let log = log.clone();
        let reopen = move || {
            let is_due = is_due.swap(false, Ordering::Relaxed);
            let reopened = is_due.then(|| open_output(&log))?;
            reopened
                .map_err(|message| report(format_args!("{message}; it stays as it is")))
                .ok()
        };
        let write = move || {
            let _hang_up = hang_up;
            block_write_signals();
            batch_writer.write_all(&receiver, reopen);
        };
        std::thread::Builder::new()
            .name("coring-log".to_owned())
            .spawn(write)
            .map_err(|error| {
                let message = format!("cannot start a thread: {error}; allow more threads");
                Error::new(ErrorKind::Runtime, message)
            })?;
        Ok(Some(Self {
            batches,
            reopening,
            ended,
            all_counts: Vec::new(),
            losses,
            unlogged_paths: unlogged_paths.into(),
            format: Arc::new(format),
            is_terminal,
        }))
    }

    /// Makes the log of one worker.
    pub(super) fn worker(&mut self, metrics: Arc<WorkerMetrics>) -> WorkerLog {
        let counts = Arc::new(LineCounts {
            metrics,
            waiting: AtomicU64::new(0),
            losses: self.losses.clone(),
        });
        self.all_counts.push(counts.clone());
        WorkerLog {
            batches: self.batches.clone(),
            lines: RefCell::default(),
            count: Cell::new(0),
            is_awaited: Cell::new(false),
            counts,
            unlogged_paths: self.unlogged_paths.clone(),
            format: self.format.clone(),
            is_terminal: self.is_terminal,
        }
    }

    /// Opens the log anew when it is asked to.
    pub(super) fn reopening(&self) -> Arc<Reopening> {
        self.reopening.clone()
    }

    /// Waits for the thread to write the remaining lines, but not too long. To be called when all
    /// workers have ended.
    pub(super) fn finish(self) {
        drop(self.batches);
        let sender = &self.reopening.batches;
        drop(sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let timeout = Duration::from_millis(LOG_THREAD_END_MS);
        if self.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            self.losses.is_over.store(true, Ordering::Relaxed);
            for counts in &self.all_counts {
                counts.add_lost(counts.waiting.swap(0, Ordering::Relaxed));
            }
            self.losses
                .report("the access log was not written before the end");
        }
    }
}

/// Writes the batches of the workers. If a write fails (the disk is full, say), the server
/// continues: the lines are lost, and counted. The first failure is reported. When a write succeeds
/// again, the number of lost lines is reported.
struct BatchWriter<W> {
    output: W,
    losses: Arc<Losses>,
    /// The last write failed.
    is_failing: bool,
    /// The last write ended within a line.
    ends_within_line: bool,
}

impl<W: Write> BatchWriter<W> {
    fn new(output: W, losses: Arc<Losses>) -> Self {
        Self {
            output,
            losses,
            is_failing: false,
            ends_within_line: false,
        }
    }

    /// Writes the batches, until all workers and the server's handle are gone. If `reopen` returns
    /// another output, further batches go there.
    fn write_all(
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
                        let cause = "the access log is written again";
                        self.losses.report(cause);
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

/// The log of one worker, with the lines that it has gathered.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    batches: SyncSender<Option<Batch>>,
    lines: RefCell<Vec<u8>>,
    /// The number of lines in `lines`.
    count: Cell<u64>,
    /// A coroutine will call [`WorkerLog::hand_over`] after a pause.
    is_awaited: Cell<bool>,
    counts: Arc<LineCounts>,
    unlogged_paths: Arc<[String]>,
    format: Arc<AccessLogFormat>,
    /// A terminal shows each line at once, so the lines of all workers are in the order of time.
    is_terminal: bool,
}

impl WorkerLog {
    /// How long a line may wait before it is passed on, in ms.
    pub(super) const LINE_DELAY_MS: u64 = 100;

    /// The format of its lines.
    pub(super) fn format(&self) -> &AccessLogFormat {
        &self.format
    }

    /// Whether requests of this path are not logged.
    pub(super) fn skips(&self, path: &[u8]) -> bool {
        self.unlogged_paths
            .iter()
            .any(|unlogged| match unlogged.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix.as_bytes()),
                None => path == unlogged.as_bytes(),
            })
    }

    /// Adds the line of a request whose response is sent or was cut short. Returns true if the
    /// caller has to call [`WorkerLog::hand_over`] after [`WorkerLog::LINE_DELAY_MS`].
    pub(super) fn write(&self, line: &mut Line) -> bool {
        let mut lines = self.lines.borrow_mut();
        if lines.capacity() == 0 {
            lines.reserve(BATCH_BYTES + BATCH_BYTES / 8);
        }
        line.write_to(&self.format, &mut lines);
        self.count.set(self.count.get() + 1);
        let is_full = lines.len() >= BATCH_BYTES || self.is_terminal;
        drop(lines);
        if is_full {
            self.send(Duration::ZERO);
        }
        !is_full && !self.is_awaited.replace(true)
    }

    /// Passes the gathered lines on to the log thread.
    pub(super) fn hand_over(&self) {
        self.is_awaited.set(false);
        self.send(Duration::ZERO);
    }

    /// Passes the gathered lines on. If the log thread has no room within `timeout`, they are
    /// lost.
    fn send(&self, timeout: Duration) {
        let left = self.count.replace(0);
        if left == 0 {
            return;
        }
        let counts = &self.counts;
        counts.waiting.fetch_add(left, Ordering::Relaxed);
        let mut batch = Some(Batch {
            lines: self.lines.take(),
            left,
            counts: counts.clone(),
        });
        let started = Instant::now();
        while let Err(refused) = self.batches.try_send(batch) {
            match refused {
                TrySendError::Full(unsent) if started.elapsed() < timeout => batch = unsent,
                _ => {
                    counts.waiting.fetch_sub(left, Ordering::Relaxed);
                    return counts.add_lost(left);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        // The worker has nothing else to do, so it may wait for room.
        self.send(Duration::from_millis(LAST_LINES_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (batches, receiver) = sync_channel(4);
        let losses = Arc::new(Losses::default());
        let counts = Arc::new(LineCounts {
            metrics: Arc::default(),
            waiting: AtomicU64::new(0),
            losses: losses.clone(),
        });
        for lines in ["a\nbcde\n", "lost\nlost\n", "whole\n", "more\n"] {
            let lines = lines.as_bytes().to_vec();
            let left = count_lines(&lines);
            counts.waiting.fetch_add(left, Ordering::Relaxed);
            let counts = counts.clone();
            let batch = Batch {
                lines,
                left,
                counts,
            };
            batches.send(Some(batch)).expect("room");
        }
        drop(batches);
        let written = Arc::new(Mutex::new(Vec::new()));
        BatchWriter::new(FullDisk(0, written.clone()), losses).write_all(&receiver, || None);
        let written = written.lock().expect("a lock");
        assert_eq!(written.escape_ascii().to_string(), r"a\nb\nwhole\nmore\n");
        assert_eq!(counts.metrics.log_lines_dropped.get(), 3);
        assert_eq!(counts.waiting.load(Ordering::Relaxed), 0);
    }
}
