//! Turns flags and environment into a plan. The function is pure: it does not know how a plan is
//! carried out, or whether this machine allows it.

use std::path::PathBuf;

use ::http::StatusCode;
use coring::{AccessLog, AccessLogFormat, EngineChoice, HalfClose, Limits, Pin};

use crate::app::{App, Directory, FixedResponse};
use crate::flags::{self, Command, Flags, Respond, Serve};
use crate::run::{self, RunArgs};
use crate::units::{self, Size};

/// The action of this run of the program.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Serve until a signal ends the server.
    Serve(App<Directory>, Box<ServerConfig>),
    /// Run a Python application until then.
    Run(Box<RunArgs>, Box<ServerConfig>),
    /// Print the versions, and the engine that would be used.
    Version(EngineChoice),
}

/// The configuration of the server.
#[derive(Debug)]
pub(crate) struct ServerConfig {
    /// As typed; the library parses them.
    pub(crate) addresses: Vec<String>,
    pub(crate) cores: Option<usize>,
    /// The number of Python workers has decided that.
    pub(crate) cores_are_of_workers: bool,
    pub(crate) pin: Pin,
    pub(crate) engine: EngineChoice,
    /// The workers are guests of glommio's executors.
    pub(crate) in_glommio: bool,
    pub(crate) limits: Limits,
    pub(crate) drain_timeout: units::Duration,
    pub(crate) access_log: AccessLog,
    /// The format of its lines, unless an application runs.
    pub(crate) access_log_format: AccessLogFormat,
    /// Paths whose requests are not logged.
    pub(crate) access_log_skip: Vec<String>,
    /// Whether the counters are printed at the end.
    pub(crate) stats: bool,
    /// The file that takes the place of standard error.
    pub(crate) error_log: Option<PathBuf>,
    /// Warnings for the banner, a line each.
    pub(crate) notes: Vec<String>,
}

/// Makes a plan of `flags` and `port`, the value of the variable `PORT`, which platforms set.
/// `on_terminal`: standard output is one.
///
/// # Errors
/// Fails if a value is out of bounds, with one line that has the cure.
pub(crate) fn plan(flags: Flags, port: Option<&str>, on_terminal: bool) -> Result<Plan, String> {
    let engine = engine(flags.listen.engine)?;
    let in_glommio = flags.listen.engine == flags::Engine::Glommio;
    let mut flags = flags;
    let command = flags.command.take();
    if let Some(Command::Version) = command {
        return Ok(Plan::Version(engine));
    }
    let mut limits = limits(&flags)?;
    let mut cores = flags.listen.cores;
    let cores_are_of_workers = cores.is_none() && matches!(command, Some(Command::Run(_)));
    let mut error_log = None;
    let mut notes = notes(&limits, flags.sizes.max_body.is_some());
    if let Some(Command::Run(run)) = &command {
        if flags.sizes.max_body.is_none() {
            limits.body_bytes_max = None;
        }
        cores = cores.or_else(|| Some(run.cores()));
        flags.listen.bind = run::addresses(&flags.listen.bind)?;
        flags.reports.access_log = run.access_log();
        notes.extend(run.notes());
        error_log = run.compat.error_log();
    }
    let access_log = match flags.reports.access_log {
        flags::AccessLog::Auto if on_terminal && matches!(command, Some(Command::Serve(_))) => {
            AccessLog::Stdout
        }
        flags::AccessLog::Auto | flags::AccessLog::Off => AccessLog::Off,
        flags::AccessLog::Stdout => AccessLog::Stdout,
        flags::AccessLog::File(path) => AccessLog::File(path),
    };
    let combined = AccessLogFormat::default();
    let config = Box::new(ServerConfig {
        addresses: addresses(flags.listen.bind, port)?,
        cores,
        cores_are_of_workers,
        pin: match flags.listen.pin {
            flags::Pin::Auto => Pin::Auto,
            flags::Pin::Always => Pin::Always,
            flags::Pin::Never => Pin::Never,
        },
        engine,
        in_glommio,
        error_log,
        notes,
        limits,
        drain_timeout: flags.times.drain_timeout,
        access_log_format: flags.reports.access_logformat.or(&access_log, combined),
        access_log,
        access_log_skip: flags.reports.access_log_skip,
        stats: flags.reports.stats,
    });
    let app = match command {
        Some(Command::Run(run)) => return Ok(Plan::Run(run, config)),
        Some(Command::Serve(serve)) => App::Files(directory(serve)?),
        Some(Command::Respond(respond)) => App::Respond(fixed_response(respond)?),
        Some(Command::Echo) => App::Echo,
        None | Some(Command::Version) => App::Site,
    };
    Ok(Plan::Serve(app, config))
}

fn engine(wanted: flags::Engine) -> Result<EngineChoice, String> {
    match wanted {
        flags::Engine::Auto => Ok(EngineChoice::Auto),
        flags::Engine::Uring => Ok(EngineChoice::Uring),
        flags::Engine::Epoll => Ok(EngineChoice::Epoll),
        flags::Engine::Glommio if cfg!(feature = "glommio") => Ok(EngineChoice::Uring),
        flags::Engine::Glommio => {
            let message = "--engine glommio needs a coring with the feature glommio: build it with \
                           cargo build --release --features glommio";
            Err(message.to_owned())
        }
    }
}

/// `--bind` or `CORING_BIND` takes precedence over `PORT`. The default is a loopback address, which
/// other machines cannot reach.
///
/// # Errors
/// When `PORT` is no port.
pub(crate) fn addresses(bind: Vec<String>, port: Option<&str>) -> Result<Vec<String>, String> {
    match port {
        _ if !bind.is_empty() => Ok(bind),
        None | Some("") => Ok(vec!["127.0.0.1:8000".to_owned()]),
        Some(port) if port.parse::<u16>().is_ok() => Ok(vec![format!("0.0.0.0:{port}")]),
        Some(port) => Err(format!(
            "PORT is `{port}`, which is not a port number; unset it, or give --bind ADDRESS"
        )),
    }
}

fn limits(flags: &Flags) -> Result<Limits, String> {
    let (times, sizes) = (&flags.times, &flags.sizes);
    let mut limits = Limits::default();
    limits.head_timeout = Some(times.head_timeout.into());
    limits.body_timeout = Some(times.body_timeout.into());
    limits.write_timeout = Some(times.write_timeout.into());
    limits.idle_timeout = Some(times.idle_timeout.into());
    limits.drain_timeout = Some(times.drain_timeout.into());
    limits.bytes_per_second_min = none_if_zero(times.min_rate.0);
    limits.head_bytes_max = bounded("--max-head", sizes.max_head, Limits::HEAD_BYTES_MIN)?;
    limits.target_bytes_max = bounded("--max-target", sizes.max_target, 1)?;
    limits.fields_max = sizes.max_fields;
    if let Some(max_body) = sizes.max_body {
        limits.body_bytes_max = none_if_zero(max_body.0);
    }
    limits.connections_max = none_if_zero(sizes.max_connections);
    limits.receive_memory_max = Some(bounded(
        "--max-receive-memory",
        sizes.max_receive_memory,
        Limits::RECEIVE_MEMORY_MIN,
    )?);
    limits.half_close = match times.half_close {
        flags::HalfClose::Serve => HalfClose::Serve,
        flags::HalfClose::End => HalfClose::End,
    };
    Ok(limits)
}

/// On the command line 0 means no limit.
fn none_if_zero<T: Default + PartialEq>(limit: T) -> Option<T> {
    (limit != T::default()).then_some(limit)
}

/// Checks that `size` is at least `least`, and fits its type.
fn bounded<T>(flag: &str, size: Size, least: T) -> Result<T, String>
where
    T: TryFrom<u64> + TryInto<u64> + PartialOrd,
{
    match T::try_from(size.0) {
        Ok(bytes) if bytes >= least => Ok(bytes),
        Ok(_) => Err(format!(
            "{flag} is {size}; it must be at least {}",
            Size(least.try_into().unwrap_or(u64::MAX))
        )),
        Err(_) => Err(format!("{flag} is {size}; it must be less than 64k")),
    }
}

fn directory(serve: Serve) -> Result<Directory, String> {
    let addressable = |flag: &str, size: Size| {
        usize::try_from(size.0)
            .map_err(|_| format!("{flag} is {size}; this machine cannot address that much"))
    };
    Ok(Directory {
        path: serve.directory,
        lists: serve.listing,
        cache_bytes_max: addressable("--file-cache", serve.file_cache)?,
        response_bytes_max: addressable("--response-memory", serve.response_memory)?,
    })
}

fn fixed_response(respond: Respond) -> Result<FixedResponse, String> {
    let Respond {
        body,
        status,
        content_type,
    } = respond;
    let status =
        StatusCode::from_u16(status).map_err(|_| format!("{status} is not a status code"))?;
    // RFC 9110 §15.3.5, §15.3.6 and §15.4.5.
    let has_no_content = matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    );
    if has_no_content && !body.is_empty() {
        return Err(format!(
            "a response with status {} has no body; leave out BODY or --status",
            status.as_u16()
        ));
    }
    Ok(FixedResponse {
        status,
        content_type,
        body: body.into(),
    })
}

fn notes(limits: &Limits, has_max_body: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if has_max_body && limits.body_bytes_max.is_none() {
        notes.push("--max-body 0: request bodies are unlimited".to_owned());
    }
    if limits.bytes_per_second_min.is_none() {
        let note = "--min-rate 0: a client can hold a connection with one byte per time limit";
        notes.push(note.to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    fn plan_of(line: &str, port: Option<&str>) -> Result<Plan, String> {
        let words = line.split_whitespace();
        let flags = Flags::try_parse_from(["coring"].into_iter().chain(words)).expect(line);
        plan(flags, port, false)
    }

    fn config(line: &str, port: Option<&str>) -> Box<ServerConfig> {
        match plan_of(line, port) {
            Ok(Plan::Serve(_, config)) => config,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn bind_wins_over_port_and_port_over_loopback() {
        let check = |line, port, expected: &[&str]| {
            assert_eq!(config(line, port).addresses, expected, "{line}, {port:?}");
        };
        check("", None, &["127.0.0.1:8000"]);
        check("", Some(""), &["127.0.0.1:8000"]);
        check("", Some("8080"), &["0.0.0.0:8080"]);
        check("echo", Some("0"), &["0.0.0.0:0"]);
        check("-b :9000", Some("8080"), &[":9000"]);
        check("-b :9000", Some("nonsense"), &[":9000"]);
        check(
            "-b 9000 -b unix:/run/c.sock,[::]:1",
            None,
            &["9000", "unix:/run/c.sock", "[::]:1"],
        );
    }

    #[test]
    fn an_invalid_port_is_named() {
        for port in ["tcp://10.0.0.1:80", "65536", "-1", " 80"] {
            let error = plan_of("", Some(port)).expect_err(port);
            assert!(error.contains(&format!("`{port}`")), "{error}");
        }
    }

    #[test]
    fn without_flags_the_defaults_of_the_library_apply() {
        let config = config("", None);
        let (limits, default) = (format!("{:?}", config.limits), Limits::default());
        assert_eq!(limits, format!("{default:?}"));
        assert!(matches!(plan_of("", None), Ok(Plan::Serve(App::Site, _))));
        assert_eq!((config.cores, config.stats), (None, false));
        assert!(config.notes.is_empty());
    }

    #[test]
    fn flags_set_the_limits_of_the_library() {
        let line = "--head-timeout 500ms --body-timeout 1m --write-timeout 2 --idle-timeout 3s \
                    --drain-timeout 4s --min-rate 1k --max-head 32k --max-target 1k --max-fields 9 \
                    --max-body 1g --max-connections 5 --max-receive-memory 8m --half-close end";
        let limits = config(line, None).limits;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(limits.head_timeout, Some(Duration::from_millis(500)));
        assert_eq!(limits.body_timeout, seconds(60));
        assert_eq!(limits.write_timeout, seconds(2));
        assert_eq!(limits.idle_timeout, seconds(3));
        assert_eq!(limits.drain_timeout, seconds(4));
        assert_eq!(limits.bytes_per_second_min, Some(1024));
        assert_eq!(
            (limits.head_bytes_max, limits.target_bytes_max),
            (32 << 10, 1 << 10)
        );
        assert_eq!((limits.fields_max, limits.connections_max), (9, Some(5)));
        assert_eq!(limits.half_close, HalfClose::End);
        assert_eq!(limits.body_bytes_max, Some(1 << 30));
        assert_eq!(limits.receive_memory_max, Some(8 << 20));
    }

    #[test]
    fn sizes_out_of_bounds_are_usage_errors() {
        for (line, why) in [
            ("--max-head 0", "--max-head is 0; it must be at least 18"),
            ("--max-head 17", "--max-head is 17; it must be at least 18"),
            (
                "--max-head 64k",
                "--max-head is 64k; it must be less than 64k",
            ),
            ("--max-target 0", "--max-target is 0; it must be at least 1"),
            ("--max-target 64k", "--max-target is 64k; it must be less"),
            (
                "--max-receive-memory 0",
                "--max-receive-memory is 0; it must be at least 2m",
            ),
            (
                "--max-receive-memory 2047k",
                "--max-receive-memory is 2047k; it must be at least 2m",
            ),
        ] {
            let error = plan_of(line, None).expect_err(line);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn unlimited_values_are_noted() {
        let line = "--max-body 0 --min-rate 0 --max-connections 0";
        let config = config(line, None);
        assert_eq!(config.notes.len(), 2);
        assert_eq!(config.limits.body_bytes_max, None);
        assert_eq!(config.limits.bytes_per_second_min, None);
        assert_eq!(config.limits.connections_max, None);
    }

    #[test]
    fn a_status_without_content_takes_no_body() {
        for status in [204, 205, 304] {
            assert!(
                plan_of(&format!("respond --status {status}"), None).is_ok(),
                "{status}"
            );
            let error = plan_of(&format!("respond hello --status {status}"), None);
            assert!(
                error.expect_err("has a body").contains("has no body"),
                "{status}"
            );
        }
    }
}
