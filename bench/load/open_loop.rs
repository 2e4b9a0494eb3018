//! The schedule and the connections that keep to it. It refuses to know how answers look.
//!
//! Request `i` is due at `i / rate` seconds. It goes out then if a connection is free, else as
//! soon as one is; either way its latency begins when it was due. Requests that have no answer
//! when all is over are errors, and enter with the time they have waited by then.

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

use crate::answer::{Answer, OK};
use crate::download::Download;
use crate::target::Target;

/// How long answers are waited for when the last request has been due.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the connections may take to open.
const OPENING: Duration = Duration::from_secs(10);

const EVENTS_PER_WAIT_MAX: usize = 64;
const RECV_BUFFER_BYTES: usize = 64 * 1024;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
const LATENCY_DIGITS: u8 = 3;
const LATENCY_NANOS_MAX: u64 = 3 * 3600 * NANOS_PER_SECOND;

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) connections: usize,
    pub(crate) rate: NonZeroU64,
    /// At the full rate, but not counted.
    pub(crate) warmup: Duration,
    pub(crate) measured: Duration,
    /// What is downloaded once, evenly over the whole time.
    pub(crate) beside: Option<Target>,
}

/// What came of it, the warm-up left out.
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Due and not answered with 200.
    pub(crate) errors: u64,
    /// Not sent when due, because every connection was busy.
    pub(crate) late: u64,
    pub(crate) latency_ns: Histogram<u64>,
    /// What came of the download.
    pub(crate) beside_bytes: u64,
}

#[derive(Clone, Copy)]
enum State {
    Connecting,
    Free,
    /// Waits for the answer to this request.
    Busy(u64),
}

struct Connection {
    stream: TcpStream,
    /// What epoll calls it: another one than those it had in this place before.
    token: u64,
    state: State,
    answer: Answer,
}

struct OpenLoop<'a> {
    plan: &'a Plan,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Those that can take a request, the longest rested first.
    free: VecDeque<usize>,
    opened: u64,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    start: Instant,
    /// The request to be sent next, and the first one that is not late so far.
    next: u64,
    punctual: u64,
    warmup_requests: u64,
    requests: u64,
    tally: Tally,
    complained: bool,
}

fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, LATENCY_DIGITS).map_err(io::Error::other)
}

/// Carries out `plan`.
pub(crate) fn run(plan: &Plan) -> io::Result<Tally> {
    let mut open_loop = OpenLoop::new(plan)?;
    open_loop.open()?;
    let mut beside = plan.beside.as_ref().map(Download::start).transpose()?;
    open_loop.start = Instant::now();
    let end = open_loop.start + plan.warmup + plan.measured + PATIENCE;
    while Instant::now() < end && !open_loop.is_done() {
        open_loop.send_due()?;
        open_loop.serve_ready(Timespec::default())?;
        if let Some(download) = &mut beside {
            let passed = open_loop.start.elapsed().as_secs_f64();
            download.take(passed / (plan.warmup + plan.measured).as_secs_f64())?;
        }
    }
    open_loop.give_up();
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
            // Nothing is due before all connections are open.
            start: Instant::now() + 2 * OPENING,
            next: 0,
            punctual: 0,
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
            complained: false,
        })
    }

    /// Opens all connections and waits until they are.
    fn open(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + OPENING;
        for index in 0..self.plan.connections {
            let connection = self.connect(index)?;
            self.connections.push(connection);
        }
        while self.free.len() < self.plan.connections {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let opened = self.free.len();
                let what = format!("only {opened} connections opened within {OPENING:?}");
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
            answer: Answer::default(),
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

    /// Sends what is due as long as there are free connections; the rest is late.
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
        self.punctual = self.punctual.max(self.next);
        while self.punctual < self.requests && self.due(self.punctual) <= now {
            self.tally.late += u64::from(self.is_counted(self.punctual));
            self.punctual += 1;
        }
        Ok(())
    }

    /// Reads from each connection that has something, and sends meanwhile what falls due.
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
            // An event may be of a connection that has been replaced since.
            if self.connections[index].token == token {
                self.serve(index, event.flags)?;
                self.send_due()?;
            }
        }
        self.events = events;
        Ok(())
    }

    /// Reads until there is no more. A short read tells so too, unless the peer is done.
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
                Ok(0) => return self.replace(index, "closed without an answer"),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.replace(index, &error.to_string()),
            };
            drained = received < RECV_BUFFER_BYTES && !flags.intersects(done);
            let State::Busy(request) = connection.state else {
                return self.replace(index, "bytes nobody asked for");
            };
            match connection.answer.take(&self.buffer[..received]) {
                Ok(None) => {}
                Ok(Some(end)) => {
                    self.settle(request, end.status == OK);
                    if end.status != OK {
                        self.complain(&format!("status {}", end.status));
                    }
                    self.connections[index].state = State::Free;
                    self.free.push_back(index);
                    if end.closes {
                        return self.replace(index, "closed");
                    }
                }
                Err(why) => return self.replace(index, &why),
            }
        }
        Ok(())
    }

    /// Another connection in the place of one that is of no use any more. If a request waits for
    /// its answer there, `why` there will be none.
    fn replace(&mut self, index: usize, why: &str) -> io::Result<()> {
        match self.connections[index].state {
            State::Busy(request) => {
                self.settle(request, false);
                self.complain(why);
            }
            State::Free | State::Connecting => self.free.retain(|&free| free != index),
        }
        self.connections[index] = self.connect(index)?;
        Ok(())
    }

    /// Enters what became of a request. Each enters once.
    fn settle(&mut self, request: u64, answered: bool) {
        if !self.is_counted(request) {
            return;
        }
        let latency = Instant::now().saturating_duration_since(self.due(request));
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.tally.latency_ns.saturating_record(nanos);
        self.tally.answered += u64::from(answered);
        self.tally.errors += u64::from(!answered);
    }

    fn give_up(&mut self) {
        for index in 0..self.connections.len() {
            if let State::Busy(request) = self.connections[index].state {
                self.settle(request, false);
                self.complain("no answer in time");
            }
        }
        for request in self.next..self.requests {
            self.settle(request, false);
            self.complain("no free connection in time");
        }
    }

    /// Says the first error; there may be as many as requests.
    fn complain(&mut self, why: &str) {
        if !mem::replace(&mut self.complained, true) {
            eprintln!("load: the first error: {why}");
        }
    }
}
