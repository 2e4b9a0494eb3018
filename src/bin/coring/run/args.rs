//! The arguments of `coring run`: each flag with its name, its variable, its default and its help.

use std::path::PathBuf;
use std::time::Duration as StdDuration;

use clap::{ArgAction, Args, ValueEnum};

use super::attach::AttachArgs;
use super::class::{Class, class};
use super::compat::CompatArgs;
use super::life::LifeArgs;
use super::log::LogArgs;
use super::privileges::ProcessArgs;
use super::proxy::ProxyArgs;
use super::settings::Settled;
use crate::units::{Duration, Size, number};

/// The arguments of `run`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Application", after_help = AFTER_HELP)]
pub(crate) struct RunArgs {
    /// The application: MODULE:APP, MODULE, MODULE:factory() or FILE.py
    #[arg(value_name = "APP", default_value = "", hide_default_value = true)]
    pub(crate) app: String,

    #[command(flatten)]
    pub(crate) attach: AttachArgs,

    /// Worker processes
    #[arg(
        short,
        long,
        env = "CORING_WORKERS",
        value_name = "N",
        default_value = "1"
    )]
    #[arg(value_parser = number(1_u32..))]
    pub(crate) workers: u32,

    /// Threads of each worker of the class gthread [default: 8]
    #[arg(long, env = "CORING_THREADS", value_name = "N")]
    #[arg(value_parser = number(1_u32..=256))]
    pub(crate) threads: Option<u32>,

    /// Requests that each worker of the class gevent runs at a time
    #[arg(long, env = "CORING_WORKER_CONNECTIONS", value_name = "N")]
    #[arg(value_parser = number(1_u32..), default_value = "1000")]
    pub(crate) worker_connections: u32,

    /// How workers run the application: auto, sync, gthread, gevent or asgi. auto: asgi for an ASGI
    /// application, else gthread
    #[arg(short = 'k', long, env = "CORING_WORKER_CLASS", value_name = "CLASS")]
    #[arg(value_parser = class, default_value = "auto")]
    pub(crate) worker_class: Class,

    /// How the application is called. auto: as it looks
    #[arg(long, env = "CORING_INTERFACE", value_name = "INTERFACE")]
    #[arg(value_enum, default_value_t = Calls::Auto)]
    pub(crate) interface: Calls,

    /// APP is a function that returns the application
    #[arg(long, env = "CORING_FACTORY")]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) factory: bool,

    /// Load the application once, before the workers are forked: they share its memory
    #[arg(long, env = "CORING_PRELOAD")]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) preload: bool,

    /// The interpreter [default: of $VIRTUAL_ENV, .venv or beside coring, else python3]
    #[arg(long, env = "CORING_PYTHON", value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,

    /// The working directory of the application
    #[arg(long, env = "CORING_CHDIR", value_name = "DIR")]
    pub(crate) chdir: Option<PathBuf>,

    /// Where its module is looked for first [default: the working directory]
    #[arg(long, env = "CORING_APP_DIR", value_name = "DIR")]
    pub(crate) app_dir: Option<PathBuf>,

    /// Further directories of Python's path, separated by commas
    #[arg(
        long,
        env = "CORING_PYTHONPATH",
        value_name = "DIRS",
        value_delimiter = ','
    )]
    pub(crate) pythonpath: Vec<PathBuf>,

    /// The event loop of ASGI applications. auto: uvloop if it is installed
    #[arg(long = "loop", env = "CORING_LOOP", value_name = "LOOP")]
    #[arg(value_parser = ["auto", "asyncio", "uvloop"], default_value = "auto")]
    pub(crate) event_loop: String,

    /// Whether ASGI applications are told of start and end. auto: if they support it
    #[arg(long, env = "CORING_LIFESPAN", value_name = "WHEN")]
    #[arg(value_parser = ["auto", "on", "off"], default_value = "auto")]
    pub(crate) lifespan: String,

    /// The path that the application is mounted under
    #[arg(
        long,
        env = "CORING_ROOT_PATH",
        value_name = "PATH",
        default_value = ""
    )]
    #[arg(hide_default_value = true)]
    pub(crate) root_path: String,

    /// Level of the loggers of gunicorn and uvicorn: trace, debug, info, warning, error or critical
    #[arg(long, env = "CORING_LOG_LEVEL", value_name = "LEVEL")]
    #[arg(value_parser = level, default_value = "info")]
    pub(crate) log_level: String,

    /// Requests that may wait for a free thread. More get 503
    #[arg(long, env = "CORING_QUEUE", value_name = "N", default_value_t = 1024)]
    #[arg(value_parser = number(0_usize..))]
    pub(crate) queue: usize,

    /// How long a request may wait for a free thread. Then it gets 503
    #[arg(long, env = "CORING_QUEUE_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = Duration::from(StdDuration::from_secs(30)))]
    pub(crate) queue_timeout: Duration,

    /// Memory for each request body of a WSGI application. Larger ones go to a file
    #[arg(long, env = "CORING_BODY_BUFFER", value_name = "BYTES")]
    #[arg(default_value_t = Size(256 << 10))]
    pub(crate) body_buffer: Size,

    /// The directory for these files [default: $TMPDIR, or /tmp]
    #[arg(long, env = "CORING_SPOOL_DIR", value_name = "DIR")]
    pub(crate) spool_dir: Option<PathBuf>,

    /// Memory for each response that its client receives more slowly than the application sends it
    #[arg(long, env = "CORING_RESPONSE_BUFFER", value_name = "BYTES")]
    #[arg(default_value_t = Size(1 << 20))]
    pub(crate) response_buffer: Size,

    /// Memory of each core for all such responses
    #[arg(long, env = "CORING_RESPONSE_MEMORY", value_name = "BYTES")]
    #[arg(default_value_t = Size(256 << 20))]
    pub(crate) response_memory: Size,

    /// Replace the workers when a Python file changes. For development
    #[arg(long, env = "CORING_RELOAD")]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) reload: bool,

    /// The directory whose files count for that [default: of the application]. May be repeated
    #[arg(long = "reload-dir", env = "CORING_RELOAD_DIR", value_name = "DIR")]
    #[arg(value_delimiter = ',', action = ArgAction::Append, requires = "reload")]
    pub(crate) reload_dirs: Vec<PathBuf>,

    /// Serve the files of DIR under PATH without Python. May be repeated
    #[arg(long = "static", env = "CORING_STATIC", value_name = "PATH=DIR")]
    #[arg(value_delimiter = ',', action = ArgAction::Append, value_parser = mount)]
    pub(crate) mounts: Vec<Mount>,

    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(flatten)]
    pub(crate) process: ProcessArgs,

    #[command(flatten)]
    pub(crate) compat: CompatArgs,

    #[arg(skip)]
    pub(crate) settled: Settled,

    #[command(flatten)]
    pub(crate) life: LifeArgs,
}

const AFTER_HELP: &str = "\
Request bodies are unlimited unless --max-body is given. --cores is at most the
number of workers unless it is given.

Signals:
  TERM, INT, QUIT  finish the running requests and end; a second one ends at
                   once, the same one from a second after the first on
  HUP              read the settings again, load the application anew, replace
                   the workers, reopen the access log
  TTIN, TTOU       one worker more, one worker less
  USR1             reopen the access log

Exit status:
  0   ended by a signal
  1   failed to start or to continue (for example, a port in use)
  2   wrong usage
  3   the application failed to start
  4   the application could not be loaded
  77  io_uring is refused, and --engine uring or glommio was given
  78  bad configuration (an address is invalid, or a directory or a log cannot
      be used, say)";

/// The values of `--interface`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Calls {
    Auto,
    Wsgi,
    Asgi3,
    Asgi2,
}

/// A directory whose files are served under a path.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub(crate) path: String,
    pub(crate) directory: PathBuf,
}

fn level(text: &str) -> Result<String, String> {
    let level = text.to_lowercase();
    let known = [
        "trace", "debug", "info", "warn", "warning", "error", "critical", "fatal",
    ];
    match known.contains(&level.as_str()) {
        true => Ok(level),
        false => Err("it is one of trace, debug, info, warning, error and critical".to_owned()),
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    match text.split_once('=') {
        Some((path, directory)) if path.starts_with('/') && path.len() > 1 => Ok(Mount {
            path: path.trim_end_matches('/').to_owned(),
            directory: directory.into(),
        }),
        _ => Err("give it as /PATH=DIR".to_owned()),
    }
}
