//! The worker processes: a thread of their own starts them, one at a time, hands their sockets to
//! the cores when they are ready, learns how they ended, and starts others in their place.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use super::body::{memfd, sealed};
use super::launch::{self, Launcher};
use super::link::{Dispatch, PAGE_BYTES};
use super::marshal::Marshal;
use super::news::{join_message, leave_message};
use super::options::Options;
use crate::messages;
use crate::net::{Events, Polling, UnixSeqpacket};
use crate::task::run::run;
use crate::task::spawn;
use crate::task::time::sleep;

/// Room in the sockets between coring and a worker, in bytes; the kernel may grant less.
const SOCKET_BYTES: usize = 512 << 10;
/// The longest message of a worker to the supervisor.
const REPORT_BYTES_MAX: usize = 4096;
/// A worker that ends sooner than this after it was ready is started again with a pause.
const STABLE: Duration = Duration::from_secs(1);
/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Which interface the application has, and how its workers run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// `wsgi`, `asgi3` or `asgi2`.
    pub interface: String,
    /// `sync`, `gthread` or `asgi`.
    pub class: String,
    /// Threads of each worker.
    pub threads: u32,
    /// What else there is to say: the interpreter's version, the event loop.
    pub detail: String,
}

/// Why no worker could be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A system call failed.
    Io(io::Error),
    /// A worker has said why it cannot start, on standard error, and this is its exit status: 3
    /// when the application did not start, 4 when it could not be loaded.
    Worker(u8),
    /// A worker ended before it was ready.
    Ended(ExitStatus),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot start a Python process: {error}"),
            Self::Worker(4) => f.write_str("the application could not be loaded"),
            Self::Worker(_) => f.write_str("the application could not be started"),
            Self::Ended(status) => {
                write!(f, "the Python process ended before it was ready: {status}")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the supervisor is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// End all workers; they have this long.
    Stop(Duration),
}

/// The supervisor's thread, as others see it.
#[derive(Debug)]
pub(super) struct Supervisor {
    commands: mpsc::Sender<Command>,
    bell: OwnedFd,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Supervisor {
    /// Starts the thread, and waits until the first worker is ready. `cores` are the far ends of
    /// the sockets by which the cores get to know of workers, `shared` is the far end of the socket
    /// that workers receive requests from.
    pub(super) fn start(
        options: Options,
        launcher: Launcher,
        cores: Vec<OwnedFd>,
        shared: OwnedFd,
    ) -> Result<(Self, Loaded), StartError> {
        let (commands, received) = mpsc::channel();
        let (first, outcome) = mpsc::channel();
        let bell =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let heard = bell.try_clone()?;
        let supervise = move || {
            run(async move {
                let cores = cores.into_iter().map(UnixSeqpacket::new);
                let cores: io::Result<Vec<_>> = cores.collect();
                let pool = Rc::new(Pool {
                    options,
                    launcher,
                    shared,
                    cores: cores
                        .expect("they are sockets of that kind")
                        .into_iter()
                        .map(|core| RefCell::new(Some(core)))
                        .collect(),
                    first: RefCell::new(Some(first)),
                    is_starting: Cell::new(false),
                    is_stopping: Cell::new(false),
                    controls: RefCell::default(),
                });
                pool.supervise(received, heard).await;
            });
        };
        let thread = thread::Builder::new()
            .name("coring-python".to_owned())
            .spawn(supervise)?;
        let supervisor = Self {
            commands,
            bell,
            thread: Mutex::new(Some(thread)),
        };
        let outcome = outcome
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the supervisor has panicked").into()));
        match outcome {
            Ok(loaded) => Ok((supervisor, loaded)),
            Err(error) => {
                // Without a pool there are to be no further attempts.
                supervisor.stop(Duration::ZERO);
                Err(error)
            }
        }
    }

    /// Ends all workers, which have `limit` to do so by themselves, and waits for that. A later
    /// call, which may come meanwhile, can only make the limit shorter, and does not wait.
    pub(super) fn stop(&self, limit: Duration) {
        // Neither fails while the thread lives.
        let _ = self.commands.send(Command::Stop(limit));
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

struct Pool {
    options: Options,
    launcher: Launcher,
    shared: OwnedFd,
    cores: Vec<RefCell<Option<UnixSeqpacket>>>,
    /// Waits for the first worker.
    first: RefCell<Option<mpsc::Sender<Result<Loaded, StartError>>>>,
    is_starting: Cell<bool>,
    is_stopping: Cell<bool>,
    /// The near ends of the running workers' control sockets, and their process ids.
    controls: RefCell<BTreeMap<u32, (Rc<OwnedFd>, u32)>>,
}

/// A process that was started.
struct Process {
    child: std::process::Child,
    control: Rc<OwnedFd>,
    reports: UnixSeqpacket,
    /// For each core the near and the far end of the worker's socket, and its bell.
    sockets: Vec<(OwnedFd, OwnedFd, OwnedFd)>,
    page: OwnedFd,
}

impl Pool {
    async fn supervise(self: Rc<Self>, commands: mpsc::Receiver<Command>, bell: OwnedFd) {
        let lives: Vec<_> = (0..self.options.workers)
            .map(|slot| {
                let pool = self.clone();
                spawn(async move { pool.live(slot).await })
            })
            .collect();
        let mut bell = Polling::new(bell, Events::READABLE);
        let limit = loop {
            match commands.try_recv() {
                Ok(Command::Stop(limit)) => break limit,
                Err(mpsc::TryRecvError::Disconnected) => break Duration::ZERO,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if bell.ready().await.is_err() {
                break Duration::ZERO;
            }
        };
        self.is_stopping.set(true);
        for (control, _) in self.controls.borrow().values() {
            // A worker that cannot be told is killed below.
            let _ = rustix::net::send(control, b"quit", rustix::net::SendFlags::NOSIGNAL);
        }
        let started = Instant::now();
        let mut limit = limit;
        while !self.controls.borrow().is_empty() && started.elapsed() < limit {
            sleep(Duration::from_millis(5)).await;
            if let Ok(Command::Stop(shorter)) = commands.try_recv() {
                limit = limit.min(shorter);
            }
        }
        for (_, pid) in self.controls.borrow().values() {
            kill(*pid);
        }
        while !self.controls.borrow().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        lives.iter().for_each(|life| life.abort());
    }

    /// Keeps one worker running.
    async fn live(self: Rc<Self>, slot: u32) {
        let mut pause = PAUSES.0;
        let mut number = slot;
        while !self.is_stopping.get() {
            while self.is_starting.replace(true) {
                sleep(Duration::from_millis(5)).await;
            }
            let started = match self.start(number).await {
                Ok(started) => self.ready(number, started).await,
                Err(error) => Err(error.into()),
            };
            self.is_starting.set(false);
            let ready = Instant::now();
            match started {
                Ok((process, loaded)) => {
                    self.tell_first(Ok(loaded));
                    let status = self.watch(number, process).await;
                    if self.is_stopping.get() {
                        return;
                    }
                    messages::report(format_args!(
                        "worker {number} has ended ({status}); another one is started"
                    ));
                    if ready.elapsed() >= STABLE {
                        pause = PAUSES.0;
                        number += self.options.workers;
                        continue;
                    }
                }
                Err(error) => {
                    if !self.is_stopping.get() && !self.tell_first(Err(error)) {
                        let ms = pause.as_millis();
                        messages::report(format_args!(
                            "worker {number} could not start; the next attempt is in {ms} ms"
                        ));
                    }
                }
            }
            sleep(pause).await;
            pause = PAUSES.1.min(pause * 2);
            number += self.options.workers;
        }
    }

    /// Tells how the first start went, if that is not known yet.
    fn tell_first(&self, outcome: Result<Loaded, StartError>) -> bool {
        let first = self.first.borrow_mut().take();
        first.is_some_and(|first| first.send(outcome).is_ok())
    }

    /// Starts a process.
    async fn start(&self, number: u32) -> io::Result<Process> {
        let pair = || {
            let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
            socketpair(AddressFamily::UNIX, kind, flags, None)
        };
        let (control, far_control) = pair()?;
        let page = memfd()?;
        ftruncate(&page, PAGE_BYTES as u64)?;
        // A worker that made it shorter could have the kernel end a process that maps it.
        fcntl_add_seals(&page, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mut sockets = Vec::new();
        for _ in &self.cores {
            let (near, far) = pair()?;
            for end in [&near, &far] {
                sockopt::set_socket_send_buffer_size(end, SOCKET_BYTES)?;
            }
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            sockets.push((near, far, bell));
        }
        let mut inherited = vec![far_control, page.try_clone()?, self.shared.try_clone()?];
        for (_, far, bell) in &sockets {
            inherited.push(far.try_clone()?);
            inherited.push(bell.try_clone()?);
        }
        let bundle = sealed(&self.bundle(number, &inherited))?;
        let child = self.launcher.start(&bundle, &inherited)?;
        let control = Rc::new(control);
        self.controls
            .borrow_mut()
            .insert(number, (control.clone(), child.id()));
        Ok(Process {
            child,
            reports: UnixSeqpacket::new(control.try_clone()?)?,
            control,
            sockets,
            page,
        })
    }

    /// The modules and the settings of a worker.
    fn bundle(&self, number: u32, inherited: &[OwnedFd]) -> Vec<u8> {
        let mut bundle = Marshal::with_capacity(64 << 10);
        bundle.dict();
        bundle.text("modules");
        bundle.dict();
        for (name, source) in launch::modules() {
            bundle.text(name);
            bundle.text(source);
        }
        bundle.end_dict();
        bundle.text("config");
        bundle.dict();
        self.options.write(&mut bundle);
        bundle.text("worker");
        bundle.int(i32::try_from(number).unwrap_or(i32::MAX));
        let numbers: Vec<i32> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
        for (name, number) in ["control", "page", "shared"].iter().zip(&numbers) {
            bundle.text(name);
            bundle.int(*number);
        }
        for (name, at) in [("data", 3), ("bells", 4)] {
            bundle.text(name);
            bundle.list(self.cores.len());
            for number in numbers[at..].iter().step_by(2) {
                bundle.int(*number);
            }
        }
        bundle.end_dict();
        bundle.end_dict();
        bundle.into_bytes()
    }

    /// Waits until a worker is ready, and hands it to the cores.
    async fn ready(
        &self,
        number: u32,
        mut process: Process,
    ) -> Result<(Process, Loaded), StartError> {
        let report = {
            let mut ended = pin!(crate::process::wait(&mut process.child));
            let mut reported = pin!(process.reports.recv(Vec::with_capacity(REPORT_BYTES_MAX)));
            poll_fn(|context| {
                if let Poll::Ready(report) = reported.as_mut().poll(context) {
                    return Poll::Ready(Ok(report));
                }
                ended.as_mut().poll(context).map(Err)
            })
            .await
        };
        let text = match report {
            Ok(Ok(Some(message))) => String::from_utf8_lossy(&message.bytes).into_owned(),
            Ok(_) => String::new(),
            Err(status) => {
                self.controls.borrow_mut().remove(&number);
                return Err(StartError::Ended(status?));
            }
        };
        let Some(loaded) = parse_loaded(&text) else {
            let status = crate::process::wait(&mut process.child).await;
            self.controls.borrow_mut().remove(&number);
            let code = text
                .strip_prefix("failed ")
                .and_then(|code| code.parse().ok());
            return Err(match code {
                Some(code) => StartError::Worker(code),
                None => StartError::Ended(status?),
            });
        };
        let dispatch = match loaded.class.as_str() {
            "asgi" => Dispatch::Each,
            _ => Dispatch::Shared,
        };
        for (core, (near, far, bell)) in (0..).zip(mem::take(&mut process.sockets)) {
            let message = join_message(number, loaded.threads, dispatch);
            let page = process.page.try_clone()?;
            self.tell_core(core, message, vec![near, far, bell, page])
                .await;
        }
        Ok((process, loaded))
    }

    /// Waits for the end of a worker, and tells the cores.
    async fn watch(&self, number: u32, mut process: Process) -> ExitStatus {
        let status = crate::process::wait(&mut process.child).await;
        self.controls.borrow_mut().remove(&number);
        drop(process.control);
        for core in 0..self.cores.len() {
            self.tell_core(core, leave_message(number), Vec::new())
                .await;
        }
        // It was waited for elsewhere only if the program does so for all its children.
        status.unwrap_or_else(|_| ExitStatus::from_raw(0))
    }

    /// A core that has ended need not know.
    async fn tell_core(&self, core: usize, message: Vec<u8>, descriptors: Vec<OwnedFd>) {
        let socket = loop {
            if let Some(socket) = self.cores[core].borrow_mut().take() {
                break socket;
            }
            sleep(Duration::from_millis(1)).await;
        };
        let mut socket = socket;
        let _ = socket.send(message, descriptors).await;
        *self.cores[core].borrow_mut() = Some(socket);
    }
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended; its number is its own until it was waited for.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// `loaded INTERFACE CLASS THREADS DETAIL`.
fn parse_loaded(text: &str) -> Option<Loaded> {
    let mut words = text.strip_prefix("loaded ")?.splitn(4, ' ');
    Some(Loaded {
        interface: words.next()?.to_owned(),
        class: words.next()?.to_owned(),
        threads: words.next()?.parse().ok()?,
        detail: words.next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::python::Workers;

    #[test]
    fn a_pool_that_does_not_start_makes_no_further_attempts() {
        let mut options = Options::new("app");
        options.python = "/bin/false".into();
        let outcome = Workers::start(options, 1);
        assert!(matches!(outcome, Err(StartError::Ended(_))), "{outcome:?}");
        let tasks = fs::read_dir("/proc/self/task").expect("our threads");
        let names = tasks
            .flatten()
            .flat_map(|task| fs::read_to_string(task.path().join("comm")));
        let names: Vec<String> = names.collect();
        assert!(!names.contains(&"coring-python\n".to_owned()), "{names:?}");
    }
}
