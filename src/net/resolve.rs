//! Addresses and names to connect to. Names are resolved on the blocking pool.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};

use super::address::host_and_port;
use crate::engine::blocking;

/// A peer to connect to: an address, several addresses of one peer, or a name and a port.
///
/// These types implement it: `SocketAddr`, a pair of an IP address and a port, a slice or vector of
/// `SocketAddr`, `"name:port"` as text, and a pair of a name and a port.
pub trait ToAddresses {
    /// Sealed: only this crate can name the type that this returns.
    #[doc(hidden)]
    fn to_lookup(self) -> Lookup;
}

/// A peer before its name is resolved.
#[derive(Debug)]
pub enum Lookup {
    Known(SocketAddr),
    Several(Vec<SocketAddr>),
    Name(String, u16),
    /// The text is not `name:port`.
    Invalid(String),
}

impl Lookup {
    fn of_text(text: &str) -> Self {
        if let Ok(address) = text.parse() {
            return Self::Known(address);
        }
        match host_and_port(text) {
            Some((host, port)) => Self::Name(host.to_owned(), port),
            None => Self::Invalid(text.to_owned()),
        }
    }

    fn of_host(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Self::Known((ip, port).into()),
            Err(_) => Self::Name(host.to_owned(), port),
        }
    }

    /// The addresses, at least one, in the order in which they should be tried.
    pub(super) async fn addresses(self) -> io::Result<Vec<SocketAddr>> {
        let addresses = match self {
            Self::Known(address) => return Ok(vec![address]),
            Self::Several(addresses) => addresses,
            Self::Name(name, port) => {
                let host = name.clone();
                // The outer error is that of the pool, the inner one that of getaddrinfo(3).
                let resolve = move || (&*host, port).to_socket_addrs().map(Vec::from_iter);
                let resolved = blocking(resolve).await?;
                resolved.map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot resolve {name:?}: {error}"))
                })?
            }
            Self::Invalid(text) => {
                let message = format!("{text:?} is not an address: write name:port");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        };
        match addresses.is_empty() {
            true => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no address is known",
            )),
            false => Ok(interleave(addresses)),
        }
    }
}

/// Alternates between the families, beginning with that of the first address (RFC 8305 §4), so that
/// a family that does not work here delays a connection by one attempt only.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let begins_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_v6);
    let len = first.len().max(second.len());
    let pairs = (0..len).flat_map(|n| [first.get(n), second.get(n)]);
    pairs.flatten().copied().collect()
}

/// Resolves a name to its addresses, by getaddrinfo(3) on the worker's blocking pool. So an answer
/// that is slow to come delays other calls of [`task::blocking`](crate::task::blocking), but no
/// coroutine. The families alternate, in the order in which a connection should try them.
///
/// If the future is dropped, the look-up ends on its own and its result is dropped.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let addresses = coring::net::lookup_host("localhost:8000").await?;
///     assert!(addresses.iter().all(|address| address.ip().is_loopback()));
///     Ok(())
/// })
/// # }
/// ```
///
/// # Errors
/// If the name is unknown, or the resolver does not respond. At least one address is returned
/// otherwise.
///
/// # Panics
/// Outside a worker.
pub async fn lookup_host(peer: impl ToAddresses) -> io::Result<Vec<SocketAddr>> {
    peer.to_lookup().addresses().await
}

/// Implements [`ToAddresses`] for types that convert to a `SocketAddr`.
macro_rules! known {
    ($($kind:ty),*) => {$(
        impl ToAddresses for $kind {
            fn to_lookup(self) -> Lookup {
                Lookup::Known(self.into())
            }
        }
    )*};
}

known!(
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16),
    ([u8; 4], u16)
);

impl ToAddresses for &str {
    fn to_lookup(self) -> Lookup {
        Lookup::of_text(self)
    }
}

impl ToAddresses for &String {
    fn to_lookup(self) -> Lookup {
        Lookup::of_text(self)
    }
}

impl ToAddresses for String {
    fn to_lookup(self) -> Lookup {
        Lookup::of_text(&self)
    }
}

impl ToAddresses for (&str, u16) {
    fn to_lookup(self) -> Lookup {
        Lookup::of_host(self.0, self.1)
    }
}

impl ToAddresses for (String, u16) {
    fn to_lookup(self) -> Lookup {
        Lookup::of_host(&self.0, self.1)
    }
}

impl ToAddresses for &[SocketAddr] {
    fn to_lookup(self) -> Lookup {
        Lookup::Several(self.to_vec())
    }
}

impl ToAddresses for Vec<SocketAddr> {
    fn to_lookup(self) -> Lookup {
        Lookup::Several(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn families_alternate_and_keep_their_order() {
        let [a, b, c] = ["[::1]:1", "[::2]:1", "[::3]:1"].map(address);
        let [x, y] = ["127.0.0.1:1", "127.0.0.2:1"].map(address);
        assert_eq!(interleave(vec![a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(interleave(vec![x, y, a]), [x, a, y]);
        assert_eq!(interleave(vec![x]), [x]);
    }

    #[test]
    fn addresses_are_not_resolved_and_names_are() {
        run(async {
            let known = async |peer: &'static str| {
                lookup_host(peer).await.map_err(|error| error.to_string())
            };
            assert_eq!(known("127.0.0.1:7").await, Ok(vec![address("127.0.0.1:7")]));
            assert_eq!(known("[::1]:7").await, Ok(vec![address("[::1]:7")]));
            let pair = lookup_host(("::1", 7)).await.expect("an address");
            assert_eq!(pair, [address("[::1]:7")]);
            let pair = lookup_host(("localhost", 7)).await.expect("a name");
            assert!(
                pair.iter()
                    .all(|each| each.ip().is_loopback() && each.port() == 7)
            );
            for invalid in [
                "",
                "localhost",
                ":80",
                "localhost:",
                "localhost:65536",
                "::1:80:x",
            ] {
                let expected = format!("{invalid:?} is not an address: write name:port");
                assert_eq!(known(invalid).await, Err(expected));
            }
            let none = lookup_host(Vec::new()).await.unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::NotFound);
            let error = known("a name with spaces:80").await.unwrap_err();
            assert!(
                error.starts_with("cannot resolve \"a name with spaces\": "),
                "{error}"
            );
        });
    }
}
