//! The program: parses the flags, makes a plan of them, runs a server by the plan, and handles
//! signals. It uses only the public API of the library.

mod app;
mod console;
mod flags;
mod plan;
mod run;
mod signals;
mod units;
mod variables;

use std::env;
use std::fmt;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::{CommandFactory, FromArgMatches};
use coring::{AccessLog, Builder, ErrorKind, Handle, Server, Service, messages};
use signal_hook::iterator::Signals;

use app::{App, Directory, DirectoryError};
use flags::{Command, Flags};
use plan::{Plan, ServerConfig};
use run::{RunArgs, RunError, SettingsError, Unread};
use signals::Logs;

/// How long the process waits at its end until the last messages are written.
const LAST_MESSAGES: Duration = Duration::from_secs(1);

/// The least time that Python workers have to end when the server has ended.
const WORKERS_END: Duration = Duration::from_secs(1);

/// Waits for the last messages when it is dropped, also by a panic.
struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        messages::flush(LAST_MESSAGES);
    }
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == run::LAUNCH) {
        let error = run::become_python(arguments);
        messages::report(format_args!("error: cannot start Python: {error}"));
        messages::flush(LAST_MESSAGES);
        return ExitCode::FAILURE;
    }
    messages::report_panics();
    let _flush = FlushOnDrop;
    match obey() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let exit_code = failure.exit_code();
            match failure {
                Failure::Flags(error) => console::usage(error, &Flags::command()),
                Failure::Run(error) if error.is_reported() => {}
                _ => messages::report(format_args!("error: {failure}")),
            }
            exit_code
        }
    }
}

fn obey() -> Result<(), Failure> {
    let flags = flags()?;
    let port = env::var_os("PORT").map(|port| port.to_string_lossy().into_owned());
    let command = Flags::command();
    let blame = |line| variables::blame(&command, line);
    let mut plan = plan::plan(flags, port.as_deref(), io::stdout().is_terminal())
        .map_err(|line| Failure::Usage(blame(line)))?;
    if let Plan::Serve(_, config) | Plan::Run(_, config) = &mut plan {
        let notes = std::mem::take(&mut config.notes).into_iter().map(blame);
        let set = env::vars_os().map(|(name, _)| name);
        config.notes = notes.chain(variables::unknown(&command, set)).collect();
    }
    match plan {
        Plan::Serve(app, config) => serve(&app, &config),
        Plan::Run(arguments, config) if arguments.only_checks() => check(&arguments, &config),
        Plan::Run(arguments, mut config) => run_application(&arguments, &mut config),
        Plan::Version(engine) => {
            console::version(engine);
            Ok(())
        }
    }
}

/// The command line, with what other sources set for `run`.
fn flags() -> Result<Flags, Failure> {
    let failed = |error: clap::Error| match error.use_stderr() {
        true => Failure::Flags(error),
        // `--help` or `--version`: printed to standard output.
        false => error.exit(),
    };
    let parsed = run::parse(
        variables::without_ignored(Flags::command()),
        env::args_os().collect(),
    );
    let (matches, settled) = parsed.map_err(|error| match error {
        SettingsError::Clap(error) => failed(error),
        SettingsError::Run(error) => Failure::Run(error),
        SettingsError::Usage(line) => Failure::Usage(line),
        SettingsError::File(line) => Failure::Run(RunError::Setting(line)),
    })?;
    let mut flags = Flags::from_arg_matches(&matches).map_err(failed)?;
    if let Some(Command::Run(arguments)) = &mut flags.command {
        arguments.settled = settled;
    }
    Ok(flags)
}

/// The settings of an application that runs, as they are now.
fn read_again() -> Result<RunArgs, Unread> {
    match flags() {
        Ok(Flags {
            command: Some(Command::Run(arguments)),
            ..
        }) => Ok(*arguments),
        Ok(_) => unreachable!("the command line is that of `run`"),
        Err(Failure::Run(error)) => Err(error.unread()),
        Err(failure) => {
            let text = failure.to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = line.strip_prefix("error: ").unwrap_or(line);
            Err(Unread::Because(line.to_owned()))
        }
    }
}

/// Serves one of the program's own services until the server ends.
fn serve(app: &App<Directory>, config: &ServerConfig) -> Result<(), Failure> {
    let signals = signals::install().map_err(Failure::Signals)?;
    let open = app.open().map_err(Failure::Directory)?;
    let format = config.access_log_format.clone();
    let builder = configured(bound(config)?, config).access_log_format(format);
    let server = start(builder, config, move || open.service())?;
    let about = [("serves", app.description())];
    wait(&about, config, &server, None, signals).map(drop)
}

/// Checks the settings and the application, and says what it is. A setting of another server that
/// has no effect is noted, as in the banner.
fn check(arguments: &RunArgs, config: &ServerConfig) -> Result<(), Failure> {
    if arguments.compat.print_config {
        console::print(&arguments.settled.lines);
    }
    config.notes.iter().for_each(messages::report);
    let found = arguments.check(config).map_err(Failure::Run)?;
    let app = &arguments.app;
    messages::report(format_args!("`{app}` can be loaded: {found}"));
    Ok(())
}

/// Runs a Python application until the server ends. The workers end after the server, so that every
/// request that was accepted is answered.
fn run_application(arguments: &RunArgs, config: &mut ServerConfig) -> Result<(), Failure> {
    let mut signals = signals::install_with_workers().map_err(Failure::Signals)?;
    arguments.process.begin();
    let keeps_user = !arguments.process.changes_user();
    arguments
        .compat
        .redirect_messages(keeps_user)
        .map_err(Failure::Run)?;
    let bound = bound(config)?;
    let access_log = match &config.access_log {
        AccessLog::File(path) => Some(path.clone()),
        _ => None,
    };
    let logs: Vec<_> = access_log
        .into_iter()
        .chain(arguments.compat.error_log())
        .collect();
    let dropped = arguments.process.drop_privileges(&config.addresses, &logs);
    let _pidfile = dropped.map_err(Failure::Run)?;
    let mounts = arguments.open_mounts().map_err(Failure::Run)?;
    let drain_timeout = Duration::from(config.drain_timeout);
    let cores = config.cores.unwrap_or(1);
    let started = arguments.start(cores, drain_timeout, &mut signals, read_again);
    let Some(application) = started.map_err(Failure::Run)? else {
        return Ok(());
    };
    let workers = &application.workers;
    arguments.apply_profile(workers, config);
    let services = workers.services();
    let fields = arguments.compat.headers.clone();
    let format = run::log_format(arguments, &config.access_log, workers);
    let builder = configured(bound, config).access_log_format(format);
    let server = match mounts.is_empty() && fields.is_empty() {
        true => start(builder, config, services),
        false => start(builder, config, move || {
            run::routed(&mounts, &fields, services())
        }),
    };
    let server = server?;
    workers.tell_listening();
    // The program that coring is attached to has its own words.
    let about = match arguments.attach.is_given() {
        true => Vec::new(),
        false => run::describe(arguments, workers),
    };
    if arguments.attach.is_given() {
        run::end_with_worker(application.clone(), server.clone()).map_err(Failure::Run)?;
    }
    let ended = wait(&about, config, &server, Some(application.clone()), signals);
    // Server and workers share the limit of the drain.
    let spent = match &ended {
        Ok(drain) => drain.get().map_or(Duration::ZERO, Instant::elapsed),
        Err(_) => drain_timeout,
    };
    workers.stop(drain_timeout.saturating_sub(spent).max(WORKERS_END));
    match ended?.get() {
        None if arguments.attach.is_given() => {
            run::wait_for_end();
            Err(Failure::Run(RunError::WorkerEnded))
        }
        _ => Ok(()),
    }
}

/// A server of the addresses of `config`, which are bound.
fn bound(config: &ServerConfig) -> Result<Builder, Failure> {
    let mut builder = Server::builder().pin(config.pin);
    for address in &config.addresses {
        builder = builder.bind(address);
    }
    if let Some(cores) = config.cores {
        builder = builder.cores(cores);
    }
    builder.bind_now().map_err(Failure::Server)
}

/// Sets all of `config` that has to do neither with addresses nor with cores.
fn configured(builder: Builder, config: &ServerConfig) -> Builder {
    let mut builder = builder
        .engine(config.engine)
        .limits(config.limits.clone())
        .access_log(config.access_log.clone());
    for path in &config.access_log_skip {
        builder = builder.access_log_skip(path);
    }
    builder
}

/// Starts the server, in glommio's executors if the command line says so.
fn start<S: Service + 'static>(
    builder: Builder,
    config: &ServerConfig,
    services: impl Fn() -> S + Send + Sync + 'static,
) -> Result<Handle, Failure> {
    #[cfg(feature = "glommio")]
    if config.in_glommio {
        return coring::glommio::start(builder, services).map_err(Failure::Server);
    }
    debug_assert!(!config.in_glommio, "`plan` has refused it");
    builder.start(services).map_err(Failure::Server)
}

/// Prints the banner if there is one, lets signals reach the server, and waits until it ends.
/// Returns the time at which its drain began.
fn wait(
    about: &[(&str, String)],
    config: &ServerConfig,
    server: &Handle,
    application: signals::Runs,
    signals: Signals,
) -> Result<Arc<OnceLock<Instant>>, Failure> {
    let limit = config.drain_timeout;
    let logs = Logs::new(&config.access_log, config.error_log.clone());
    let drain = signals::handle(signals, server.clone(), application, limit, logs);
    let drain = drain.map_err(Failure::Signals)?;
    // Only now: nothing that follows keeps the server from serving.
    if !about.is_empty() {
        console::banner(about, config, server);
    }
    let ended = server.wait().map_err(Failure::Server);
    if config.stats {
        console::stats(server);
    }
    ended.map(|()| drain)
}

/// Exit status for bad configuration (sysexits.h): a supervisor should not restart the program.
const EX_CONFIG: u8 = 78;

/// Why the program failed.
#[derive(Debug)]
enum Failure {
    /// The command line is invalid.
    Flags(clap::Error),
    /// A flag or variable has a value that is out of bounds or does not fit the others.
    Usage(String),
    /// The directory cannot be served.
    Directory(DirectoryError),
    /// The Python application does not run.
    Run(RunError),
    /// The server did not start, or failed later.
    Server(coring::Error),
    /// Signals cannot be handled, so the server could not be drained.
    Signals(io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Flags(_) | Self::Usage(_) => 2,
            Self::Directory(_) => EX_CONFIG,
            Self::Server(error) => match error.kind() {
                ErrorKind::Engine => 77,
                ErrorKind::Configuration => EX_CONFIG,
                _ => 1,
            },
            Self::Run(error) => error.exit_code(),
            Self::Signals(_) => 1,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(error) => error.fmt(f),
            Self::Usage(line) => f.write_str(line),
            Self::Directory(directory) => directory.fmt(f),
            Self::Run(error) => error.fmt(f),
            Self::Server(error) => error.fmt(f),
            Self::Signals(error) => write!(
                f,
                "cannot handle signals: {error}; if threads are lacking, allow more (ulimit -u)"
            ),
        }
    }
}
