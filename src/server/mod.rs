//! The house: who runs, who is let in, and one life from accept to close.

mod accept;
mod access_log;
mod builder;
mod carrier;
mod close_reason;
mod connection;
mod control;
mod cores;
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

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

pub use access_log::AccessLog;
pub use builder::Builder;
pub use cores::{Cores, Pin};
pub use error::{Error, ErrorKind};
pub use limits::{HalfClose, Limits};

use crate::engine::Selected;
use crate::metrics::WorkerMetrics;
use crate::net::{Address, SocketFile};
use crate::rt::discard;
use access_log::Writer;
pub(crate) use control::{Control, Phase};
use startup::Thread;
#[cfg(feature = "sim")]
pub(crate) use {
    accept::Acceptor,
    worker::{Plan, Socket, live},
};

/// The outcome of starting or running a server.
pub type Result<T> = std::result::Result<T, Error>;

/// An HTTP server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server to be set up.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// A running server, as other threads see it. When the last handle is dropped, the server stops;
/// the drop waits for its end, except on one of its own workers.
#[derive(Debug, Clone)]
pub struct Handle(Arc<State>);

#[derive(Debug)]
struct State {
    addresses: Vec<Address>,
    engine: Selected,
    cores: Arc<Cores>,
    control: Arc<Control>,
    all_metrics: Arc<[Arc<WorkerMetrics>]>,
    /// The workers' threads, which must not wait for the end of the workers.
    workers: Vec<ThreadId>,
    /// Locked by whoever waits for the end; others wait behind it.
    life: Mutex<Life>,
}

#[derive(Debug)]
enum Life {
    Running(Running),
    Ended(Result<()>),
}

#[derive(Debug, Default)]
struct Running {
    threads: Vec<Thread>,
    writer: Option<Writer>,
    files: Vec<SocketFile>,
}

impl Handle {
    /// Where it listens, with the real ports.
    pub fn addresses(&self) -> &[Address] {
        &self.0.addresses
    }

    /// Which engine runs.
    pub fn engine(&self) -> &Selected {
        &self.0.engine
    }

    /// The cores it runs on.
    pub fn cores(&self) -> &Cores {
        &self.0.cores
    }

    /// The counters of each worker.
    pub fn metrics(&self) -> &[Arc<WorkerMetrics>] {
        &self.0.all_metrics
    }

    /// Accepts no more connections, answers what has been accepted, and ends: two seconds and
    /// [`Limits::drain_timeout`] later at the latest. Keep a handle and [`Handle::wait`]: the
    /// last one to go stops the server.
    pub fn drain(&self) {
        self.0.control.enter(Phase::Draining);
    }

    /// Ends now: what runs is cut off.
    pub fn stop(&self) {
        self.0.control.enter(Phase::Stopping);
    }

    /// Waits until every worker has ended.
    ///
    /// # Errors
    /// When a worker failed or panicked; the others have been stopped then. At once, when it is
    /// called on one of this server's workers, which would wait for itself.
    pub fn wait(&self) -> Result<()> {
        self.0.wait()
    }
}

impl State {
    fn wait(&self) -> Result<()> {
        if self.workers.contains(&thread::current().id()) {
            let message = "a worker cannot wait for the end of its own server: it would wait for \
                           itself";
            return Err(Error::new(ErrorKind::Runtime, message));
        }
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Life::Running(running) = &mut *life {
            let outcome = running.finish();
            *life = Life::Ended(outcome);
        }
        match &*life {
            Life::Ended(outcome) => outcome.clone(),
            Life::Running(_) => unreachable!("it has just ended"),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.control.enter(Phase::Stopping);
        let life = self.life.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Life::Running(running) = life else { return };
        // Nobody has waited to hear of a failure.
        if !self.workers.contains(&thread::current().id()) {
            let _ = running.finish();
            return;
        }
        let mut running = std::mem::take(running);
        // Where no thread can be had the workers end all the same, but the log may lose its last
        // lines.
        let _ = thread::Builder::new()
            .name("coring-end".to_owned())
            .spawn(move || running.finish());
    }
}

impl Running {
    /// Waits for the workers, and clears away what they leave.
    fn finish(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads.drain(..) {
            let failure = match thread.join() {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("a worker's engine failed: {error}"),
                Err(panic) => {
                    discard(panic);
                    "a worker panicked".to_owned()
                }
            };
            outcome = Err(Error::new(ErrorKind::Runtime, failure));
        }
        if let Some(writer) = self.writer.take() {
            writer.finish();
        }
        self.files.clear();
        outcome
    }
}
