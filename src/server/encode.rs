//! Encodes responses: appends heads and bodies to a connection's send queue, and keeps the lines of
//! the access log. It does not know when the queue is sent.

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::access_log::Lines;
use super::close_reason::CloseReason;
use super::connection::Connection;
use super::shared::DrainState;
use crate::buf::{FileSpan, Part, Pool, SendQueue};
use crate::http::Head;
use crate::http::h1::{self, BodyLength, ResponseHead};
use crate::service::Response;
use crate::sys::mutants::mutate;

/// A part of a body up to this size, in bytes, is copied into the send queue. A larger one is not
/// copied.
const COPY_BYTES_MAX: usize = 2048;

impl Connection {
    /// Encodes `100 Continue` if the client waits for it.
    pub(super) fn encode_continue(&mut self) {
        if self.http.wants_continue() {
            let interim = self.http.encode_continue();
            self.transport.send_queue.write(&self.shared.pool, interim);
            self.shared.metrics.responses_1xx.add(1);
        }
    }

    /// Encodes an interim response (1xx), unless the client speaks HTTP/1.0, which has none.
    pub(super) fn encode_interim(&mut self, response: &Response) {
        let (shared, http) = (&self.shared, &mut self.http);
        if !http.has_interim_responses() {
            return;
        }
        let head = head_of(response);
        let mut date = shared.date.borrow_mut();
        let send_queue = &mut self.transport.send_queue;
        send_queue.write_with(&shared.pool, head.head_bytes_max(), |out| {
            http.encode_head(&head, date.now(), out)
        });
        shared.metrics.responses_1xx.add(1);
    }

    /// Encodes a response whose whole body is in memory or in the file cache. A small body in
    /// memory is written with its head.
    #[inline]
    pub(super) fn encode_full(&mut self, response: &mut Response) -> Result<(), CloseReason> {
        let body = response.full_body();
        let small = body.filter(|body| body.len() <= COPY_BYTES_MAX);
        let is_small = small.is_some();
        self.encode_head_and(response, small.unwrap_or_default());
        if !is_small {
            if let Some(part) = response.body().take_full() {
                self.encode_part(part)?;
            } else if let Some(span) = response.body().take_cached_span() {
                self.encode_span(span)?;
            }
        }
        self.encode_end()
    }

    /// Encodes the head of a response.
    #[inline]
    pub(super) fn encode_head(&mut self, response: &Response) {
        self.encode_head_and(response, b"");
    }

    /// Encodes the head of a response, and after it `body`, the whole body that the head announces;
    /// a response that has no body (HEAD, 204, 304) leaves it out. During a drain the response is
    /// the last one of its connection, unless another request has arrived.
    #[inline]
    fn encode_head_and(&mut self, response: &Response, body: &[u8]) {
        if self.shared.drain_state.get() != DrainState::Serving && !self.another_has_arrived() {
            // Requests that have already arrived get responses, too: only the last one closes.
            mutate!(SilentDrain, (), self.http.close_after());
        }
        let status = response.status();
        let head = head_of(response);
        let (shared, http) = (&self.shared, &mut self.http);
        let mut date = shared.date.borrow_mut();
        let len_max = head.head_bytes_max() + body.len();
        let mut sent = 0;
        self.transport
            .send_queue
            .write_with(&shared.pool, len_max, |out| {
                let head_len = http.encode_head(&head, date.now(), out);
                if http.body_allowed() && matches!(http.encode_data_prefix(body.len()), Ok(None)) {
                    sent = body.len();
                    out[head_len..head_len + sent].copy_from_slice(body);
                }
                head_len + sent
            });
        let class = match status.as_u16() {
            200..300 => &shared.metrics.responses_2xx,
            ..200 => &shared.metrics.responses_1xx,
            300..400 => &shared.metrics.responses_3xx,
            400..500 => &shared.metrics.responses_4xx,
            _ => &shared.metrics.responses_5xx,
        };
        class.add(1);
        if let Some(line) = self.lines.as_mut().and_then(|lines| lines.current()) {
            line.status = status.as_u16();
            line.body_bytes += sent as u64;
            line.queued_to = self.transport.queued_bytes();
            if let Some(log) = &shared.log {
                line.take_values(log.format(), response);
            }
        }
    }

    /// Whether bytes of another request have arrived. Until the current request is complete, all
    /// bytes belong to it.
    fn another_has_arrived(&self) -> bool {
        self.http.request_complete() && self.more_has_arrived()
    }

    /// Encodes a part of a response's body.
    #[inline]
    pub(super) fn encode_part(&mut self, part: Part) -> Result<(), CloseReason> {
        self.encode_data(part.len(), |send_queue, pool| {
            if part.len() <= COPY_BYTES_MAX {
                send_queue.write(pool, &part);
            } else {
                send_queue.push(part);
            }
        })
    }

    /// Encodes a span of a file, which is a part of a response's body.
    pub(super) fn encode_span(&mut self, span: FileSpan) -> Result<(), CloseReason> {
        self.encode_data(span.len(), |send_queue, _| send_queue.push_span(span))
    }

    /// Encodes `len` bytes of a response's body, which `queue` appends to the send queue. Fails if
    /// the body becomes longer than its head announced.
    #[inline]
    fn encode_data(
        &mut self,
        len: usize,
        queue: impl FnOnce(&mut SendQueue, &Pool),
    ) -> Result<(), CloseReason> {
        if len == 0 || !self.http.body_allowed() {
            return Ok(());
        }
        let prefix = self
            .http
            .encode_data_prefix(len)
            .map_err(|_| CloseReason::ServiceFailed)?;
        let (send_queue, pool) = (&mut self.transport.send_queue, &self.shared.pool);
        if let Some(prefix) = &prefix {
            send_queue.write(pool, prefix.as_bytes());
        }
        queue(send_queue, pool);
        if prefix.is_some() {
            send_queue.write(pool, h1::DATA_SUFFIX);
        }
        if let Some(line) = self.lines.as_mut().and_then(|lines| lines.current()) {
            line.body_bytes += len as u64;
            line.queued_to = self.transport.queued_bytes();
        }
        Ok(())
    }

    /// Encodes the end of a response. Fails if its body is shorter than its head announced.
    #[inline]
    pub(super) fn encode_end(&mut self) -> Result<(), CloseReason> {
        let end = self
            .http
            .encode_end()
            .map_err(|_| CloseReason::ServiceFailed)?;
        self.transport.send_queue.write(&self.shared.pool, end);
        self.complete_line();
        Ok(())
    }

    /// As [`Connection::encode_end`], with trailers if the body is chunked.
    pub(super) fn encode_end_with(&mut self, trailers: &HeaderMap) -> Result<(), CloseReason> {
        let end = self
            .http
            .encode_end_with_trailers(trailers)
            .map_err(|_| CloseReason::ServiceFailed)?;
        self.transport.send_queue.write(&self.shared.pool, &end);
        self.complete_line();
        Ok(())
    }

    /// Begins the access log's line of a request.
    #[inline(never)]
    pub(super) fn begin_line(&mut self, head: (&Head, &[u8])) {
        if let Some(log) = &self.shared.log {
            let stream = self.transport.stream();
            let lines = self.lines.get_or_insert_with(|| Lines::new(stream));
            lines.begin(log.format(), self.shared.date.borrow_mut().now(), head);
        }
    }

    /// Begins the access log's line of a request that is refused because of `error` before its head
    /// is read.
    pub(super) fn begin_refused_line(&mut self, error: &'static str) {
        if let Some(log) = &self.shared.log {
            let stream = self.transport.stream();
            let lines = self.lines.get_or_insert_with(|| Lines::new(stream));
            let received = self.transport.recv_buf.unread();
            let mut date = self.shared.date.borrow_mut();
            lines.refuse(log.format(), date.now(), received, error);
        }
    }

    /// Notes that the whole response is queued.
    #[inline]
    fn complete_line(&mut self) {
        if let Some(line) = self.lines.as_mut().and_then(|lines| lines.current()) {
            line.queued_to = self.transport.queued_bytes();
            line.is_complete = true;
        }
    }

    /// Writes the lines of the access log whose responses are sent.
    #[inline]
    pub(super) fn write_sent_lines(&mut self) {
        if let Some(lines) = &mut self.lines {
            let sent = self.transport.sent_bytes();
            lines.write_sent(sent, |line| self.shared.write_line(line));
        }
    }

    /// Writes all lines of the access log. No more is sent, because of `reason`.
    pub(super) fn write_cut_lines(&mut self, reason: CloseReason) {
        if let Some(lines) = &mut self.lines {
            let sent = self.transport.sent_bytes();
            lines.write_cut(sent, reason, |line| self.shared.write_line(line));
        }
    }
}

/// The data that the head of `response` is encoded from.
#[inline(always)]
fn head_of(
    response: &Response,
) -> ResponseHead<'_, impl Clone + IntoIterator<Item = (&HeaderName, &HeaderValue)>> {
    ResponseHead {
        status: response.status(),
        reason: response.reason(),
        shared: response.shared(),
        fields: response.own_headers(),
        length: match response.body_length() {
            Some(0) if response.omits_body() => BodyLength::Omitted,
            Some(length) => BodyLength::Known(length),
            None => BodyLength::Unknown,
        },
    }
}
