//! The command line and the environment: each flag with its name, its variable, its default and its
//! help. It does not know how a flag affects the server; `plan` does.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use ::http::HeaderValue;
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use coring::Files;

use crate::run::{self, RunArgs};
use crate::units::{Duration, Size, number};

/// An HTTP server on io_uring: one worker per core, one coroutine per connection
#[derive(Debug, Parser)]
#[command(name = "coring", version, after_help = AFTER_HELP, max_term_width = 80)]
#[command(override_usage = "coring [COMMAND] [OPTIONS]")]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) times: TimeArgs,
    #[command(flatten)]
    pub(crate) sizes: SizeArgs,
    #[command(flatten)]
    pub(crate) reports: Reports,
}

/// The command. Without one, coring serves its embedded site.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a Python application (WSGI or ASGI)
    Run(Box<RunArgs>),
    /// Serve the files of a directory
    Serve(Serve),
    /// Send the same response to every request (for load tests)
    Respond(Respond),
    /// Send the body of each request back (for tests)
    Echo,
    /// Print the versions, and the engine that would be used here
    Version,
}

/// The arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The directory to serve. Symbolic links are followed if they stay in it
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,

    /// Answer a directory without index.html with a page that lists it
    #[arg(long, env = "CORING_LISTING", value_parser = FalseyValueParser::new())]
    pub(crate) listing: bool,

    /// Memory of each worker for small files that are requested often. If these files change
    /// often, the cache may need twice as much. 0: no cache
    #[arg(long, env = "CORING_FILE_CACHE", value_name = "BYTES")]
    #[arg(default_value_t = Size(u64::try_from(Files::CACHE_BYTES_MAX).unwrap_or(u64::MAX)))]
    pub(crate) file_cache: Size,

    /// Memory of each worker, besides the cache, for file content that clients have not received
    /// yet. Beyond it, files are sent without being read into memory
    #[arg(long, env = "CORING_RESPONSE_MEMORY", value_name = "BYTES")]
    #[arg(default_value_t = Size(u64::try_from(Files::RESPONSE_BYTES_MAX).unwrap_or(u64::MAX)))]
    pub(crate) response_memory: Size,
}

/// The arguments of `respond`.
#[derive(Debug, Args)]
pub(crate) struct Respond {
    /// The body of the response
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) body: String,

    /// The status of the response, 200 to 599
    #[arg(long, env = "CORING_STATUS", value_name = "N", default_value_t = 200)]
    #[arg(value_parser = number(200_u16..=599))]
    pub(crate) status: u16,

    /// The Content-Type of the response
    #[arg(long = "type", env = "CORING_TYPE", value_name = "TYPE")]
    #[arg(default_value = "text/plain; charset=utf-8", value_parser = content_type)]
    pub(crate) content_type: HeaderValue,
}

/// The addresses that the server listens on, its workers and its engine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Addresses and cores")]
pub(crate) struct ListenArgs {
    #[arg(
        short,
        long,
        global = true,
        env = "CORING_BIND",
        value_name = "ADDRESS"
    )]
    #[arg(value_delimiter = ',', action = ArgAction::Append, help = BIND_HELP)]
    pub(crate) bind: Vec<String>,

    /// Run at most N workers, one per core [default: one for each core that this process may use]
    #[arg(long, global = true, env = "CORING_CORES", value_name = "N")]
    #[arg(value_parser = number(1_usize..))]
    pub(crate) cores: Option<usize>,

    /// Pin each worker to a core. auto: only if every core that this process may use has a worker
    #[arg(long, global = true, env = "CORING_PIN", value_name = "WHEN")]
    #[arg(value_enum, default_value_t = Pin::Auto)]
    pub(crate) pin: Pin,

    /// The interface to the kernel. auto: io_uring, or epoll if io_uring does not work. uring:
    /// fail if io_uring does not work. glommio: as uring, in executors of glommio (a build with the
    /// feature glommio)
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
    Glommio,
}

/// The limits of time.
#[derive(Debug, Args)]
#[command(next_help_heading = "Time limits (500ms, 10s, 2m, 1h; a bare number is seconds)")]
pub(crate) struct TimeArgs {
    /// How long a request head may take to arrive
    #[arg(long, global = true, env = "CORING_HEAD_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().head_timeout))]
    pub(crate) head_timeout: Duration,

    /// How long a request body may make no progress
    #[arg(long, global = true, env = "CORING_BODY_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().body_timeout))]
    pub(crate) body_timeout: Duration,

    /// How long a response may make no progress
    #[arg(long, global = true, env = "CORING_WRITE_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().write_timeout))]
    pub(crate) write_timeout: Duration,

    /// How long a connection may be idle between two requests
    #[arg(long, global = true, env = "CORING_IDLE_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().idle_timeout))]
    pub(crate) idle_timeout: Duration,

    /// How long running requests may continue after a signal to end
    #[arg(long, global = true, env = "CORING_DRAIN_TIMEOUT", value_name = "TIME")]
    #[arg(default_value_t = time(limits().drain_timeout))]
    pub(crate) drain_timeout: Duration,

    /// Minimum average rate of a body in either direction, in bytes per second. 0: no minimum
    #[arg(long, global = true, env = "CORING_MIN_RATE", value_name = "BYTES")]
    #[arg(default_value_t = Size(limits().bytes_per_second_min.unwrap_or(0)))]
    pub(crate) min_rate: Size,

    /// Whether a request is answered (serve) or dropped (end) if its client half-closes the
    /// connection (FIN)
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

/// The limits of size and number.
#[derive(Debug, Args)]
#[command(next_help_heading = "Size limits (bytes; 16k, 16m, 1g are binary units)")]
pub(crate) struct SizeArgs {
    /// Largest request head, 18 to 65535. A larger one gets a 431
    #[arg(long, global = true, env = "CORING_MAX_HEAD", value_name = "BYTES")]
    #[arg(default_value_t = Size(limits().head_bytes_max.into()))]
    pub(crate) max_head: Size,

    /// Longest request target (path and query), 1 to 65535. A longer one gets a 414
    #[arg(long, global = true, env = "CORING_MAX_TARGET", value_name = "BYTES")]
    #[arg(default_value_t = Size(limits().target_bytes_max.into()))]
    pub(crate) max_target: Size,

    /// Most header fields of a request, 1 to 256. More get a 431
    #[arg(long, global = true, env = "CORING_MAX_FIELDS", value_name = "N")]
    #[arg(default_value_t = limits().fields_max, value_parser = number(1_u16..=256))]
    pub(crate) max_fields: u16,

    /// Largest request body. A larger one gets a 413. 0: unlimited [default: 16m; run: 0]
    #[arg(long, global = true, env = "CORING_MAX_BODY", value_name = "BYTES")]
    pub(crate) max_body: Option<Size>,

    /// Most connections at a time. More get a 503. 0: as many as the limit of open files allows
    #[arg(long, global = true, env = "CORING_MAX_CONNECTIONS", value_name = "N")]
    #[arg(default_value_t = limits().connections_max.unwrap_or(0))]
    #[arg(value_parser = number(0_usize..))]
    pub(crate) max_connections: usize,

    /// Memory of each worker for received bytes until they are consumed or sent, at least 2m
    #[arg(
        long,
        global = true,
        env = "CORING_MAX_RECEIVE_MEMORY",
        value_name = "BYTES"
    )]
    #[arg(default_value_t = memory(limits().receive_memory_max))]
    pub(crate) max_receive_memory: Size,
}

/// The access log and the counters.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reports")]
pub(crate) struct Reports {
    /// Where to log requests: off, - for standard output, or the path of
    /// a file. auto: `serve` logs to a terminal, other commands do not log
    #[arg(long, global = true, env = "CORING_ACCESS_LOG", value_name = "WHERE")]
    #[arg(default_value = "auto", value_parser = AccessLog::from_str)]
    pub(crate) access_log: AccessLog,

    /// The format of the access log: combined, json, or that of gunicorn or uvicorn, or text with
    /// gunicorn's atoms, as in '%(h)s "%(r)s" %(s)s'. auto: combined
    #[arg(
        long,
        global = true,
        env = "CORING_ACCESS_LOGFORMAT",
        value_name = "FORMAT"
    )]
    #[arg(alias = "access-log-format", default_value = "auto", value_parser = run::format)]
    pub(crate) access_logformat: run::Format,

    /// Do not log requests of this path, or of all paths that begin so: /PATH, or /PATH*. May be
    /// repeated
    #[arg(
        long,
        global = true,
        env = "CORING_ACCESS_LOG_SKIP",
        value_name = "PATH"
    )]
    #[arg(value_delimiter = ',', action = ArgAction::Append, value_parser = unlogged_path)]
    pub(crate) access_log_skip: Vec<String>,

    /// At exit, print each counter to standard error: its name, the sum, the value of each worker
    #[arg(long, global = true, env = "CORING_STATS", value_parser = FalseyValueParser::new())]
    pub(crate) stats: bool,
}

fn unlogged_path(text: &str) -> Result<String, String> {
    match text.split_once('*') {
        _ if !text.starts_with('/') => Err("a path begins with /".to_owned()),
        Some((_, rest)) if !rest.is_empty() => Err("a * may only be at the end".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// The values of `--access-log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AccessLog {
    Auto,
    Off,
    Stdout,
    File(PathBuf),
}

impl FromStr for AccessLog {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "off" => Self::Off,
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

// Not a doc comment, because rustdoc would take `[::]` for a link.
const BIND_HELP: &str = "\
Address to listen on. May be repeated. Forms: host:port (all addresses of the host), [::]:8000, \
unix:PATH, unix:@NAME (abstract), and :8000 or 8000 for all IPv4 addresses. Port 0 takes a free \
one [default: 0.0.0.0:$PORT if PORT is set, else 127.0.0.1:8000]";

const AFTER_HELP: &str = "\
Without a command, coring serves its embedded site: a page at /, 404 elsewhere.

Shared flags may stand before or after the command. If a flag is in both places,
the one after the command counts. A flag takes precedence over its variable.
CORING_BIND takes a list with commas.

The banner, notes and errors go to standard error. Only the access log goes to
standard output.

Signals:
  TERM, INT, QUIT  drain: accept no more connections, complete running requests.
                   A second signal stops the server; the same one within a
                   second counts as one
  HUP, USR1        open the file of the access log again. For `run`, see
                   coring run --help

Exit status:
  0   success
  1   failed to start, or failed later (an address is in use, say)
  2   wrong usage
  77  io_uring does not work here, and --engine uring or glommio requires it
  78  bad configuration (a directory or an access log cannot be opened, say)";

fn limits() -> coring::Limits {
    coring::Limits::default()
}

/// A default limit as a flag's value. No limit becomes the longest time.
fn time(limit: Option<std::time::Duration>) -> Duration {
    limit.unwrap_or(std::time::Duration::MAX).into()
}

/// A default limit as a flag's value. No limit becomes the largest size.
fn memory(limit: Option<usize>) -> Size {
    let bytes = limit.and_then(|bytes| bytes.try_into().ok());
    Size(bytes.unwrap_or(u64::MAX))
}

fn content_type(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text)
        .map_err(|_| "must not contain line breaks or other control characters".to_owned())
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
    fn clap_accepts_the_declaration() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_long_flag_has_its_variable_and_its_help() {
        let mut command = Flags::command();
        command.build();
        let commands = [&command].into_iter().chain(command.get_subcommands());
        let flags = commands.flat_map(|command| command.get_arguments());
        let is_documented = |flag: &&clap::Arg| {
            !flag.is_hide_set() && !["help", "version"].contains(&flag.get_id().as_str())
        };
        for flag in flags.filter(is_documented) {
            let Some(long) = flag.get_long() else {
                continue;
            };
            let variable = format!("CORING_{}", long.to_uppercase().replace('-', "_"));
            let env = flag.get_env().and_then(|env| env.to_str());
            assert_eq!(env, Some(variable.as_str()), "--{long}");
            assert!(flag.get_help().is_some(), "--{long}");
        }
    }

    /// clap would break it, and lose its columns.
    #[test]
    fn no_line_below_the_flags_is_too_wide() {
        let mut command = Flags::command();
        command.build();
        let commands = [&command].into_iter().chain(command.get_subcommands());
        for text in commands.flat_map(|command| command.get_after_help()) {
            for line in text.to_string().lines() {
                assert!(line.len() <= 80, "{line}");
            }
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
            assert_eq!(flags.listen.bind, [":1", ":2"], "{line}");
            assert_eq!(flags.listen.cores, Some(2), "{line}");
        }
    }

    #[test]
    fn values_of_the_access_log_are_parsed() {
        let check = |line, expected| {
            assert_eq!(
                parse(line).expect(line).reports.access_log,
                expected,
                "{line}"
            );
        };
        check("", AccessLog::Auto);
        check("--access-log off", AccessLog::Off);
        check("--access-log -", AccessLog::Stdout);
        check("--access-log=./off", AccessLog::File("./off".into()));
    }

    #[test]
    fn respond_is_parsed() {
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
    fn serve_is_parsed() {
        let serve = |line: &str| match parse(line).expect(line).command {
            Some(Command::Serve(serve)) => serve,
            other => panic!("{line}: {other:?}"),
        };
        let plain = serve("serve");
        assert_eq!(plain.directory, PathBuf::from("."));
        assert_eq!(plain.file_cache, Size(32 << 20));
        assert_eq!(plain.response_memory, Size(32 << 20));
        let full = serve("serve site --file-cache 0 --response-memory 1");
        assert_eq!(full.response_memory, Size(1));
        assert_eq!(full.directory, PathBuf::from("site"));
        assert_eq!(full.file_cache, Size(0));
    }

    #[test]
    fn invalid_values_are_usage_errors() {
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
