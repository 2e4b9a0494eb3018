//! What a connection does with an answer: its head and its body go into the queue of what is owed,
//! and its line into the access log. When that is sent is not known here.

use std::cell::RefMut;

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::access_log::Line;
use super::close_reason::CloseReason;
use super::connection::Connection;
use super::date::Date;
use super::shared::Manner;
use crate::buf::{FileSpan, Part, Pool, SendQueue};
use crate::http::h1::{self, Answer, BodyLength};
use crate::service::Response;
use crate::sys::mutants::mutate;

/// A body part up to this size is copied behind its head, in bytes; a larger one rides along.
const COPY_BYTES_MAX: usize = 2048;

impl Connection {
    /// Encodes `100 Continue` if the client waits for it.
    pub(super) fn encode_continue(&mut self) {
        if self.http.wants_continue() {
            let interim = self.http.send_continue();
            self.transport.send_queue.write(&self.shared.pool, interim);
            self.shared.metrics.responses_1xx.add(1);
        }
    }

    /// Encodes an interim response. HTTP/1.0 has none.
    pub(super) fn encode_interim(&mut self, response: &Response) {
        let (shared, http) = (&self.shared, &mut self.http);
        let answer = answer(response);
        let mut date = shared.date.borrow_mut();
        let mut is_sent = false;
        let send_queue = &mut self.transport.send_queue;
        send_queue.write_with(&shared.pool, answer.head_bytes_max(), |out| {
            let head = http.send_head(&answer, date.now(), out);
            is_sent = head > 0;
            head
        });
        if is_sent {
            shared.metrics.responses_1xx.add(1);
        }
    }

    /// Encodes an answer that is there as a whole: a small body together with its head.
    #[inline]
    pub(super) fn encode_full(&mut self, response: &mut Response) -> Result<(), CloseReason> {
        match response.full_body() {
            Some(body) if body.len() <= COPY_BYTES_MAX => self.encode_head_and(response, body),
            _ => {
                self.encode_head(response);
                if let Some(part) = response.body().take_full() {
                    self.encode_part(part)?;
                } else if let Some(span) = response.body().take_kept() {
                    self.encode_span(span)?;
                }
            }
        }
        self.encode_end()
    }

    /// Encodes the head of an answer.
    #[inline]
    pub(super) fn encode_head(&mut self, response: &Response) {
        self.encode_head_and(response, b"");
    }

    /// Encodes the head of an answer, and behind it the whole `body` that the head announces, if
    /// there can be one. During a drain it is the last answer of its connection, whenever its
    /// request came.
    #[inline]
    fn encode_head_and(&mut self, response: &Response, body: &[u8]) {
        if self.shared.manner.get() != Manner::Serving && !self.another_has_come() {
            // Whatever else has arrived is answered, too: the last answer is the one that says so.
            mutate!(SilentDrain, (), self.http.close_after());
        }
        let status = response.status();
        let answer = answer(response);
        let (shared, http) = (&self.shared, &mut self.http);
        let mut date = shared.date.borrow_mut();
        let len_max = answer.head_bytes_max() + body.len();
        let mut sent = 0;
        self.transport
            .send_queue
            .write_with(&shared.pool, len_max, |out| {
                let head = http.send_head(&answer, date.now(), out);
                if http.body_allowed() && matches!(http.send_data(body.len()), Ok(None)) {
                    sent = body.len();
                    out[head..head + sent].copy_from_slice(body);
                }
                head + sent
            });
        let class = match status.as_u16() {
            200..300 => &shared.metrics.responses_2xx,
            ..200 => &shared.metrics.responses_1xx,
            300..400 => &shared.metrics.responses_3xx,
            400..500 => &shared.metrics.responses_4xx,
            _ => &shared.metrics.responses_5xx,
        };
        class.add(1);
        if let Some(line) = &mut self.line {
            line.status = status.as_u16();
            line.body_bytes += sent as u64;
        }
    }

    /// Whether another request has arrived, or a part of one. Until the request at hand is
    /// complete, all bytes belong to it.
    fn another_has_come(&self) -> bool {
        self.http.request_complete() && self.more_has_come()
    }

    /// Encodes a part of an answer's body.
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

    /// Encodes a part of an answer's body that is a span of a file.
    pub(super) fn encode_span(&mut self, span: FileSpan) -> Result<(), CloseReason> {
        self.encode_data(span.len(), |send_queue, _| send_queue.push_span(span))
    }

    /// Encodes `len` bytes of an answer's body, which `queue` appends to what is sent. A body
    /// longer than announced is the service's fault.
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
            .send_data(len)
            .map_err(|_| CloseReason::ServiceFailed)?;
        if let Some(line) = &mut self.line {
            line.body_bytes += len as u64;
        }
        let (send_queue, pool) = (&mut self.transport.send_queue, &self.shared.pool);
        if let Some(prefix) = &prefix {
            send_queue.write(pool, prefix.as_bytes());
        }
        queue(send_queue, pool);
        if prefix.is_some() {
            send_queue.write(pool, h1::DATA_SUFFIX);
        }
        Ok(())
    }

    /// Encodes the end of an answer.
    #[inline]
    pub(super) fn encode_end(&mut self) -> Result<(), CloseReason> {
        let end = self
            .http
            .send_end()
            .map_err(|_| CloseReason::ServiceFailed)?;
        self.transport.send_queue.write(&self.shared.pool, end);
        self.write_line();
        Ok(())
    }

    /// Encodes the end of an answer, with trailers if its body is chunked.
    pub(super) fn encode_end_with(&mut self, trailers: &HeaderMap) -> Result<(), CloseReason> {
        let end = self
            .http
            .send_end_with(trailers)
            .map_err(|_| CloseReason::ServiceFailed)?;
        self.transport.send_queue.write(&self.shared.pool, &end);
        self.write_line();
        Ok(())
    }

    /// The access log's line to be begun, and the time of its beginning; none if there is no log.
    #[inline]
    pub(super) fn next_line(&mut self) -> Option<(&mut Line, RefMut<'_, Date>)> {
        self.shared.log.as_ref()?;
        let stream = self.transport.stream();
        let line = self.line.get_or_insert_with(|| Line::new(stream));
        Some((line, self.shared.date.borrow_mut()))
    }

    /// Hands the line that was begun to the access log.
    #[inline]
    pub(super) fn write_line(&mut self) {
        if let Some(line) = &mut self.line
            && line.is_begun()
        {
            self.shared.write_line(line);
        }
    }
}

/// What a response's head is made of.
#[inline(always)]
fn answer(
    response: &Response,
) -> Answer<'_, impl Clone + IntoIterator<Item = (&HeaderName, &HeaderValue)>> {
    Answer {
        status: response.status(),
        reason: response.reason(),
        shared: response.shared(),
        fields: response.own_headers(),
        length: response
            .body_length()
            .map_or(BodyLength::Unknown, BodyLength::Known),
    }
}
