//! The arguments of `coring run` that are about the access log.

use std::io::{IsTerminal, stdout};

use clap::Args;
use coring::{AccessLog, AccessLogFormat};

/// The lines of the access log.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access log")]
pub(crate) struct LogArgs {
    /// The format of the access log: that of gunicorn, uvicorn or json, combined, or text with
    /// gunicorn's atoms, as in '%(h)s "%(r)s" %(s)s'. auto: gunicorn's for WSGI applications,
    /// uvicorn's for ASGI applications
    #[arg(
        long = "access-logformat",
        alias = "access-log-format",
        env = "CORING_ACCESS_LOGFORMAT",
        value_name = "FORMAT",
        default_value = "auto",
        value_parser = format
    )]
    access_logformat: Format,
}

/// The values of `--access-logformat`.
#[derive(Debug, Clone)]
pub(crate) enum Format {
    Auto,
    Uvicorn,
    Other(Box<AccessLogFormat>),
}

impl Format {
    /// The format of the lines of `log`, which is `auto` if none is given.
    pub(crate) fn or(&self, log: &AccessLog, auto: AccessLogFormat) -> AccessLogFormat {
        match self {
            Self::Auto => auto,
            Self::Uvicorn => uvicorn(log),
            Self::Other(format) => (**format).clone(),
        }
    }
}

fn uvicorn(log: &AccessLog) -> AccessLogFormat {
    AccessLogFormat::uvicorn(*log == AccessLog::Stdout && stdout().is_terminal())
}

impl LogArgs {
    /// The format of the lines of `log`, for a WSGI application or another one.
    pub(crate) fn format(&self, log: &AccessLog, is_wsgi: bool) -> AccessLogFormat {
        let auto = match is_wsgi {
            true => AccessLogFormat::gunicorn(),
            false => uvicorn(log),
        };
        self.access_logformat.or(log, auto)
    }

    /// Whether the lines have values that only the application's workers know.
    pub(crate) fn has_notes(&self) -> bool {
        matches!(&self.access_logformat, Format::Other(format) if format.has_notes())
    }
}

/// Reads a value of `--access-logformat`.
///
/// # Errors
/// When it is no format.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    let other = |format| Format::Other(Box::new(format));
    Ok(match text {
        "auto" => Format::Auto,
        "uvicorn" => Format::Uvicorn,
        "gunicorn" => other(AccessLogFormat::gunicorn()),
        "combined" => other(AccessLogFormat::default()),
        "json" => other(AccessLogFormat::json()),
        text if text.contains('%') => {
            let parsed = AccessLogFormat::parse(text);
            other(parsed.map_err(|error| error.to_string())?)
        }
        _ => {
            let names = "auto, gunicorn, uvicorn, json or combined";
            return Err(format!("give {names}, or a text with atoms like %(h)s"));
        }
    })
}
