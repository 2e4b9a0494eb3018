//! The command line and the environment as typed: every flag once, with its name, its default and
//! its help. It refuses to know what a flag means for a server; `plan` does.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use ::http::HeaderValue;
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, value_parser};
use coring::Files;

use crate::units::{Duration, Size};

/// An HTTP server on io_uring: one ring and one worker per core, one coroutine per connection.
#[derive(Debug, Parser)]
#[command(name = "coring", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(override_usage = "coring [COMMAND] [OPTIONS]")]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) times: Times,
    #[command(flatten)]
    pub(crate) sizes: Sizes,
    #[command(flatten)]
    pub(crate) reports: Reports,
}

/// What coring is asked to do; without one, it serves its embedded site.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves the files of a folder
    Serve(Serve),
    /// Gives one fixed answer to every request: a load-test fixture
    Respond(Respond),
    /// Answers every request with its own body and type, as they come: a test fixture
    Echo,
    /// Prints the versions, and which engine would run here or why none would
    Version,
}

/// What `serve` serves.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The folder; links in it are followed as long as they stay in it
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,

    /// Most memory of each worker for small files that are asked for often; 0 = none, twice as
    /// much may be needed while they change
    #[arg(long, env = "CORING_FILE_CACHE", value_name = "BYTES")]
    #[arg(default_value_t = Size(u64::try_from(Files::CACHE_BYTES_MAX).unwrap_or(u64::MAX)))]
    pub(crate) file_cache: Size,

    /// Most memory of each worker, beside that, for content of files that clients have not taken
    /// yet; beyond it files are sent without being read into memory
    #[arg(long, env = "CORING_ANSWER_MEMORY", value_name = "BYTES")]
    #[arg(default_value_t = Size(u64::try_from(Files::ANSWER_BYTES_MAX).unwrap_or(u64::MAX)))]
    pub(crate) answer_memory: Size,
}

/// The one answer of `respond`.
#[derive(Debug, Args)]
pub(crate) struct Respond {
    /// The body of the answer
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) body: String,

    /// The status of the answer, 200 to 599
    #[arg(long, env = "CORING_STATUS", value_name = "N", default_value_t = 200)]
    #[arg(value_parser = value_parser!(u16).range(200..=599))]
    pub(crate) status: u16,

    /// The Content-Type of the answer
    #[arg(long = "type", env = "CORING_TYPE", value_name = "TYPE")]
    #[arg(default_value = "text/plain; charset=utf-8", value_parser = content_type)]
    pub(crate) content_type: HeaderValue,
}

/// Where the server listens and what it runs on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Addresses and cores")]
pub(crate) struct Place {
    #[arg(
        short,
        long,
        global = true,
        env = "CORING_BIND",
        value_name = "ADDRESS"
    )]
    #[arg(value_delimiter = ',', action = ArgAction::Append, help = BIND_HELP)]
    pub(crate) bind: Vec<String>,

    /// Run at most N workers, one per core [default: as many cores as this process may use]
    #[arg(long, global = true, env = "CORING_CORES", value_name = "N")]
    pub(crate) cores: Option<NonZeroUsize>,

    /// Tie each worker to its core; auto: if the workers take all cores this process may use
    #[arg(long, global = true, env = "CORING_PIN", value_name = "WHEN")]
    #[arg(value_enum, default_value_t = Pin::Auto)]
    pub(crate) pin: Pin,

    /// How to ask the kernel; auto: io_uring if it works, else epoll; uring: io_uring or nothing
    #[arg(long, global = true, env = "CORING_ENGINE", value_name = "ENGINE")]
    #[arg(value_enum, default_value_t = Engine::Auto)]
    pub(crate) engine: Engine,
}

/// The values of `--pin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    Auto,
    Always,
    Never,
}

/// The values of `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    Auto,
    Uring,
    Epoll,
}

/// What may take how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Time limits (500ms, 10s, 2m, 1h; a bare number is seconds)")]
pub(crate) struct Times {
    /// Longest wait for a whole request head
    #[arg(long, global = true, env = "CORING_HEAD_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().head_timeout))]
    pub(crate) head_timeout: Duration,

    /// Longest wait for the next part of a request body
    #[arg(long, global = true, env = "CORING_BODY_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().body_timeout))]
    pub(crate) body_timeout: Duration,

    /// Longest wait for a client to take the next part of an answer
    #[arg(long, global = true, env = "CORING_WRITE_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().write_timeout))]
    pub(crate) write_timeout: Duration,

    /// Longest silence between two requests of a connection
    #[arg(long, global = true, env = "CORING_IDLE_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().idle_timeout))]
    pub(crate) idle_timeout: Duration,

    /// Longest wait for running requests once a signal has asked to end
    #[arg(long, global = true, env = "CORING_DRAIN_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().drain_timeout))]
    pub(crate) drain_timeout: Duration,

    /// Fewest bytes per second that a body may move at, in either direction; 0 = any
    #[arg(long, global = true, env = "CORING_MIN_RATE", value_name = "BYTES")]
    #[arg(default_value_t = Size(limits().bytes_per_second_min.unwrap_or(0)))]
    pub(crate) min_rate: Size,

    /// Whether a request is still answered when its client half-closes the connection (FIN)
    #[arg(long, global = true, env = "CORING_HALF_CLOSE", value_name = "EFFECT")]
    #[arg(value_enum, default_value_t = HalfClose::Serve)]
    pub(crate) half_close: HalfClose,
}

/// The values of `--half-close`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HalfClose {
    Serve,
    End,
}

/// What may be how large, and how many there may be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Size limits (bytes; 16k, 16m, 1g are binary units)")]
pub(crate) struct Sizes {
    /// Most bytes of a request head, 18 to 65535; above it 431
    #[arg(long, global = true, env = "CORING_MAX_HEAD", value_name = "BYTES")]
    #[arg(default_value_t = Size(limits().head_bytes_max.into()))]
    pub(crate) max_head: Size,

    /// Most bytes of a request target (path and query), 1 to 65535; above it 414
    #[arg(long, global = true, env = "CORING_MAX_TARGET", value_name = "BYTES")]
    #[arg(default_value_t = Size(limits().target_bytes_max.into()))]
    pub(crate) max_target: Size,

    /// Most header fields of a request, 1 to 256; above it 431
    #[arg(long, global = true, env = "CORING_MAX_FIELDS", value_name = "N")]
    #[arg(default_value_t = limits().fields_max, value_parser = value_parser!(u16).range(1..=256))]
    pub(crate) max_fields: u16,

    /// Most bytes of a request body; above it 413; 0 = unlimited
    #[arg(long, global = true, env = "CORING_MAX_BODY", value_name = "BYTES")]
    #[arg(default_value_t = Size(limits().body_bytes_max.unwrap_or(0)))]
    pub(crate) max_body: Size,

    /// Most connections at a time; above it 503; 0 = as many as the limit of open files allows
    #[arg(long, global = true, env = "CORING_MAX_CONNECTIONS", value_name = "N")]
    #[arg(default_value_t = limits().connections_max.unwrap_or(0))]
    pub(crate) max_connections: usize,

    /// Most memory of each worker for received bytes until they are consumed or sent, at least 2m
    #[arg(
        long,
        global = true,
        env = "CORING_MAX_RECEIVE_MEMORY",
        value_name = "BYTES"
    )]
    #[arg(default_value_t = memory(limits().receive_memory_max))]
    pub(crate) max_receive_memory: Size,
}

/// What is told about the work.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reports")]
pub(crate) struct Reports {
    /// Write a line per request in the combined format: `-` to standard output, a path to that
    /// file, or off
    #[arg(long, global = true, env = "CORING_ACCESS_LOG", value_name = "WHERE")]
    #[arg(default_value = "off", value_parser = AccessLog::from_str)]
    pub(crate) access_log: AccessLog,

    /// At exit, print every counter to standard error: its name, the sum, and each worker's share
    #[arg(long, global = true, env = "CORING_STATS", value_parser = FalseyValueParser::new())]
    pub(crate) stats: bool,
}

/// The values of `--access-log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

impl FromStr for AccessLog {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "off" => Self::Off,
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

// Not a doc comment: there, `[::]` would be a link.
const BIND_HELP: &str = "\
Where to listen; may be given again: host:port, [::]:8000, unix:PATH, or :8000 and 8000 for all \
IPv4 addresses; port 0 takes a free one [default: 0.0.0.0:$PORT if PORT is set, else \
127.0.0.1:8000]";

const AFTER_HELP: &str = "\
Without a command, coring serves its embedded site: a page at /, and 404 elsewhere. Shared flags
stand before or after the command; after it they win, and a flag wins over its CORING_ variable.
CORING_BIND takes a list with commas.

The banner, notes and errors go to standard error; standard output is the access log's.

Signals:
  TERM, INT, QUIT  drain: accept no more, finish what runs; a second one ends it now
  HUP              ignored

Exit status:
  0   ended as asked
  1   failed to start or to go on (an address in use, say)
  2   wrong usage
  77  no engine: io_uring is refused here
  78  bad configuration (a folder or an access log that cannot be opened, say)";

fn limits() -> coring::Limits {
    coring::Limits::default()
}

/// The default of a time, which every flag has.
fn time(limit: Option<std::time::Duration>) -> Duration {
    limit.unwrap_or(std::time::Duration::MAX).into()
}

fn memory(limit: Option<usize>) -> Size {
    let bytes = limit.and_then(|bytes| bytes.try_into().ok());
    Size(bytes.unwrap_or(u64::MAX))
}

fn content_type(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text)
        .map_err(|_| "a header value has no line breaks or other control characters".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Flags, clap::Error> {
        let words = line.split_whitespace();
        Flags::try_parse_from(["coring"].into_iter().chain(words))
    }

    #[test]
    fn the_declaration_is_sound() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_long_flag_has_its_variable_and_its_help() {
        let mut command = Flags::command();
        command.build();
        let commands = [&command].into_iter().chain(command.get_subcommands());
        let flags = commands.flat_map(|command| command.get_arguments());
        for flag in flags.filter(|flag| !["help", "version"].contains(&flag.get_id().as_str())) {
            let Some(long) = flag.get_long() else {
                continue;
            };
            let variable = format!("CORING_{}", long.to_uppercase().replace('-', "_"));
            let env = flag.get_env().and_then(|env| env.to_str());
            assert_eq!(env, Some(variable.as_str()), "--{long}");
            assert!(flag.get_help().is_some(), "--{long}");
        }
    }

    #[test]
    fn shared_flags_stand_before_or_after_the_command() {
        for line in [
            "--bind :1 --bind :2 --cores 2 echo",
            "echo -b :1,:2 --cores=2",
        ] {
            let flags = parse(line).expect(line);
            assert!(matches!(flags.command, Some(Command::Echo)), "{line}");
            assert_eq!(flags.place.bind, [":1", ":2"], "{line}");
            assert_eq!(flags.place.cores.map(NonZeroUsize::get), Some(2), "{line}");
        }
    }

    #[test]
    fn access_logs_are_told_apart() {
        let check = |line, expected| {
            assert_eq!(
                parse(line).expect(line).reports.access_log,
                expected,
                "{line}"
            );
        };
        check("", AccessLog::Off);
        check("--access-log off", AccessLog::Off);
        check("--access-log -", AccessLog::Stdout);
        check("--access-log=./off", AccessLog::File("./off".into()));
    }

    #[test]
    fn an_answer_is_read() {
        let respond = |line: &str| match parse(line).expect(line).command {
            Some(Command::Respond(respond)) => respond,
            other => panic!("{line}: {other:?}"),
        };
        let plain = respond("respond");
        assert_eq!((plain.body.as_str(), plain.status), ("", 200));
        assert_eq!(plain.content_type, "text/plain; charset=utf-8");
        let full = respond("respond gone --status 410 --type text/html");
        assert_eq!((full.body.as_str(), full.status), ("gone", 410));
        assert_eq!(full.content_type, "text/html");
    }

    #[test]
    fn a_folder_is_read() {
        let serve = |line: &str| match parse(line).expect(line).command {
            Some(Command::Serve(serve)) => serve,
            other => panic!("{line}: {other:?}"),
        };
        let plain = serve("serve");
        assert_eq!(plain.folder, PathBuf::from("."));
        assert_eq!(plain.file_cache, Size(32 << 20));
        assert_eq!(plain.answer_memory, Size(32 << 20));
        let full = serve("serve site --file-cache 0 --answer-memory 1");
        assert_eq!(full.answer_memory, Size(1));
        assert_eq!(full.folder, PathBuf::from("site"));
        assert_eq!(full.file_cache, Size(0));
    }

    #[test]
    fn what_makes_no_sense_is_wrong_usage() {
        let check = |line, kind| {
            let error = parse(line).expect_err(line);
            assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
        };
        check("respond --status 199", ErrorKind::ValueValidation);
        check("respond --status 600", ErrorKind::ValueValidation);
        check("--idle-timeout 0", ErrorKind::ValueValidation);
        check("--max-fields 257", ErrorKind::ValueValidation);
        check("--max-head 16x", ErrorKind::ValueValidation);
        check("--cores 0", ErrorKind::ValueValidation);
        check("--pin sometimes", ErrorKind::InvalidValue);
        check("--bnd :1", ErrorKind::UnknownArgument);
        check("ecko", ErrorKind::InvalidSubcommand);
        check("--status 200", ErrorKind::UnknownArgument);
        let error = content_type("text\nplain").expect_err("has a line break");
        assert!(error.contains("line breaks"), "{error}");
    }
}
