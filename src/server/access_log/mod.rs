//! The access log, off the request's path: a worker gathers lines in memory, and a thread of the
//! log's own writes them. It refuses to know what a line says.

mod line;

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::time::{Duration, Instant};

use super::error::{Error, ErrorKind};
use crate::messages::report;
use crate::metrics::WorkerMetrics;
use crate::sys::output::Blocking;
use crate::sys::signals::block_write_signals;
pub(super) use line::Line;

/// Where requests are logged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AccessLog {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Lines are handed over when they fill so many bytes, and a second after the first of them.
const BATCH_BYTES: usize = 32 << 10;
/// Batches that may wait for the writer; when they are that many, lines are dropped and counted.
const BATCHES_MAX: usize = 256;

/// How long a worker that ends waits for room for its last lines, and then the end of the server
/// for the writer, in ms: who does not read the log must not hold up the end.
const LAST_LINES_MS: u64 = 2_000;
const WRITER_END_MS: u64 = 5_000;

/// The thread that writes the log, and the way to it.
#[derive(Debug)]
pub(super) struct Writer {
    batches: SyncSender<Batch>,
    /// Disconnected when the thread ends.
    ended: Receiver<()>,
    accounts: Vec<Arc<Account>>,
    losses: Arc<Losses>,
}

/// Lines of one worker, to be written at once.
#[derive(Debug)]
struct Batch {
    lines: Vec<u8>,
    /// How many lines of it have not been written.
    left: u64,
    account: Arc<Account>,
}

/// What became of a worker's lines.
#[derive(Debug)]
struct Account {
    metrics: Arc<WorkerMetrics>,
    /// Lines that were handed over, and neither written nor lost since.
    waiting: AtomicU64,
    losses: Arc<Losses>,
}

/// Lines that were lost, of all workers.
#[derive(Debug, Default)]
struct Losses {
    unreported: AtomicU64,
    /// What still waits has been counted as lost: the thread must not write it any more.
    is_over: AtomicBool,
}

impl Account {
    fn lose(&self, lines: u64) {
        self.metrics.log_lines_dropped.add_shared(lines);
        self.losses.unreported.fetch_add(lines, Ordering::Relaxed);
    }
}

impl Losses {
    /// Reports how many lines were lost since this was last reported, if any were.
    fn report(&self, cause: &str) {
        let noun = |lines| if lines == 1 { "line" } else { "lines" };
        match self.unreported.swap(0, Ordering::Relaxed) {
            0 => {}
            lines => report(format_args!("{cause} {lines} {}", noun(lines))),
        }
    }
}

impl Writer {
    /// Opens the log; none if it is off.
    pub(super) fn open(log: &AccessLog) -> Result<Option<Self>, Error> {
        let output: Box<dyn Write + Send> = match log {
            AccessLog::Off => return Ok(None),
            AccessLog::Stdout => Box::new(Stdout),
            AccessLog::File(path) => Box::new(Blocking(open_file(path).map_err(|error| {
                let cure = match error.raw_os_error() {
                    Some(libc::ENXIO) => {
                        "nobody reads that pipe, or it is a socket; start its reader first"
                    }
                    _ => "check the path and its rights",
                };
                let path = path.display();
                let message = format!("cannot open the access log {path}: {error}; {cure}");
                Error::new(ErrorKind::Configuration, message)
            })?)),
        };
        let (batches, receiver) = sync_channel(BATCHES_MAX);
        let (hang_up, ended) = sync_channel(0);
        let losses = Arc::new(Losses::default());
        let scribe = Scribe::new(output, losses.clone());
        let write = move || {
            let _hang_up = hang_up;
            block_write_signals();
            scribe.write_all(&receiver);
        };
        std::thread::Builder::new()
            .name("coring-log".to_owned())
            .spawn(write)
            .map_err(|error| Error::new(ErrorKind::Runtime, format!("no thread: {error}")))?;
        Ok(Some(Self {
            batches,
            ended,
            accounts: Vec::new(),
            losses,
        }))
    }

    /// A worker's end of it.
    pub(super) fn worker(&mut self, metrics: Arc<WorkerMetrics>) -> WorkerLog {
        let account = Arc::new(Account {
            metrics,
            waiting: AtomicU64::new(0),
            losses: self.losses.clone(),
        });
        self.accounts.push(account.clone());
        WorkerLog {
            batches: self.batches.clone(),
            lines: RefCell::default(),
            count: Cell::new(0),
            is_awaited: Cell::new(false),
            account,
        }
    }

    /// Writes what is left, unless that takes too long. To be called when no worker is left.
    pub(super) fn finish(self) {
        drop(self.batches);
        let patience = Duration::from_millis(WRITER_END_MS);
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            self.losses.is_over.store(true, Ordering::Relaxed);
            for account in &self.accounts {
                account.lose(account.waiting.swap(0, Ordering::Relaxed));
            }
            self.losses
                .report("the access log is not read: it has lost");
        }
    }
}

/// Opens a log without waiting for somebody to read a pipe (open(2), `O_NONBLOCK`): no signal would
/// be obeyed meanwhile. Writing waits for the reader all the same, but of a write that is cut short
/// by the end it is then known how much was written.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

/// Standard output. The program may write to it, too: so it is locked for each write.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Blocking(io::stdout().lock()).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what the workers hand over. A disk that is full must not stop the server: lines that
/// cannot be written are lost, and counted. That is reported when it begins, and how many they were
/// when it is over.
struct Scribe<W> {
    output: W,
    losses: Arc<Losses>,
    /// The last write failed.
    is_failing: bool,
    /// The last write ended within a line.
    is_torn: bool,
}

impl<W: Write> Scribe<W> {
    fn new(output: W, losses: Arc<Losses>) -> Self {
        Self {
            output,
            losses,
            is_failing: false,
            is_torn: false,
        }
    }

    /// Writes all that is handed over, until no worker is left.
    fn write_all(mut self, receiver: &Receiver<Batch>) {
        loop {
            let mut batch = match receiver.try_recv() {
                Ok(batch) => batch,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    if !self.is_failing {
                        let cause = "the access log is written again; it has lost";
                        self.losses.report(cause);
                    }
                    let Ok(batch) = receiver.recv() else {
                        break;
                    };
                    batch
                }
            };
            let written = self.write(&mut batch);
            if self.losses.is_over.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = &written {
                if !self.is_failing {
                    report(format_args!(
                        "cannot write the access log: {error}; lines are lost until it is over"
                    ));
                }
                let lost = batch.left;
                batch.account.waiting.fetch_sub(lost, Ordering::Relaxed);
                batch.account.lose(lost);
            }
            self.is_failing = written.is_err();
        }
        self.losses.report("the access log has lost");
    }

    /// Writes a batch, behind a line end where one is missing, and counts the lines that are
    /// written as they are.
    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        if self.is_torn {
            self.output.write_all(b"\n")?;
            self.is_torn = false;
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
            self.is_torn = !written.ends_with(b"\n");
            let lines = match rest.is_empty() {
                true => batch.left,
                false => count_lines(written),
            };
            batch.left -= lines;
            batch.account.waiting.fetch_sub(lines, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// How many lines end in `bytes`: what a client sends has no line end in the log.
fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// One worker's gathered lines.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    batches: SyncSender<Batch>,
    lines: RefCell<Vec<u8>>,
    /// Lines in `lines`.
    count: Cell<u64>,
    /// Somebody will call [`WorkerLog::hand_over`] when the pause is over.
    is_awaited: Cell<bool>,
    account: Arc<Account>,
}

impl WorkerLog {
    /// How long a line may wait for others before all are handed over, in ms.
    pub(super) const PAUSE_MS: u64 = 1000;

    /// Ends the line of a request whose answer is complete, or will never be. True: somebody has
    /// to call [`WorkerLog::hand_over`] after a pause.
    pub(super) fn write(&self, line: &mut Line) -> bool {
        let mut lines = self.lines.borrow_mut();
        if lines.capacity() == 0 {
            lines.reserve(BATCH_BYTES + BATCH_BYTES / 8);
        }
        line.write_to(&mut lines);
        self.count.set(self.count.get() + 1);
        let is_full = lines.len() >= BATCH_BYTES;
        drop(lines);
        if is_full {
            self.send(Duration::ZERO);
        }
        !is_full && !self.is_awaited.replace(true)
    }

    /// Gives the gathered lines to the writer, at the end of the pause that [`WorkerLog::write`]
    /// has asked for.
    pub(super) fn hand_over(&self) {
        self.is_awaited.set(false);
        self.send(Duration::ZERO);
    }

    /// Hands the lines over, or loses them if there is no room within `patience`.
    fn send(&self, patience: Duration) {
        let left = self.count.replace(0);
        if left == 0 {
            return;
        }
        let account = &self.account;
        account.waiting.fetch_add(left, Ordering::Relaxed);
        let mut batch = Batch {
            lines: self.lines.take(),
            left,
            account: account.clone(),
        };
        let started = Instant::now();
        while let Err(refused) = self.batches.try_send(batch) {
            match refused {
                TrySendError::Full(unsent) if started.elapsed() < patience => batch = unsent,
                _ => {
                    account.waiting.fetch_sub(left, Ordering::Relaxed);
                    return account.lose(left);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        // The last lines may wait a little for the writer: nothing else is left to do.
        self.send(Duration::from_millis(LAST_LINES_MS));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes half of the first batch, then nothing for two writes, then everything.
    struct Full(usize, Arc<Mutex<Vec<u8>>>);

    impl Write for Full {
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
        let account = Arc::new(Account {
            metrics: Arc::default(),
            waiting: AtomicU64::new(0),
            losses: losses.clone(),
        });
        for lines in ["a\nbcde\n", "lost\nlost\n", "whole\n", "more\n"] {
            let lines = lines.as_bytes().to_vec();
            let left = count_lines(&lines);
            account.waiting.fetch_add(left, Ordering::Relaxed);
            let account = account.clone();
            let batch = Batch {
                lines,
                left,
                account,
            };
            batches.send(batch).expect("room");
        }
        drop(batches);
        let written = Arc::new(Mutex::new(Vec::new()));
        Scribe::new(Full(0, written.clone()), losses).write_all(&receiver);
        let written = written.lock().expect("a lock");
        assert_eq!(written.escape_ascii().to_string(), r"a\nb\nwhole\nmore\n");
        assert_eq!(account.metrics.log_lines_dropped.get(), 3);
        assert_eq!(account.waiting.load(Ordering::Relaxed), 0);
    }
}
