//! The program: flags as typed, the plan they mean, a server that follows it, and signals that end
//! it. It refuses to know how a request is served: it has only the library's public face.

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

/// How long the last messages may take to be written before the process ends.
const LAST_MESSAGES: Duration = Duration::from_secs(1);

/// Gives the last messages their time when it is dropped, which a panic does, too.
struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        messages::flush(LAST_MESSAGES);
    }
}

fn main() -> ExitCode {
    messages::report_panics();
    let _farewell = Farewell;
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
        // The help or the version was asked for: it is printed to standard output.
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

/// Starts the server and waits for its end.
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
    signals::obey(signals, server.clone(), serving.drain_timeout).map_err(Failure::Signals)?;
    let ended = server.wait().map_err(Failure::Server);
    if serving.stats {
        console::stats(&server);
    }
    ended
}

/// Bad configuration, by sysexits(3): a supervisor need not try again.
const EX_CONFIG: u8 = 78;

/// Why the program ends otherwise than as asked.
#[derive(Debug)]
enum Failure {
    /// The command line cannot be understood.
    Flags(clap::Error),
    /// The flags make no sense.
    Usage(String),
    /// What is to be served is not there.
    Folder(NoFolder),
    /// The server did not start, or did not go on.
    Server(coring::Error),
    /// Without signals a server could not be told to end.
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
            Self::Signals(error) => write!(f, "cannot listen for signals: {error}"),
        }
    }
}
