//! Starts a worker process, and follows what it reports.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::pin;
use std::process::ExitStatus;
use std::task::Poll;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::life::Pulse;
use super::{Control, Loaded, Pool, StartError};
use crate::messages;
use crate::net::UnixSeqpacket;
use crate::process::wait;
use crate::python::body::{memfd, sealed};
use crate::python::launch;
use crate::python::link::PAGE_BYTES;
use crate::python::news::join_message;
use crate::python::pair;

/// Room in the sockets between coring and a worker, in bytes; the kernel may grant less.
const SOCKET_BYTES: usize = 512 << 10;
/// The longest message of a worker to the supervisor.
const REPORT_BYTES_MAX: usize = 64 << 10;

/// A process that was started.
pub(super) struct Process {
    child: std::process::Child,
    reports: UnixSeqpacket,
    /// For each core the near and the far end of the worker's socket, and its bell.
    sockets: Vec<(OwnedFd, OwnedFd, OwnedFd)>,
    page: OwnedFd,
}

impl Pool {
    /// Starts a process.
    fn start(&self, number: u32) -> io::Result<Process> {
        let (control, far_control) = pair(SOCKET_BYTES)?;
        let page = memfd()?;
        ftruncate(&page, PAGE_BYTES as u64)?;
        // A worker that made it shorter could have the kernel end a process that maps it.
        fcntl_add_seals(&page, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mut sockets = Vec::new();
        for _ in &self.cores {
            let (near, far) = pair(SOCKET_BYTES)?;
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            sockets.push((near, far, bell));
        }
        let mut inherited = vec![
            far_control,
            page.try_clone()?,
            self.shared.borrow().try_clone()?,
        ];
        for (_, far, bell) in &sockets {
            inherited.push(far.try_clone()?);
            inherited.push(bell.try_clone()?);
        }
        let bundle = sealed(&self.bundle(number, &inherited))?;
        let reports = UnixSeqpacket::new(control.try_clone()?)?;
        let child = self.launcher.start(&bundle, &inherited)?;
        let control = Control {
            socket: control,
            pid: child.id(),
            is_ready: Cell::new(false),
        };
        self.controls.borrow_mut().insert(number, control);
        Ok(Process {
            child,
            reports,
            sockets,
            page,
        })
    }

    /// The modules and the settings of a worker.
    fn bundle(&self, number: u32, inherited: &[OwnedFd]) -> Vec<u8> {
        launch::bundle("main", |config| {
            self.options.write(config);
            config.text("worker");
            config.int(i32::try_from(number).unwrap_or(i32::MAX));
            let numbers: Vec<i32> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
            for (name, number) in ["control", "page", "shared"].iter().zip(&numbers) {
                config.text(name);
                config.int(*number);
            }
            for (name, at) in [("data", 3), ("bells", 4)] {
                config.text(name);
                config.list(self.cores.len());
                for number in numbers[at..].iter().step_by(2) {
                    config.int(*number);
                }
            }
        })
    }

    /// Starts a process, waits until it is ready, and hands it to the cores.
    pub(super) async fn begin(&self, number: u32) -> Result<(Process, Loaded), NotReady> {
        let mut process = self.start(number)?;
        match self.ready(number, &mut process).await {
            Ok(loaded) => Ok((process, loaded)),
            Err(error) => {
                if let Some(control) = self.controls.borrow().get(&number) {
                    control.kill();
                }
                // What there is to say is in the error.
                let _ = wait(&mut process.child).await;
                self.controls.borrow_mut().remove(&number);
                Err(error)
            }
        }
    }

    async fn ready(&self, number: u32, process: &mut Process) -> Result<Loaded, NotReady> {
        let text = match process.next().await {
            Next::Report(report) => String::from_utf8_lossy(&report).into_owned(),
            Next::Ended(status) => return Err(StartError::Ended(status?).into()),
        };
        let Some(loaded) = parse_loaded(&text) else {
            return Err(match parse_failed(&text) {
                Some(not_ready) => not_ready,
                None => StartError::Ended(wait(&mut process.child).await?).into(),
            });
        };
        let before = self.dispatch.replace(Some(loaded.dispatch()));
        if before.is_some_and(|before| before != loaded.dispatch()) {
            self.dispatch.set(before);
            let reason = "the application has another interface than before, WSGI or ASGI; start \
                          coring again to run it";
            messages::report(reason);
            return Err(NotReady {
                error: StartError::Worker(4),
                reason: reason.to_owned(),
            });
        }
        for (core, (near, far, bell)) in self.cores.iter().zip(mem::take(&mut process.sockets)) {
            let width = loaded.width(self.cores.len());
            let message = join_message(number, width, loaded.dispatch());
            let page = process.page.try_clone()?;
            // It has not been waited for, so its number is its own.
            let pid = Pid::from_child(&process.child);
            let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?;
            core.tell(number, message, vec![near, far, bell, page, handle]);
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
        let next = {
            let mut ended = pin!(wait(&mut self.child));
            let mut reported = pin!(self.reports.recv(Vec::with_capacity(REPORT_BYTES_MAX)));
            poll_fn(|context| match reported.as_mut().poll(context) {
                Poll::Ready(Ok(Some(message))) => Poll::Ready(Some(Next::Report(message.bytes))),
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => ended
                    .as_mut()
                    .poll(context)
                    .map(|status| Some(Next::Ended(status))),
            })
            .await
        };
        match next {
            Some(next) => next,
            // It has closed its end.
            None => Next::Ended(wait(&mut self.child).await),
        }
    }
}

/// What happens to a process.
pub(super) enum Next {
    Report(Vec<u8>),
    Ended(io::Result<ExitStatus>),
}

/// `failed CODE`, and the reason on further lines, if the worker gives one.
fn parse_failed(text: &str) -> Option<NotReady> {
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
