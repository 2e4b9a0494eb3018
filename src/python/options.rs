//! What an application is and how it is run.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::forwarded::Forwarded;
use super::marshal::Marshal;
use super::pool::tick;

/// How long a worker may take to be ready, unless said otherwise: some applications load gigabytes.
const START: Duration = Duration::from_secs(300);

/// What an application is and how it is run.
///
/// ```
/// use coring::python::Options;
///
/// let mut options = Options::new("shop.web:app");
/// options.workers = 2;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// `MODULE:APP`, `MODULE`, `MODULE:factory()` or `FILE.py`.
    pub app: String,
    /// Whether the application is what the named function returns.
    pub factory: bool,
    /// How the application is called.
    pub interface: Interface,
    /// How its workers run it.
    pub class: WorkerClass,
    /// Threads of each worker of the class `gthread`; 8 unless given.
    pub threads: Option<u32>,
    /// Requests that a worker of the class `gevent` runs at a time.
    pub worker_connections: u32,
    /// Worker processes.
    pub workers: u32,
    /// A configuration file of gunicorn's, `PATH`, `file:PATH` or `python:MODULE`: its settings are
    /// read by [`read_settings`](super::read_settings()), the workers call its functions.
    pub config: Option<String>,
    /// Variables that the processes have in their environment besides those of this one.
    pub environment: Vec<(String, String)>,
    /// The interpreter; see [`find_interpreter`](super::find_interpreter).
    pub python: PathBuf,
    /// A program that calls [`launch`](super::launch()), with the arguments that make it do so.
    /// Without one, workers may outlive a program that is killed by some milliseconds.
    pub launcher: Option<(PathBuf, Vec<std::ffi::OsString>)>,
    /// A socket to a process that is the one worker; none is started then. It speaks the protocol
    /// of `python/coring/pywsgi.py`.
    pub attached: Option<Arc<OwnedFd>>,
    /// The working directory of the application.
    pub chdir: Option<PathBuf>,
    /// Where its module is looked for first; the working directory unless given.
    pub app_dir: Option<PathBuf>,
    /// Further directories of Python's path.
    pub pythonpath: Vec<PathBuf>,
    /// The event loop of ASGI applications: `auto`, `asyncio` or `uvloop`.
    pub event_loop: String,
    /// The lifespan protocol of ASGI: `auto`, `on` or `off`.
    pub lifespan: String,
    /// The path that the application is mounted under.
    pub root_path: String,
    /// The name of the worker processes, for ps and top; `/` and the number of each follow.
    pub proc_name: Option<String>,
    /// Whether responses have notes for the access log ([`Response::with_log_note`]): `worker`, the
    /// number of the worker, and `queue`, how long the request waited for it, in seconds.
    ///
    /// [`Response::with_log_note`]: crate::Response::with_log_note
    pub log_notes: bool,
    /// How fields like `X-Forwarded-Proto` are read; none if they are not.
    pub forwarded: Option<Forwarded>,
    /// The level of the loggers that servers have: `info` unless given.
    pub log_level: String,
    /// A file by which workers set up Python's loggers: of JSON or YAML, else in the format of
    /// `logging.config.fileConfig`.
    pub log_config: Option<PathBuf>,
    /// Requests that wait for a free thread, in all; further ones get 503.
    pub queue: usize,
    /// How long a request may wait for a free thread before it gets 503.
    pub queue_timeout: Duration,
    /// The longest request body that is kept in memory for a WSGI application, in bytes.
    pub body_buffer: usize,
    /// Where longer ones are kept; `$TMPDIR` or `/tmp` unless given.
    pub spool_dir: PathBuf,
    /// Bytes of a response that are kept for its client: the worker may be ahead by so much.
    pub response_buffer: usize,
    /// Bytes that a core keeps of all responses. Beyond that it takes each further part when the
    /// client has received what is before it.
    pub response_memory: usize,
    /// Whether the application is loaded once, by the process that workers are forked from, so that
    /// they share its memory.
    pub preload: bool,
    /// How long workers may take to end.
    pub drain_timeout: Duration,
    /// A worker with one thread whose request takes longer than this is ended, and so is any other
    /// one whose main thread or event loop does not run for as long. It writes where its threads
    /// are, and another one takes its place. The requests that it had begun get 504.
    pub timeout: Option<Duration>,
    /// A worker that is not ready after this time is ended, and its start has failed; so is the
    /// process that workers are forked from. It writes where its threads are.
    pub start_timeout: Option<Duration>,
    /// A worker that has had this number of requests is replaced by another one, which is ready
    /// before.
    pub max_requests: Option<u32>,
    /// Each worker may have up to this number more, by chance, so that not all are replaced at
    /// once.
    pub max_requests_jitter: u32,
    /// A worker that has lived for so long is replaced by another one, which is ready before.
    pub workers_lifetime: Option<Duration>,
    /// A worker that has more bytes in memory than this is replaced by another one, which is
    /// ready before.
    pub workers_max_rss: Option<u64>,
    /// Whether another worker gets a GET, HEAD or OPTIONS request without a body whose worker has
    /// died before the response began, once. Without this its client gets 502.
    pub retry_safe: bool,
    /// Whether workers are replaced when a Python file changes. For development only: the page
    /// `/.coring/reload` shows the traceback of code that cannot be loaded.
    pub reload: bool,
    /// The directories whose Python files count for that; that of the application if there are
    /// none.
    pub reload_dirs: Vec<PathBuf>,
}

impl Options {
    /// The defaults, for an application.
    pub fn new(app: impl Into<String>) -> Self {
        Self {
            app: app.into(),
            factory: false,
            interface: Interface::Auto,
            class: WorkerClass::Auto,
            threads: None,
            worker_connections: 1000,
            workers: 1,
            config: None,
            environment: Vec::new(),
            python: PathBuf::from("python3"),
            launcher: None,
            attached: None,
            chdir: None,
            app_dir: None,
            pythonpath: Vec::new(),
            event_loop: "auto".to_owned(),
            lifespan: "auto".to_owned(),
            root_path: String::new(),
            proc_name: None,
            log_notes: false,
            forwarded: Some(Forwarded::default()),
            log_level: "info".to_owned(),
            log_config: None,
            queue: 1024,
            queue_timeout: Duration::from_secs(30),
            body_buffer: 256 << 10,
            spool_dir: std::env::temp_dir(),
            response_buffer: 1 << 20,
            response_memory: 256 << 20,
            preload: false,
            drain_timeout: Duration::from_secs(30),
            timeout: None,
            start_timeout: Some(START),
            max_requests: None,
            max_requests_jitter: 0,
            workers_lifetime: None,
            workers_max_rss: None,
            retry_safe: false,
            reload: false,
            reload_dirs: Vec::new(),
        }
    }
}

/// How an application is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Interface {
    /// As the application looks: a coroutine function of three arguments is ASGI 3.
    #[default]
    Auto,
    /// PEP 3333.
    Wsgi,
    /// ASGI, version 3.
    Asgi3,
    /// ASGI, version 2: an application that is called twice.
    Asgi2,
}

impl Interface {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Wsgi => "wsgi",
            Self::Asgi3 => "asgi3",
            Self::Asgi2 => "asgi2",
        }
    }
}

/// How workers run an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WorkerClass {
    /// `asgi` for an ASGI application, else `gthread`.
    #[default]
    Auto,
    /// One request at a time.
    Sync,
    /// A thread for each request.
    Gthread,
    /// An event loop.
    Asgi,
    /// A greenlet for each request, in gevent's hub.
    Gevent,
}

impl WorkerClass {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sync => "sync",
            Self::Gthread => "gthread",
            Self::Asgi => "asgi",
            Self::Gevent => "gevent",
        }
    }
}

impl Options {
    /// Writes the settings that workers follow, as items of a dictionary.
    pub(super) fn write(&self, out: &mut Marshal) {
        for (name, value) in [
            ("app", self.app.as_str()),
            ("interface", self.interface.name()),
            ("worker_class", self.class.name()),
            ("loop", self.event_loop.as_str()),
            ("lifespan", self.lifespan.as_str()),
            ("root_path", self.root_path.as_str()),
            ("log_level", self.log_level.as_str()),
            ("proc_name", self.proc_name.as_deref().unwrap_or_default()),
        ] {
            out.text(name);
            out.text(value);
        }
        for (name, path) in [
            ("chdir", &self.chdir),
            ("app_dir", &self.app_dir),
            ("log_config", &self.log_config),
        ] {
            out.text(name);
            match path {
                Some(path) => out.text(&path.to_string_lossy()),
                None => out.none(),
            }
        }
        out.text("config_file");
        match &self.config {
            Some(location) => out.text(location),
            None => out.none(),
        }
        out.text("pythonpath");
        out.list(self.pythonpath.len());
        for path in &self.pythonpath {
            out.text(&path.to_string_lossy());
        }
        for (name, value) in [
            ("factory", self.factory),
            ("preload", self.preload),
            ("reload", self.reload),
        ] {
            out.text(name);
            out.bool(value);
        }
        for (name, number) in [
            ("threads", self.threads.unwrap_or(0)),
            ("worker_connections", self.worker_connections),
            ("workers", self.workers),
            ("max_requests", self.max_requests.unwrap_or(0)),
            ("max_requests_jitter", self.max_requests_jitter),
        ] {
            out.text(name);
            out.int(i32::try_from(number).unwrap_or(i32::MAX));
        }
        let beat = self.timeout.map_or(Duration::ZERO, |_| tick(self.timeout));
        for (name, time) in [
            ("drain_timeout", self.drain_timeout),
            ("beat_interval", beat),
        ] {
            out.text(name);
            out.float(time.as_secs_f64());
        }
        // By it and its deadline a worker knows how long a request has waited.
        out.text("tell_wait");
        out.float(match self.log_notes {
            true => self.queue_timeout.as_secs_f64(),
            false => 0.0,
        });
    }
}
