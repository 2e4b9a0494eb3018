//! The addresses on which a server listens, as an operator writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
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
    /// A name of a Unix socket that has no file (unix(7): abstract). Every process of the network
    /// namespace may connect.
    Abstract(String),
}

impl Address {
    /// The addresses that `text` stands for, at least one: `host:port`, `[::1]:8000`,
    /// `[fe80::1%eth0]:8000`, `:8000`, `8000` (the last two: every IPv4 address), `unix:PATH` or
    /// `unix:@NAME` (abstract). A host name stands for all addresses that it resolves to.
    ///
    /// # Errors
    /// If it has no such form, or the name cannot be resolved. The message is one line.
    pub fn all_of(text: &str) -> Result<Vec<Self>, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match (path, path.strip_prefix('@')) {
                ("", _) => Err("unix: needs a path, as in unix:/run/coring.sock".to_owned()),
                (_, Some("")) => Err("unix:@ needs a name, as in unix:@coring".to_owned()),
                (_, Some(name)) => Ok(vec![Self::Abstract(name.to_owned())]),
                (path, None) => Ok(vec![Self::Unix(PathBuf::from(path))]),
            };
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
            let port = port
                .parse()
                .map_err(|_| format!("port {port} is not below 65536"))?;
            let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            return Ok(vec![Self::Tcp(every)]);
        }
        if let Ok(address) = text.parse() {
            return Ok(vec![Self::Tcp(address)]);
        }
        let Some((host, port)) = host_and_port(text) else {
            return Err(format!(
                "{text:?} is not an address: write HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH"
            ));
        };
        let mut found = resolve(host, port)?;
        found.dedup();
        match found.is_empty() {
            true => Err(format!("{host} has no address")),
            false => Ok(found.into_iter().map(Self::Tcp).collect()),
        }
    }
}

/// Splits `host:port`, or `[address%zone]:port`, without the brackets.
pub(super) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        // Without a zone it would be an address of the standard library's.
        Some(host) => Some(host).filter(|host| host.contains('%'))?,
        None => Some(host).filter(|host| !host.contains([':', '/', '[', ']']))?,
    };
    Some((host, port.parse().ok()?)).filter(|_| !host.is_empty())
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    // RFC 6761 §6.3: localhost needs no lookup, and works without /etc/hosts and a resolver.
    if host.eq_ignore_ascii_case("localhost") {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).into());
    }
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|error| match host.split_once('%') {
        Some((_, zone)) => format!("{host} is no address of an interface {zone}: {error}"),
        None => format!("cannot resolve {host}: {error}; check the name, or give an address"),
    });
    // Those of IPv4 first, because they are more often the ones that a client uses.
    let (v4, v6): (Vec<_>, Vec<_>) = found?.partition(SocketAddr::is_ipv4);
    Ok([v4, v6].concat())
}

impl FromStr for Address {
    type Err = String;

    /// Parses one of the forms of [`Address::all_of`]. Of several addresses the first is returned.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self::all_of(text)?.swap_remove(0))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
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
        check("unix:@a b", Ok("unix:@a b"));
        check("unix:./@a", Ok("unix:./@a"));
        check("unix:@", Err("needs a name"));
        check("[fe80::1%1]:80", Ok("[fe80::1%1]:80"));
        check("[fe80::1%lo]:80", Ok("[fe80::1%1]:80"));
        check("[fe80::1%no-such]:80", Err("interface no-such"));
        check("[::1]", Err("not an address"));
        check("[localhost]:80", Err("not an address"));
        check("", Err("not an address"));
        check(":", Err("not an address"));
        check("127.0.0.1", Err("not an address"));
        check("127.0.0.1:", Err("not an address"));
        check("127.0.0.1:99999", Err("not an address"));
        check("99999", Err("not below 65536"));
        check("::1:http", Err("not an address"));
        check("http://localhost:80", Err("not an address"));
    }

    #[test]
    fn a_name_stands_for_all_its_addresses() {
        let all = Address::all_of("LocalHost:80").unwrap();
        let all: Vec<String> = all.iter().map(Address::to_string).collect();
        assert_eq!(all, ["127.0.0.1:80", "[::1]:80"]);
    }
}
