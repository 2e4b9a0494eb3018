//! An open-loop load generator: it sends requests at a fixed rate whatever the server does, and
//! measures the latency of each from the moment it was *due*. If the server stalls, every request
//! that had to wait counts, not only the few that a closed-loop client would have sent meanwhile.
//!
//! It is one thread that never sleeps while it measures: give it a core of its own. It does not
//! search for the highest load that a server can take. It does not pipeline, send bodies or speak
//! TLS. A response without a `Content-Length` is an error.

mod download;
mod idle;
mod open_loop;
mod response;
mod target;

use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use open_loop::{Plan, Tally};
use target::Target;

const USAGE: &str = "usage: load --target http://HOST:PORT/PATH \
                     (--connections C --rate R --seconds S [--warmup S] [--beside URL] | --idle N)";

const CONNECTIONS_MAX: u64 = 1_000_000;
const RATE_MAX: u64 = 10_000_000;
const SECONDS_MAX: u64 = 3600;

fn main() -> ExitCode {
    let outcome = Arguments::from_env().and_then(|arguments| arguments.run());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Arguments {
    target: Option<Target>,
    connections: Option<usize>,
    rate: Option<u64>,
    seconds: Option<u64>,
    warmup: u64,
    beside: Option<Target>,
    idle: Option<usize>,
}

impl Arguments {
    fn from_env() -> io::Result<Self> {
        let mut arguments = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| usage(&flag))?;
            let number = |max| number(&flag, &value, max);
            match flag.as_str() {
                "--target" => arguments.target = Some(Target::from_str(&value)?),
                "--beside" => arguments.beside = Some(Target::from_str(&value)?),
                "--connections" => arguments.connections = Some(count(number(CONNECTIONS_MAX)?)),
                "--idle" => arguments.idle = Some(count(number(CONNECTIONS_MAX)?)),
                "--rate" => arguments.rate = Some(number(RATE_MAX)?),
                "--seconds" => arguments.seconds = Some(number(SECONDS_MAX)?),
                "--warmup" if value == "0" => arguments.warmup = 0,
                "--warmup" => arguments.warmup = number(SECONDS_MAX)?,
                _ => return Err(usage(&flag)),
            }
        }
        Ok(arguments)
    }

    fn run(self) -> io::Result<()> {
        let target = self.target.ok_or_else(|| usage("--target is missing"))?;
        let connections = self.connections.or(self.idle);
        target::allow_descriptors(connections.unwrap_or(0))?;
        match (self.connections, self.rate, self.seconds, self.idle) {
            (None, None, None, Some(connections)) => idle::hold(&target, connections),
            (Some(connections), Some(rate), Some(seconds), None) => {
                let tally = open_loop::run(&Plan {
                    target,
                    connections,
                    rate: NonZeroU64::new(rate).ok_or_else(|| usage("--rate 0"))?,
                    warmup: Duration::from_secs(self.warmup),
                    measured: Duration::from_secs(seconds),
                    beside: self.beside,
                })?;
                writeln!(io::stdout(), "{}", json(&tally))
            }
            _ => Err(usage(
                "give either --idle, or --connections, --rate and --seconds",
            )),
        }
    }
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A whole number from 1 to `max`.
fn number(flag: &str, value: &str, max: u64) -> io::Result<u64> {
    let number = value
        .parse()
        .ok()
        .filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| usage(&format!("{flag} {value}: give a number from 1 to {max}")))
}

fn usage(what: &str) -> io::Error {
    io::Error::other(format!("{what}; {USAGE}"))
}

fn json(tally: &Tally) -> String {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let percentile = |share| micros(tally.latency_ns.value_at_quantile(share));
    format!(
        "{{\"sent\": {}, \"answered\": {}, \"errors\": {}, \"late\": {}, \"p50_us\": {:.1}, \
         \"p90_us\": {:.1}, \"p99_us\": {:.1}, \"p999_us\": {:.1}, \"max_us\": {:.1}, \
         \"beside_bytes\": {}}}",
        tally.sent,
        tally.answered,
        tally.errors,
        tally.late,
        percentile(0.5),
        percentile(0.9),
        percentile(0.99),
        percentile(0.999),
        micros(tally.latency_ns.max()),
        tally.beside_bytes,
    )
}
