//! A client that does what its seed tells it, well or ill, and checks every byte that it is given.

use coring::sim::{Connection, Random, Received, World};

use crate::answer::Answer;
use crate::service::{Kind, TRAILER, content, states_length};

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Waits for each answer before the next request, then closes.
    Patient,
    /// Sends all requests at once, then reads.
    Pipelining,
    /// The same, and says at once that it has no more to send.
    HalfClosing,
    /// Sends all requests at once, and pauses once for longer than an answer may stand still.
    Pausing,
    /// Cuts the connection somewhere in the middle.
    Resetting,
    /// Sends a part and then nothing more.
    Stalling,
    /// Sends a byte of a head every few seconds.
    Slowloris,
    /// Sends all requests at once, the last of which is none, and goes on sending.
    Wrong,
    /// Sends all requests at once, and says of one in their midst that it is the last.
    Overlong,
    /// Sends much at once to a service that sleeps before it reads.
    Flooding,
}

impl Manner {
    /// The manners of the world at large: mostly good.
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

/// The longest that the server may bear a client that has stalled: the longest deadline (that
/// between two requests) and the time to take leave, in ms.
const STALLED_MS_MAX: u64 = 75_000 + 12_000 + 5_000;
/// The longest that a head may take, with some time to be accepted when descriptors are rare and
/// to take leave, in ms.
const SLOWLORIS_MS_MAX: u64 = 10_000 + 15_000;
/// An answer that comes so long after the start of a drain was made after it, in ms.
const NOTICE_MS_MAX: u64 = 2_000;
/// So was the answer to a request that was begun so long after the start of a drain, in ms.
const REACTION_MS_MAX: u64 = 700;
/// What runs when a drain begins is cut off after so long, in ms.
const DRAIN_MS_MAX: u64 = 30_000;
/// A connection on which the server has neither received nor sent for longer is stuck, in ms: the
/// slowest service answers in less.
const STUCK_MS: u64 = 8_000;
/// How often a slow client sends a byte, in ms.
const SLOWLORIS_PAUSE_MS: u64 = 3_000;

/// How long a client that pauses reads nothing, in ms: less than two timeouts of an answer.
const READ_PAUSE_MS: u64 = 45_000;

/// The size of each body of a flood, in bytes: together they are more than a connection may hold.
const FLOOD_BYTES: usize = 100_000;

/// A request and what must come back.
#[derive(Debug)]
struct Asked {
    kind: Kind,
    body: Vec<u8>,
    /// Where it ends in all that is sent.
    end: usize,
    /// When its first byte was sent, in ms.
    begun_ms: Option<u64>,
}

/// A client and its one connection.
#[derive(Debug)]
pub(crate) struct Client {
    number: usize,
    pub(crate) manner: Manner,
    may_hold_up: bool,
    random: Random,
    connection: Option<Connection>,
    asked: Vec<Asked>,
    outgoing: Vec<u8>,
    /// Where the request ends that says that it is the last one.
    last_end: usize,
    sent: usize,
    /// It sends no more beyond this.
    stops_at: usize,
    piece_max: usize,
    read_max: usize,
    pause_ms_max: usize,
    sends_at_ms: u64,
    reads_at_ms: u64,
    has_paused: bool,
    /// The connection must be closed until then, in ms.
    closed_until_ms: u64,
    finished: bool,
    received: Vec<u8>,
    /// When the first of that came, in ms.
    received_ms: u64,
    answered: usize,
    /// The last answer that there will be has come.
    told_to_close: bool,
    pub(crate) done: bool,
}

impl Client {
    /// A client that connects soon after `now_ms`. Some of its requests may hold up their worker.
    pub(crate) fn new(
        number: usize,
        manner: Manner,
        may_hold_up: bool,
        mut random: Random,
        now_ms: u64,
    ) -> Self {
        let soon_ms = random.pick(&[100, 3000]);
        let connects_after_ms = random.below(soon_ms);
        let mut client = Self {
            number,
            manner,
            may_hold_up,
            connection: None,
            asked: Vec::new(),
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
        let floods = self.manner == Manner::Flooding;
        if floods {
            (self.piece_max, self.pause_ms_max) = (1 << 20, 0);
        }
        let count = if floods { 8 } else { 1 + self.random.below(8) };
        let last = self.last_request(count);
        for number in 0..count {
            let kind = self.kind(number, count);
            let len_max = match self.manner {
                Manner::Overlong => 1000,
                _ => self.random.pick(&[10, 1000, 5000, 100_000]),
            };
            let len = match floods {
                true => FLOOD_BYTES,
                // Small pieces are for small bodies: the server rightly dislikes the others.
                false => self.random.below(len_max.min(self.piece_max * 64)),
            };
            let body = content(self.number, number, len);
            self.write_request(kind, number, &body, last == Some(number));
            if last == Some(number) {
                self.last_end = self.outgoing.len();
            }
            self.asked.push(Asked {
                kind,
                body,
                end: self.outgoing.len(),
                begun_ms: None,
            });
        }
        if self.manner == Manner::Wrong {
            self.outgoing.extend(b"NO REQUEST\r\n\r\n");
            self.outgoing.extend(vec![b'x'; self.random.below(20_000)]);
        }
        if matches!(self.manner, Manner::Resetting | Manner::Stalling) {
            self.stops_at = self.random.below(self.outgoing.len());
        }
        if self.manner == Manner::Slowloris {
            self.stops_at = self
                .outgoing
                .iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(0);
        }
    }

    /// The request of `count` that says that it is the last one.
    fn last_request(&mut self, count: usize) -> Option<usize> {
        match self.manner {
            Manner::Wrong | Manner::Flooding => None,
            Manner::Overlong => Some(self.random.below(count)),
            _ => self.random.chance(300).then_some(count - 1),
        }
    }

    fn kind(&mut self, number: usize, count: usize) -> Kind {
        match self.manner {
            Manner::Flooding if number == 0 => return Kind::Slow,
            Manner::Flooding => return Kind::Read,
            Manner::Wrong | Manner::Overlong => {}
            _ if number + 1 == count && self.random.chance(100) => return Kind::Panic,
            _ if number + 1 == count && self.random.chance(100) => return Kind::Broken,
            _ if self.may_hold_up && self.random.chance(100) => return Kind::HoldUp,
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
            // Many chunks of one byte are mostly framing, which the server rightly refuses.
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

    /// When it has something to do, in ms.
    pub(crate) fn next_ms(&self, now_ms: u64) -> Option<u64> {
        if self.done {
            return None;
        }
        let reads = self
            .connection
            .as_ref()
            .is_some_and(Connection::is_readable);
        let reads_ms = reads.then_some(self.reads_at_ms);
        let sends_ms = self.wants_to_send().then_some(self.sends_at_ms);
        let watches_ms = Some(self.closed_until_ms).filter(|at_ms| *at_ms != u64::MAX);
        let soonest = reads_ms.into_iter().chain(sends_ms).chain(watches_ms).min();
        soonest.map(|at_ms| at_ms.max(now_ms))
    }

    /// Does one thing: connects, reads, sends, or ends.
    ///
    /// # Errors
    /// What the server did wrong.
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
                return Err(self.fault("was refused"));
            }
            if self.manner == Manner::Slowloris {
                self.closed_until_ms = now_ms + SLOWLORIS_MS_MAX;
            }
            return Ok(());
        };
        if now_ms >= self.closed_until_ms && !connection.is_readable() {
            return Err(self.fault("was kept open beyond its deadline"));
        }
        if connection.is_readable() && self.reads_at_ms <= now_ms {
            let received = connection.read(self.read_max);
            self.reads_at_ms = now_ms + self.pause_ms();
            if self.manner == Manner::Pausing && !self.has_paused {
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
        let waits = self.manner == Manner::Patient && self.sent == self.answered_end();
        let all_sent = self.sent >= self.outgoing.len().min(self.stops_at);
        match self.manner {
            _ if self.finished => false,
            Manner::Patient if all_sent => self.answered == self.asked.len(),
            Manner::Patient => waits || self.sent < self.asked_end(),
            Manner::Pipelining | Manner::Pausing if all_sent => self.answered == self.asked.len(),
            _ => true,
        }
    }

    /// Where the request ends that waits for its answer.
    fn asked_end(&self) -> usize {
        self.asked.get(self.answered).map_or(0, |asked| asked.end)
    }

    fn answered_end(&self) -> usize {
        self.answered
            .checked_sub(1)
            .map_or(0, |last| self.asked[last].end)
    }

    fn send(&mut self, now_ms: u64) {
        let Some(connection) = &self.connection else {
            return;
        };
        let end = match self.manner {
            Manner::Overlong if self.told_to_close => self.sent,
            _ => self.outgoing.len().min(self.stops_at),
        };
        if self.sent >= end {
            self.finished = true;
            match self.manner {
                Manner::Resetting => {
                    connection.reset();
                    self.done = true;
                }
                Manner::Stalling | Manner::Slowloris => {
                    self.closed_until_ms = self.closed_until_ms.min(now_ms + STALLED_MS_MAX);
                }
                _ => connection.finish(),
            }
            return;
        }
        let piece = match self.manner {
            Manner::Slowloris => 1,
            _ => 1 + self.random.below(self.piece_max),
        };
        let end = match self.manner {
            Manner::Patient => end.min(self.asked_end()),
            _ => end,
        };
        let until = end.min(self.sent + piece);
        connection.send(&self.outgoing[self.sent..until]);
        let mut start = 0;
        for asked in self.asked.iter_mut() {
            if start < until {
                asked.begun_ms.get_or_insert(now_ms);
            }
            start = asked.end;
        }
        self.sent = until;
        self.sends_at_ms = match self.manner {
            Manner::Slowloris => now_ms + SLOWLORIS_PAUSE_MS,
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
                self.check_answers(drain_ms)
            }
            Received::End | Received::Reset => {
                self.done = true;
                self.check_end(now_ms, drain_ms)
            }
        }
    }

    /// Checks the answers that have come whole.
    fn check_answers(&mut self, drain_ms: Option<u64>) -> Result<(), String> {
        while let Some(answer) = Answer::parse(&self.received).map_err(|what| self.fault(&what))? {
            self.received.drain(..answer.len);
            if self.told_to_close {
                return Err(self.fault("got an answer after the last one"));
            }
            self.told_to_close = answer.closes;
            let asked = self.asked.get(self.answered);
            let begun_ms = asked.and_then(|asked| asked.begun_ms).unwrap_or(0);
            // What a client that pauses reads may have been sent long before.
            let reads_at_once = self.manner != Manner::Pausing;
            let is_late = drain_ms.is_some_and(|drain_ms| {
                reads_at_once && self.received_ms > drain_ms + NOTICE_MS_MAX
                    || begun_ms > drain_ms + REACTION_MS_MAX
            });
            let asked_for_more = asked.is_some_and(|asked| self.sent > asked.end);
            if is_late && !asked_for_more && !answer.closes {
                return Err(self.fault("was not told in a drain that its answer is the last"));
            }
            if answer.status != 200 {
                self.check_refusal(answer.status)?;
                continue;
            }
            let Some(asked) = self.asked.get(self.answered) else {
                return Err(self.fault("got an answer that it did not ask for"));
            };
            if asked.end > self.sent && asked.kind != Kind::Ignore && asked.kind != Kind::Echo {
                return Err(self.fault("got an answer before it had asked"));
            }
            if asked.kind == Kind::Broken {
                return Err(self.fault("got a body for whole that was broken off"));
            }
            let len = asked.body.len();
            let trailers = match asked.kind {
                Kind::Generated if !states_length(len) => vec![format!("{TRAILER}: {len}")],
                _ => Vec::new(),
            };
            if answer.trailers != trailers {
                return Err(self.fault(&format!("got trailers {:?}", answer.trailers)));
            }
            if answer.body != asked.body {
                let text = String::from_utf8_lossy(&answer.body);
                let begin: String = text.chars().take(60).collect();
                return Err(self.fault(&format!(
                    "got for its request {} {} bytes instead of {}: {begin}",
                    self.answered,
                    answer.body.len(),
                    asked.body.len(),
                )));
            }
            self.answered += 1;
        }
        Ok(())
    }

    fn check_refusal(&self, status: u16) -> Result<(), String> {
        let is_due = match status {
            500 => self.asked.get(self.answered).map(|asked| asked.kind) == Some(Kind::Panic),
            400 => self.manner == Manner::Wrong && self.answered == self.asked.len(),
            408 => matches!(self.manner, Manner::Stalling | Manner::Slowloris),
            503 => true,
            _ => false,
        };
        if is_due && self.told_to_close {
            return Ok(());
        }
        Err(self.fault(&format!("got {status} to its request {}", self.answered)))
    }

    /// The connection is over: what was asked must have been answered, or there is a reason.
    fn check_end(&self, now_ms: u64, drain_ms: Option<u64>) -> Result<(), String> {
        // Who says that it sends no more is not waited for, so what it sends then may reset the
        // connection before the answer is read (RFC 9112 §9.6).
        let has_broken_its_word = self.sent > self.last_end;
        let excused = self.connection.as_ref().is_none_or(Connection::is_excused)
            || self.told_to_close
            || has_broken_its_word
            || matches!(
                self.manner,
                Manner::Resetting | Manner::Stalling | Manner::Slowloris | Manner::Pausing
            );
        // After the start of a drain only what had begun before is sure to be answered.
        let begun_ms = self.asked.get(self.answered).map(|asked| asked.begun_ms);
        let begun_ms = begun_ms.unwrap_or_else(|| self.finished.then_some(0));
        // The end of a drain may cut off a transfer that makes progress. One that does not is
        // stuck, whether its bytes wait at the client or in the server's socket.
        let moved_ms = self.connection.as_ref().map_or(0, Connection::moved_ms);
        let flows = now_ms <= moved_ms + STUCK_MS;
        let too_late = drain_ms.is_some_and(|drain_ms| {
            let is_cut = flows && now_ms > drain_ms + DRAIN_MS_MAX;
            is_cut || begun_ms.is_none_or(|begun_ms| begun_ms >= drain_ms)
        });
        let is_satisfied = self.answered == self.asked.len() && self.manner != Manner::Wrong;
        let is_broken_off = self.asked.get(self.answered).map(|asked| asked.kind);
        let is_broken_off = is_broken_off == Some(Kind::Broken);
        if is_broken_off || excused || too_late || is_satisfied {
            return Ok(());
        }
        Err(self.fault(&format!(
            "was closed with {} of {} requests answered and {} of {} bytes sent",
            self.answered,
            self.asked.len(),
            self.sent,
            self.outgoing.len(),
        )))
    }

    fn fault(&self, what: &str) -> String {
        let (number, manner) = (self.number, self.manner);
        let connection = self.connection.as_ref().map(Connection::number);
        format!("client {number} ({manner:?}, connection {connection:?}) {what}")
    }
}
