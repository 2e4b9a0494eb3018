//! The HTTP server: its configuration, its worker threads, and each connection from accept to
//! close.

mod accept;
mod access_log;
mod attach;
mod builder;
mod carrier;
mod close_reason;
mod connection;
mod control;
mod date;
mod drain;
mod encode;
mod end;
mod error;
mod exchange;
mod limits;
mod shared;
mod startup;
pub mod testing;
mod worker;

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread;

pub use crate::sys::cores::{Cores, Pin};
pub use access_log::{AccessLog, AccessLogFormat, InvalidFormat};
pub use attach::Seat;
pub use builder::Builder;
pub use error::{Error, ErrorKind};
pub use limits::{HalfClose, Limits};

use crate::engine::Selected;
use crate::metrics::WorkerMetrics;
use crate::net::{Address, SocketFile};
use crate::rt::drop_panic_payload;
use crate::sys::lock::lock;
use access_log::{LogThread, Reopening};
use attach::WorkerThreads;
pub(crate) use control::{Control, Phase};
use startup::Thread;
#[cfg(feature = "sim")]
pub(crate) use {
    accept::Acceptor,
    worker::{Socket, WorkerPlan, serve_and_drain},
};

/// The result of starting or running a server.
pub type Result<T> = std::result::Result<T, Error>;

/// An HTTP server. [`Server::builder`] configures and starts one.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Returns a builder with the default settings.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// Controls a running server, from any thread. Dropping the last handle stops the server and waits
/// until it has ended; the drop does not wait if it happens on one of the server's own workers. A
/// [`Seat`] that was not taken by then is void.
///
/// ```
/// use coring::{Request, Response, Server};
///
/// # fn main() -> coring::Result<()> {
/// let server = Server::builder()
///     .bind("127.0.0.1:0")
///     .start(|| async |_: Request| Response::text("hello"))?;
/// println!("listening on {}", server.addresses()[0]);
/// server.drain();
/// server.wait()
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Handle(Arc<HandleState>);

#[derive(Debug)]
struct HandleState {
    addresses: Vec<Address>,
    connections_max: u64,
    engine: Selected,
    cores: Arc<Cores>,
    control: Arc<Control>,
    all_metrics: Arc<[Arc<WorkerMetrics>]>,
    /// The threads on which workers run. A worker must not wait for its own end.
    workers: WorkerThreads,
    log_reopening: Option<Arc<Reopening>>,
    /// Locked by the thread that joins the workers; other callers of `wait` block on the lock.
    run_state: Mutex<RunState>,
}

#[derive(Debug)]
enum RunState {
    Running(RunningServer),
    Ended(Result<()>),
}

#[derive(Debug, Default)]
struct RunningServer {
    threads: Vec<Thread>,
    /// Ends when the last worker on a thread of the program's own has ended.
    attached: Option<Receiver<Error>>,
    /// Shares of the seats of these workers.
    seats: Vec<Seat>,
    log_thread: Option<LogThread>,
    files: Vec<SocketFile>,
}

impl Handle {
    /// The most connections that are served at a time: [`Limits::connections_max`], or fewer if the
    /// limit of open files is lower.
    pub fn connections_max(&self) -> u64 {
        self.0.connections_max
    }

    /// The addresses that the server listens on. Port 0 is replaced by the port that was chosen.
    pub fn addresses(&self) -> &[Address] {
        &self.0.addresses
    }

    /// The engine that the workers use: io_uring or epoll.
    pub fn engine(&self) -> &Selected {
        &self.0.engine
    }

    /// The number of workers, the reason for it, and whether they are pinned to cores.
    pub fn cores(&self) -> &Cores {
        &self.0.cores
    }

    /// The counters, one set per worker.
    pub fn metrics(&self) -> &[Arc<WorkerMetrics>] {
        &self.0.all_metrics
    }

    /// Stops accepting, answers the requests of all accepted connections, and ends the server, at
    /// the latest two seconds and [`Limits::drain_timeout`] from now.
    ///
    /// Returns at once. Keep a handle and call [`Handle::wait`]: dropping the last handle stops the
    /// server.
    pub fn drain(&self) {
        self.0.control.enter(Phase::Draining);
    }

    /// Opens the file of the access log anew, if there is one: for the time after another program
    /// has renamed it. Returns at once. If the file cannot be opened, a message says so, and the
    /// one that is open is used further.
    pub fn reopen_access_log(&self) {
        if let Some(reopening) = &self.0.log_reopening {
            reopening.ask();
        }
    }

    /// Ends the server at once: aborts running requests and closes all connections.
    pub fn stop(&self) {
        self.0.control.enter(Phase::Stopping);
    }

    /// Waits until every worker has ended, and every [`Seat`] was taken or dropped.
    ///
    /// # Errors
    /// Fails if a worker's engine failed or a worker panicked; the other workers have then been
    /// stopped, too. Fails at once on one of this server's workers, which would wait for itself.
    pub fn wait(&self) -> Result<()> {
        self.0.wait()
    }
}

impl HandleState {
    fn wait(&self) -> Result<()> {
        if self.runs_worker_here() {
            let message = "a worker cannot wait for the end of its own server; wait on another \
                           thread";
            return Err(Error::new(ErrorKind::Runtime, message));
        }
        let mut run_state = lock(&self.run_state);
        if let RunState::Running(running) = &mut *run_state {
            let outcome = running.finish();
            *run_state = RunState::Ended(outcome);
        }
        match &*run_state {
            RunState::Ended(outcome) => outcome.clone(),
            RunState::Running(_) => unreachable!("replaced above"),
        }
    }

    /// Whether the calling thread is that of one of the workers.
    fn runs_worker_here(&self) -> bool {
        let workers = lock(&self.workers);
        workers.contains(&thread::current().id())
    }
}

impl Drop for HandleState {
    fn drop(&mut self) {
        self.control.enter(Phase::Stopping);
        let runs_worker_here = self.runs_worker_here();
        let mut run_state = lock(&self.run_state);
        let RunState::Running(running) = &mut *run_state else {
            return;
        };
        // A seat that no thread has taken would never end.
        running.seats.clear();
        // A failure is dropped, because no caller waits for it.
        if !runs_worker_here {
            let _ = running.finish();
            return;
        }
        let mut running = std::mem::take(running);
        // A worker cannot join itself, so another thread does. If none can be started, the workers
        // still end, but the access log may lose its last lines.
        let _ = thread::Builder::new()
            .name("coring-end".to_owned())
            .spawn(move || running.finish());
    }
}

impl RunningServer {
    /// Joins the workers, then ends the access log and removes the socket files.
    fn finish(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads.drain(..) {
            let failure = match thread.join() {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Error::engine_failed(&error),
                Err(panic) => {
                    drop_panic_payload(panic);
                    Error::new(ErrorKind::Runtime, "a worker panicked")
                }
            };
            outcome = Err(failure);
        }
        // Ends when all senders are dropped.
        if let Some(failure) = self.attached.take().into_iter().flatten().last() {
            outcome = Err(failure);
        }
        if let Some(log_thread) = self.log_thread.take() {
            log_thread.finish();
        }
        self.files.clear();
        outcome
    }
}
