//! The open loop: the schedule of requests, and the connections that send them.
//!
//! Request `i` is due `i / rate` seconds after the start. If a connection is free it is sent then,
//! else as soon as one becomes free. In both cases its latency is measured from when it was due. A
//! request without a response at the end of the run is an error. It is recorded with the time that
//! it has waited until then.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::mem;
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::download::Download;
use crate::response::{OK, ResponseParser};
use crate::target::Target;

/// How long to wait for responses after the last request was due.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long all connections together may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const EVENTS_PER_WAIT_MAX: usize = 64;
const RECV_BUFFER_BYTES: usize = 64 * 1024;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
const LATENCY_DIGITS: u8 = 3;
const LATENCY_NANOS_MAX: u64 = 3 * 3600 * NANOS_PER_SECOND;

/// The parameters of a run.
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) connections: usize,
    /// Requests per second.
    pub(crate) rate: NonZeroU64,
    /// The length of the warm-up. It runs at the full rate, and is not counted.
    pub(crate) warmup: Duration,
    /// The length of the measurement.
    pub(crate) measured: Duration,
    /// A file that is downloaded once meanwhile, evenly over warm-up and measurement.
    pub(crate) beside: Option<Target>,
}

/// The results of a run, without its warm-up.
pub(crate) struct Tally {
    pub(crate) sent: u64,
    /// Requests that were answered with status 200.
    pub(crate) answered: u64,
    /// Requests that were due and not answered with status 200.
    pub(crate) errors: u64,
    /// Requests that were not sent when due, because every connection was busy.
    pub(crate) late: u64,
    /// The latencies of all requests, those with errors included.
    pub(crate) latency_ns: Histogram<u64>,
    /// Body bytes of the download.
    pub(crate) beside_bytes: u64,
}

#[derive(Clone, Copy)]
enum State {
    Connecting,
    Free,
    /// Waiting for the response to the request with this number.
    Busy(u64),
}

struct Connection {
    stream: TcpStream,
    /// The connection's epoll token. A replaced connection has another token than its predecessor
    /// at the same index.
    token: u64,
    state: State,
    parser: ResponseParser,
}

struct OpenLoop<'a> {
    plan: &'a Plan,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// The indices of the free connections, the one that has been free longest first.
    free: VecDeque<usize>,
    /// The number of connections opened so far, replacements included.
    opened: u64,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    start: Instant,
    /// The number of the next request to send.
    next: u64,
    /// The first request that has neither been sent nor counted as late.
    late_checked: u64,
    warmup_requests: u64,
    /// All requests of the run, the warm-up included.
    requests: u64,
    tally: Tally,
    /// The first error has been printed.
    error_reported: bool,
}

fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, LATENCY_DIGITS).map_err(io::Error::other)
}

/// Runs `plan` to its end.
///
/// # Errors
/// When the connections cannot be opened, a connection cannot be replaced, or the download fails.
/// Requests that fail are counted instead.
pub(crate) fn run(plan: &Plan) -> io::Result<Tally> {
    let mut open_loop = OpenLoop::new(plan)?;
    open_loop.open()?;
    let mut beside = plan.beside.as_ref().map(Download::start).transpose()?;
    open_loop.start = Instant::now();
    let end = open_loop.start + plan.warmup + plan.measured + RESPONSE_TIMEOUT;
    while Instant::now() < end && !open_loop.is_done() {
        open_loop.send_due()?;
        open_loop.serve_ready(Timespec::default())?;
        if let Some(download) = &mut beside {
            let passed = open_loop.start.elapsed().as_secs_f64();
            download.take(passed / (plan.warmup + plan.measured).as_secs_f64())?;
        }
    }
    open_loop.count_unanswered();
    open_loop.tally.beside_bytes = beside.map_or(0, |download| download.received);
    Ok(open_loop.tally)
}

impl<'a> OpenLoop<'a> {
    fn new(plan: &'a Plan) -> io::Result<Self> {
        let requests = |time: Duration| time.as_secs() * plan.rate.get();
        Ok(Self {
            plan,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::with_capacity(plan.connections),
            free: VecDeque::with_capacity(plan.connections),
            opened: 0,
            events: Vec::with_capacity(EVENTS_PER_WAIT_MAX),
            buffer: vec![0; RECV_BUFFER_BYTES],
            // No request is due while the connections open. `run` sets the real start.
            start: Instant::now() + 2 * CONNECT_TIMEOUT,
            next: 0,
            late_checked: 0,
            warmup_requests: requests(plan.warmup),
            requests: requests(plan.warmup + plan.measured),
            tally: Tally {
                sent: 0,
                answered: 0,
                errors: 0,
                late: 0,
                latency_ns: histogram()?,
                beside_bytes: 0,
            },
            error_reported: false,
        })
    }

    /// Opens all connections, and waits until they are connected.
    fn open(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        for index in 0..self.plan.connections {
            let connection = self.connect(index)?;
            self.connections.push(connection);
        }
        while self.free.len() < self.plan.connections {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let opened = self.free.len();
                let what = format!("only {opened} connections opened within {CONNECT_TIMEOUT:?}");
                return Err(io::Error::other(what));
            }
            self.serve_ready(Timespec::try_from(left).map_err(io::Error::other)?)?;
        }
        Ok(())
    }

    fn connect(&mut self, index: usize) -> io::Result<Connection> {
        let stream = self.plan.target.connect(index, None)?;
        let token = self.opened * self.plan.connections as u64 + index as u64;
        self.opened += 1;
        let ways = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
        let interests = ways | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            &stream,
            epoll::EventData::new_u64(token),
            interests,
        )?;
        Ok(Connection {
            stream,
            token,
            state: State::Connecting,
            parser: ResponseParser::default(),
        })
    }

    fn due(&self, request: u64) -> Instant {
        self.start + Duration::from_nanos(request * NANOS_PER_SECOND / self.plan.rate)
    }

    fn is_counted(&self, request: u64) -> bool {
        request >= self.warmup_requests
    }

    fn is_done(&self) -> bool {
        self.next == self.requests && self.free.len() == self.connections.len()
    }

    /// Sends the requests that are due, while connections are free. Counts the others as late.
    fn send_due(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while self.next < self.requests && self.due(self.next) <= now {
            let Some(index) = self.free.pop_front() else {
                break;
            };
            let request = self.next;
            self.next += 1;
            self.tally.sent += u64::from(self.is_counted(request));
            let connection = &mut self.connections[index];
            connection.state = State::Busy(request);
            let bytes = &self.plan.target.request;
            match connection.stream.write(bytes) {
                Ok(sent) if sent == bytes.len() => {}
                Ok(_) => self.replace(index, "a request does not fit the socket buffer")?,
                Err(error) => self.replace(index, &error.to_string())?,
            }
        }
        self.late_checked = self.late_checked.max(self.next);
        while self.late_checked < self.requests && self.due(self.late_checked) <= now {
            self.tally.late += u64::from(self.is_counted(self.late_checked));
            self.late_checked += 1;
        }
        Ok(())
    }

    /// Waits for events and handles them. Sends due requests after each event, so that many events
    /// at once do not delay the schedule.
    fn serve_ready(&mut self, wait: Timespec) -> io::Result<()> {
        let mut events = mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => drop(ready?),
        }
        for event in &events {
            let token = event.data.u64();
            let index = (token % self.plan.connections as u64) as usize;
            // An earlier event may have replaced the connection. Then the token differs.
            if self.connections[index].token == token {
                self.serve(index, event.flags)?;
                self.send_due()?;
            }
        }
        self.events = events;
        Ok(())
    }

    /// Reads until the socket has no more input. A short read means the same, unless the server has
    /// closed.
    fn serve(&mut self, index: usize, flags: epoll::EventFlags) -> io::Result<()> {
        let done = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let mut drained = false;
        while !drained {
            let connection = &mut self.connections[index];
            if matches!(connection.state, State::Connecting) {
                if let Some(error) = connection.stream.take_error()? {
                    return Err(error);
                }
                connection.state = State::Free;
                self.free.push_back(index);
            }
            let received = match connection.stream.read(&mut self.buffer) {
                Ok(0) => return self.replace(index, "closed without a response"),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.replace(index, &error.to_string()),
            };
            drained = received < RECV_BUFFER_BYTES && !flags.intersects(done);
            let State::Busy(request) = connection.state else {
                return self.replace(index, "bytes without a request");
            };
            match connection.parser.take(&self.buffer[..received]) {
                Ok(None) => {}
                Ok(Some(outcome)) => {
                    self.record(request, outcome.status == OK);
                    if outcome.status != OK {
                        self.report_error(&format!("status {}", outcome.status));
                    }
                    self.connections[index].state = State::Free;
                    self.free.push_back(index);
                    if outcome.closes {
                        return self.replace(index, "closed");
                    }
                }
                Err(why) => return self.replace(index, &why),
            }
        }
        Ok(())
    }

    /// Replaces a closed or failed connection by a new one. If a request is waiting on it, that
    /// request is an error, and `why` is the reason.
    fn replace(&mut self, index: usize, why: &str) -> io::Result<()> {
        match self.connections[index].state {
            State::Busy(request) => {
                self.record(request, false);
                self.report_error(why);
            }
            State::Free | State::Connecting => self.free.retain(|&free| free != index),
        }
        self.connections[index] = self.connect(index)?;
        Ok(())
    }

    /// Records the result of a request in the tally. Called once for each request.
    fn record(&mut self, request: u64, answered: bool) {
        if !self.is_counted(request) {
            return;
        }
        let latency = Instant::now().saturating_duration_since(self.due(request));
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.tally.latency_ns.saturating_record(nanos);
        self.tally.answered += u64::from(answered);
        self.tally.errors += u64::from(!answered);
    }

    /// Records the requests that are unanswered at the end of the run as errors.
    fn count_unanswered(&mut self) {
        for index in 0..self.connections.len() {
            if let State::Busy(request) = self.connections[index].state {
                self.record(request, false);
                self.report_error("no response in time");
            }
        }
        for request in self.next..self.requests {
            self.record(request, false);
            self.report_error("no free connection in time");
        }
    }

    /// Prints the first error only: there may be as many errors as requests.
    fn report_error(&mut self, why: &str) {
        if !mem::replace(&mut self.error_reported, true) {
            eprintln!("load: the first error: {why}");
        }
    }
}
