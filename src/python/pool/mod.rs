//! The worker processes: a thread of their own starts them, one at a time, hands their sockets to
//! the cores when they are ready, learns how they ended, and starts others in their place.

mod life;
mod newest;
mod outcome;
mod place;
mod start;
mod zygote;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendFlags, Shutdown, shutdown};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

use super::link::Dispatch;
use super::news::{News, Teller};
use super::options::Options;
use super::reload::{self, Newest};
use super::shared_pair;
use super::watch::Watcher;
use crate::messages;
use crate::net::{Events, Polling};
use crate::rt::{Event, either};
use crate::sys::lock::lock;
use crate::task::channel::between::Sender;
use crate::task::run::run;
use crate::task::spawn;
use crate::task::time::sleep;
pub(super) use life::tick;
pub use outcome::{Loaded, StartError};
use place::Place;
use zygote::Zygotes;

/// What the supervisor is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// End all workers; they have this long.
    Stop(Duration),
    /// Replace all workers, because this file has changed, or a signal asks for it.
    Reload(Option<PathBuf>),
    /// The same, and start all further workers with these options.
    Configure(Box<Options>),
    /// Keep one worker more.
    Add,
    /// Keep one worker less, but at least one.
    Remove,
    /// Wait for adopted processes that have ended.
    Reap,
}

/// What the supervisor and the cores tell each other.
#[derive(Debug)]
pub(super) struct Observed {
    /// The state of the newest code; none without `--reload`.
    pub(super) newest: Option<Arc<Newest>>,
    /// Whether the server drains.
    pub(super) drains: Arc<AtomicBool>,
}

/// The supervisor's thread, as others see it.
#[derive(Debug)]
pub(super) struct Supervisor {
    commands: mpsc::Sender<Command>,
    bell: OwnedFd,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    /// Tells how the start of the first worker went.
    first: Mutex<mpsc::Receiver<FirstOutcome>>,
    /// Is closed when the thread ends.
    alive: Mutex<mpsc::Receiver<Infallible>>,
    /// Notices that files have changed.
    _watcher: Option<Watcher>,
}

impl Supervisor {
    /// Starts the thread. By `cores` the cores get to know of workers; `shared` is the far end of
    /// the socket that workers receive requests from.
    ///
    /// With [`Observed::newest`] the workers are replaced when the files of their application
    /// change, and it is no error that the application cannot be loaded: then there is nothing
    /// loaded.
    pub(super) fn start(
        options: Options,
        observed: Observed,
        cores: Vec<Sender<News>>,
        shared: OwnedFd,
    ) -> io::Result<Self> {
        // The workers' parent ends when it has forked them.
        set_child_subreaper(Some(getpid()))?;
        let (commands, received) = mpsc::channel();
        let (first, outcome) = mpsc::channel();
        let (lives, alive) = mpsc::channel();
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let heard = bell.try_clone()?;
        let watcher = match &observed.newest {
            Some(_) => Some(watcher(&options, commands.clone(), bell.try_clone()?)?),
            None => None,
        };
        let supervise = move || {
            run(async move {
                let cores = cores.into_iter().map(|core| Rc::new(Teller::new(core)));
                let options = Rc::new(options);
                let pool = Rc::new(Pool {
                    options: RefCell::new(options.clone()),
                    count: Cell::new(None),
                    newest: observed.newest,
                    drains: observed.drains,
                    shared: RefCell::new(shared),
                    end: Cell::new(0),
                    cores: cores.collect(),
                    first: RefCell::new(Some(first)),
                    is_starting: Cell::new(false),
                    is_stopping: Cell::new(false),
                    controls: RefCell::default(),
                    zygotes: Zygotes::default(),
                    change: RefCell::default(),
                    dispatch: Cell::new(None),
                    code: Cell::new(0),
                    broken: Cell::new(None),
                    proven: RefCell::new((0, options)),
                    places: RefCell::default(),
                    next_number: Cell::new(0),
                });
                pool.supervise(received, heard).await;
            });
            drop(lives);
        };
        let thread = thread::Builder::new()
            .name("coring-python".to_owned())
            .spawn(supervise)?;
        Ok(Self {
            commands,
            bell,
            thread: Mutex::new(Some(thread)),
            first: Mutex::new(outcome),
            alive: Mutex::new(alive),
            _watcher: watcher,
        })
    }

    /// Waits until the start of the first worker has gone well or not, which is told once. None if
    /// that takes longer than `limit`.
    pub(super) fn first(&self, limit: Duration) -> Option<FirstOutcome> {
        let first = lock(&self.first);
        match first.recv_timeout(limit) {
            Ok(outcome) => Some(outcome),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Some(Err(io::Error::other("the supervisor has ended").into()))
            }
        }
    }

    /// Ends all workers, which have `limit` to do so by themselves, and waits for that. A later
    /// call, which may come meanwhile, can only make the limit shorter, and does not wait.
    pub(super) fn stop(&self, limit: Duration) {
        self.command(Command::Stop(limit));
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Waits until the thread ends.
    pub(super) fn wait(&self) {
        let alive = lock(&self.alive);
        // Nothing is ever sent.
        let _ = alive.recv();
    }

    /// Asks for something, without waiting for it.
    pub(super) fn command(&self, command: Command) {
        // Neither fails while the thread lives.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// How the start of the first worker went: under `--reload` it need not have loaded anything.
pub(super) type FirstOutcome = Result<Option<Loaded>, StartError>;

/// Has the supervisor told of changed files.
fn watcher(
    options: &Options,
    commands: mpsc::Sender<Command>,
    bell: OwnedFd,
) -> io::Result<Watcher> {
    Watcher::start(reload::directories(options), move |path| {
        // Neither fails while the supervisor's thread lives.
        let _ = commands.send(Command::Reload(Some(path)));
        let _ = rustix::io::write(&bell, &1_u64.to_ne_bytes());
    })
}

struct Pool {
    /// Those of the newest code.
    options: RefCell<Rc<Options>>,
    /// How many workers there are to be when one runs that, if it is another number than before.
    count: Cell<Option<usize>>,
    /// The state of the newest code; none without `--reload`.
    newest: Option<Arc<Newest>>,
    /// Whether the server drains.
    drains: Arc<AtomicBool>,
    /// The far end of the socket that WSGI workers receive from.
    shared: RefCell<OwnedFd>,
    /// Which of these it is: how many were shut down.
    end: Cell<u64>,
    cores: Vec<Rc<Teller>>,
    /// Waits for the first worker.
    first: RefCell<Option<mpsc::Sender<FirstOutcome>>>,
    is_starting: Cell<bool>,
    is_stopping: Cell<bool>,
    /// The processes that run, by their numbers.
    controls: RefCell<BTreeMap<u32, Control>>,
    zygotes: Zygotes,
    /// Fires when a worker has ended or wants to; then there is another one.
    change: RefCell<Rc<Event>>,
    /// How the workers so far receive requests.
    dispatch: Cell<Option<Dispatch>>,
    /// Which code is the newest: the number of reloads.
    code: Cell<u64>,
    /// The code that could not be loaded last.
    broken: Cell<Option<u64>>,
    /// The code that was ready last in a worker, and its options. Before any was, the first one.
    proven: RefCell<(u64, Rc<Options>)>,
    places: RefCell<Vec<Rc<Place>>>,
    /// The number of the next worker.
    next_number: Cell<u32>,
}

/// What a process is told and ended by.
struct Control {
    /// The near end of its control socket.
    socket: OwnedFd,
    pid: Pid,
    is_ready: Cell<bool>,
    /// It is not this program's own.
    is_attached: bool,
}

impl Control {
    /// Asks a worker to finish its requests and end. One that cannot be told is killed later.
    fn quit(&self) {
        let _ = rustix::net::send(&self.socket, b"quit", SendFlags::NOSIGNAL);
    }

    fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if self.is_attached {
            // It stops serving.
            let _ = shutdown(&self.socket, Shutdown::Both);
            return;
        }
        // It may have ended; its number is its own until it was waited for.
        let _ = kill_process(self.pid, signal);
    }

    /// The memory that it has, with that which it shares.
    fn resident_bytes(&self) -> Option<u64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    }
}

impl Pool {
    async fn supervise(self: Rc<Self>, commands: mpsc::Receiver<Command>, bell: OwnedFd) {
        (0..self.options.borrow().workers).for_each(|_| self.add_place());
        let mut bell = Polling::new(bell, Events::READABLE);
        let limit = loop {
            match commands.try_recv() {
                Ok(Command::Stop(limit)) => break limit,
                Ok(command) if self.refuses(&command) => continue,
                Ok(Command::Reload(path)) => {
                    self.reload(path.as_deref());
                    continue;
                }
                Ok(Command::Configure(options)) => {
                    self.configure(*options);
                    continue;
                }
                Ok(Command::Add) => {
                    self.count_by(1);
                    continue;
                }
                Ok(Command::Remove) => {
                    self.count_by(-1);
                    continue;
                }
                Ok(Command::Reap) => {
                    let pool = self.clone();
                    spawn(async move { pool.reap().await });
                    continue;
                }
                Err(mpsc::TryRecvError::Disconnected) => break Duration::ZERO,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            let rings = async { bell.ready().await.is_ok() };
            let is_over = async {
                self.until(|| self.is_stopping.get()).await;
                false
            };
            if !either(rings, is_over).await {
                break Duration::ZERO;
            }
        };
        self.is_stopping.set(true);
        for control in self.controls.borrow().values() {
            match control.is_ready.get() {
                true => control.quit(),
                // It has no requests.
                false => control.kill(),
            }
        }
        let started = Instant::now();
        let mut limit = limit;
        while self.has_workers() && started.elapsed() < limit {
            sleep(Duration::from_millis(5)).await;
            while let Ok(command) = commands.try_recv() {
                if let Command::Stop(shorter) = command {
                    limit = limit.min(shorter);
                }
            }
        }
        self.controls.borrow().values().for_each(Control::kill);
        while self.has_workers() {
            sleep(Duration::from_millis(5)).await;
        }
        self.end_zygotes(limit).await;
    }

    /// Whether nothing is done about a command. Says why.
    fn refuses(&self, command: &Command) -> bool {
        let reason = match command {
            Command::Stop(_) | Command::Reap => return false,
            _ if self.options.borrow().attached.is_some() => {
                "the process that has started coring is the one worker"
            }
            Command::Reload(_) | Command::Configure(_) if self.drains.load(Ordering::Relaxed) => {
                "the server ends"
            }
            _ => return false,
        };
        messages::report(format_args!(
            "the workers stay as they are, because {reason}"
        ));
        true
    }

    /// A worker's process has ended.
    fn forget(&self, number: u32) {
        if let Some(control) = self.controls.borrow_mut().remove(&number) {
            self.call_hook(format_args!("child_exit {}", control.pid.as_raw_nonzero()));
        }
    }

    /// Whether a worker runs, or may be about to.
    fn has_workers(&self) -> bool {
        !self.controls.borrow().is_empty() || self.zygotes.is_forking()
    }

    /// Makes another socket for the requests, and has the cores and all further workers use it.
    fn replace_shared(&self) {
        messages::report(
            "the socket that requests come from was shut down by the application, or by a process \
             that it has started; there is another one, and all workers are replaced",
        );
        let ends = shared_pair().and_then(|(near, far)| {
            let near = self.cores.iter().map(|_| near.try_clone());
            Ok((near.collect::<io::Result<Vec<_>>>()?, far))
        });
        match ends {
            Ok((near, far)) => {
                self.shared.replace(far);
                self.end.set(self.end.get() + 1);
                for (core, near) in self.cores.iter().zip(near) {
                    core.tell(News::Shared(near));
                }
                self.changed();
            }
            // A worker with the old one will say so again.
            Err(error) => messages::report(format_args!("there is no other one: {error}")),
        }
    }

    /// Tells how the first start went, if that is not known yet.
    fn tell_first(&self, outcome: FirstOutcome) -> bool {
        let first = self.first.borrow_mut().take();
        first.is_some_and(|first| first.send(outcome).is_ok())
    }

    /// Something has changed that a place may wait for.
    fn changed(&self) {
        self.change.take().fire();
    }

    /// Waits until something `is_so`, which [`Pool::changed`] tells.
    async fn until(&self, is_so: impl Fn() -> bool) {
        while !is_so() {
            let change = self.change.borrow().clone();
            change.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
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
