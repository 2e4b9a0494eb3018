//! A client whose requests and behaviour, good or bad, follow from a seed. It checks every byte
//! that it receives.

use coring::sim::{ClientEnd, Random, Received, World};

use crate::response::ParsedResponse;
use crate::service::{Kind, TRAILER, content, states_length};

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Waits for each response before the next request, then closes.
    Patient,
    /// Sends all requests at once, and closes when all responses have arrived.
    Pipelining,
    /// Sends all requests at once and half-closes before the responses arrive.
    HalfClosing,
    /// Sends all requests at once, and stops reading once for longer than the write timeout.
    Pausing,
    /// Resets the connection after a random part of the requests.
    Resetting,
    /// Sends a random part of the requests, then nothing more.
    Stalling,
    /// Sends one byte of a request line every few seconds.
    Slowloris,
    /// Sends all requests at once, then bytes that are not HTTP.
    Wrong,
    /// Sends all requests at once, with `Connection: close` in one that is not the last.
    Overlong,
    /// Sends large bodies at once, while the service sleeps in the first request.
    Flooding,
}

impl Behaviour {
    /// All behaviours; the well-behaved ones are the most frequent.
    pub(crate) const ALL: &[Self] = &[
        Self::Patient,
        Self::Patient,
        Self::Pipelining,
        Self::Pipelining,
        Self::HalfClosing,
        Self::Pausing,
        Self::Resetting,
        Self::Stalling,
        Self::Slowloris,
        Self::Wrong,
        Self::Overlong,
        Self::Flooding,
    ];
}

/// The server must close the connection of a stalled client within this time, in ms: the longest
/// deadline (idle between two requests), the lingering close, and some slack.
const STALLED_MS_MAX: u64 = 75_000 + 12_000 + 5_000;
/// The server must close the connection of a slowloris client within this time, in ms: the timeout
/// of a head, and some slack for a delayed accept and for the lingering close.
const SLOWLORIS_MS_MAX: u64 = 10_000 + 15_000;
/// A response that arrives later than this after the start of a drain was made during the drain.
const NOTICE_MS_MAX: u64 = 2_000;
/// So was the response to a request that was begun later than this after the start of a drain.
const REACTION_MS_MAX: u64 = 700;
/// The drain timeout, in ms: then the server cuts off what is still running.
const DRAIN_MS_MAX: u64 = 30_000;
/// A connection is stuck if the server neither sends nor receives for this time, in ms. The slowest
/// service answers sooner.
const STUCK_MS: u64 = 8_000;
/// The pause between two bytes of a slowloris client, in ms.
const SLOWLORIS_PAUSE_MS: u64 = 3_000;

/// The pause of a client that stops reading, in ms: more than one write timeout, less than two.
const READ_PAUSE_MS: u64 = 45_000;

/// The size of each body of a flooding client, in bytes. All bodies together exceed the memory that
/// a connection may hold.
const FLOOD_BYTES: usize = 100_000;

/// How much of a body the server drops to keep the connection, if the service does not read it.
const DROPPED_BYTES_MAX: usize = 64 << 10;

/// A request, and the body that the response must have.
#[derive(Debug)]
struct SentRequest {
    kind: Kind,
    /// The body of the request, if it has one, and of the response.
    body: Vec<u8>,
    /// The offset of its end in `outgoing`.
    end: usize,
    /// The server may close the connection after the response: it does not read the body, and has
    /// dropped as much of it as it drops. It could not know that before, so it has not said so.
    may_be_last: bool,
    /// When its first byte was sent, in ms.
    begun_ms: Option<u64>,
}

/// A client and its one connection.
#[derive(Debug)]
pub(crate) struct Client {
    number: usize,
    pub(crate) behaviour: Behaviour,
    may_delay_worker: bool,
    random: Random,
    connection: Option<ClientEnd>,
    requests: Vec<SentRequest>,
    /// All bytes that the client sends.
    outgoing: Vec<u8>,
    /// The end of the request with `Connection: close`; `usize::MAX` if there is none.
    last_end: usize,
    /// The number of bytes sent so far.
    sent: usize,
    /// The client sends no bytes beyond this offset.
    stops_at: usize,
    piece_max: usize,
    read_max: usize,
    pause_ms_max: usize,
    sends_at_ms: u64,
    reads_at_ms: u64,
    has_paused: bool,
    /// The server must have closed the connection by this time, in ms.
    closed_until_ms: u64,
    /// The client has sent everything that it will send.
    finished: bool,
    /// Received bytes that are not parsed yet.
    received: Vec<u8>,
    /// When the first byte of `received` arrived, in ms.
    received_ms: u64,
    /// The number of complete responses.
    answered: usize,
    /// A response with `Connection: close` has arrived, so no other may follow.
    told_to_close: bool,
    pub(crate) done: bool,
}

impl Client {
    /// A client that connects soon after `now_ms`. With `may_delay_worker`, some of its requests
    /// block their worker.
    pub(crate) fn new(
        number: usize,
        behaviour: Behaviour,
        may_delay_worker: bool,
        mut random: Random,
        now_ms: u64,
    ) -> Self {
        let soon_ms = random.pick(&[100, 3000]);
        let connects_after_ms = random.below(soon_ms);
        let mut client = Self {
            number,
            behaviour,
            may_delay_worker,
            connection: None,
            requests: Vec::new(),
            outgoing: Vec::new(),
            last_end: usize::MAX,
            sent: 0,
            stops_at: usize::MAX,
            piece_max: random.pick(&[8, 64, 512, 4096, 1 << 20]),
            read_max: random.pick(&[600, 4096, 1 << 20]),
            pause_ms_max: random.pick(&[0, 0, 5, 40]),
            sends_at_ms: now_ms + connects_after_ms as u64,
            reads_at_ms: 0,
            has_paused: false,
            closed_until_ms: u64::MAX,
            finished: false,
            received: Vec::new(),
            received_ms: 0,
            answered: 0,
            told_to_close: false,
            done: false,
            random,
        };
        client.write_requests();
        client
    }

    fn write_requests(&mut self) {
        let floods = self.behaviour == Behaviour::Flooding;
        if floods {
            (self.piece_max, self.pause_ms_max) = (1 << 20, 0);
        }
        let count = if floods { 8 } else { 1 + self.random.below(8) };
        let last = self.last_request(count);
        for number in 0..count {
            let kind = self.kind(number, count);
            let len_max = match self.behaviour {
                Behaviour::Overlong => 1000,
                _ => self.random.pick(&[10, 1000, 5000, 100_000]),
            };
            let len = match floods {
                true => FLOOD_BYTES,
                // A large body in small pieces would be below the server's minimum rate.
                false => self.random.below(len_max.min(self.piece_max * 64)),
            };
            let body = content(self.number, number, len);
            let begin = self.outgoing.len();
            self.write_request(kind, number, &body, last == Some(number));
            let wire = &self.outgoing[begin..];
            let is_chunked = wire.windows(7).take(200).any(|word| word == b"chunked");
            let is_long = wire.len() > DROPPED_BYTES_MAX;
            if last == Some(number) {
                self.last_end = self.outgoing.len();
            }
            self.requests.push(SentRequest {
                kind,
                body,
                end: self.outgoing.len(),
                may_be_last: kind == Kind::Ignore && is_chunked && is_long,
                begun_ms: None,
            });
        }
        if self.behaviour == Behaviour::Wrong {
            self.outgoing.extend(b"NO REQUEST\r\n\r\n");
            self.outgoing.extend(vec![b'x'; self.random.below(20_000)]);
        }
        if matches!(self.behaviour, Behaviour::Resetting | Behaviour::Stalling) {
            self.stops_at = self.random.below(self.outgoing.len());
        }
        if self.behaviour == Behaviour::Slowloris {
            self.stops_at = self
                .outgoing
                .iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(0);
        }
    }

    /// Which of the `count` requests has `Connection: close`.
    fn last_request(&mut self, count: usize) -> Option<usize> {
        match self.behaviour {
            Behaviour::Wrong | Behaviour::Flooding => None,
            Behaviour::Overlong => Some(self.random.below(count)),
            _ => self.random.chance(300).then_some(count - 1),
        }
    }

    fn kind(&mut self, number: usize, count: usize) -> Kind {
        match self.behaviour {
            Behaviour::Flooding if number == 0 => return Kind::Slow,
            Behaviour::Flooding => return Kind::Read,
            Behaviour::Wrong | Behaviour::Overlong => {}
            _ if number + 1 == count && self.random.chance(100) => return Kind::Panic,
            _ if number + 1 == count && self.random.chance(100) => return Kind::Broken,
            _ if self.may_delay_worker && self.random.chance(100) => return Kind::DelayWorker,
            _ => {}
        }
        self.random.pick(&[
            Kind::Item,
            Kind::Item,
            Kind::Slow,
            Kind::Busy,
            Kind::Echo,
            Kind::Read,
            Kind::Ignore,
            Kind::Generated,
        ])
    }

    fn write_request(&mut self, kind: Kind, number: usize, body: &[u8], is_last: bool) {
        let (client, len) = (self.number, body.len());
        let method = if kind.has_body() { "POST" } else { "GET" };
        let head = format!(
            "{method} /{}/{client}/{number}/{len} HTTP/1.1\r\n",
            kind.name()
        );
        self.outgoing.extend(head.bytes());
        self.outgoing.extend(b"Host: simulated\r\n");
        if is_last {
            self.outgoing.extend(b"Connection: close\r\n");
        }
        if !kind.has_body() {
            self.outgoing.extend(b"\r\n");
        } else if self.random.chance(500) {
            self.outgoing
                .extend(format!("Content-Length: {len}\r\n\r\n").bytes());
            self.outgoing.extend(body);
        } else {
            self.outgoing.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            let piece = 2 + self.random.below(5000);
            for piece in body.chunks(piece) {
                self.outgoing
                    .extend(format!("{:x}\r\n", piece.len()).bytes());
                self.outgoing.extend(piece);
                self.outgoing.extend(b"\r\n");
            }
            self.outgoing.extend(b"0\r\n\r\n");
        }
    }

    /// When the client has its next step to make, in ms.
    pub(crate) fn next_ms(&self, now_ms: u64) -> Option<u64> {
        if self.done {
            return None;
        }
        let reads = self.connection.as_ref().is_some_and(ClientEnd::is_readable);
        let reads_ms = reads.then_some(self.reads_at_ms);
        let sends_ms = self.wants_to_send().then_some(self.sends_at_ms);
        let watches_ms = Some(self.closed_until_ms).filter(|at_ms| *at_ms != u64::MAX);
        let soonest = reads_ms.into_iter().chain(sends_ms).chain(watches_ms).min();
        soonest.map(|at_ms| at_ms.max(now_ms))
    }

    /// Makes one step: connects, reads, sends, or closes.
    ///
    /// # Errors
    /// If the server did something wrong; the text says what.
    pub(crate) fn step(
        &mut self,
        world: &World,
        listener: usize,
        drain_ms: Option<u64>,
    ) -> Result<(), String> {
        let now_ms = world.now_ms();
        let Some(connection) = &self.connection else {
            self.connection = world.connect(listener);
            self.done = self.connection.is_none();
            if self.done && drain_ms.is_none() {
                return Err(self.fault("could not connect"));
            }
            if self.behaviour == Behaviour::Slowloris {
                self.closed_until_ms = now_ms + SLOWLORIS_MS_MAX;
            }
            return Ok(());
        };
        if now_ms >= self.closed_until_ms && !connection.is_readable() {
            return Err(self.fault("was not closed at its deadline"));
        }
        if connection.is_readable() && self.reads_at_ms <= now_ms {
            let received = connection.read(self.read_max);
            self.reads_at_ms = now_ms + self.pause_ms();
            if self.behaviour == Behaviour::Pausing && !self.has_paused {
                self.has_paused = true;
                self.reads_at_ms = now_ms + READ_PAUSE_MS;
            }
            return self.take(received, now_ms, drain_ms);
        }
        if self.wants_to_send() && self.sends_at_ms <= now_ms {
            self.send(now_ms);
        }
        Ok(())
    }

    fn wants_to_send(&self) -> bool {
        if self.connection.is_none() {
            return true;
        }
        let waits = self.behaviour == Behaviour::Patient && self.sent == self.answered_end();
        let all_sent = self.sent >= self.outgoing.len().min(self.stops_at);
        match self.behaviour {
            _ if self.finished => false,
            Behaviour::Patient if all_sent => self.answered == self.requests.len(),
            Behaviour::Patient => waits || self.sent < self.pending_end(),
            Behaviour::Pipelining | Behaviour::Pausing if all_sent => {
                self.answered == self.requests.len()
            }
            _ => true,
        }
    }

    /// The end of the first request without a complete response.
    fn pending_end(&self) -> usize {
        self.pending().map_or(0, |request| request.end)
    }

    /// The first request without a complete response.
    fn pending(&self) -> Option<&SentRequest> {
        self.requests.get(self.answered)
    }

    /// The end of the last request with a complete response.
    fn answered_end(&self) -> usize {
        self.answered
            .checked_sub(1)
            .map_or(0, |last| self.requests[last].end)
    }

    fn send(&mut self, now_ms: u64) {
        let Some(connection) = &self.connection else {
            return;
        };
        let end = match self.behaviour {
            Behaviour::Overlong if self.told_to_close => self.sent,
            _ => self.outgoing.len().min(self.stops_at),
        };
        if self.sent >= end {
            self.finished = true;
            match self.behaviour {
                Behaviour::Resetting => {
                    connection.reset();
                    self.done = true;
                }
                Behaviour::Stalling | Behaviour::Slowloris => {
                    self.closed_until_ms = self.closed_until_ms.min(now_ms + STALLED_MS_MAX);
                }
                _ => connection.finish(),
            }
            return;
        }
        let piece = match self.behaviour {
            Behaviour::Slowloris => 1,
            _ => 1 + self.random.below(self.piece_max),
        };
        let end = match self.behaviour {
            Behaviour::Patient => end.min(self.pending_end()),
            _ => end,
        };
        let until = end.min(self.sent + piece);
        connection.send(&self.outgoing[self.sent..until]);
        let mut start = 0;
        for request in self.requests.iter_mut() {
            if start < until {
                request.begun_ms.get_or_insert(now_ms);
            }
            start = request.end;
        }
        self.sent = until;
        self.sends_at_ms = match self.behaviour {
            Behaviour::Slowloris => now_ms + SLOWLORIS_PAUSE_MS,
            _ => now_ms + self.pause_ms(),
        };
    }

    fn pause_ms(&mut self) -> u64 {
        self.random.below(self.pause_ms_max + 1) as u64
    }

    fn take(
        &mut self,
        received: Received,
        now_ms: u64,
        drain_ms: Option<u64>,
    ) -> Result<(), String> {
        match received {
            Received::Nothing => Ok(()),
            Received::Bytes(bytes) => {
                if self.received.is_empty() {
                    self.received_ms = now_ms;
                }
                self.received.extend(bytes);
                self.check_responses(drain_ms)
            }
            Received::End | Received::Reset => {
                self.done = true;
                self.check_end(now_ms, drain_ms)
            }
        }
    }

    /// Checks the responses that have arrived completely.
    fn check_responses(&mut self, drain_ms: Option<u64>) -> Result<(), String> {
        let parse = |client: &Self| {
            ParsedResponse::parse(&client.received).map_err(|what| client.fault(&what))
        };
        while let Some(response) = parse(self)? {
            self.received.drain(..response.len);
            if self.told_to_close {
                return Err(self.fault("got a response after one with Connection: close"));
            }
            self.told_to_close = response.closes;
            self.check_farewell(&response, drain_ms)?;
            if response.status != 200 {
                self.check_refusal(response.status)?;
                continue;
            }
            let Some(request) = self.pending() else {
                return Err(self.fault("got a response without a request"));
            };
            let may_be_early = matches!(request.kind, Kind::Ignore | Kind::Echo);
            if request.end > self.sent && !may_be_early {
                return Err(self.fault("got a response before the end of its request"));
            }
            if request.kind == Kind::Broken {
                return Err(self.fault("got a complete response whose body was aborted"));
            }
            let len = request.body.len();
            let trailers = match request.kind {
                Kind::Generated if !states_length(len) => vec![format!("{TRAILER}: {len}")],
                _ => Vec::new(),
            };
            if response.trailers != trailers {
                return Err(self.fault(&format!("got trailers {:?}", response.trailers)));
            }
            if response.body != request.body {
                let text = String::from_utf8_lossy(&response.body);
                let begin: String = text.chars().take(60).collect();
                return Err(self.fault(&format!(
                    "got {} bytes instead of {len} for its request {}: {begin}",
                    response.body.len(),
                    self.answered,
                )));
            }
            self.answered += 1;
        }
        Ok(())
    }

    /// A response that was made during a drain must have `Connection: close`, unless the client has
    /// already sent a part of its next request.
    fn check_farewell(
        &self,
        response: &ParsedResponse,
        drain_ms: Option<u64>,
    ) -> Result<(), String> {
        let request = self.pending();
        let begun_ms = request.and_then(|request| request.begun_ms).unwrap_or(0);
        // A pausing client may read a response long after it was sent.
        let reads_at_once = self.behaviour != Behaviour::Pausing;
        let is_late = drain_ms.is_some_and(|drain_ms| {
            reads_at_once && self.received_ms > drain_ms + NOTICE_MS_MAX
                || begun_ms > drain_ms + REACTION_MS_MAX
        });
        let sent_more = request.is_some_and(|request| self.sent > request.end);
        if is_late && !sent_more && !response.closes {
            return Err(self.fault("got a response without Connection: close during a drain"));
        }
        Ok(())
    }

    fn check_refusal(&self, status: u16) -> Result<(), String> {
        let is_due = match status {
            500 => self.pending().map(|request| request.kind) == Some(Kind::Panic),
            400 => self.behaviour == Behaviour::Wrong && self.answered == self.requests.len(),
            408 => matches!(self.behaviour, Behaviour::Stalling | Behaviour::Slowloris),
            503 => true,
            _ => false,
        };
        if is_due && self.told_to_close {
            return Ok(());
        }
        Err(self.fault(&format!("got {status} to its request {}", self.answered)))
    }

    /// The connection has ended: every request must have a response, or the client an excuse.
    fn check_end(&self, now_ms: u64, drain_ms: Option<u64>) -> Result<(), String> {
        // The server does not linger after a request with `Connection: close`. If the client sends
        // more, that may reset the connection before it has read the response (RFC 9112 §9.6).
        let sent_after_close = self.sent > self.last_end;
        let had_injected_error = self
            .connection
            .as_ref()
            .is_none_or(ClientEnd::had_injected_error)
            || self.told_to_close
            || sent_after_close
            || self.answered > 0 && self.requests[self.answered - 1].may_be_last
            || matches!(
                self.behaviour,
                Behaviour::Resetting
                    | Behaviour::Stalling
                    | Behaviour::Slowloris
                    | Behaviour::Pausing
            );
        // A drain must answer a request that began before it, and may drop a later one.
        let begun_ms = self.pending().map(|request| request.begun_ms);
        let begun_ms = begun_ms.unwrap_or_else(|| self.finished.then_some(0));
        // The end of a drain may cut off a transfer that makes progress. A transfer without
        // progress is a fault, whether its bytes are at the client or in the server's socket.
        let moved_ms = self.connection.as_ref().map_or(0, ClientEnd::moved_ms);
        let flows = now_ms <= moved_ms + STUCK_MS;
        let too_late = drain_ms.is_some_and(|drain_ms| {
            let is_cut = flows && now_ms > drain_ms + DRAIN_MS_MAX;
            is_cut || begun_ms.is_none_or(|begun_ms| begun_ms >= drain_ms)
        });
        let is_satisfied =
            self.answered == self.requests.len() && self.behaviour != Behaviour::Wrong;
        let is_aborted = self.pending().map(|request| request.kind) == Some(Kind::Broken);
        if is_aborted || had_injected_error || too_late || is_satisfied {
            return Ok(());
        }
        Err(self.fault(&format!(
            "was closed with {} of {} requests answered and {} of {} bytes sent",
            self.answered,
            self.requests.len(),
            self.sent,
            self.outgoing.len(),
        )))
    }

    fn fault(&self, what: &str) -> String {
        let (number, behaviour) = (self.number, self.behaviour);
        let connection = self.connection.as_ref().map(ClientEnd::number);
        format!("client {number} ({behaviour:?}, connection {connection:?}) {what}")
    }
}
