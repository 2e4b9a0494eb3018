//! The house: who runs, who is let in, and one life from accept to close.

mod accept;
mod access_log;
mod carrier;
mod close_reason;
mod connection;
mod control;
mod cores;
mod date;
mod drain;
mod encode;
mod error;
mod exchange;
mod limits;
mod link;
mod shared;
mod startup;
mod worker;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

pub use access_log::AccessLog;
pub use cores::{Cores, Pin};
pub use error::{Error, ErrorKind};
pub use limits::{HalfClose, Limits};

use crate::engine::{EngineChoice, Refused, Selected};
use crate::metrics::WorkerMetrics;
use crate::net::{self, Address, SocketFile};
use crate::rt::discard;
use crate::service::Service;
use crate::sys::limits::raise_open_files;
use access_log::Writer;
pub(crate) use control::{Control, Phase};
use startup::Thread;
pub(crate) use worker::Plan;
#[cfg(feature = "sim")]
pub(crate) use worker::live;

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

/// What a server shall be like.
#[derive(Debug, Default)]
pub struct Builder {
    addresses: Vec<String>,
    cores: usize,
    pin: Pin,
    engine: EngineChoice,
    limits: Limits,
    access_log: AccessLog,
}

impl Builder {
    /// Listens on one more address: `host:port`, `[ipv6]:port`, `:port`, `port` or `unix:PATH`.
    /// Without any it is 127.0.0.1:8000.
    #[must_use]
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Runs on at most so many cores; 0: as many as this process may use.
    #[must_use]
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = cores;
        self
    }

    /// Whether each worker is tied to a core.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pin = pin;
        self
    }

    /// Which engine to use.
    #[must_use]
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// What clients may do.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where requests are logged.
    #[must_use]
    pub fn access_log(mut self, access_log: AccessLog) -> Self {
        self.access_log = access_log;
        self
    }

    /// Starts the server and returns when it listens. The factory runs once on each worker. The
    /// server lives as long as one of its handles.
    ///
    /// # Errors
    /// When a limit makes no sense, an address cannot be had, no engine works, the log cannot be
    /// opened, no thread can be had, or the factory panics.
    pub fn start<F, S>(self, factory: F) -> Result<Handle>
    where
        F: Fn() -> S + Send + Sync + 'static,
        S: Service + 'static,
    {
        let wrong = |message: String| Error::new(ErrorKind::Configuration, message);
        let limits = self.limits.bounds().map_err(wrong)?;
        let addresses = self.parsed_addresses()?;
        let refused = |refused: Refused| Error::new(ErrorKind::Engine, refused);
        let selected = self.engine.probe().map_err(refused)?;
        let cores = Arc::new(Cores::choose(self.cores, self.pin));
        let files_max = raise_open_files();
        let mut bound = Vec::new();
        for address in &addresses {
            let taken = net::bind(address, cores.count)
                .map_err(|error| Error::new(ErrorKind::Address, error))?;
            bound.push(taken);
        }
        let mut writer = Writer::open(&self.access_log)?;
        let all_metrics: Arc<[Arc<WorkerMetrics>]> =
            (0..cores.count).map(|_| Arc::default()).collect();
        let control = Arc::new(Control::new());
        let (addresses, files, sockets) = per_worker(bound, cores.count);
        let plans = sockets
            .into_iter()
            .enumerate()
            .map(|(number, sockets)| Plan {
                number,
                cores: cores.clone(),
                sockets,
                limits,
                files_max,
                control: control.clone(),
                all_metrics: all_metrics.clone(),
                log: writer
                    .as_mut()
                    .map(|writer| writer.worker(all_metrics[number].clone())),
            });
        let (engine, threads) =
            startup::start(plans.collect(), factory, selected, self.engine, &control)?;
        let workers = threads.iter().map(|thread| thread.thread().id()).collect();
        let life = Mutex::new(Life::Running(Running {
            threads,
            writer,
            files,
        }));
        let state = State {
            addresses,
            engine,
            cores,
            control,
            all_metrics,
            workers,
            life,
        };
        Ok(Handle(Arc::new(state)))
    }

    /// Starts the server and runs it until it is drained or stopped, which only a [`Handle`] of
    /// [`Builder::start`] can ask for.
    ///
    /// # Errors
    /// Those of [`Builder::start`], and when a worker fails.
    pub fn serve<F, S>(self, factory: F) -> Result<()>
    where
        F: Fn() -> S + Send + Sync + 'static,
        S: Service + 'static,
    {
        self.start(factory)?.wait()
    }

    fn parsed_addresses(&self) -> Result<Vec<Address>> {
        let default = ["127.0.0.1:8000".to_owned()];
        let typed = if self.addresses.is_empty() {
            &default[..]
        } else {
            &self.addresses
        };
        let parse = |text: &String| {
            text.parse()
                .map_err(|error: String| Error::new(ErrorKind::Configuration, error))
        };
        typed.iter().map(parse).collect()
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

/// The sockets of all addresses, worker by worker.
fn per_worker(
    bound: Vec<net::Bound>,
    workers: usize,
) -> (Vec<Address>, Vec<SocketFile>, Vec<Vec<OwnedFd>>) {
    let mut addresses = Vec::new();
    let mut files = Vec::new();
    let mut sockets: Vec<Vec<OwnedFd>> = (0..workers).map(|_| Vec::new()).collect();
    for net::Bound {
        address,
        sockets: of_address,
        file,
    } in bound
    {
        addresses.push(address);
        files.extend(file);
        for (of_worker, socket) in sockets.iter_mut().zip(of_address) {
            of_worker.push(socket);
        }
    }
    (addresses, files, sockets)
}
