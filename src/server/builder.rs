//! The configuration of a server, and its start.

use std::fmt;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use super::accept::Factory;
use super::access_log::{AccessLog, AccessLogFormat, LogThread};
use super::attach::{Seat, WorkerThreads};
use super::control::Control;
use super::error::{Error, ErrorKind};
use super::limits::Limits;
use super::shared::served_descriptors;
use super::worker::{Socket, WorkerPlan};
use super::{Handle, HandleState, Result, RunState, RunningServer, startup};
use crate::engine::{EngineChoice, Guest, Selected};
use crate::metrics::WorkerMetrics;
use crate::net::{self, Address, SocketFile};
use crate::service::{Service, ServiceFactory};
use crate::sys::cores::{Cores, Pin};
use crate::sys::limits::raise_open_files;

/// The address that the server listens on if none is given.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8000";

/// Configures and starts a server.
#[derive(Debug, Default)]
pub struct Builder {
    /// Each address, with the index of its service in `factories`. `None`: the factory of `start`.
    addresses: Vec<(String, Option<usize>)>,
    factories: Vec<Factory>,
    cores: usize,
    pin: Pin,
    engine: EngineChoice,
    limits: Limits,
    access_log: AccessLog,
    access_log_format: AccessLogFormat,
    unlogged_paths: Vec<String>,
    bound: Option<BoundAddresses>,
}

/// The addresses that [`Builder::bind_now`] has bound.
#[derive(Debug)]
struct BoundAddresses {
    /// Those of [`Builder::socket_settings`] for which they are bound.
    settings: (usize, usize, Pin),
    cores: Arc<Cores>,
    /// Each with the index of its service, as in [`Builder::addresses`].
    all: Vec<(net::Bound, Option<usize>)>,
}

/// A server whose workers can be started.
struct Prepared {
    plans: Vec<WorkerPlan>,
    factories: Vec<Factory>,
    selected: Selected,
    addresses: Vec<Address>,
    connections_max: u64,
    cores: Arc<Cores>,
    control: Arc<Control>,
    all_metrics: Arc<[Arc<WorkerMetrics>]>,
    log_thread: Option<LogThread>,
    files: Vec<SocketFile>,
}

impl Prepared {
    /// The handle of the server, and the places of its workers on threads of the program.
    fn into_seats(mut self) -> (Handle, Vec<Seat>) {
        let (running, attached) = channel();
        let factories = Arc::new(std::mem::take(&mut self.factories));
        let workers = WorkerThreads::default();
        let seats = self.plans.drain(..).map(|plan| {
            Seat::new(
                plan,
                factories.clone(),
                self.selected.clone(),
                workers.clone(),
                running.clone(),
            )
        });
        let seats: Vec<Seat> = seats.collect();
        let running = RunningServer {
            attached: Some(attached),
            seats: seats.iter().map(Seat::share).collect(),
            ..RunningServer::default()
        };
        (self.into_handle(workers, running), seats)
    }

    /// The handle of the server that has been started.
    fn into_handle(self, workers: WorkerThreads, running: RunningServer) -> Handle {
        let log_reopening = self.log_thread.as_ref().map(LogThread::reopening);
        let run_state = Mutex::new(RunState::Running(RunningServer {
            log_thread: self.log_thread,
            files: self.files,
            ..running
        }));
        Handle(Arc::new(HandleState {
            addresses: self.addresses,
            connections_max: self.connections_max,
            engine: self.selected,
            cores: self.cores,
            control: self.control,
            all_metrics: self.all_metrics,
            workers,
            log_reopening,
            run_state,
        }))
    }
}

impl Builder {
    /// Adds an address for the service given to [`Builder::start`] or [`Builder::serve`]. Forms:
    /// `host:port`, `[ipv6]:port`, `unix:PATH`, `unix:@NAME` (abstract), and `:port` or `port` for
    /// all IPv4 addresses. All addresses of a host name are bound, if this machine has them.
    /// Without any such address the service listens on 127.0.0.1:8000.
    #[must_use]
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.addresses.push((address.into(), None));
        self
    }

    /// Adds an address with a service of its own, for operators only or for a redirect, say. The
    /// factory runs once on each worker. All addresses share the limits, the counters, the access
    /// log and the drain.
    ///
    /// ```no_run
    /// use coring::{Response, Server};
    ///
    /// fn main() -> coring::Result<()> {
    ///     Server::builder()
    ///         .bind("0.0.0.0:8000")
    ///         .bind_with("127.0.0.1:9000", || async |_| Response::text("healthy"))
    ///         .serve(|| async |_| Response::html("<b>hello world</b>"))
    /// }
    /// ```
    #[must_use]
    pub fn bind_with<F, K>(mut self, address: impl Into<String>, factory: F) -> Self
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        self.addresses
            .push((address.into(), Some(self.factories.len())));
        self.factories.push(Factory::new(factory));
        self
    }

    /// Runs at most this many workers, one per core. 0, the default: one for each core that this
    /// process may use.
    #[must_use]
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = cores;
        self
    }

    /// Whether each worker is pinned to a core. Default: [`Pin::Auto`].
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pin = pin;
        self
    }

    /// The engine to use. Default: [`EngineChoice::Auto`].
    #[must_use]
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// The limits that clients are held to.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where requests are logged. Default: [`AccessLog::Off`].
    #[must_use]
    pub fn access_log(mut self, access_log: AccessLog) -> Self {
        self.access_log = access_log;
        self
    }

    /// The format of the access log's lines. Default: the combined format.
    #[must_use]
    pub fn access_log_format(mut self, format: AccessLogFormat) -> Self {
        self.access_log_format = format;
        self
    }

    /// Leaves requests of this path out of the access log, for example those of health checks. With
    /// a `*` at its end the path stands for all that begin with what precedes the `*`. It is
    /// compared with the path as received, without the query. May be called repeatedly.
    #[must_use]
    pub fn access_log_skip(mut self, path: impl Into<String>) -> Self {
        self.unlogged_paths.push(path.into());
        self
    }

    /// Binds the addresses now, and not when the server starts: for a program that gives up its
    /// privileges in between ([`process::become_user`](crate::process::become_user)). Connections
    /// wait until the server starts. The addresses, the number of cores and pinning must be set
    /// before; the server does not start if they are changed later.
    ///
    /// # Errors
    /// Fails if an address is invalid or cannot be bound, or if this was called before.
    pub fn bind_now(self) -> Result<Self> {
        if self.bound.is_some() {
            return Err(invalid("bind_now was called twice; call it once"));
        }
        let cores = Cores::choose(self.cores, self.pin);
        self.bind_for(cores)
    }

    /// What the sockets are bound for. Addresses are only added, so their number tells.
    fn socket_settings(&self) -> (usize, usize, Pin) {
        (self.addresses.len(), self.cores, self.pin)
    }

    /// Binds the addresses for the workers of `cores`.
    fn bind_for(mut self, cores: Cores) -> Result<Self> {
        let addresses = self.parsed_addresses()?;
        let mut all = Vec::new();
        for (addresses, service) in &addresses {
            let bound = net::bind_all(addresses, cores.count)
                .map_err(|error| Error::new(ErrorKind::Address, error))?;
            all.extend(bound.into_iter().map(|bound| (bound, *service)));
        }
        self.bound = Some(BoundAddresses {
            settings: self.socket_settings(),
            cores: Arc::new(cores),
            all,
        });
        Ok(self)
    }

    /// Binds the addresses, or checks that those that are bound are the server's. `cores` is `None`
    /// if the builder chooses.
    fn bind_once(self, cores: Option<Cores>) -> Result<Self> {
        match (&self.bound, cores) {
            (None, None) => self.bind_now(),
            (None, Some(cores)) => self.bind_for(cores),
            (Some(bound), _) if bound.settings != self.socket_settings() => Err(invalid(
                "the addresses are bound already: call bind, bind_with, cores and pin before \
                 bind_now",
            )),
            (Some(bound), Some(cores)) if bound.cores.count != cores.count => {
                Err(invalid(format!(
                    "the addresses are bound for {} workers, but {} are attached: do not call \
                     bind_now",
                    bound.cores.count, cores.count
                )))
            }
            (Some(_), _) => Ok(self),
        }
    }

    /// Starts the server, and returns when it listens. The factory runs once on each worker. The
    /// server ends when it is drained or stopped, or when its last handle is dropped.
    ///
    /// # Errors
    /// Fails if a limit is invalid, an address cannot be bound, no engine works, the access log
    /// cannot be opened, a thread cannot be started, or a factory panics.
    pub fn start<F, K>(self, factory: F) -> Result<Handle>
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        let choice = self.engine;
        let mut prepared = self.prepare(factory, None)?;
        let (engine, threads) = startup::start(
            std::mem::take(&mut prepared.plans),
            std::mem::take(&mut prepared.factories),
            prepared.selected,
            choice,
            &prepared.control,
        )?;
        prepared.selected = engine;
        let workers = threads.iter().map(|thread| thread.thread().id()).collect();
        let running = RunningServer {
            threads,
            ..RunningServer::default()
        };
        Ok(prepared.into_handle(Arc::new(Mutex::new(workers)), running))
    }

    /// Prepares the server with one worker on the calling thread, as the guest of the executor that
    /// runs there. It listens now, and serves while the executor turns the guest. The features
    /// `tokio` and `glommio` have functions that do this. The number of cores and pinning are the
    /// host's: [`Builder::cores`] and [`Builder::pin`] have no effect.
    ///
    /// The server ends when it is drained or stopped, when its last handle is dropped, or when the
    /// guest is dropped. The thread blocks `SIGPIPE` and `SIGXFSZ` from now on.
    ///
    /// # Errors
    /// As for [`Builder::start`].
    pub fn attach<F, K>(self, factory: F) -> Result<(Handle, Guest<()>)>
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        let (handle, seats) = self.attach_all(1, factory)?;
        let guest = seats.into_iter().map(Seat::take).next();
        Ok((handle, guest.expect("one seat")?))
    }

    /// As [`Builder::attach`], for one worker on each of `threads` threads of the program, at least
    /// one. They have one handle, the same limits and one drain. Each [`Seat`] is sent to its
    /// thread.
    ///
    /// # Errors
    /// As for [`Builder::start`].
    pub fn attach_all<F, K>(self, threads: usize, factory: F) -> Result<(Handle, Vec<Seat>)>
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        let prepared = self.prepare(factory, Some(Cores::attached(threads.max(1))))?;
        Ok(prepared.into_seats())
    }

    /// As [`Builder::attach_all`], with as many threads as [`Builder::start`] would have workers.
    #[cfg(feature = "glommio")]
    pub(crate) fn attach_cores<F, K>(self, factory: F) -> Result<(Handle, Vec<Seat>)>
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        Ok(self.prepare(factory, None)?.into_seats())
    }

    /// Does what must precede the start of the workers. `cores` is `None` if the builder chooses.
    fn prepare<F, K>(mut self, factory: F, cores: Option<Cores>) -> Result<Prepared>
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        let main = self.factories.len();
        self.factories.push(Factory::new(factory));
        let limits = self.limits.bounds().map_err(invalid)?;
        let selected = self.engine.probe().map_err(Error::no_engine)?;
        let files_max = raise_open_files();
        self = self.bind_once(cores)?;
        let BoundAddresses { cores, all, .. } = self.bound.take().expect("bound above");
        let bound = all
            .into_iter()
            .map(|(bound, service)| (bound, service.unwrap_or(main)));
        let mut log_thread = LogThread::open(
            &self.access_log,
            self.unlogged_paths,
            self.access_log_format,
        )?;
        let all_metrics: Arc<[Arc<WorkerMetrics>]> =
            (0..cores.count).map(|_| Arc::default()).collect();
        let control = Arc::new(Control::new());
        let (addresses, files, sockets) = per_worker(bound.collect(), cores.count);
        let plans = sockets
            .into_iter()
            .enumerate()
            .map(|(number, sockets)| WorkerPlan {
                number,
                cores: cores.clone(),
                sockets,
                limits,
                files_max,
                control: control.clone(),
                all_metrics: all_metrics.clone(),
                log: log_thread
                    .as_mut()
                    .map(|log_thread| log_thread.worker(all_metrics[number].clone())),
            });
        Ok(Prepared {
            plans: plans.collect(),
            factories: self.factories,
            selected,
            addresses,
            connections_max: limits.connections_max.min(served_descriptors(files_max)),
            cores,
            control,
            all_metrics,
            log_thread,
            files,
        })
    }

    /// Starts the server, and returns only if it fails. To drain or stop a server, start it with
    /// [`Builder::start`], which returns a [`Handle`].
    ///
    /// # Errors
    /// Those of [`Builder::start`]. Also fails if a worker fails.
    pub fn serve<F, K>(self, factory: F) -> Result<()>
    where
        F: ServiceFactory<K> + Send + Sync + 'static,
        F::Service: Service + 'static,
    {
        self.start(factory)?.wait()
    }

    /// The addresses that each text stands for, with the index of its service.
    fn parsed_addresses(&self) -> Result<Vec<(Vec<Address>, Option<usize>)>> {
        let default = (DEFAULT_ADDRESS.to_owned(), None);
        let has_main = self.addresses.iter().any(|(_, service)| service.is_none());
        let unnamed = (!has_main).then_some(&default);
        let parse = |(text, service): &(String, Option<usize>)| {
            Ok((Address::all_of(text).map_err(invalid)?, *service))
        };
        unnamed
            .into_iter()
            .chain(&self.addresses)
            .map(parse)
            .collect()
    }
}

fn invalid(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Configuration, message)
}

/// Distributes the sockets of all addresses over the workers, each with the index of its service.
fn per_worker(
    bound: Vec<(net::Bound, usize)>,
    workers: usize,
) -> (Vec<Address>, Vec<SocketFile>, Vec<Vec<Socket>>) {
    let mut addresses = Vec::new();
    let mut files = Vec::new();
    let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (bound, service) in bound {
        addresses.push(bound.address);
        files.extend(bound.file);
        for (of_worker, fd) in sockets.iter_mut().zip(bound.sockets) {
            of_worker.push(Socket { fd, service });
        }
    }
    (addresses, files, sockets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Request, Response};

    #[test]
    fn what_is_set_after_bind_now_is_refused_and_not_ignored() {
        let service = || async |_: Request| Response::text("");
        let bound = || {
            let builder = Builder::default().bind("127.0.0.1:0").cores(1);
            builder.pin(Pin::Never).bind_now().expect("a free port")
        };
        let changes: [fn(Builder) -> Builder; 4] = [
            |builder| builder.bind("127.0.0.1:0"),
            |builder| builder.bind_with("127.0.0.1:0", || async |_: Request| Response::text("")),
            |builder| builder.cores(2),
            |builder| builder.pin(Pin::Auto),
        ];
        for change in changes {
            let error = change(bound()).start(service).expect_err("an error");
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().ends_with("before bind_now"), "{error}");
        }
        let error = bound().bind_now().expect_err("a second call");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(bound().cores(1).start(service).is_ok());
    }

    #[test]
    fn the_main_service_has_the_default_address_unless_it_has_another() {
        let other = || async |_: Request| Response::text("");
        let check = |builder: Builder, expected: &[(&str, Option<usize>)]| {
            let parsed = builder.parsed_addresses().unwrap();
            let parsed: Vec<_> = parsed
                .iter()
                .map(|(addresses, service)| (addresses[0].to_string(), *service))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(address, service)| ((*address).to_owned(), *service))
                .collect();
            assert_eq!(parsed, expected);
        };
        let main = (DEFAULT_ADDRESS, None);
        check(Builder::default(), &[main]);
        check(
            Builder::default().bind_with("127.0.0.1:1", other),
            &[main, ("127.0.0.1:1", Some(0))],
        );
        check(
            Builder::default()
                .bind_with("127.0.0.1:1", other)
                .bind("127.0.0.1:2")
                .bind_with("127.0.0.1:3", other),
            &[
                ("127.0.0.1:1", Some(0)),
                ("127.0.0.1:2", None),
                ("127.0.0.1:3", Some(1)),
            ],
        );
    }
}
