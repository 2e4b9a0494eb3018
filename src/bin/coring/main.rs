//! The program: parses the flags, makes a plan of them, runs a server by the plan, and handles
//! signals. It uses only the public API of the library.

mod app;
mod console;
mod flags;
mod plan;
mod signals;
mod units;

use std::env;
use std::fmt;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use coring::{ErrorKind, Server, messages};

use app::NoFolder;
use flags::Flags;
use plan::{Plan, Serving};

/// How long the process waits at its end until the last messages are written.
const LAST_MESSAGES: Duration = Duration::from_secs(1);

/// Waits for the last messages when it is dropped, also by a panic.
struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        messages::flush(LAST_MESSAGES);
    }
}

fn main() -> ExitCode {
    messages::report_panics();
    let _flush = Farewell;
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match &failure {
                Failure::Flags(error) => console::usage(error),
                _ => messages::report(format_args!("error: {failure}")),
            }
            failure.exit_code()
        }
    }
}

fn run() -> Result<(), Failure> {
    let flags = Flags::try_parse().map_err(|error| match error.use_stderr() {
        true => Failure::Flags(error),
        // `--help` or `--version`: printed to standard output.
        false => error.exit(),
    })?;
    let port = env::var_os("PORT").map(|port| port.to_string_lossy().into_owned());
    match plan::plan(flags, port.as_deref()).map_err(Failure::Usage)? {
        Plan::Serve(serving) => serve(&serving),
        Plan::Version(engine) => {
            console::version(engine);
            Ok(())
        }
    }
}

/// Starts the server and waits until it ends.
fn serve(serving: &Serving) -> Result<(), Failure> {
    let signals = signals::install().map_err(Failure::Signals)?;
    let app = serving.app.open().map_err(Failure::Folder)?;
    let mut builder = Server::builder()
        .pin(serving.pin)
        .engine(serving.engine)
        .limits(serving.limits.clone())
        .access_log(serving.access_log.clone());
    for address in &serving.addresses {
        builder = builder.bind(address);
    }
    if let Some(cores) = serving.cores {
        builder = builder.cores(cores);
    }
    let server = builder
        .start(move || app.service())
        .map_err(Failure::Server)?;
    console::banner(serving, &server);
    signals::handle(signals, server.clone(), serving.drain_timeout).map_err(Failure::Signals)?;
    let ended = server.wait().map_err(Failure::Server);
    if serving.stats {
        console::stats(&server);
    }
    ended
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
    /// The folder cannot be served.
    Folder(NoFolder),
    /// The server did not start, or failed later.
    Server(coring::Error),
    /// Signals cannot be handled, so the server could not be drained.
    Signals(io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Flags(_) | Self::Usage(_) => 2,
            Self::Folder(_) => EX_CONFIG,
            Self::Server(error) => match error.kind() {
                ErrorKind::Engine => 77,
                ErrorKind::Configuration => EX_CONFIG,
                _ => 1,
            },
            Self::Signals(_) => 1,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(error) => error.fmt(f),
            Self::Usage(line) => f.write_str(line),
            Self::Folder(folder) => folder.fmt(f),
            Self::Server(error) => error.fmt(f),
            Self::Signals(error) => write!(f, "cannot handle signals: {error}"),
        }
    }
}
