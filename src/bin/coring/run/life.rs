//! The flags of `coring run` for how long workers live, and for what becomes of requests when one
//! dies.

use std::str::FromStr;
use std::time::Duration as StdDuration;

use clap::Args;
use clap::builder::FalseyValueParser;
use coring::python::Options;

use crate::units::{Duration, Size, number};

/// The least that a start may take if `--timeout` is given: a loaded machine starts Python slowly.
const START_MIN: StdDuration = StdDuration::from_secs(30);

/// How long workers live.
#[derive(Debug, Args)]
#[command(next_help_heading = "Life of the workers")]
pub(crate) struct LifeArgs {
    /// End a worker whose request (with one thread), or whose main thread or event loop, does not
    /// go on for so long. Its requests get 504. 0: never
    #[arg(short, long, env = "CORING_TIMEOUT", value_name = "TIME")]
    #[arg(default_value = "0")]
    pub(crate) timeout: Timeout,

    /// End a worker that is not ready after so long. 0: never [default: --timeout, but at least
    /// 30s; 5m without it, or with --preload]
    #[arg(long, env = "CORING_START_TIMEOUT", value_name = "TIME")]
    pub(crate) start_timeout: Option<Timeout>,

    /// Replace a worker after N requests. 0: never
    #[arg(
        long,
        env = "CORING_MAX_REQUESTS",
        value_name = "N",
        default_value_t = 0
    )]
    #[arg(value_parser = number(0_u32..))]
    pub(crate) max_requests: u32,

    /// Let each worker have up to N more requests, by chance
    #[arg(long, env = "CORING_MAX_REQUESTS_JITTER", value_name = "N")]
    #[arg(default_value_t = 0, value_parser = number(0_u32..))]
    pub(crate) max_requests_jitter: u32,

    /// Replace a worker after so long
    #[arg(long, env = "CORING_WORKERS_LIFETIME", value_name = "TIME")]
    pub(crate) workers_lifetime: Option<Duration>,

    /// Replace a worker that has more memory than this
    #[arg(long, env = "CORING_WORKERS_MAX_RSS", value_name = "BYTES")]
    pub(crate) workers_max_rss: Option<Size>,

    /// Run a GET, HEAD or OPTIONS request without a body once more if its worker dies before the
    /// response begins
    #[arg(long, env = "CORING_RETRY_SAFE", value_parser = FalseyValueParser::new())]
    pub(crate) retry_safe: bool,
}

/// The value of `--timeout`: none if there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Duration::unless_zero(text).map(Self)
    }
}

impl LifeArgs {
    /// Puts the values where the library takes them from.
    pub(crate) fn apply(&self, options: &mut Options) {
        options.timeout = self.timeout.0.map(Into::into);
        if let Some(start_timeout) = self.start_timeout {
            options.start_timeout = start_timeout.0.map(Into::into);
        } else if let (Some(timeout), false) = (options.timeout, options.preload) {
            // gunicorn preloads an application outside of the time that its workers have.
            options.start_timeout = Some(timeout.max(START_MIN));
        }
        options.max_requests = (self.max_requests > 0).then_some(self.max_requests);
        options.max_requests_jitter = self.max_requests_jitter;
        options.workers_lifetime = self.workers_lifetime.map(Into::into);
        options.workers_max_rss = self.workers_max_rss.map(|size| size.0);
        options.retry_safe = self.retry_safe;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_never_in_every_unit() {
        for text in ["0", "0s", "0ms", "0m", "00", "0H"] {
            assert_eq!(text.parse(), Ok(Timeout(None)), "{text}");
        }
        assert_eq!("30".parse(), Ok(Timeout(Some(Duration(30_000)))));
        assert!("soon".parse::<Timeout>().is_err());
    }
}
