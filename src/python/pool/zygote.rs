//! The process that all workers are forked from (the zygote). It has Python and the worker's code
//! loaded, with `--preload` the application too, and runs nothing besides.
//!
//! It forks twice, and the process between exits, so that the kernel gives the worker to its
//! nearest ancestor that adopts orphans: this program. So a worker is a child of this program, its
//! exit status can be waited for, and it outlives the zygote.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::future::pending;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::life::UNTIL_KILL;
use super::place::STABLE;
use super::start::{NotReady, REPORT_BYTES_MAX, SOCKET_BYTES, parse_failed, unexpected};
use super::{Pool, StartError};
use crate::messages;
use crate::net::UnixSeqpacket;
use crate::process::wait;
use crate::python::body::sealed;
use crate::python::launch::{Launched, Launcher, bundle, launched};
use crate::python::options::Options;
use crate::python::pair;
use crate::rt::either;
use crate::sys::children::ended_child;
use crate::task::spawn;
use crate::task::time::{sleep, timeout};

/// How long a fork may take. Then another zygote is started.
const FORK: Duration = Duration::from_secs(5);
/// How long a zygote has to end by itself.
const END: Duration = Duration::from_secs(1);
/// How often it is looked whether something has happened that nothing tells.
const CHECK: Duration = Duration::from_millis(5);

/// A process that workers are forked from.
pub(super) struct Zygote {
    /// Which code it was started with.
    code: u64,
    /// And which options.
    options: Rc<Options>,
    /// None for a process that is a worker itself.
    pid: Option<Pid>,
    since: Instant,
    /// None while it is not ready, and while it is told to fork.
    socket: Cell<Option<UnixSeqpacket>>,
    /// Another descriptor of that socket, for what needs no reply.
    hooks: Cell<Option<OwnedFd>>,
    /// How it has ended.
    status: Cell<Option<ExitStatus>>,
}

/// The zygotes of a pool.
#[derive(Default)]
pub(super) struct Zygotes {
    /// Those that are ready, the newest at the end: for the newest code, and for the code that was
    /// ready last in a worker.
    ready: RefCell<Vec<Rc<Zygote>>>,
    /// All that have not ended.
    living: RefCell<Vec<Rc<Zygote>>>,
    /// A child may exist whose number is not known yet.
    is_forking: Cell<bool>,
    /// The newest code that one was started with.
    code: Cell<Option<u64>>,
    is_reaping: Cell<bool>,
}

impl Zygotes {
    pub(super) fn is_forking(&self) -> bool {
        self.is_forking.get()
    }
}

impl Zygote {
    fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // Its number is its own until it was waited for.
        if let Some(pid) = self.pid
            && !self.has_ended()
        {
            let _ = kill_process(pid, signal);
        }
    }

    fn has_ended(&self) -> bool {
        self.status.get().is_some()
    }

    /// Has it call a function of the configuration file, if that has it: its name, and arguments.
    fn call_hook(&self, call: impl Display) {
        let Some(socket) = self.hooks.take() else {
            return;
        };
        let order = format!("hook {call}");
        // One that does not read has no room for more; it will be killed.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = rustix::net::send(&socket, order.as_bytes(), flags);
        self.hooks.set(Some(socket));
    }

    /// Whether workers that run `code` can be forked from it.
    fn serves(&self, code: u64, options: &Rc<Options>) -> bool {
        let is_as_asked = Rc::ptr_eq(&self.options, options);
        self.code == code || is_as_asked && !serves_one_code(options)
    }

    /// Closes its socket, so that it ends. Returns whether it was not just told something.
    fn close(&self) -> bool {
        self.hooks.take();
        self.socket.take().is_some()
    }

    /// Has it fork a worker that gets the descriptors. Returns the worker's process id.
    async fn fork(&self, number: u32, descriptors: Vec<OwnedFd>) -> io::Result<Pid> {
        let ended = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut socket = self.socket.take().ok_or_else(ended)?;
        let reply = timeout(FORK, order(&mut socket, number, descriptors)).await;
        self.socket.set(Some(socket));
        let Ok(reply) = reply else {
            messages::report(format_args!(
                "the process that workers are forked from has not done so within {FORK:?}; it is \
                 killed"
            ));
            self.kill();
            return Err(ended());
        };
        // It may have received a part of the order, with descriptors that the next one has not.
        let reply = reply.inspect_err(|_| self.kill())?.ok_or_else(ended)?;
        let mut words = reply.split(' ');
        let (kind, number) = (words.next(), words.next());
        let number = number.and_then(|number| number.parse::<i32>().ok());
        match (kind, number) {
            (Some("forked"), Some(pid)) => Pid::from_raw(pid).ok_or_else(ended),
            (Some("unforked"), Some(code)) => Err(io::Error::from_raw_os_error(code)),
            _ => Err(io::Error::other(format!("it said `{reply}`"))),
        }
    }
}

/// Whether a zygote with these options has loaded the application, or executed the configuration
/// file: then there is another one for other code.
fn serves_one_code(options: &Options) -> bool {
    options.preload || options.config.is_some()
}

/// Asks a zygote for a worker. None if it has ended.
async fn order(
    socket: &mut UnixSeqpacket,
    number: u32,
    mut descriptors: Vec<OwnedFd>,
) -> io::Result<Option<String>> {
    while descriptors.len() > UnixSeqpacket::DESCRIPTORS_MAX {
        let rest = descriptors.split_off(UnixSeqpacket::DESCRIPTORS_MAX);
        socket.send("more", descriptors).await?;
        descriptors = rest;
    }
    socket.send(format!("fork {number}"), descriptors).await?;
    let reply = socket.recv(Vec::with_capacity(REPORT_BYTES_MAX)).await?;
    Ok(reply.map(|reply| String::from_utf8_lossy(&reply.bytes).into_owned()))
}

impl Pool {
    /// Forks a worker that runs `code`. Returns its process id, and the options that it follows.
    ///
    /// The caller has the turn to start a worker.
    pub(super) async fn fork(
        self: &Rc<Self>,
        number: u32,
        code: u64,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Pid, Rc<Options>), NotReady> {
        let zygote = self.zygote(code).await?;
        self.zygotes.is_forking.set(true);
        let outcome = zygote.fork(number, descriptors).await;
        self.zygotes.is_forking.set(false);
        let pid = outcome?;
        if zygote.options.attached.is_none() {
            // It is not ours if the application has taken the zygote over.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(pid), options).map_err(io::Error::from)?;
        }
        Ok((pid, zygote.options.clone()))
    }

    /// Has the configuration file's function called, in the newest zygote.
    pub(super) fn call_hook(&self, call: impl Display) {
        if let Some(zygote) = self.zygotes.ready.borrow().last() {
            zygote.call_hook(call);
        }
    }

    /// What a zygote for `code` begins, as the functions of the configuration file are to know it.
    fn occasion(&self, code: u64) -> &'static str {
        match self.zygotes.code.get() {
            None => "start",
            Some(before) if before < code => "reload",
            Some(_) => "",
        }
    }

    /// The zygote for `code`.
    async fn zygote(self: &Rc<Self>, code: u64) -> Result<Rc<Zygote>, NotReady> {
        let options = self.options_of(code);
        let serves = |one: &&Rc<Zygote>| one.serves(code, &options);
        let found = self.zygotes.ready.borrow().iter().find(serves).cloned();
        if let Some(found) = found {
            return Ok(found);
        }
        let zygote = self.start_zygote(code, options).await?;
        self.zygotes.ready.borrow_mut().push(zygote.clone());
        self.zygotes
            .code
            .set(self.zygotes.code.get().max(Some(code)));
        self.close_zygotes();
        Ok(zygote)
    }

    /// Closes the zygotes that no worker is to be forked from any more. That of the code which was
    /// ready last stays until newer code is, since that may turn out to be broken.
    pub(super) fn close_zygotes(&self) {
        let codes = [self.proven.borrow().0, self.code_to_start()];
        self.zygotes.ready.borrow_mut().retain(|zygote| {
            let is_needed = codes.map(|code| zygote.serves(code, &self.options_of(code)));
            is_needed.contains(&true) || {
                zygote.close();
                false
            }
        });
    }

    /// Starts a zygote, and waits until it is ready.
    async fn start_zygote(
        self: &Rc<Self>,
        code: u64,
        options: Rc<Options>,
    ) -> Result<Rc<Zygote>, NotReady> {
        if let Some(attached) = &options.attached {
            return self.attach(code, &options, attached).await;
        }
        let (near, far) = pair(SOCKET_BYTES)?;
        let hooks = options.config.is_some().then(|| near.try_clone());
        let hooks = hooks.transpose()?;
        let mut socket = UnixSeqpacket::new(near)?;
        let bundle = bundle("zygote", |config| {
            options.write(config);
            config.text("occasion");
            config.text(self.occasion(code));
            config.text("control");
            config.int(far.as_raw_fd());
        });
        let launched = Launcher::new(&options).start(&sealed(&bundle)?, &far)?;
        drop(far);
        let zygote = Rc::new(Zygote {
            code,
            options,
            pid: Some(Pid::from_child(&launched.child)),
            since: Instant::now(),
            socket: Cell::new(None),
            hooks: Cell::new(hooks),
            status: Cell::new(None),
        });
        self.zygotes.living.borrow_mut().push(zygote.clone());
        let (pool, watched) = (self.clone(), zygote.clone());
        spawn(async move { pool.watch_zygote(&watched, launched).await });
        let name = "the process that workers are forked from";
        let ready = self.zygote_ready(&zygote, &mut socket);
        match self.in_time(name, code, ready).await {
            Ok(()) => {
                zygote.socket.set(Some(socket));
                Ok(zygote)
            }
            Err(not_ready) => {
                if matches!(not_ready.error, StartError::Late(_)) {
                    zygote.signal(Signal::ABORT);
                    let _ = timeout(UNTIL_KILL, self.until(|| zygote.has_ended())).await;
                }
                zygote.signal(Signal::KILL);
                Err(not_ready)
            }
        }
    }

    /// Waits until a zygote is ready, or has ended: children of the application, if it has any, may
    /// hold its end of the socket open.
    async fn zygote_ready(
        &self,
        zygote: &Zygote,
        socket: &mut UnixSeqpacket,
    ) -> Result<(), NotReady> {
        let report = async {
            match socket.recv(Vec::with_capacity(REPORT_BYTES_MAX)).await {
                Ok(Some(report)) => Some(report.bytes),
                // It has closed its end.
                _ => pending().await,
            }
        };
        let ended = async {
            self.until(|| zygote.has_ended()).await;
            None
        };
        let Some(report) = either(report, ended).await else {
            return Err(StartError::Ended(zygote.status.get().unwrap_or_default()).into());
        };
        match &*String::from_utf8_lossy(&report) {
            "ready" => Ok(()),
            text => Err(parse_failed(text).unwrap_or_else(|| unexpected(text))),
        }
    }

    /// Has the attached process stand for a zygote. It forks nothing, but becomes the worker.
    async fn attach(
        &self,
        code: u64,
        options: &Rc<Options>,
        attached: &OwnedFd,
    ) -> Result<Rc<Zygote>, NotReady> {
        let mut socket = UnixSeqpacket::new(attached.try_clone()?)?;
        let bundle = bundle("embedded", |config| options.write(config));
        socket.send("bundle", vec![sealed(&bundle)?]).await?;
        let report = socket.recv(Vec::with_capacity(REPORT_BYTES_MAX)).await?;
        if report.is_none_or(|report| report.bytes != b"ready") {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(Rc::new(Zygote {
            code,
            options: options.clone(),
            pid: None,
            since: Instant::now(),
            socket: Cell::new(Some(socket)),
            hooks: Cell::new(None),
            status: Cell::new(None),
        }))
    }

    /// Waits for the end of a zygote. If there is no other one, there is one then.
    async fn watch_zygote(self: Rc<Self>, zygote: &Rc<Zygote>, mut launched: Launched) {
        let status = wait(&mut launched.child).await;
        drop(launched);
        // It was waited for elsewhere only if the program does so for all its children.
        let status = status.unwrap_or_else(|_| ExitStatus::from_raw(0));
        zygote.status.set(Some(status));
        let remove = |zygotes: &RefCell<Vec<Rc<Zygote>>>| {
            let mut zygotes = zygotes.borrow_mut();
            let count = zygotes.len();
            zygotes.retain(|other| !Rc::ptr_eq(other, zygote));
            zygotes.len() < count
        };
        remove(&self.zygotes.living);
        let was_ready = remove(&self.zygotes.ready);
        self.changed();
        if !was_ready || self.is_stopping.get() {
            return;
        }
        messages::report(format_args!(
            "the process that workers are forked from has ended ({status}); another one is started"
        ));
        if zygote.since.elapsed() < STABLE {
            sleep(STABLE).await;
        }
        let _turn = self.turn().await;
        let code = self.code_to_start();
        let is_gone = self.is_broken() && serves_one_code(&self.options_of(code));
        if self.is_stopping.get() || is_gone {
            return;
        }
        if let Err(not_ready) = self.zygote(code).await
            && !self.is_superseded(code)
        {
            messages::report(format_args!(
                "it could not start ({}); the next attempt is when a worker is needed",
                not_ready.error
            ));
        }
    }

    /// Ends all zygotes.
    pub(super) async fn end_zygotes(&self, limit: Duration) {
        let started = Instant::now();
        self.call_hook("on_exit");
        self.zygotes.ready.take();
        for zygote in &*self.zygotes.living.borrow() {
            if !zygote.close() {
                zygote.kill();
            }
        }
        let is_over = || self.zygotes.living.borrow().is_empty();
        while !is_over() && started.elapsed() < END.min(limit) {
            sleep(CHECK).await;
        }
        for zygote in &*self.zygotes.living.borrow() {
            zygote.kill();
        }
        while !is_over() {
            sleep(CHECK).await;
        }
    }

    /// Waits for all ended children of this program that are not of the pool.
    pub(super) async fn reap(&self) {
        if self.zygotes.is_reaping.replace(true) {
            return;
        }
        while !self.is_stopping.get() {
            if !self.zygotes.is_forking.get() {
                match self.reap_one() {
                    None => break,
                    Some(true) => continue,
                    Some(false) => {}
                }
            }
            // One of its own is waited for by the task that follows it. Another may be behind it.
            sleep(CHECK).await;
        }
        self.zygotes.is_reaping.set(false);
    }

    /// Waits for an ended child, if there is any, unless that is waited for elsewhere: then it
    /// returns `false`.
    fn reap_one(&self) -> Option<bool> {
        let launched = launched();
        let pid = ended_child().and_then(Pid::from_raw)?;
        let is_worker = self
            .controls
            .borrow()
            .values()
            .any(|worker| worker.pid == pid);
        let is_orphan = !is_worker && !launched.contains(&pid);
        if is_orphan {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _ = waitid(WaitId::Pid(pid), options);
        }
        Some(is_orphan)
    }
}
