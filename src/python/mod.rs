//! Python applications: WSGI and ASGI, unchanged, in processes of their own.
//!
//! coring keeps the clients and speaks HTTP; a pool of Python processes (the workers) runs the
//! application. Each core is linked to each worker by sockets. Requests travel as messages in the
//! format of Python's `marshal`, responses come back as messages that coring does not trust. A
//! worker that dies takes no connection with it, and requests that it had not begun with go to
//! another.
//!
//! ```text
//!          core 0            core 1
//!       ┌───────────┐     ┌───────────┐
//!       │ Link      │     │ Link      │
//!       └──┬──▲──▲──┘     └──┬──▲──▲──┘
//!   requests  │  bell        │  │  │
//!          ▼  │  │           ▼  │  │
//!    one shared socket (threads), or one for each worker (loops)
//!          │  │  │           │  │  │
//!       ┌──▼──┴──┴──┐     ┌──▼──┴──┴──┐
//!       │ worker 0  │     │ worker 1  │   ◄── started and watched by the supervisor
//!       └───────────┘     └───────────┘
//! ```
//!
//! - Workers with **threads** all receive from one socket, so the kernel gives each request to a
//!   thread that is free. Before it calls the application it marks the request's number in its page
//!   of shared memory: after a death the marks tell which requests had begun.
//! - Workers with a **loop** (ASGI, gevent) have a socket each and run many requests at a time; the
//!   one with the fewest gets the next.
//! - **The bell**: a core does not wait for a worker's messages. A worker sends each of them at
//!   once, and rings an eventfd when it has nothing more to do, or a millisecond after it last did.
//!   So a busy worker costs a core one wake-up per millisecond, not one per response.

mod body;
mod forwarded;
mod launch;
mod link;
mod marshal;
mod message;
mod news;
mod options;
mod outbox;
mod pool;
mod reload;
mod request;
mod settings;
mod slots;
mod stream;
mod upload;
mod vars;
mod watch;
mod workers;

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::http::StatusCode;
use ::http::header::RETRY_AFTER;
use ::http::{HeaderValue, Method};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

pub use forwarded::{Forwarded, ProxyCompat};
pub use launch::{NoInterpreter, find_interpreter, launch};
#[cfg(feature = "sim")]
pub use link::bench;
pub use options::{Interface, Options, WorkerClass};
pub use pool::{Loaded, StartError};
pub use settings::{Settings, Value, check, read_settings};
pub use workers::Workers;

use crate::messages;
use crate::rt::{draining, spawn_detached};
use crate::service::{Request, Response, Service};
use crate::sys::lock::lock;
use crate::task::channel::between::Receiver;
use body::{NotCollected, Spool};
use forwarded::origin;
use link::{Dispatch, Form, Link, monotonic};
use news::News;
use reload::Newest;
use slots::Failure;
use vars::Site;
use workers::{Ends, NearEnds};

/// Room in the socket that WSGI workers receive from, in bytes; the kernel may grant less.
const SHARED_BYTES: usize = 512 << 10;

/// The near and the far end of the socket that WSGI workers receive from.
fn shared_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SHARED_BYTES)
}

/// A connected pair of sockets with room for `bytes` bytes.
fn pair(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (near, far) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
    for end in [&near, &far] {
        sockopt::set_socket_send_buffer_size(end, bytes)?;
    }
    Ok((near, far))
}

/// The service of one core: every request goes to the application.
pub struct Python {
    /// Made by the first request, which has a worker of the server around it.
    link: OnceCell<Rc<Link>>,
    ends: Arc<Ends>,
    core: usize,
    site: Site,
    spool: Spool,
    queue_timeout: f64,
}

impl fmt::Debug for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Python")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl Python {
    fn new(ends: &Arc<Ends>) -> Self {
        let options = &ends.options;
        Self {
            link: OnceCell::new(),
            ends: ends.clone(),
            core: ends.taken.fetch_add(1, Ordering::Relaxed),
            site: Site::new(options),
            spool: Spool::new(
                options.body_buffer,
                ends.spool_directory.get().cloned().flatten(),
            ),
            queue_timeout: options.queue_timeout.as_secs_f64(),
        }
    }

    /// This core's side of the link.
    fn link(&self) -> &Rc<Link> {
        self.link.get_or_init(|| {
            let place = self.ends.near.get(self.core);
            let place = place.expect("the pool was started for fewer cores");
            let near = lock(place).take();
            let NearEnds { shared, mut news } = near.expect("each core takes its own");
            let queue = self.ends.options.queue.div_ceil(self.ends.near.len());
            let core = i32::try_from(self.core).expect("few cores");
            let options = &self.ends.options;
            let memory = (options.response_buffer, options.response_memory);
            let link = Link::new(core, shared, queue, memory);
            link.notes_for_log.set(options.log_notes);
            let drains = self.ends.drains.clone();
            spawn_detached(async move {
                draining().await;
                drains.store(true, Ordering::Relaxed);
            });
            // So the first request has a worker at once.
            if let Ok(first) = news.try_recv() {
                follow(&link, first);
            }
            spawn_detached(follow_supervisor(link.clone(), news));
            link
        })
    }

    /// Waits until there is a worker; none if that takes too long, or is not to be expected.
    async fn wait_for_worker(&self, link: &Link) -> Option<Dispatch> {
        let newest = self.ends.newest.as_ref();
        let is_hopeless = || newest.is_some_and(|newest| newest.is_hopeless());
        link.wait_for_worker(monotonic() + self.queue_timeout, is_hopeless)
            .await
    }

    /// What `--reload` shows.
    async fn page(&self, newest: &Newest) -> Response {
        let page = newest.page(self.ends.options.queue_timeout).await;
        page.unwrap_or_else(unavailable)
    }

    /// Whether another worker may get the request if the first one dies.
    fn is_repeatable(&self, request: &mut Request) -> bool {
        self.ends.options.retry_safe
            && [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method())
            && request.body().length() == Some(0)
    }

    /// Has a WSGI worker respond. It leaves the request in `waiting` if another one may get it.
    async fn wsgi(&self, waiting: &mut Option<Request>) -> Result<Response, Failure> {
        let mut request = waiting.take().expect("a request");
        let is_repeatable = self.is_repeatable(&mut request);
        let origin = origin(self.site.wsgi_rules.as_ref(), &request)?;
        let has_body = request.header("content-length").is_some()
            || request.header("transfer-encoding").is_some();
        let (body, share) = match self.spool.collect(request.body(), has_body).await {
            Ok(collected) => collected,
            Err(NotCollected::Incomplete) => return Err(Failure::Invalid),
            Err(NotCollected::Spool(error)) => {
                messages::report(format_args!(
                    "a request body cannot be kept: {error}; its client gets 503"
                ));
                return Err(Failure::Expired);
            }
        };
        let deadline = monotonic() + self.queue_timeout;
        let link = self.link();
        // Others may have come while the body did.
        if has_body && link.is_full() {
            return Err(Failure::Expired);
        }
        let call = link.open(deadline, *request.method() == Method::HEAD);
        call.keep(share);
        let number = (link.core, call.id);
        let message = request::for_wsgi(&request, number, (&self.site, &origin), body, deadline);
        *waiting = is_repeatable.then_some(request);
        link.send_shared(message);
        call.response(None::<std::future::Pending<()>>).await
    }

    /// Has a worker with its own socket respond. It leaves the request in `waiting` if another one
    /// may get it.
    async fn each(&self, waiting: &mut Option<Request>, form: Form) -> Result<Response, Failure> {
        let mut request = waiting.take().expect("a request");
        let rules = match form {
            Form::Environ => self.site.wsgi_rules.as_ref(),
            Form::Scope => self.site.asgi_rules.as_ref(),
        };
        let origin = origin(rules, &request)?;
        let deadline = monotonic() + self.queue_timeout;
        let link = self.link();
        if !link.room(deadline).await {
            return Err(Failure::Expired);
        }
        let call = link.open(deadline, *request.method() == Method::HEAD);
        let number = (link.core, call.id);
        let gone = request.gone();
        let is_empty = request.body().length() == Some(0);
        let body: Option<&[u8]> = if is_empty { Some(b"") } else { None };
        let site = (&self.site, &origin, form);
        let message = request::for_each(&mut request, number, site, body, deadline);
        if !link.send_to_one(call.id, message) {
            return Err(Failure::WorkerDied);
        }
        if !is_empty {
            let credit = call.upload();
            let link = link.clone();
            let id = call.id;
            let body = request.into_body();
            spawn_detached(upload::upload(link, id, credit, body));
        } else {
            *waiting = self.is_repeatable(&mut request).then_some(request);
        }
        call.response(Some(gone)).await
    }
}

impl Service for Python {
    async fn call(&self, request: Request) -> Response {
        if request.upgrades_to(b"websocket") {
            request::notify_of_websockets();
            return Response::text("WebSocket is not supported yet\n")
                .with_status(StatusCode::NOT_IMPLEMENTED);
        }
        if let Some(newest) = &self.ends.newest
            && request.path_bytes() == reload::PATH.as_bytes()
        {
            return self.page(newest).await;
        }
        // `OPTIONS *` asks about the server as a whole (RFC 9110 §9.3.7). For WSGI it has no path.
        if request.path_bytes() == b"*" {
            return Response::new(StatusCode::NO_CONTENT);
        }
        let link = self.link();
        if link.is_full() {
            return unavailable();
        }
        let mut waiting = Some(request);
        let mut is_repeated = false;
        let outcome = loop {
            let dispatch = match link.dispatch() {
                None => self.wait_for_worker(link).await,
                dispatch => dispatch,
            };
            let outcome = match dispatch {
                None => {
                    return match &self.ends.newest {
                        Some(newest) if newest.is_hopeless() => self.page(newest).await,
                        _ => unavailable(),
                    };
                }
                Some(Dispatch::Shared) => self.wsgi(&mut waiting).await,
                Some(Dispatch::Each(form)) => self.each(&mut waiting, form).await,
            };
            let has_died = matches!(outcome, Err(Failure::WorkerDied));
            if is_repeated || !has_died || waiting.is_none() {
                break outcome;
            }
            is_repeated = true;
        };
        outcome.unwrap_or_else(|failure| match failure {
            Failure::Expired => unavailable(),
            Failure::Refused(status) => {
                Response::text("contradictory forwarded fields\n").with_status(status)
            }
            Failure::TimedOut => Response::text("the application has not responded in time\n")
                .with_status(StatusCode::GATEWAY_TIMEOUT),
            Failure::WorkerDied | Failure::Invalid => {
                Response::text("bad gateway\n").with_status(StatusCode::BAD_GATEWAY)
            }
        })
    }
}

/// Follows what the supervisor says of workers.
async fn follow_supervisor(link: Rc<Link>, mut news: Receiver<News>) {
    while let Some(news) = news.recv().await {
        follow(&link, news);
    }
}

fn follow(link: &Rc<Link>, news: News) {
    match news {
        News::Joined(joined) => link.join(joined),
        News::Retired(number) => link.retire(number),
        News::Left { number, is_late } => link.worker_ended(number, is_late),
        News::Shared(shared) => link.reopen_shared(shared),
    }
}

/// 503, with the hint that it is worth trying again.
fn unavailable() -> Response {
    Response::text("the application has no free worker\n")
        .with_status(StatusCode::SERVICE_UNAVAILABLE)
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
}
