//! The access log. Each worker gathers lines in memory, and one thread writes them, so that no
//! request waits for the file. It does not know what a line contains.

mod batch_writer;
mod escape;
mod format;
mod line;
mod lines;
mod output;

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::error::{Error, ErrorKind};
use crate::messages::report;
use crate::metrics::WorkerMetrics;
use crate::sys::lock::lock;
use crate::sys::signals::block_write_signals;
use batch_writer::BatchWriter;
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
/// The memory of the batches that may wait for the log thread, in bytes. Further ones are dropped,
/// and counted.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// How long a worker that ends waits for room for its last lines, and how long the server that ends
/// then waits for the log thread, in ms. If the log is a pipe, its reader may hang.
const LAST_LINES_MS: u64 = 2_000;
const LOG_THREAD_END_MS: u64 = 5_000;

/// The server's handle of the thread that writes the log.
#[derive(Debug)]
pub(super) struct LogThread {
    batches: Sender<Option<Batch>>,
    waiting_bytes: Arc<AtomicUsize>,
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
    batches: Mutex<Option<Sender<Option<Batch>>>>,
}

impl Reopening {
    /// Has the thread open the file before it writes further lines.
    pub(super) fn ask(&self) {
        if self.is_due.swap(true, Ordering::Relaxed) {
            return;
        }
        let batches = lock(&self.batches);
        if let Some(batches) = &*batches {
            let _ = batches.send(None);
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
    _room: Room,
}

/// Memory of a batch, which counts until this is dropped.
#[derive(Debug)]
struct Room {
    /// That of the batches of all workers.
    waiting_bytes: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    /// Room for `bytes`; none if too many wait.
    fn take(waiting_bytes: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let add = |waiting| Some(waiting + bytes).filter(|&sum| sum <= WAITING_BYTES_MAX);
        waiting_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        let waiting_bytes = waiting_bytes.clone();
        Some(Self {
            waiting_bytes,
            bytes,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.waiting_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
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
        let (batches, receiver) = channel();
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
            waiting_bytes: Arc::default(),
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
            waiting_bytes: self.waiting_bytes.clone(),
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
        drop(lock(sender).take());
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

/// The log of one worker, with the lines that it has gathered.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    batches: Sender<Option<Batch>>,
    waiting_bytes: Arc<AtomicUsize>,
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
        if lines.capacity() == 0 && !self.is_terminal {
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

    /// Passes the gathered lines on. If there is no room for them within `timeout`, they are lost.
    fn send(&self, timeout: Duration) {
        let left = self.count.replace(0);
        if left == 0 {
            return;
        }
        let (lines, counts) = (self.lines.take(), &self.counts);
        let bytes = lines.capacity() + size_of::<Batch>();
        let started = Instant::now();
        let room = loop {
            match Room::take(&self.waiting_bytes, bytes) {
                None if started.elapsed() < timeout => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                room => break room,
            }
        };
        let Some(room) = room else {
            return counts.add_lost(left);
        };
        counts.waiting.fetch_add(left, Ordering::Relaxed);
        let batch = Batch {
            lines,
            left,
            counts: counts.clone(),
            _room: room,
        };
        if self.batches.send(Some(batch)).is_err() {
            counts.waiting.fetch_sub(left, Ordering::Relaxed);
            counts.add_lost(left);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        // The worker has nothing else to do, so it may wait for room.
        self.send(Duration::from_millis(LAST_LINES_MS));
    }
}
