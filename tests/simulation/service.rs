//! The service of the simulated servers, which offers every kind of exchange. A request's path
//! determines the response, so the client knows which bytes to expect.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use coring::sim::{delay_worker, sleep_ms};
use coring::{Body, HeaderMap, HeaderValue, Request, Response, Service, spawn};

/// The message of the panics that the service causes on purpose.
pub(crate) const PLANNED: &str = "a planned panic";

/// A kind of exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Responds at once, from memory.
    Item,
    /// Responds after a sleep.
    Slow,
    /// Responds after its task has woken itself several times.
    Busy,
    /// Sends the request's body back while it arrives.
    Echo,
    /// Responds after it has read the request's body.
    Read,
    /// Responds without reading the request's body.
    Ignore,
    /// Responds with a body that another coroutine writes, and with trailers.
    Generated,
    /// As `Generated`, but the writer does not finish the body.
    Broken,
    /// Panics.
    Panic,
    /// Responds from memory after it has blocked the worker.
    DelayWorker,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Item,
        Self::Slow,
        Self::Busy,
        Self::Echo,
        Self::Read,
        Self::Ignore,
        Self::Generated,
        Self::Broken,
        Self::Panic,
        Self::DelayWorker,
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Item => "item",
            Self::Slow => "slow",
            Self::Busy => "busy",
            Self::Echo => "echo",
            Self::Read => "read",
            Self::Ignore => "ignore",
            Self::Generated => "generated",
            Self::Broken => "broken",
            Self::Panic => "panic",
            Self::DelayWorker => "delay-worker",
        }
    }

    /// Whether requests of this kind have a body.
    pub(crate) fn has_body(self) -> bool {
        matches!(self, Self::Echo | Self::Read | Self::Ignore)
    }
}

/// Content that is unique to a request: number `request` of `client`.
pub(crate) fn content(client: usize, request: usize, len: usize) -> Vec<u8> {
    let unit = format!("client {client} request {request};").into_bytes();
    unit.into_iter().cycle().take(len).collect()
}

/// The service. Its paths are `/kind/client/request/length`.
pub(crate) struct Site;

impl Service for Site {
    async fn call(&self, mut request: Request) -> Response {
        let path = request.path().to_owned();
        let mut words = path.split('/').skip(1);
        let kind = words.next().and_then(Kind::named);
        let numbers: Vec<usize> = words.map_while(|word| word.parse().ok()).collect();
        let (Some(kind), &[client, number, len]) = (kind, &numbers[..]) else {
            return Response::not_found("<h1>Not Found</h1>");
        };
        let content = content(client, number, len);
        match kind {
            Kind::Slow => sleep_ms(len as u64 % 6000).await,
            Kind::Busy => yield_times(len % 7).await,
            Kind::Echo => return Response::text("").with_body(request.into_body()),
            Kind::Read => {
                let body = request.body().read(1 << 20).await;
                if body.as_ref() != Ok(&content) {
                    return Response::text(format!("corrupt: {body:?}"));
                }
            }
            Kind::Generated | Kind::Broken => {
                return Response::text(generate(content, kind == Kind::Generated));
            }
            Kind::Panic => panic!("{PLANNED}"),
            Kind::DelayWorker => {
                delay_worker(DELAYS_MS[len % DELAYS_MS.len()], DELAYS_END_MS.get());
            }
            Kind::Item | Kind::Ignore => {}
        }
        Response::text(content)
    }
}

/// The trailer with the length of a generated body.
pub(crate) const TRAILER: &str = "x-length";

/// Whether a generated body of `len` bytes has a `Content-Length`, and therefore no trailers.
pub(crate) fn states_length(len: usize) -> bool {
    len.is_multiple_of(3)
}

/// A body that another coroutine writes. Its parts and pauses depend on its length.
fn generate(content: Vec<u8>, is_finished: bool) -> Body {
    let len = content.len();
    let (mut sender, body) = Body::channel([0, 1, 5000, 70_000][len % 4]);
    let states_length = states_length(len);
    let body = match (states_length, is_finished) {
        (true, true) => body.with_length(len as u64),
        // The writer fails in another way, too: it writes less than the announced length.
        (true, false) => body.with_length(len as u64 + 1),
        (false, _) => body,
    };
    spawn(async move {
        for (number, part) in content.chunks(1 + len / (1 + len % 20)).enumerate() {
            if sender.write(part.to_vec()).await.is_err() {
                return;
            }
            if (number + len).is_multiple_of(7) {
                sleep_ms(len as u64 % 400).await;
            }
        }
        if is_finished || states_length {
            let mut trailers = HeaderMap::new();
            trailers.insert(TRAILER, HeaderValue::from(len));
            sender.finish_with_trailers(trailers);
        }
    });
    body
}

/// How long calls block their worker, in ms: less than all deadlines, or more than the timeout of a
/// head, of a body, and of an idle connection.
const DELAYS_MS: [u64; 4] = [300, 12_000, 35_000, 80_000];

thread_local! {
    /// No call on this thread blocks its worker beyond this time, in ms.
    static DELAYS_END_MS: Cell<u64> = const { Cell::new(0) };
}

/// Lets calls block their workers, until the given time at most.
pub(crate) fn delay_worker_until(end_ms: u64) {
    DELAYS_END_MS.set(end_ms);
}

/// Yields to other tasks `times` times. Nothing but the task itself wakes it.
async fn yield_times(mut times: usize) {
    poll_fn(|context| {
        if times == 0 {
            return Poll::Ready(());
        }
        times -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
