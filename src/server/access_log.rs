//! The access log in the combined format, off the request's path: a worker gathers lines in
//! memory, and a thread of its own writes them.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use super::error::{Error, ErrorKind};
use crate::buf::Taken;
use crate::http::h1::{Head, Version};
use crate::metrics::WorkerMetrics;
use crate::net::Stream;

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

/// Lines are handed over when they fill so many bytes, and once a second.
const BATCH_BYTES: usize = 32 << 10;
/// Batches that may wait for the writer; when they are that many, lines are dropped and counted.
const BATCHES_MAX: usize = 256;

/// The writing thread, and the way to it.
#[derive(Debug)]
pub(super) struct Writer {
    batches: SyncSender<Vec<u8>>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Opens the log; none if it is off.
    pub(super) fn open(log: &AccessLog) -> Result<Option<Self>, Error> {
        let output: Box<dyn Write + Send> = match log {
            AccessLog::Off => return Ok(None),
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => {
                let file: io::Result<File> =
                    OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.map_err(|error| {
                    let path = path.display();
                    let message = format!(
                        "cannot open the access log {path}: {error}; check the path and its rights"
                    );
                    Error::new(ErrorKind::Configuration, message)
                })?)
            }
        };
        let (batches, receiver) = sync_channel(BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("coring-log".to_owned())
            .spawn(move || write_batches(&receiver, output))
            .map_err(|error| Error::new(ErrorKind::Runtime, format!("no thread: {error}")))?;
        Ok(Some(Self { batches, thread }))
    }

    /// A worker's end of it.
    pub(super) fn worker(&self, metrics: Arc<WorkerMetrics>) -> WorkerLog {
        WorkerLog {
            batches: self.batches.clone(),
            lines: RefCell::default(),
            count: Cell::new(0),
            metrics,
        }
    }

    /// Writes what is left. To be called when no worker is left.
    pub(super) fn finish(self) {
        drop(self.batches);
        // A panic there has been reported by the panic hook.
        let _ = self.thread.join();
    }
}

/// A disk that is full must not stop the server: the failure is reported once, until it is over.
fn write_batches(receiver: &Receiver<Vec<u8>>, mut output: Box<dyn Write + Send>) {
    let mut failing = false;
    for batch in receiver {
        let written = output.write_all(&batch).and_then(|()| output.flush());
        if let Err(error) = &written
            && !failing
        {
            report(&format!(
                "cannot write the access log: {error}; lines are lost until it is over"
            ));
        }
        failing = written.is_err();
    }
}

fn report(message: &str) {
    // When nobody reads standard error either, there is nobody left to tell.
    let _ = writeln!(io::stderr(), "coring: {message}");
}

/// One worker's gathered lines.
#[derive(Debug)]
pub(super) struct WorkerLog {
    batches: SyncSender<Vec<u8>>,
    lines: RefCell<Vec<u8>>,
    /// Lines in `lines`.
    count: Cell<u64>,
    metrics: Arc<WorkerMetrics>,
}

/// What is known of a request when its head has come, and its answer as it goes out.
#[derive(Debug)]
pub(super) struct Line {
    /// Up to the status.
    before: Vec<u8>,
    pub(super) status: u16,
    pub(super) body_bytes: u64,
    /// After the length.
    after: Vec<u8>,
}

impl WorkerLog {
    /// Begins the line of a request that came at `unix_seconds`.
    pub(super) fn line(
        &self,
        stream: &Stream,
        head: &Head,
        bytes: &Taken,
        unix_seconds: u64,
    ) -> Box<Line> {
        let mut before = Vec::with_capacity(128);
        match stream.peer() {
            Some(peer) => before.extend(peer.ip().to_canonical().to_string().bytes()),
            None => before.extend(b"unix:"),
        }
        before.extend(b" - - [");
        before.extend(common_log_date(unix_seconds));
        before.extend(b"] \"");
        escape(head.method.as_str().as_bytes(), &mut before);
        before.push(b' ');
        escape(head.target(bytes).as_bytes(), &mut before);
        before.extend(match head.version {
            Version::Http10 => b" HTTP/1.0\" ",
            Version::Http11 => b" HTTP/1.1\" ",
        });
        let mut after = b" \"".to_vec();
        let fields = head.fields(bytes);
        escape(fields.get("referer").unwrap_or(b"-"), &mut after);
        after.extend(b"\" \"");
        escape(fields.get("user-agent").unwrap_or(b"-"), &mut after);
        after.extend(b"\"\n");
        Box::new(Line {
            before,
            status: 0,
            body_bytes: 0,
            after,
        })
    }

    /// Ends the line of a request whose answer is complete, or will never be.
    pub(super) fn write(&self, line: Line) {
        {
            let mut lines = self.lines.borrow_mut();
            lines.extend(line.before);
            // 499, as nginx has it: the client was gone before there was an answer.
            let status = if line.status == 0 { 499 } else { line.status };
            lines.extend(format!("{status} {}", line.body_bytes).bytes());
            lines.extend(line.after);
            self.count.set(self.count.get() + 1);
        }
        if self.lines.borrow().len() >= BATCH_BYTES {
            self.hand_over();
        }
    }

    /// Gives the gathered lines to the writer.
    pub(super) fn hand_over(&self) {
        let lines = self.lines.take();
        let count = self.count.replace(0);
        if !lines.is_empty() && self.batches.try_send(lines).is_err() {
            self.metrics.log_lines_dropped.add(count);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        // The last lines may wait for the writer: nothing else is left to do.
        let lines = self.lines.take();
        if !lines.is_empty() && self.batches.send(lines).is_err() {
            self.metrics.log_lines_dropped.add(self.count.get());
        }
    }
}

/// `22/Nov/2026:20:15:00 +0000`, from the words of an IMF-fixdate.
fn common_log_date(unix_seconds: u64) -> Vec<u8> {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_seconds));
    match date.split(' ').collect::<Vec<_>>()[..] {
        [_, day, month, year, time, _] => format!("{day}/{month}/{year}:{time} +0000").into_bytes(),
        _ => Vec::new(),
    }
}

/// Appends what a client sent such that it can neither end its quotes nor its line.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => out.extend(format!("\\x{byte:02X}").bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_stays_in_its_quotes() {
        let mut out = Vec::new();
        escape(b"a\"b\\c\nd\xff", &mut out);
        assert_eq!(out, br#"a\"b\\c\x0Ad\xFF"#);
    }

    #[test]
    fn the_date_is_that_of_the_common_log_format() {
        assert_eq!(common_log_date(784_111_777), b"06/Nov/1994:08:49:37 +0000");
    }
}
