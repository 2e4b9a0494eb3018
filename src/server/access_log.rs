//! The access log in the combined format, off the request's path: a worker gathers lines in
//! memory, and a thread of its own writes them.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::error::{Error, ErrorKind};
use crate::http::date::DATE_LEN;
use crate::http::h1::{Head, Version};
use crate::messages::report;
use crate::metrics::WorkerMetrics;
use crate::net::Stream;
use crate::sys::signals::block_write_signals;

/// Where requests are logged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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

/// The writing thread, and the way to it.
#[derive(Debug)]
pub(super) struct Writer {
    batches: SyncSender<Vec<u8>>,
    /// Hangs up when the thread ends.
    ended: Receiver<()>,
}

impl Writer {
    /// Opens the log; none if it is off.
    pub(super) fn open(log: &AccessLog) -> Result<Option<Self>, Error> {
        let output: Box<dyn Write + Send> = match log {
            AccessLog::Off => return Ok(None),
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => Box::new(open_file(path).map_err(|error| {
                let cure = match error.raw_os_error() {
                    Some(libc::ENXIO) => {
                        "nobody reads that pipe, or it is a socket; start its reader first"
                    }
                    _ => "check the path and its rights",
                };
                let path = path.display();
                let message = format!("cannot open the access log {path}: {error}; {cure}");
                Error::new(ErrorKind::Configuration, message)
            })?),
        };
        let (batches, receiver) = sync_channel(BATCHES_MAX);
        let (hang_up, ended) = sync_channel(0);
        let write = move || {
            let _hang_up = hang_up;
            block_write_signals();
            write_batches(&receiver, output);
        };
        std::thread::Builder::new()
            .name("coring-log".to_owned())
            .spawn(write)
            .map_err(|error| Error::new(ErrorKind::Runtime, format!("no thread: {error}")))?;
        Ok(Some(Self { batches, ended }))
    }

    /// A worker's end of it.
    pub(super) fn worker(&self, metrics: Arc<WorkerMetrics>) -> WorkerLog {
        WorkerLog {
            batches: self.batches.clone(),
            lines: RefCell::default(),
            count: Cell::new(0),
            is_awaited: Cell::new(false),
            metrics,
        }
    }

    /// Writes what is left, unless that takes too long. To be called when no worker is left.
    pub(super) fn finish(self) {
        drop(self.batches);
        let patience = Duration::from_millis(WRITER_END_MS);
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            report("nobody takes the access log: its last lines are lost");
        }
    }
}

/// Does not wait for somebody to read a pipe (open(2), `O_NONBLOCK`): no signal would be heard.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// A disk that is full must not stop the server: the failure is reported once, until it is over.
fn write_batches(receiver: &Receiver<Vec<u8>>, mut output: Box<dyn Write + Send>) {
    let mut failing = false;
    for mut batch in receiver {
        if failing {
            // What was written last may have ended in the middle of a line.
            batch.insert(0, b'\n');
        }
        let written = output.write_all(&batch).and_then(|()| output.flush());
        if let Err(error) = &written
            && !failing
        {
            report(format_args!(
                "cannot write the access log: {error}; lines are lost until it is over"
            ));
        }
        failing = written.is_err();
    }
}

/// One worker's gathered lines.
#[derive(Debug)]
pub(super) struct WorkerLog {
    batches: SyncSender<Vec<u8>>,
    lines: RefCell<Vec<u8>>,
    /// Lines in `lines`.
    count: Cell<u64>,
    /// Somebody will call [`WorkerLog::hand_over`] when the pause is over.
    is_awaited: Cell<bool>,
    metrics: Arc<WorkerMetrics>,
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
            self.send();
        }
        !is_full && !self.is_awaited.replace(true)
    }

    /// Gives the gathered lines to the writer, at the end of the pause that [`WorkerLog::write`]
    /// has asked for.
    pub(super) fn hand_over(&self) {
        self.is_awaited.set(false);
        self.send();
    }

    fn send(&self) {
        let lines = self.lines.take();
        let count = self.count.replace(0);
        if !lines.is_empty() && self.batches.try_send(lines).is_err() {
            self.metrics.log_lines_dropped.add(count);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        // The last lines may wait a little for the writer: nothing else is left to do.
        let mut lines = self.lines.take();
        let end = Instant::now() + Duration::from_millis(LAST_LINES_MS);
        while !lines.is_empty() {
            match self.batches.try_send(lines) {
                Ok(()) => break,
                Err(TrySendError::Full(unsent)) if Instant::now() < end => lines = unsent,
                Err(_) => {
                    self.metrics.log_lines_dropped.add(self.count.get());
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A connection's line in the making: what is known of a request when its head has come, and its
/// answer as it goes out. Its memory serves one request after the other.
#[derive(Debug)]
pub(super) struct Line {
    /// The line without status and length, which stand at `gap`. Up to `prefix` it is the same for
    /// all requests of the connection.
    text: Vec<u8>,
    prefix: usize,
    gap: usize,
    is_begun: bool,
    pub(super) status: u16,
    pub(super) body_bytes: u64,
}

impl Line {
    /// Memory that an idle connection may keep for its next line, in bytes.
    const KEPT_BYTES: usize = 512;

    /// The line of a connection, before its first request.
    pub(super) fn new(stream: &Stream) -> Box<Self> {
        let mut text = Vec::with_capacity(256);
        match stream.peer() {
            Some(peer) => append(&mut text, format_args!("{}", peer.ip().to_canonical())),
            None if stream.is_unix() => text.extend(b"unix:"),
            // A peer that is gone already has no address any more.
            None => text.push(b'-'),
        }
        text.extend(b" - - [");
        Box::new(Self {
            prefix: text.len(),
            text,
            gap: 0,
            is_begun: false,
            status: 0,
            body_bytes: 0,
        })
    }

    /// Begins the line of a request whose `head` in `bytes` has come at `date`.
    pub(super) fn begin(&mut self, date: &[u8; DATE_LEN], head: &Head, bytes: &[u8]) {
        self.begin_at(date);
        let text = &mut self.text;
        escape(head.method.as_str().as_bytes(), text);
        text.push(b' ');
        escape(head.target(bytes).as_bytes(), text);
        text.extend(match head.version {
            Version::Http10 => b" HTTP/1.0\" ",
            Version::Http11 => b" HTTP/1.1\" ",
        });
        self.gap = text.len();
        let fields = head.fields(bytes);
        text.extend(b" \"");
        escape(fields.get("referer").unwrap_or(b"-"), text);
        text.extend(b"\" \"");
        escape(fields.get("user-agent").unwrap_or(b"-"), text);
        text.extend(b"\"\n");
    }

    /// Begins the line of an answer to what could not be understood, or was not looked at.
    pub(super) fn begin_without_request(&mut self, date: &[u8; DATE_LEN]) {
        self.begin_at(date);
        self.text.extend(b"-\" ");
        self.gap = self.text.len();
        self.text.extend(b" \"-\" \"-\"\n");
    }

    /// Whether a request's line was begun and is not yet written.
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    fn begin_at(&mut self, date: &[u8; DATE_LEN]) {
        self.text.truncate(self.prefix);
        append_date(date, &mut self.text);
        self.text.extend(b"] \"");
        (self.is_begun, self.status, self.body_bytes) = (true, 0, 0);
    }

    fn write_to(&mut self, lines: &mut Vec<u8>) {
        lines.extend_from_slice(&self.text[..self.gap]);
        // 499, as nginx has it: the client was gone before there was an answer.
        let status = if self.status == 0 { 499 } else { self.status };
        append(lines, format_args!("{status} {}", self.body_bytes));
        lines.extend_from_slice(&self.text[self.gap..]);
        self.is_begun = false;
        if self.text.capacity() > Self::KEPT_BYTES {
            self.text.truncate(self.prefix);
            self.text.shrink_to(Self::KEPT_BYTES);
        }
    }
}

/// Appends `22/Nov/2026:20:15:00 +0000`, from the words of an IMF-fixdate.
fn append_date(date: &[u8; DATE_LEN], out: &mut Vec<u8>) {
    for (part, mark) in [(5..7, b'/'), (8..11, b'/'), (12..16, b':'), (17..25, b' ')] {
        out.extend_from_slice(&date[part]);
        out.push(mark);
    }
    out.extend(b"+0000");
}

fn append(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes what is written");
}

/// Appends what a client sent such that it can neither end its quotes nor its line.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => append(out, format_args!("\\x{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn what_a_client_sends_stays_in_its_quotes() {
        let mut out = Vec::new();
        escape(b"a\"b\\c\nd\xff", &mut out);
        assert_eq!(out, br#"a\"b\\c\x0Ad\xFF"#);
    }

    /// Takes half of the first batch, and nothing of the second.
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
    fn no_line_goes_on_where_another_was_cut_off() {
        let (batches, receiver) = sync_channel(4);
        for batch in ["abcd\n", "lost\n", "whole\n", "more\n"] {
            batches.send(batch.as_bytes().to_vec()).expect("room");
        }
        drop(batches);
        let written = Arc::new(Mutex::new(Vec::new()));
        write_batches(&receiver, Box::new(Full(0, written.clone())));
        let written = written.lock().expect("a lock");
        assert_eq!(written.escape_ascii().to_string(), r"ab\nwhole\nmore\n");
    }

    #[test]
    fn the_date_is_that_of_the_common_log_format() {
        let mut out = Vec::new();
        append_date(b"Sun, 06 Nov 1994 08:49:37 GMT", &mut out);
        assert_eq!(out, b"06/Nov/1994:08:49:37 +0000");
    }
}
