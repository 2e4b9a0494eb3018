//! The messages of Python workers, and what one core's link makes of them. A naive model follows
//! each request: which worker has it, and which bytes of a body were allowed to follow its head.
//! Every byte of a body tells which request it is for.

mod client;

use std::rc::Rc;
use std::sync::Arc;

use coring::metrics::WorkerMetrics;
use coring::parts::{Executor, LinkBench, Told, spawn_joined};
use coring::sim::Mutant;

use crate::input::{Input, exact};
use client::{Got, check_head, read};

/// Faults that the corpus has to detect.
pub const MUTANTS: &[Mutant] = &[
    Mutant::BelieveAnyWorker,
    Mutant::ForgetCredit,
    Mutant::SecondHead,
    Mutant::TrustHead,
];

/// The most steps of one input.
const STEPS_MAX: usize = 200;
const REQUESTS_MAX: usize = 16;
const WORKERS: usize = 3;
/// Turns in which everything that can end has ended.
const TURNS: usize = 16;
/// The time by which a fence has passed, in ms.
const LATER_MS: u64 = 1000;
/// Bytes of a body that a worker may send before more is granted.
const CREDIT_BYTES: usize = 256 << 10;
/// The most body bytes, and the most bytes of a head, in one message.
const PART_BYTES_MAX: usize = 64 << 10;

const HEAD: u8 = 1;
const BODY: u8 = 2;
const ABORT: u8 = 3;
const EXPIRED: u8 = 4;
const FENCED: u8 = 5;

/// Heads of which the model knows whether they are valid, and the length that they state.
const HEADS: &[(u16, &str, Option<Option<usize>>)] = &[
    (200, "", Some(None)),
    (200, "OK\nContent-Type:text/plain", Some(None)),
    (200, "\nContent-Length: 300\nX: y", Some(Some(300))),
    (404, "Not Here\ncontent-length:0", Some(Some(0))),
    (200, "\nContent-Length:70000", Some(Some(70_000))),
    (599, "\nX-A:\nSet-Cookie:a\nSet-Cookie:b", Some(None)),
    (
        200,
        "\nConnection: close\nTransfer-Encoding: chunked",
        Some(None),
    ),
    (100, "", None),
    (200, "\nX: a\rb", None),
    (200, "a\rb", None),
    (200, "\nContent-Length:1\nContent-Length:2", None),
    (200, "\nX y: z", None),
    (200, "\n", None),
];

/// Applies the operations of an input to a link.
///
/// # Panics
/// If a client gets what no worker has sent for it, or does not get what one has sent.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.below(16);
    let is_shared = choice % 2 == 1;
    // Bytes that are kept of one response, and of all of them.
    let memory = [
        (1 << 20, 1 << 26),
        (1 << 20, 100_000),
        (0, 1 << 26),
        (70_000, 0),
    ][choice / 4];
    let now_ms = coring::parts::monotonic_ms();
    let executor = Executor::new(Arc::<WorkerMetrics>::default(), now_ms, Box::new(|| ()));
    executor.enter(|| {
        let mut bench = Bench {
            executor: &executor,
            link: LinkBench::new(u32::try_from(WORKERS).expect("few"), is_shared, memory),
            requests: Vec::new(),
            fences: Vec::new(),
            is_shared,
            now_ms,
        };
        for _ in 0..STEPS_MAX {
            let Some(step) = input.byte() else { break };
            bench.step(step, &mut input);
        }
        bench.finish();
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// The head was sent; the body goes on.
    Begun,
    /// The worker has ended it. Whether it is whole.
    Ended(bool),
    /// There is no response, and none is to follow.
    Failed,
}

/// The model of a request.
struct Asked {
    id: [u8; 8],
    worker: Option<usize>,
    is_head: bool,
    phase: Phase,
    length: Option<usize>,
    /// Bytes of the body that are to reach the client.
    sent: usize,
    credit: usize,
    is_cut: bool,
    got: Rc<Got>,
}

struct Bench<'a> {
    executor: &'a Executor,
    link: LinkBench,
    requests: Vec<Asked>,
    fences: Vec<[u8; 8]>,
    is_shared: bool,
    now_ms: u64,
}

impl Bench<'_> {
    fn step(&mut self, step: u8, input: &mut Input<'_>) {
        match step % 16 {
            0 | 1 => self.ask(input.number()),
            2..=4 => self.send_head(input),
            5..=9 => self.send_body(input),
            10 => self.send_short(input),
            11 => {
                let (worker, len) = (input.below(WORKERS), input.below(64));
                self.send_raw(worker, input.take(len));
            }
            12 => self.client(input),
            13 if input.below(4) == 0 => self.end_worker(input.below(WORKERS)),
            14 => self.turns(TURNS),
            _ => self.turns(1),
        }
    }

    fn ask(&mut self, choice: u64) {
        if self.requests.len() == REQUESTS_MAX {
            return;
        }
        let is_head = choice % 8 == 7;
        let got = Rc::<Got>::default();
        got.is_stalled.set(choice & 16 != 0);
        let (id, worker, response) = self.link.ask(is_head);
        let client = got.clone();
        drop(spawn_joined(async move {
            let Some(response) = response.await else {
                return client.has_failed.set(true);
            };
            read(response, &client, is_head).await;
        }));
        let is_orphan = !self.is_shared && worker.is_none();
        self.requests.push(Asked {
            id,
            worker: worker.map(|number| number as usize),
            is_head,
            phase: if is_orphan {
                Phase::Failed
            } else {
                Phase::Waiting
            },
            length: None,
            sent: 0,
            credit: CREDIT_BYTES,
            is_cut: false,
            got,
        });
    }

    /// A worker, and a request that need not be its own.
    fn pick(&mut self, input: &mut Input<'_>) -> Option<(usize, usize)> {
        let choice = input.below(256);
        let request = (choice >> 3) % self.requests.len().max(1);
        let owner = self.requests.get(request)?.worker;
        // Most messages are those of the worker that has the request.
        let worker = match choice & 7 {
            worker @ 0..WORKERS => worker,
            _ => owner.unwrap_or(choice % WORKERS),
        };
        Some((worker, request))
    }

    /// Whether the worker is heard and may send something for the request.
    fn may_send(&self, worker: usize, request: usize) -> bool {
        let asked = &self.requests[request];
        let is_open = matches!(asked.phase, Phase::Waiting | Phase::Begun);
        self.link.is_heard(worker) && is_open && asked.worker.is_none_or(|owner| owner == worker)
    }

    fn send(&mut self, worker: usize, message: &[u8]) {
        self.link.receive(worker, &exact(message));
    }

    fn send_head(&mut self, input: &mut Input<'_>) {
        let Some((worker, request)) = self.pick(input) else {
            return;
        };
        let (status, head, known) = input.pick(HEADS);
        let len = input.up_to(PART_BYTES_MAX);
        let is_whole = input.below(2) == 1;
        let id = self.requests[request].id;
        let body = vec![tag(request); len];
        let size = u32::try_from(head.len()).expect("a short head");
        let payload = [head.as_bytes(), &body].concat();
        let is_taken = self.may_send(worker, request);
        self.send(worker, &message(HEAD, is_whole, status, size, id, &payload));
        let asked = &mut self.requests[request];
        if !is_taken {
            return;
        }
        asked.worker = Some(worker);
        match (asked.phase, known) {
            (Phase::Waiting, Some(length)) => {
                asked.length = length;
                asked.sent = len;
                asked.credit = CREDIT_BYTES - len;
                asked.phase = match is_whole {
                    true => Phase::Ended(true),
                    false => Phase::Begun,
                };
            }
            (Phase::Waiting, None) => asked.phase = Phase::Failed,
            // A second head is dropped, but the end that it states counts.
            (Phase::Begun, _) if is_whole => self.end_of(request),
            _ => {}
        }
    }

    fn send_body(&mut self, input: &mut Input<'_>) {
        let Some((worker, request)) = self.pick(input) else {
            return;
        };
        let len = input.up_to(PART_BYTES_MAX + 1);
        let is_last = input.below(4) == 1;
        let id = self.requests[request].id;
        let is_taken = self.may_send(worker, request) && len <= PART_BYTES_MAX;
        let body = vec![tag(request); len];
        self.send(worker, &message(BODY, is_last, 0, 0, id, &body));
        let asked = &mut self.requests[request];
        if !is_taken {
            return;
        }
        if asked.phase == Phase::Begun && !asked.is_cut {
            match asked.credit.checked_sub(len) {
                Some(credit) => {
                    asked.credit = credit;
                    asked.sent += len;
                }
                None => asked.is_cut = true,
            }
        }
        if is_last {
            self.end_of(request);
        }
    }

    /// The worker says that it sends no more for the request.
    fn end_of(&mut self, request: usize) {
        let asked = &mut self.requests[request];
        match asked.phase {
            Phase::Begun if !asked.is_cut => asked.phase = Phase::Ended(true),
            _ => asked.fail(),
        }
    }

    fn send_short(&mut self, input: &mut Input<'_>) {
        let Some((worker, request)) = self.pick(input) else {
            return;
        };
        let kind = input.pick(&[ABORT, EXPIRED, 6, FENCED, 0, 8]);
        let mut id = self.requests[request].id;
        if kind == FENCED
            && let Some(fence) = self.fences.pop()
        {
            id = fence;
        }
        let is_taken = self.may_send(worker, request);
        self.send(worker, &message(kind, false, 0, u32::MAX, id, b""));
        if is_taken && [ABORT, EXPIRED].contains(&kind) {
            self.requests[request].fail();
        }
    }

    /// Bytes that are no message, or one of no request: those in `HEADS` are the only valid heads.
    fn send_raw(&mut self, worker: usize, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        if let Some(id) = bytes.get_mut(8..16) {
            // No number has an even nonce.
            id[4] &= 0xfe;
        }
        self.send(worker, &bytes);
    }

    fn client(&mut self, input: &mut Input<'_>) {
        let request = input.below(REQUESTS_MAX);
        let Some(asked) = self.requests.get(request) else {
            return;
        };
        match input.below(3) {
            0 => asked.got.is_stalled.set(true),
            1 => asked.got.is_stalled.set(false),
            _ => asked.got.has_gone.set(true),
        }
    }

    fn end_worker(&mut self, worker: usize) {
        // The model learns of earlier grants before anything changes.
        self.turns(TURNS);
        self.link.end(worker);
        for asked in &mut self.requests {
            let is_open = matches!(asked.phase, Phase::Waiting | Phase::Begun);
            if asked.worker == Some(worker) && is_open {
                // All requests were received, see `turns`.
                asked.fail();
            }
        }
    }

    /// Lets the clients read, and takes note of what was granted.
    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.executor.advance(self.now_ms);
            self.executor.turn();
        }
        let told = (0..WORKERS).flat_map(|worker| self.link.told(Some(worker)));
        for told in told.chain(self.link.told(None)).collect::<Vec<_>>() {
            match told {
                Told::Grant(id, bytes) => {
                    let asked = self.requests.iter_mut().find(|asked| asked.id == id);
                    asked.expect("a request").credit += bytes as usize;
                }
                Told::Fence(id) => self.fences.push(id),
                Told::Unwanted(_) | Told::Request => {}
            }
        }
        self.requests
            .iter()
            .enumerate()
            .for_each(|(n, asked)| asked.check(n));
    }

    /// A number that grows as long as clients get something.
    fn progress(&self) -> usize {
        let got = |asked: &Asked| asked.got.body.borrow().len();
        self.requests.iter().map(got).sum()
    }

    /// All clients read on. Whatever can end has ended then.
    fn finish(&mut self) {
        for asked in &self.requests {
            asked.got.is_stalled.set(false);
        }
        let mut before = usize::MAX;
        while before != self.progress() {
            before = self.progress();
            self.turns(TURNS);
        }
        while let Some(fence) = self.fences.pop() {
            self.send(0, &message(FENCED, false, 0, 0, fence, b""));
        }
        self.turns(TURNS);
        self.now_ms += LATER_MS;
        self.turns(TURNS);
        for (number, asked) in self.requests.iter().enumerate() {
            asked.check_end(number, self.is_shared);
        }
    }
}

impl Asked {
    /// There is no response, or no more of it.
    fn fail(&mut self) {
        self.phase = match self.phase {
            Phase::Begun => Phase::Ended(false),
            _ => Phase::Failed,
        };
    }

    /// What holds at any time.
    fn check(&self, number: usize) {
        let got = &self.got;
        let body = got.body.borrow();
        assert!(
            body.iter().all(|byte| *byte == tag(number)),
            "foreign bytes for {number}"
        );
        assert!(
            body.len() <= self.sent,
            "{number}: {} of {}",
            body.len(),
            self.sent
        );
        if let Some(length) = self.length {
            assert!(
                body.len() <= length,
                "{number} is too long: {} of {length}",
                body.len()
            );
        }
        check_head(got.status.get(), &got.lines.borrow());
    }

    fn check_end(&self, number: usize, is_shared: bool) {
        let got = &self.got;
        if got.has_gone.get() {
            return;
        }
        match self.phase {
            Phase::Failed => assert!(got.has_failed.get() && got.status.get() == 0, "{number}"),
            // It may have been found to be lost.
            Phase::Waiting => {
                assert!(got.status.get() == 0 && (is_shared || !got.has_failed.get()))
            }
            Phase::Begun => assert!(got.status.get() != 0, "{number} has no head"),
            Phase::Ended(is_whole) => {
                assert!(got.status.get() != 0, "{number} has no head");
                let is_right = self.length.is_none_or(|length| length == self.sent);
                if !self.is_head {
                    assert_eq!(got.end.get(), Some(is_whole && is_right), "{number}");
                }
                if is_whole && is_right && !self.is_head {
                    assert_eq!(got.body.borrow().len(), self.sent, "{number}");
                }
            }
        }
    }
}

/// The byte that the body of a request consists of.
fn tag(request: usize) -> u8 {
    b'a' + u8::try_from(request).expect("few requests")
}

fn message(kind: u8, is_last: bool, status: u16, size: u32, id: [u8; 8], rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::from(is_last)];
    bytes.extend_from_slice(&status.to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(rest);
    bytes
}
