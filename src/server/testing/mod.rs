//! Calls a service without a server: requests and responses stay in memory.
//!
//! So a unit test of a service needs no socket. It builds a request and passes it to [`respond`],
//! which drives the service as a server does: it receives the request's body while the service
//! reads it, and pulls the response's body to its end.
//!
//! ```
//! use coring::testing::respond;
//! use coring::{Request, Response};
//!
//! coring::run(async {
//!     let hello = async |request: Request| Response::text(format!("hello {}", request.path()));
//!     let request = Request::builder().uri("/you").body("").unwrap();
//!     let received = respond(&hello, request).await.unwrap();
//!     assert_eq!(received.status, coring::StatusCode::OK);
//!     assert_eq!(received.body, b"hello /you");
//! });
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ::http::{HeaderMap, Method, StatusCode};

use super::carrier::{Arrived, Carrier};
use super::close_reason::CloseReason;
use super::exchange::{Exchange, Pending};
use super::limits::{Bounds, Limits};
use crate::buf::PoolBox;
use crate::engine;
use crate::http::Fault;
use crate::rt::catch_panic;
use crate::service::{Body, BodyPart, Request, RequestBodySender, Response, Service};

/// Exchanges wait while a [`Wire`] holds this many bytes, or more, that are not read.
const QUEUED_BYTES_MAX: usize = 128 << 10;

/// A response as its client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// The status code.
    pub status: StatusCode,
    /// The fields that the service has set, without those that a server adds (`Date`, say).
    pub headers: HeaderMap,
    /// The whole content.
    pub body: Vec<u8>,
    /// The trailer fields, which follow the content.
    pub trailers: HeaderMap,
}

/// The service did not complete its response. A server would have closed the connection, or sent a
/// response with status 500.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed(CloseReason);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            CloseReason::ServicePanicked => "the service panicked",
            CloseReason::Fault(_) => "the request's body was cut short",
            _ => "no response followed an interim one (1xx), or a body was incomplete",
        })
    }
}

impl std::error::Error for Failed {}

/// Calls `service` with `request` as a server would, and receives the whole response.
///
/// Interim responses are dropped, because the final one follows. After a switch of protocols
/// ([`Response::upgrade`]) the client sends nothing and half-closes; the content is all that it
/// receives.
///
/// # Errors
/// Fails if the service panics, if no response follows an interim one (1xx), or if a body is cut
/// short.
///
/// # Panics
/// Panics outside a worker: call it within [`coring::run`](crate::run).
pub async fn respond(service: &impl Service, request: Request) -> Result<Received, Failed> {
    let wire = Rc::default();
    let begun = catch_panic(|| begin(service, request, 0, &wire));
    let (mut exchange, mut carrier) = begun.ok_or(Failed(CloseReason::ServicePanicked))?;
    let mut received = Received {
        status: StatusCode::default(),
        headers: HeaderMap::new(),
        body: Vec::new(),
        trailers: HeaderMap::new(),
    };
    poll_fn(|context| {
        loop {
            let polled = exchange.poll(&mut carrier, context);
            let mut has_read = false;
            while let Some((_, frame)) = wire.borrow_mut().read() {
                has_read = true;
                match frame {
                    Frame::Head(status, headers) => {
                        (received.status, received.headers) = (status, headers);
                    }
                    Frame::Data(bytes) => received.body.extend(bytes),
                    Frame::End(trailers) => received.trailers = trailers,
                }
            }
            if polled.is_ready() || !has_read {
                return polled.map_err(Failed);
            }
        }
    })
    .await?;
    Ok(received)
}

/// Makes an exchange that sends its frames over `wire`, with the number `stream`.
fn begin<S: Service>(
    service: &S,
    mut request: Request,
    stream: u32,
    wire: &Rc<RefCell<Wire>>,
) -> (Exchange<impl Future<Output = Response>>, MemoryCarrier) {
    let is_head = *request.method() == Method::HEAD;
    let source = mem::take(request.body());
    let incoming = (source.length() != Some(0)).then(|| {
        let (body_sender, body) = RequestBodySender::new(source.length());
        *request.body() = body;
        body_sender
    });
    // The service may panic here, before its future exists.
    let call = PoolBox::pin(&engine::pool(), || service.call(request));
    let carrier = MemoryCarrier {
        wire: wire.clone(),
        stream,
        source,
        arrived: None,
        has_body: !is_head,
        has_trailers: false,
        limits: Limits::default().bounds().expect("the defaults are valid"),
    };
    (Exchange::new(Pending::Call(call), incoming), carrier)
}

/// A connection of several exchanges, with the frames that were sent and not read, in order.
#[derive(Debug, Default)]
struct Wire {
    frames: VecDeque<(u32, Frame)>,
    /// The bytes of all data frames.
    bytes: usize,
    /// Wakers of the exchanges that wait until all frames are read.
    waiting: Vec<Waker>,
}

/// A frame of an exchange's response.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Head(StatusCode, HeaderMap),
    Data(Vec<u8>),
    End(HeaderMap),
}

impl Wire {
    /// The next frame, with the number of its exchange.
    fn read(&mut self) -> Option<(u32, Frame)> {
        let frame = self.frames.pop_front()?;
        if let Frame::Data(bytes) = &frame.1 {
            self.bytes -= bytes.len();
        }
        if self.frames.is_empty() {
            self.waiting.drain(..).for_each(Waker::wake);
        }
        Some(frame)
    }
}

/// The end of a [`Wire`] that one exchange sends to.
#[derive(Debug)]
struct MemoryCarrier {
    wire: Rc<RefCell<Wire>>,
    stream: u32,
    /// The request's body, as the client sends it.
    source: Body,
    arrived: Option<Arrived>,
    /// Whether the response has a body.
    has_body: bool,
    /// Whether the response has a place for trailers.
    has_trailers: bool,
    limits: Bounds,
}

impl MemoryCarrier {
    fn send(&self, frame: Frame) {
        self.wire
            .borrow_mut()
            .frames
            .push_back((self.stream, frame));
    }

    /// The bytes of a part, read from its file if it is a span.
    fn read(body_part: BodyPart) -> io::Result<Vec<u8>> {
        match body_part {
            BodyPart::Part(part) => Ok(part.to_vec()),
            BodyPart::Span(span) => {
                let mut bytes = vec![0; span.len()];
                let file = File::from(span.as_fd().try_clone_to_owned()?);
                file.read_exact_at(&mut bytes, span.offset())?;
                Ok(bytes)
            }
        }
    }
}

impl Carrier for MemoryCarrier {
    fn limits(&self) -> &Bounds {
        &self.limits
    }

    fn take_body(&mut self) -> Result<Option<Arrived>, CloseReason> {
        Ok(self.arrived.take())
    }

    fn poll_receive(
        &mut self,
        _deadline_ms: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, CloseReason>> {
        let broken = |_| CloseReason::Fault(Fault::Truncated);
        self.source
            .poll_part(context)
            .map_err(broken)
            .map_ok(|part| {
                let received = part.as_ref().map_or(0, |part| part.len());
                self.arrived = Some(part.map_or(Arrived::End, Arrived::Part));
                received
            })
    }

    fn receive_arrived(&mut self, context: &mut Context<'_>) -> Result<usize, CloseReason> {
        match self.poll_receive(0, context) {
            Poll::Ready(received) => received,
            Poll::Pending => Ok(0),
        }
    }

    fn check_client(&mut self, _context: &mut Context<'_>) -> Result<(), CloseReason> {
        Ok(())
    }

    fn ask_for_body(&mut self) {}

    fn leave_body(&mut self, is_read: bool, _is_rest_small: bool) {
        if !is_read {
            self.refuse_body();
        }
    }

    fn refuse_body(&mut self) {
        self.source = Body::empty();
    }

    /// Drops interim responses: [`Received`] has only the final one.
    fn interim(&mut self, _response: &Response) {}

    fn switch(&mut self, response: &Response) -> Result<(), CloseReason> {
        self.head(response);
        Ok(())
    }

    fn head(&mut self, response: &Response) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in response.headers() {
            headers.append(name, value.clone());
        }
        let status = response.status();
        self.send(Frame::Head(status, headers));
        self.has_body &= !matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
        self.has_trailers = self.has_body && response.body_length().is_none();
        self.has_body
    }

    fn body_part(&mut self, body_part: BodyPart) -> Result<(), CloseReason> {
        if !self.has_body {
            return Ok(());
        }
        let bytes = Self::read(body_part).map_err(|_| CloseReason::ServiceFailed)?;
        self.wire.borrow_mut().bytes += bytes.len();
        self.send(Frame::Data(bytes));
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), CloseReason> {
        let trailers = trailers.filter(|_| self.has_trailers);
        self.send(Frame::End(trailers.unwrap_or_default()));
        Ok(())
    }

    fn queued(&self) -> usize {
        self.wire.borrow().bytes
    }

    fn has_room(&self, unsent_bytes_max: usize) -> bool {
        let wire = self.wire.borrow();
        match unsent_bytes_max {
            0 => wire.frames.is_empty(),
            _ => wire.bytes < QUEUED_BYTES_MAX.min(unsent_bytes_max),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let mut wire = self.wire.borrow_mut();
        if wire.frames.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if !wire
            .waiting
            .iter()
            .any(|waker| waker.will_wake(context.waker()))
        {
            wire.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
