//! Messages of the program to its operator: the banner, usage errors, counters, versions. It does
//! not know when they are printed.

use std::env;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use coring::net::Address;
use coring::process::copy_descriptor;
use coring::{Cores, EngineChoice, Handle, messages};
use rustix::fs::OFlags;
use rustix::stdio::dup2_stderr;

use crate::plan::ServerConfig;
use crate::variables;

/// Prints the banner to standard error, because standard output is for the access log. `about` has
/// the rows that describe what is served.
pub(crate) fn banner(about: &[(&str, String)], config: &ServerConfig, handle: &Handle) {
    let (bold, plain) = if stderr_takes_colours() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("{bold}coring {version}{plain}, pid {}\n", process::id());
    let mut row = |name: &str, value: &dyn Display| text.push_str(&format!("  {name:<8}{value}\n"));
    for (name, value) in about {
        row(name, value);
    }
    for address in handle.addresses() {
        row("on", &format_args!("{bold}{}{plain}", url(address)));
    }
    match config.in_glommio {
        true => row("engine", &"io_uring, hosted by glommio"),
        false => row("engine", &handle.engine()),
    }
    row("cores", &cores(config, handle));
    row("clients", &clients(config, handle));
    for note in &config.notes {
        row("note", note);
    }
    messages::write(text);
}

/// How many cores are used, and why. The library knows only that it was told a number.
fn cores(config: &ServerConfig, handle: &Handle) -> Cores {
    let mut cores = handle.cores().clone();
    if config.cores_are_of_workers {
        cores.why = cores.why.replace("requested", "as many as Python workers");
    }
    cores
}

/// How many connections are allowed, and why.
fn clients(config: &ServerConfig, handle: &Handle) -> String {
    let most = handle.connections_max();
    let wanted = config.limits.connections_max;
    let why = match wanted.and_then(|wanted| u64::try_from(wanted).ok()) {
        Some(wanted) if wanted == most => "--max-connections",
        _ => "by the limit of open files, ulimit -n",
    };
    format!("up to {most} at a time ({why})")
}

/// Prints each counter on a line: `name sum [worker 0, worker 1, …]`, without the commas.
pub(crate) fn stats(handle: &Handle) {
    let workers: Vec<_> = handle
        .metrics()
        .iter()
        .map(|worker| worker.list())
        .collect();
    let mut text = String::new();
    for (index, (name, _)) in workers.first().into_iter().flatten().enumerate() {
        let shares: Vec<u64> = workers.iter().map(|worker| worker[index].1).collect();
        let list: Vec<String> = shares.iter().map(u64::to_string).collect();
        let sum: u64 = shares.iter().sum();
        text.push_str(&format!("{name} {sum} [{}]\n", list.join(" ")));
    }
    messages::write(text);
}

/// Prints a usage error of `command`.
pub(crate) fn usage(mut error: clap::Error, command: &Command) {
    // A misspelt flag is no value, and its tip would be to pass it as one: `-- --prot`.
    if error.kind() == ErrorKind::UnknownArgument {
        error.remove(ContextKind::Suggested);
    }
    let text = error.render();
    let mut text = match stderr_takes_colours() {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    if let Some((flag, variable)) = variables::blamed(command, &error) {
        text = text.replace(&flag, &variable);
    }
    if let Some(hint) = hint(&error) {
        text.push_str(&hint);
        text.push('\n');
    }
    messages::write(text);
}

/// The flag or command for a habit from other servers.
fn hint(error: &clap::Error) -> Option<String> {
    let word = match error.get(ContextKind::InvalidSubcommand) {
        Some(command) => Some(command),
        None if error.kind() == ErrorKind::UnknownArgument => error.get(ContextKind::InvalidArg),
        None => None,
    };
    let Some(ContextValue::String(word)) = word else {
        return None;
    };
    Some(match word.as_str() {
        "-p" | "--port" => {
            "For a port: --bind 127.0.0.1:PORT, or --bind PORT for all IPv4 addresses".to_owned()
        }
        "--host" | "--listen" | "-l" => "For an address: --bind HOST:PORT".to_owned(),
        "-d" | "--dir" | "--directory" | "--root" => {
            "For the files of a directory: coring serve DIR".to_owned()
        }
        port if port.parse::<u16>().is_ok() => {
            format!("To listen on port {port}: coring --bind 127.0.0.1:{port}")
        }
        "-w" | "--workers" | "-k" | "--worker-class" | "--threads" => {
            "To run a Python application: coring run APP".to_owned()
        }
        app if app.ends_with(".py") || app.contains(':') => {
            format!("To run a Python application: coring run {app}")
        }
        path if Path::new(path).is_dir() => {
            format!("To serve the files of a directory: coring serve {path}")
        }
        _ => return None,
    })
}

/// Prints the versions, and the engine that would be used, to standard output.
pub(crate) fn version(choice: EngineChoice) {
    let engine = match choice.probe() {
        Ok(selected) => selected.to_string(),
        Err(refused) => refused.to_string(),
    };
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let libc = if cfg!(target_env = "musl") {
        "musl"
    } else {
        "gnu"
    };
    let text = format!(
        "coring {}\n  engine  {engine}\n  kernel  {}\n  build   {profile}, {}-{}-{libc}\n",
        env!("CARGO_PKG_VERSION"),
        coring::kernel_release(),
        env::consts::ARCH,
        env::consts::OS,
    );
    print(&text);
}

/// Lets standard error be a file, or another descriptor that is open, from now on. If the name of a
/// file is a symbolic link, that is an error unless it `follows` links.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn redirect(path: &Path, follows: bool) -> io::Result<()> {
    if let Some(copied) = copy_descriptor(path) {
        return Ok(dup2_stderr(copied?)?);
    }
    let flags = if follows {
        OFlags::empty()
    } else {
        OFlags::NOFOLLOW
    };
    let mut options = File::options();
    options.append(true).create(true);
    options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    let file = options.open(path)?;
    Ok(dup2_stderr(file)?)
}

/// Prints lines to standard output.
pub(crate) fn print(lines: &str) {
    let _ = io::stdout().write_all(lines.as_bytes());
}

/// The address as a URL for browsers and curl. A Unix socket's stays as it is.
fn url(address: &Address) -> String {
    match address {
        Address::Tcp(address) => format!("http://{address}/"),
        _ => address.to_string(),
    }
}

/// Whether standard error is a terminal with colours, and the operator did not decline them
/// (no-color.org).
fn stderr_takes_colours() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_urls() {
        let check = |address: &str, expected| {
            let address = address.parse().expect(address);
            assert_eq!(url(&address), expected);
        };
        check("127.0.0.1:8000", "http://127.0.0.1:8000/");
        check("[::1]:80", "http://[::1]:80/");
        check("unix:/run/coring.sock", "unix:/run/coring.sock");
    }
}
