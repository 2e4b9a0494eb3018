//! The lines of one connection: that of the current request, and those of requests whose responses
//! are not sent yet. It knows how far the connection has sent, and not how.

use std::collections::VecDeque;

use super::AccessLogFormat;
use super::line::{Client, Line};
use crate::http::Head;
use crate::http::date::DATE_LEN;
use crate::net::Stream;
use crate::server::close_reason::CloseReason;

/// The lines of a connection, in the order of its requests.
#[derive(Debug)]
pub(in crate::server) struct Lines {
    client: Client,
    /// Those that are not written. The last may be that of the current request.
    unwritten: VecDeque<Box<Line>>,
    /// The size of these, in bytes.
    bytes: usize,
    /// A written line, whose memory serves the next one.
    spare: Option<Box<Line>>,
}

/// The largest size of unwritten lines, in bytes, with which another request is begun.
const UNWRITTEN_BYTES_MAX: usize = 64 << 10;

/// How many unwritten lines an idle connection keeps memory for.
const KEPT_PLACES: usize = 4;

impl Lines {
    pub(in crate::server) fn new(stream: &Stream) -> Box<Self> {
        Box::new(Self {
            client: Client::of(stream),
            unwritten: VecDeque::new(),
            bytes: 0,
            spare: None,
        })
    }

    /// Begins the line of a request whose head has arrived at `date`.
    pub(in crate::server) fn begin(
        &mut self,
        format: &AccessLogFormat,
        date: &[u8; DATE_LEN],
        head: (&Head, &[u8]),
    ) {
        let line = self.next(format);
        line.begin(format, date, head);
        let len = line.len();
        self.bytes += len;
    }

    /// Begins the line of a request that is refused because of `error` before its head is read.
    /// `received` begins with it, as far as it has arrived.
    pub(in crate::server) fn refuse(
        &mut self,
        format: &AccessLogFormat,
        date: &[u8; DATE_LEN],
        received: &[u8],
        error: &'static str,
    ) {
        let line = self.next(format);
        line.refuse(format, date, error);
        line.receive(received);
    }

    /// Takes more bytes of a request that is refused, if it still is the last one.
    pub(in crate::server) fn receive(&mut self, received: &[u8]) {
        if let Some(line) = self.unwritten.back_mut() {
            line.receive(received);
        }
    }

    fn next(&mut self, format: &AccessLogFormat) -> &mut Line {
        let line = self.spare.take();
        let line = line.unwrap_or_else(|| Line::of_client(self.client, format));
        self.unwritten.push_back(line);
        self.unwritten.back_mut().expect("just pushed")
    }

    /// Whether the queued responses must be sent before another request is begun.
    pub(in crate::server) fn is_full(&self) -> bool {
        self.bytes >= UNWRITTEN_BYTES_MAX
    }

    /// The line of the current request, unless it is not logged.
    pub(in crate::server) fn current(&mut self) -> Option<&mut Line> {
        let line = self.unwritten.back_mut()?;
        (!line.is_complete).then_some(line)
    }

    /// Whether a line waits until its response is sent.
    pub(in crate::server) fn any_complete(&self) -> bool {
        self.unwritten.front().is_some_and(|line| line.is_complete)
    }

    /// Writes the lines of responses that end within the first `sent` bytes of the connection.
    pub(in crate::server) fn write_sent(&mut self, sent: u64, mut write: impl FnMut(&mut Line)) {
        while let Some(line) = self.unwritten.front()
            && line.is_complete
            && line.queued_to <= sent
        {
            self.write_first(&mut write);
        }
    }

    /// Writes all lines. After the first `sent` bytes of the connection nothing is sent, because of
    /// `reason`.
    pub(in crate::server) fn write_cut(
        &mut self,
        sent: u64,
        reason: CloseReason,
        mut write: impl FnMut(&mut Line),
    ) {
        while let Some(line) = self.unwritten.front_mut() {
            if !line.is_complete || line.queued_to > sent {
                line.cut(sent, reason);
            }
            self.write_first(&mut write);
        }
    }

    fn write_first(&mut self, write: &mut impl FnMut(&mut Line)) {
        let Some(mut line) = self.unwritten.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(line.len());
        write(&mut line);
        self.spare = Some(line);
        if self.unwritten.is_empty() {
            self.bytes = 0;
            self.unwritten.shrink_to(KEPT_PLACES);
        }
    }
}
