//! Starts a worker process, and follows what it reports.

use std::cell::Cell;
use std::io::{self, PipeWriter, pipe};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::life::{Pulse, UNTIL_KILL};
use super::{Control, Loaded, Pool, StartError};
use crate::messages;
use crate::net::{Events, Polling, UnixSeqpacket};
use crate::python::link::{Joined, PAGE_BYTES};
use crate::python::news::News;
use crate::python::options::Options;
use crate::python::pair;
use crate::rt::either;
use crate::sys::file::anonymous_file;
use crate::task::time::timeout;

/// Room in the sockets between coring and a worker, in bytes; the kernel may grant less.
pub(super) const SOCKET_BYTES: usize = 512 << 10;
/// The longest message of a worker to the supervisor.
pub(super) const REPORT_BYTES_MAX: usize = 64 << 10;
/// How many characters of an unexpected one are shown.
const SHOWN: usize = 80;

/// A process that was started.
pub(super) struct Process {
    /// Refers to it (pidfd).
    handle: OwnedFd,
    ended: Polling,
    status: Option<ExitStatus>,
    reports: UnixSeqpacket,
    /// For each core the near and the far end of the worker's socket, and its bell.
    sockets: Vec<(OwnedFd, OwnedFd, OwnedFd)>,
    page: OwnedFd,
    /// Those that it was started with. An attached one is not this program's own, and ends as a
    /// worker when it closes its socket.
    pub(super) options: Rc<Options>,
    /// The kernel kills the worker when this end of a pipe is closed.
    _life: PipeWriter,
}

impl Pool {
    /// Starts a process that runs `code`.
    async fn start(self: &Rc<Self>, number: u32, code: u64) -> Result<Process, NotReady> {
        let (control, far_control) = pair(SOCKET_BYTES)?;
        let page = anonymous_file("coring")?;
        ftruncate(&page, PAGE_BYTES as u64).map_err(io::Error::from)?;
        // A worker that made it shorter could have the kernel end a process that maps it.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&page, seals).map_err(io::Error::from)?;
        let (far_life, life) = pipe()?;
        let shared = self.shared.borrow().try_clone()?;
        let mut inherited = vec![far_control, page.try_clone()?, shared, far_life.into()];
        let mut sockets = Vec::new();
        for _ in &self.cores {
            let (near, far) = pair(SOCKET_BYTES)?;
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let bell = eventfd(0, flags).map_err(io::Error::from)?;
            inherited.push(far.try_clone()?);
            inherited.push(bell.try_clone()?);
            sockets.push((near, far, bell));
        }
        let reports = UnixSeqpacket::new(control.try_clone()?)?;
        let (pid, options) = self.fork(number, code, inherited).await?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?;
        let ended = Polling::new(handle.try_clone()?, Events::READABLE);
        let control = Control {
            socket: control,
            pid,
            is_ready: Cell::new(false),
            is_attached: options.attached.is_some(),
        };
        if self.is_stopping.get() {
            // All others were told before this one was known.
            control.kill();
        }
        self.controls.borrow_mut().insert(number, control);
        Ok(Process {
            handle,
            ended,
            status: None,
            reports,
            sockets,
            page,
            options,
            _life: life,
        })
    }

    /// Starts a process, waits until it is ready, and hands it to the cores.
    pub(super) async fn begin(
        self: &Rc<Self>,
        number: u32,
        code: u64,
    ) -> Result<(Process, Loaded), NotReady> {
        let mut process = self.start(number, code).await?;
        let name = format!("worker {number}");
        let ready = self.ready(number, &mut process);
        match self.in_time(&name, code, ready).await {
            Ok(loaded) => Ok((process, loaded)),
            Err(not_ready) => {
                let signal = |signal| {
                    if let Some(control) = self.controls.borrow().get(&number) {
                        control.signal(signal);
                    }
                };
                if matches!(not_ready.error, StartError::Late(_)) {
                    signal(Signal::ABORT);
                    // What there is to say is in the error.
                    let _ = timeout(UNTIL_KILL, process.end()).await;
                }
                // The number of a process that was waited for may be another one's.
                if process.status.is_none() {
                    signal(Signal::KILL);
                }
                let _ = process.end().await;
                self.forget(number);
                Err(not_ready)
            }
        }
    }

    /// Waits for `step`, by which the process `name` becomes ready to run `code`, or to fork
    /// workers that do. It is given up when it takes longer than a start may, and when there is
    /// newer code.
    pub(super) async fn in_time<T>(
        &self,
        name: &str,
        code: u64,
        step: impl Future<Output = Result<T, NotReady>>,
    ) -> Result<T, NotReady> {
        let superseded = async {
            self.until(|| self.is_superseded(code)).await;
            // It is not reported.
            Err(io::Error::from(io::ErrorKind::Interrupted).into())
        };
        let outcome = either(step, superseded);
        let Some(limit) = self.options_of(code).start_timeout else {
            return outcome.await;
        };
        timeout(limit, outcome).await.unwrap_or_else(|_| {
            messages::report(format_args!(
                "{name} is not ready after {limit:?} (--start-timeout): it is ended by SIGABRT, \
                 and writes where it is"
            ));
            Err(StartError::Late(limit).into())
        })
    }

    /// Whether something newer is to be started than `code`.
    pub(super) fn is_superseded(&self, code: u64) -> bool {
        self.code_to_start() != code
    }

    async fn ready(&self, number: u32, process: &mut Process) -> Result<Loaded, NotReady> {
        let text = match process.next().await {
            Next::Report(report) => String::from_utf8_lossy(&report).into_owned(),
            Next::Ended(status) => return Err(StartError::Ended(status?).into()),
        };
        let Some(loaded) = parse_loaded(&text) else {
            return Err(parse_failed(&text).unwrap_or_else(|| unexpected(&text)));
        };
        let before = self.dispatch.replace(Some(loaded.dispatch()));
        if before.is_some_and(|before| before != loaded.dispatch()) {
            self.dispatch.set(before);
            let reason = "the application has another interface than before, WSGI or ASGI, or its \
                          class of workers changes to or from gevent; start coring again to run \
                          it";
            messages::report(reason);
            return Err(NotReady {
                error: StartError::Worker(4),
                reason: reason.to_owned(),
            });
        }
        let is_attached = process.options.attached.is_some();
        let sockets = mem::take(&mut process.sockets).into_iter();
        let joined = sockets.map(|(data, far, bell)| {
            let handle = (!is_attached).then(|| process.handle.try_clone());
            Ok(Joined {
                number,
                width: loaded.width(self.cores.len()),
                dispatch: loaded.dispatch(),
                data,
                far,
                bell,
                page: process.page.try_clone()?,
                process: handle.transpose()?,
            })
        });
        // All cores are told of it, or none is.
        let joined: Vec<Joined> = joined.collect::<io::Result<_>>()?;
        for (core, joined) in self.cores.iter().zip(joined) {
            core.tell(News::Joined(joined));
        }
        if let Some(control) = self.controls.borrow().get(&number) {
            control.is_ready.set(true);
        }
        Ok(loaded)
    }
}

/// Why a worker is not ready, and what it has said of that.
pub(super) struct NotReady {
    pub(super) error: StartError,
    pub(super) reason: String,
}

impl<E: Into<StartError>> From<E> for NotReady {
    fn from(error: E) -> Self {
        let error = error.into();
        let reason = error.to_string();
        Self { error, reason }
    }
}

impl Process {
    /// What shows that it goes on.
    pub(super) fn pulse(&self, loaded: &Loaded) -> io::Result<Pulse> {
        Ok(Pulse::new(self.page.try_clone()?, loaded))
    }

    /// Waits for what happens to the process next.
    pub(super) async fn next(&mut self) -> Next {
        let ended = exited(&mut self.ended, &mut self.status);
        let reported = self.reports.recv(Vec::with_capacity(REPORT_BYTES_MAX));
        let reported = async {
            let message = reported.await.ok().flatten();
            message.map(|message| Next::Report(message.bytes))
        };
        match either(reported, async { Some(Next::Ended(ended.await)) }).await {
            Some(next) => next,
            // It has closed its end.
            None => Next::Ended(self.end().await),
        }
    }

    /// Waits until it has exited, if it is this program's own.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        if self.options.attached.is_some() {
            return Ok(ExitStatus::default());
        }
        exited(&mut self.ended, &mut self.status).await
    }
}

/// Waits until the process of a pidfd has exited. Its status is taken once, and kept.
async fn exited(process: &mut Polling, known: &mut Option<ExitStatus>) -> io::Result<ExitStatus> {
    while known.is_none() {
        process.ready().await?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(process.as_fd()), options)?;
        *known = status.map(|status| {
            // The form that wait(2) gives it.
            let core_dumped = if status.dumped() { 0x80 } else { 0 };
            let code = (status.exit_status().unwrap_or(0) & 0xff) << 8;
            let signal = status.terminating_signal();
            ExitStatus::from_raw(signal.map_or(code, |signal| signal | core_dumped))
        });
    }
    Ok(known.unwrap_or_default())
}

/// What happens to a process.
pub(super) enum Next {
    Report(Vec<u8>),
    Ended(io::Result<ExitStatus>),
}

/// `failed CODE`, and the reason on further lines, if the worker gives one.
pub(super) fn parse_failed(text: &str) -> Option<NotReady> {
    let text = text.strip_prefix("failed ")?;
    let (code, reason) = text.split_once('\n').unwrap_or((text, ""));
    let not_ready = NotReady::from(StartError::Worker(code.parse().ok()?));
    Some(match reason {
        "" => not_ready,
        reason => NotReady {
            reason: reason.to_owned(),
            ..not_ready
        },
    })
}

/// The error of a process that says something else than it should.
pub(super) fn unexpected(text: &str) -> NotReady {
    let start: String = text.chars().take(SHOWN).collect();
    io::Error::other(format!("it said {start:?}")).into()
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
