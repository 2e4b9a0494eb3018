//! `coring run`: the flags of a Python application, and its worker processes. It uses only the
//! public API of the library.

mod args;
mod attach;
mod check;
mod class;
mod compat;
mod convert;
mod effective;
mod headers;
mod life;
mod log;
mod merge;
mod pidfile;
mod privileges;
mod profile;
mod proxy;
mod reread;
mod settings;
mod table;
mod words;

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration as StdDuration, Instant};

use ::http::{HeaderName, HeaderValue};
use coring::fs::Root;
use coring::python::{
    Interface, Options, StartError, WorkerClass, Workers, find_interpreter, launch,
};
use coring::{AccessLogFormat, Files, Router};
use rustix::process::{Resource, getrlimit};
use signal_hook::iterator::Signals;

use crate::EX_CONFIG;
use crate::app::DirectoryError;
use crate::flags::AccessLog;
use crate::plan::ServerConfig;
use crate::signals::{self, Logs};
use crate::units::Size;
pub(crate) use args::RunArgs;
use args::{Calls, Mount};
pub(crate) use attach::{end_with_worker, wait_for_end};
use class::Class;
use headers::WithHeaders;
pub(crate) use log::{Format, format};
pub(crate) use reread::{Application, Unread};
pub(crate) use settings::{SettingsError, parse};

/// The first argument by which coring becomes a launcher of Python. It is for coring itself.
pub(crate) const LAUNCH: &str = "__launch-python";
/// How often signals are looked for while the first worker starts.
const SIGNAL_CHECK: StdDuration = StdDuration::from_millis(20);
/// How long the first worker may take to start before a message says that it is still starting.
const LONG_START: StdDuration = StdDuration::from_secs(5);

/// Why an application does not run.
#[derive(Debug)]
pub(crate) enum RunError {
    Interpreter(coring::python::NoInterpreter),
    /// The workers of this interpreter do not start.
    Start(PathBuf, StartError),
    Directory(DirectoryError),
    /// The process that is to be the worker.
    Attach(io::Error),
    /// That process serves no longer.
    WorkerEnded,
    /// A variable of the environment is invalid.
    Variable(String),
    /// A setting is invalid: one line.
    Setting(String),
    /// A setting names something that is missing or that this user may not use: one line.
    Configuration(String),
}

impl RunError {
    /// The exit status, as gunicorn has it where it has one.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Start(_, StartError::Worker(code)) => *code,
            Self::Start(_, StartError::Ended(_) | StartError::Late(_)) => 3,
            Self::Variable(_) => 2,
            Self::Directory(_) | Self::Configuration(_) => EX_CONFIG,
            _ => 1,
        }
    }

    /// Whether a worker has said on standard error what the matter is.
    pub(crate) fn is_reported(&self) -> bool {
        matches!(self, Self::Start(_, StartError::Worker(_)))
    }
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interpreter(error) => error.fmt(f),
            Self::Start(interpreter, error @ StartError::Ended(_)) => write!(
                f,
                "{error}; is `{}` a CPython, and does the application end the process while it is \
                 imported?",
                interpreter.display()
            ),
            Self::Start(_, error) => error.fmt(f),
            Self::Directory(error) => error.fmt(f),
            Self::Setting(line) | Self::Configuration(line) => f.write_str(line),
            Self::Attach(error) => write!(f, "cannot attach: {error}"),
            Self::WorkerEnded => f.write_str("the worker that coring is attached to has ended"),
            Self::Variable(line) => f.write_str(line),
        }
    }
}

/// The addresses that are written as gunicorn has them, as coring does.
///
/// # Errors
/// When one is a descriptor.
pub(crate) fn addresses(written: &[String]) -> Result<Vec<String>, String> {
    let one = |text: &String| match text.starts_with("fd://") {
        true => Err(format!(
            "--bind {text}: coring opens its sockets itself; give an address"
        )),
        false => Ok(convert::address(text)),
    };
    written.iter().map(one).collect()
}

impl RunArgs {
    /// Where to log requests, unless the profile says otherwise.
    pub(crate) fn access_log(&self) -> AccessLog {
        match self.compat.no_access_log {
            true => AccessLog::Off,
            false => self.compat.access_log.clone(),
        }
    }

    /// The class of the workers in the library.
    fn class(&self) -> WorkerClass {
        match self.worker_class {
            Class::Auto => WorkerClass::Auto,
            Class::Meinheld if self.settled.is_patched => WorkerClass::Gevent,
            // gunicorn does the same.
            Class::Sync | Class::Meinheld if self.threads.is_some_and(|threads| threads > 1) => {
                WorkerClass::Gthread
            }
            Class::Sync | Class::Meinheld => WorkerClass::Sync,
            Class::Gthread => WorkerClass::Gthread,
            Class::Gevent => WorkerClass::Gevent,
            Class::Asgi => WorkerClass::Asgi,
        }
    }

    /// What the operator should know of the settings.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = self.settled.notes.clone();
        let is_unthreaded = matches!(self.class(), WorkerClass::Asgi | WorkerClass::Gevent);
        if is_unthreaded && let Some(threads) = self.threads.filter(|threads| *threads > 1) {
            notes.push(format!(
                "--threads {threads} has no effect: workers of this class run many requests at \
                 a time without threads"
            ));
        }
        notes.extend(self.proxy.note(&self.settled.profile));
        notes
    }

    /// The defaults that depend on what the application is.
    pub(crate) fn apply_profile(&self, workers: &Workers, config: &mut ServerConfig) {
        let interface = workers.loaded().map(|loaded| loaded.interface.as_str());
        let settled = &self.settled;
        settled.profile.apply(interface, &settled.set, config);
    }

    /// The cores that the application uses unless the operator gives a number: more than workers
    /// would only divide their requests.
    pub(crate) fn cores(&self) -> usize {
        let available = thread::available_parallelism().map_or(1, usize::from);
        available.min(usize::try_from(self.workers).unwrap_or(usize::MAX))
    }

    fn interpreter(&self) -> Result<PathBuf, RunError> {
        find_interpreter(self.python.as_deref()).map_err(RunError::Interpreter)
    }

    fn options(&self, drain_timeout: StdDuration) -> Result<Options, RunError> {
        let mut options = Options::new(&*self.app);
        options.python = self.interpreter()?;
        options.launcher = launcher();
        options.attached = self
            .attach
            .socket()
            .map_err(RunError::Attach)?
            .map(Arc::new);
        options.workers = self.workers;
        options.threads = self.threads;
        options.worker_connections = self.worker_connections;
        options.class = self.class();
        options.interface = match self.interface {
            Calls::Auto => Interface::Auto,
            Calls::Wsgi => Interface::Wsgi,
            Calls::Asgi3 => Interface::Asgi3,
            Calls::Asgi2 => Interface::Asgi2,
        };
        options.factory = self.factory;
        options.config.clone_from(&self.settled.config);
        options.log_config.clone_from(&self.compat.log_config);
        options.environment = self.compat.environment()?;
        options.preload = self.preload;
        options.chdir.clone_from(&self.chdir);
        options.app_dir.clone_from(&self.app_dir);
        options.pythonpath.clone_from(&self.pythonpath);
        options.event_loop.clone_from(&self.event_loop);
        options.lifespan.clone_from(&self.lifespan);
        self.root_path
            .trim_end_matches('/')
            .clone_into(&mut options.root_path);
        options.proc_name.clone_from(&self.process.proc_name);
        options.log_notes = self.log.has_notes();
        options.forwarded = self
            .proxy
            .forwarded(&self.settled.profile)
            .map_err(RunError::Variable)?;
        options.log_level.clone_from(&self.log_level);
        options.queue = self.queue;
        options.queue_timeout = self.queue_timeout.into();
        let bytes = |size: Size| usize::try_from(size.0).unwrap_or(usize::MAX);
        options.body_buffer = bytes(self.body_buffer);
        options.response_buffer = bytes(self.response_buffer);
        options.response_memory = bytes(self.response_memory);
        if let Some(directory) = &self.spool_dir {
            options.spool_dir.clone_from(directory);
        }
        options.drain_timeout = drain_timeout;
        self.life.apply(&mut options);
        options.reload = self.reload;
        for directory in &self.reload_dirs {
            let absolute = std::path::absolute(directory);
            let found = absolute.and_then(|path| std::fs::read_dir(&path).map(|_| path));
            let found = found.map_err(|error| unusable("--reload-dir DIR", directory, error))?;
            options.reload_dirs.push(found);
        }
        Ok(options)
    }

    /// Whether the program ends when it has checked, and perhaps printed, the settings.
    pub(crate) fn only_checks(&self) -> bool {
        self.compat.check_config || self.compat.print_config
    }

    /// Starts the workers for a server of `cores` cores. None if a signal has asked for the end
    /// meanwhile. `read` reads the settings again.
    ///
    /// # Errors
    /// When the first worker does not become ready.
    pub(crate) fn start(
        &self,
        cores: usize,
        drain_timeout: StdDuration,
        signals: &mut Signals,
        read: fn() -> Result<Self, Unread>,
    ) -> Result<Option<Arc<Application>>, RunError> {
        let options = self.options(drain_timeout)?;
        let python = options.python.clone();
        let failed = |error| RunError::Start(python.clone(), error);
        let workers = Workers::begin(options, cores).map_err(failed)?;
        let application = Application::new(workers, self, drain_timeout, read);
        let application = Arc::new(application);
        // The server opens the access log when it starts.
        let logs = Logs::new(&coring::AccessLog::Off, self.compat.error_log());
        let mut late = Some(Instant::now() + LONG_START);
        while !application.workers.wait(SIGNAL_CHECK).map_err(failed)? {
            for signal in signals.pending() {
                if !signals::act(signal, None, Some(&application), &logs) {
                    return Ok(None);
                }
            }
            if late.take_if(|late| *late < Instant::now()).is_some() {
                let seconds = LONG_START.as_secs();
                coring::messages::report(format_args!(
                    "`{}` is still starting after {seconds} s; does it start a server itself, or \
                     wait for something, while it is imported?",
                    self.app
                ));
            }
        }
        Ok(Some(application))
    }

    /// Opens the directories of `--static`.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(crate) fn open_mounts(&self) -> Result<Vec<(String, Root)>, RunError> {
        let open = |mount: &Mount| match Root::open(&mount.directory) {
            Ok(root) => Ok((mount.path.clone(), root)),
            Err(error) => Err(unusable("--static /PATH=DIR", &mount.directory, error)),
        };
        self.mounts.iter().map(open).collect()
    }
}

/// The error of the directory `path`, which is given as in `given`.
fn unusable(given: &'static str, path: &Path, error: io::Error) -> RunError {
    RunError::Directory(DirectoryError {
        given,
        path: path.to_owned(),
        error,
    })
}

/// The format of the access log `log`.
pub(crate) fn log_format(
    arguments: &RunArgs,
    log: &coring::AccessLog,
    workers: &Workers,
) -> AccessLogFormat {
    // Without a loaded application (`--reload`), as for the kind that has the more of uvicorn.
    let is_wsgi = workers
        .loaded()
        .is_some_and(|loaded| loaded.interface == "wsgi");
    let format = arguments.log.format(log, is_wsgi);
    match workers.forwarded_clients(is_wsgi) {
        Some(trusted) => format.with_forwarded_clients(trusted.clone()),
        None => format,
    }
}

/// The rows of the banner that describe the application.
pub(crate) fn describe(arguments: &RunArgs, workers: &Workers) -> Vec<(&'static str, String)> {
    let given = |is_given: bool| if is_given { "as requested" } else { "auto" };
    let python = match arguments.interpreter() {
        Ok(path) => path.display().to_string(),
        Err(error) => error.to_string(),
    };
    let python = format!("{python} ({})", given(arguments.python.is_some()));
    let mut rows = vec![("python", python)];
    let interface = workers.loaded().map(|loaded| loaded.interface.as_str());
    rows.push(("profile", arguments.settled.profile.describe(interface)));
    match workers.loaded() {
        Some(loaded) => {
            let class = given(arguments.worker_class != Class::Auto);
            let threads = match loaded.class.as_str() {
                "gthread" => format!(" of {} threads", loaded.threads),
                _ => String::new(),
            };
            let (app, interface, detail) = (&arguments.app, &loaded.interface, &loaded.detail);
            let (count, kind) = (arguments.workers, &loaded.class);
            rows.push(("runs", format!("{app} ({interface}, {detail})")));
            let preloaded = if arguments.preload { ", preloaded" } else { "" };
            let how = format!("{count} × {kind}{threads} ({class}{preloaded})");
            rows.push(("workers", how));
        }
        None => rows.push(("runs", format!("{} once it can be loaded", arguments.app))),
    }
    for directory in workers.watched() {
        rows.push((
            "reload",
            format!("when a Python file changes in {}", directory.display()),
        ));
    }
    for mount in &arguments.mounts {
        rows.push((
            "static",
            format!("{}/ from {}", mount.path, mount.directory.display()),
        ));
    }
    rows
}

/// A service that has files at some paths and the application at all others.
pub(crate) fn routed(
    mounts: &[(String, Root)],
    fields: &[(HeaderName, HeaderValue)],
    application: coring::python::Python,
) -> Router {
    let router = match fields.is_empty() {
        true => Router::new().fallback(application),
        false => Router::new().fallback(WithHeaders::new(application, fields)),
    };
    mounts.iter().fold(router, |router, (path, root)| {
        router.nest(path, Files::new(root.clone()))
    })
}

/// This program as a launcher of Python, with the limit of open files that it was started with: the
/// first call finds them, since a server that runs has raised the limit.
fn launcher() -> Option<(PathBuf, Vec<OsString>)> {
    static LAUNCHER: OnceLock<Option<(PathBuf, Vec<OsString>)>> = OnceLock::new();
    let find = || {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let arguments = vec![LAUNCH.into(), limit.to_string().into()];
        Some((env::current_exe().ok()?, arguments))
    };
    LAUNCHER.get_or_init(find).clone()
}

/// Becomes Python, with the arguments that follow [`LAUNCH`]. Returns only if that fails.
pub(crate) fn become_python(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let limit = arguments
        .next()
        .and_then(|limit| limit.to_str()?.parse().ok());
    match launch(arguments, limit) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
