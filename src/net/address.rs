//! The addresses on which a server listens, as an operator writes them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// A TCP or Unix socket address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    /// Parses `host:port`, `[::1]:8000`, `:8000`, `8000` (the last two: every IPv4 address) or
    /// `unix:PATH`. A host name is resolved to its first IPv4 address or, without one, to its first
    /// address.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path, as in unix:/run/coring.sock".to_owned()),
                _ => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
            let port = port
                .parse()
                .map_err(|_| format!("port {port} is not below 65536"))?;
            return Ok(Self::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let named = text.rsplit_once(':').filter(|(host, port)| {
            !host.is_empty() && !host.contains([':', '/']) && port.parse::<u16>().is_ok()
        });
        let Some((host, port)) = named else {
            return Err(format!(
                "{text:?} is not an address: write HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH"
            ));
        };
        // RFC 6761 §6.3: localhost needs no lookup, and works without /etc/hosts and a resolver.
        let host = if host.eq_ignore_ascii_case("localhost") {
            "127.0.0.1"
        } else {
            host
        };
        let found = format!("{host}:{port}")
            .to_socket_addrs()
            .map_err(|error| format!("cannot resolve {host}: {error}"))?;
        let found: Vec<SocketAddr> = found.collect();
        let first = found
            .iter()
            .find(|address| address.is_ipv4())
            .or_else(|| found.first());
        first
            .map(|&address| Self::Tcp(address))
            .ok_or_else(|| format!("{host} has no address"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let got = text.parse::<Address>().map(|address| address.to_string());
        match expected {
            Ok(expected) => assert_eq!(got.as_deref(), Ok(expected), "{text}"),
            Err(part) => {
                let message = got.expect_err(text);
                assert!(message.contains(part), "{text}: {message}");
            }
        }
    }

    #[test]
    fn parses_every_form_of_an_address() {
        check("127.0.0.1:8000", Ok("127.0.0.1:8000"));
        check("localhost:80", Ok("127.0.0.1:80"));
        check("LocalHost:80", Ok("127.0.0.1:80"));
        check("[::1]:0", Ok("[::1]:0"));
        check(":8000", Ok("0.0.0.0:8000"));
        check("8000", Ok("0.0.0.0:8000"));
        check("unix:/run/a b.sock", Ok("unix:/run/a b.sock"));
        check("unix:", Err("needs a path"));
        check("", Err("not an address"));
        check(":", Err("not an address"));
        check("127.0.0.1", Err("not an address"));
        check("127.0.0.1:", Err("not an address"));
        check("127.0.0.1:99999", Err("not an address"));
        check("99999", Err("not below 65536"));
        check("::1:http", Err("not an address"));
        check("http://localhost:80", Err("not an address"));
    }
}
