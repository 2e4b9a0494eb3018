//! Proxies: which peers are trusted to name the client of a request, and which client they name
//! (`X-Forwarded-For`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::field::Fields;

/// The name of the field in which each proxy appends the address that it got the request from.
pub const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The peers that are trusted to name the client of a request: proxies. By default 127.0.0.1 and
/// ::1. The server also trusts a peer on a Unix socket that has a file, because the file's
/// permissions decide who connects. A peer on an abstract socket has no address either, and is
/// trusted only if everyone is (`*`).
///
/// ```
/// use coring::TrustedPeers;
///
/// let proxies: TrustedPeers = "10.0.0.0/8, 2001:db8::1".parse().unwrap();
/// assert!(proxies.contains("10.1.2.3".parse().unwrap()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedPeers {
    everyone: bool,
    networks: Vec<(IpAddr, u8)>,
    names: Vec<String>,
}

/// Why a list of trusted peers is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPeers(String);

impl fmt::Display for InvalidPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidPeers {}

impl Default for TrustedPeers {
    fn default() -> Self {
        "127.0.0.1,::1".parse().expect("two addresses")
    }
}

impl FromStr for TrustedPeers {
    type Err = InvalidPeers;

    /// Reads a list with commas of addresses, networks (`10.0.0.0/8`) and `*`, which is everyone.
    fn from_str(text: &str) -> Result<Self, InvalidPeers> {
        let mut peers = Self::nobody();
        items(text).try_for_each(|item| peers.add(item))?;
        Ok(peers)
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    let items = text.split(',').map(str::trim);
    items.filter(|item| !item.is_empty())
}

fn network(item: &str) -> Result<(IpAddr, u8), InvalidPeers> {
    let invalid = || {
        let cure = "give addresses, networks like 10.0.0.0/8, or *";
        InvalidPeers(format!(
            "`{item}` is neither an address nor a network; {cure}"
        ))
    };
    let (address, prefix) = match item.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (item, None),
    };
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    let prefix_max = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => prefix_max,
        Some(prefix) => {
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= prefix_max);
            prefix.ok_or_else(invalid)?
        }
    };
    let start = masked(address, prefix);
    if start != address {
        return Err(InvalidPeers(format!(
            "`{item}` is not the start of a network; give {start}/{prefix}, or {address} alone"
        )));
    }
    // Peers are compared in this form: one that is written as `::ffff:10.0.0.1` is 10.0.0.1.
    Ok(match address.to_canonical() {
        IpAddr::V4(mapped) if address.is_ipv6() && prefix >= MAPPED_BITS => {
            (IpAddr::V4(mapped), prefix - MAPPED_BITS)
        }
        _ => (address, prefix),
    })
}

/// The length of the prefix of all IPv6 addresses that stand for IPv4 addresses.
const MAPPED_BITS: u8 = 96;

/// The address with all bits after the first `prefix` cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let cleared = |bits: u32| bits - u32::from(prefix);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(cleared(32)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(cleared(128)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

impl TrustedPeers {
    /// Reads a list as uvicorn does: what is neither an address nor a network is a name. A peer has
    /// none, but a proxy may write one into `X-Forwarded-For`.
    #[must_use]
    pub fn with_names(text: &str) -> Self {
        let mut peers = Self::nobody();
        for item in items(text) {
            if peers.add(item).is_err() {
                peers.names.push(item.to_owned());
            }
        }
        peers
    }

    fn nobody() -> Self {
        Self {
            everyone: false,
            networks: Vec::new(),
            names: Vec::new(),
        }
    }

    fn add(&mut self, item: &str) -> Result<(), InvalidPeers> {
        match item {
            "*" => self.everyone = true,
            item => self.networks.push(network(item)?),
        }
        Ok(())
    }

    /// The names of the list.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether every peer is trusted, one without an address included.
    pub fn is_everyone(&self) -> bool {
        self.everyone
    }

    /// Whether a peer of this address is trusted. A peer on a Unix socket has none.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_within = |&(network, prefix): &(IpAddr, u8)| {
            network.is_ipv4() == address.is_ipv4() && masked(address, prefix) == network
        };
        self.everyone || self.networks.iter().any(is_within)
    }

    /// The client that `X-Forwarded-For` names: the right-most address that is not trusted, or the
    /// left-most if all are. The port is 0 unless it is named. `None` if there is no such field, or
    /// if no address stands there. Names of the list are passed over.
    ///
    /// The caller must have checked that the peer is trusted (see [`TrustedPeers::contains`]): any
    /// client can send this field.
    pub fn client(&self, fields: Fields<'_>) -> Option<SocketAddr> {
        let values: Vec<&[u8]> = fields.get_all(X_FORWARDED_FOR).collect();
        let mut items = values.iter().rev().flat_map(|value| value.rsplit(is_comma));
        if self.everyone {
            return address(items.last()?);
        }
        loop {
            let item = items.next()?;
            match address(item) {
                None if self.has_name(item) => {}
                Some(found) if self.contains(found.ip()) && items.clone().next().is_some() => {}
                found => return found,
            }
        }
    }

    fn has_name(&self, item: &[u8]) -> bool {
        let item = str::from_utf8(item).unwrap_or_default().trim();
        let host = host_and_port(item).map_or(item, |(host, _)| host);
        self.names.iter().any(|name| name == host)
    }
}

fn is_comma(byte: &u8) -> bool {
    *byte == b','
}

/// An address, with the port if there is one: `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]` or `[::1]:5`.
/// A bracketed address may have anything as its port, which then does not count.
fn address(item: &[u8]) -> Option<SocketAddr> {
    let (host, port) = host_and_port(str::from_utf8(item).ok()?.trim())?;
    let host: IpAddr = host.parse().ok()?;
    Some(SocketAddr::new(host.to_canonical(), port))
}

fn host_and_port(item: &str) -> Option<(&str, u16)> {
    Some(match item.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (host, "") => (host, 0),
            (host, port) => (host, port.strip_prefix(':')?.parse().unwrap_or(0)),
        },
        None => match item.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, port.parse().ok()?),
            _ => (item, 0),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(text: &str) -> TrustedPeers {
        text.parse().expect(text)
    }

    fn client(trusted: &str, values: &[&str]) -> Option<String> {
        let lines = values
            .iter()
            .map(|value| format!("X-Forwarded-For: {value}\r\n"));
        let section: String = lines.collect();
        let found = peers(trusted).client(Fields::new(section.as_bytes()));
        found.map(|found| found.to_string())
    }

    #[test]
    fn addresses_and_networks_are_trusted_as_listed() {
        let v6 = "2001:db8::, 2001:0db8:0001:0000:0000:0ab9:C0A8:0102, \
                  2001:db8:3333:4444:5555:6666:1.2.3.4, ::11.22.33.44";
        for (list, trusted, others) in [
            ("", "", "127.0.0.1 10.0.0.1 ::1 2001:db8::"),
            ("*", "127.0.0.1 10.0.0.1 ::1 a:b:c:d::", ""),
            ("10.0.0.1, *", "1.1.1.1 ::", ""),
            (
                "127.0.0.1, 10.0.0.1",
                "127.0.0.1 10.0.0.1 ::ffff:10.0.0.1",
                "127.0.0.0 127.1.1.1 10.0.0.0 10.1.1.1 1.1.1.1 :: ::1 ::10.0.0.1",
            ),
            (
                v6,
                "2001:db8:: 2001:db8:3333:4444:5555:6666:102:304 ::b16:212c",
                "127.0.0.1 2001:db8:abcd:0012::0 :: ::1 a:b:c:d:: ::a:b:c:d",
            ),
            (
                "127.0.0.0/8,10.0.0.0/8",
                "127.0.0.0 127.0.0.1 127.255.255.255 10.0.0.1 10.255.255.255",
                "192.168.0.1 1.1.1.1 :: ::1 2001:db8::",
            ),
            (
                "2001:db8:abcd:0012::0/64",
                "2001:db8:abcd:12:: 2001:db8:abcd:0012::1:1",
                "127.0.0.1 2001:db8:: :: 2001:db8:abcd:13::",
            ),
            (
                "::ffff:10.0.0.1, ::ffff:192.168.0.0/112, ::ffff:a00:200/120",
                "10.0.0.1 ::ffff:10.0.0.1 192.168.7.7 ::ffff:192.168.7.7 10.0.2.9",
                "10.0.0.2 192.169.0.0 10.0.3.0 ::10.0.0.1 ::ffff:0:0",
            ),
            ("::ffff:0:0/96", "1.1.1.1 ::ffff:1.1.1.1", ":: ::1"),
            ("0.0.0.0/0", "0.0.0.0 255.255.255.255", "::"),
            ("::/0", ":: ffff::", "1.1.1.1"),
        ] {
            for (addresses, expected) in [(trusted, true), (others, false)] {
                for address in addresses.split_whitespace() {
                    let found = peers(list).contains(address.parse().expect(address));
                    assert_eq!(found, expected, "{address} in `{list}`");
                }
            }
        }
        assert_eq!(TrustedPeers::default(), peers("127.0.0.1,::1"));
    }

    #[test]
    fn a_wrong_list_is_an_error_with_its_cure() {
        for (list, part) in [
            ("localhost", "`localhost` is neither"),
            ("10.0.0.0/33", "`10.0.0.0/33` is neither"),
            ("::/129", "`::/129` is neither"),
            ("10.0.0.0/-1", "is neither"),
            (
                "192.168.1.1/24",
                "give 192.168.1.0/24, or 192.168.1.1 alone",
            ),
        ] {
            let error = list.parse::<TrustedPeers>().expect_err(list).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn names_count_where_they_stand_in_the_field() {
        let trusted = TrustedPeers::with_names("localhost, 10.0.0.0/8, 10.0.0.1/8,inner");
        assert_eq!(trusted.names(), ["localhost", "10.0.0.1/8", "inner"]);
        assert!(trusted.contains("10.1.1.1".parse().expect("an address")));
        assert!(!trusted.contains("127.0.0.1".parse().expect("an address")));
        assert_eq!(
            TrustedPeers::with_names("10.0.0.0/8,*"),
            peers("10.0.0.0/8,*")
        );
        for (value, expected) in [
            ("1.2.3.4, localhost", Some("1.2.3.4:0")),
            (
                "1.2.3.4, [inner]:80, localhost:80, 10.0.0.1",
                Some("1.2.3.4:0"),
            ),
            ("10.0.0.1, localhost", Some("10.0.0.1:0")),
            ("1.2.3.4, other", None),
            ("1.2.3.4, LOCALHOST", None),
            ("localhost", None),
        ] {
            let section = format!("X-Forwarded-For: {value}\r\n");
            let found = trusted.client(Fields::new(section.as_bytes()));
            let found = found.map(|found| found.to_string());
            assert_eq!(found.as_deref(), expected, "{value}");
        }
    }

    /// The cases of uvicorn's own tests. Where a value is malformed, uvicorn passes it on as the
    /// name of the client; here it changes nothing (the last three, and `unix:`).
    #[test]
    fn the_client_is_the_right_most_address_that_is_not_trusted() {
        let local = "127.0.0.1";
        let chain = "1.2.3.4, 10.0.2.1, 192.168.0.2";
        let ports = "1.2.3.4:1234, [2001:db8::1]:8080, 192.168.0.2:9000";
        let malformed = "127.0.0.1, 10.0.0.0/8";
        for (trusted, values, expected) in [
            ("*", &["1.2.3.4"][..], Some("1.2.3.4:0")),
            (local, &["1.2.3.4"], Some("1.2.3.4:0")),
            ("127.0.0.1, 10.0.0.1", &["1.2.3.4"], Some("1.2.3.4:0")),
            ("127.0.0.0/24, 10.0.0.1", &["1.2.3.4"], Some("1.2.3.4:0")),
            ("127.0.0.1, 1.2.3.4", &["1.2.3.4"], Some("1.2.3.4:0")),
            (malformed, &[], None),
            (malformed, &[""], None),
            (malformed, &[" , "], None),
            (malformed, &[", , "], None),
            (malformed, &[" , 10.0.0.1"], None),
            (malformed, &["9.9.9.9 , , , 10.0.0.1"], None),
            (malformed, &[", , 9.9.9.9"], Some("9.9.9.9:0")),
            (malformed, &[", , 9.9.9.9, , "], None),
            ("*", &[chain], Some("1.2.3.4:0")),
            (
                "127.0.0.1,10.0.2.1,192.168.0.2",
                &[chain],
                Some("1.2.3.4:0"),
            ),
            (
                "10.0.2.1,192.168.0.2,127.0.0.1",
                &[chain],
                Some("1.2.3.4:0"),
            ),
            ("192.168.0.2,127.0.0.1", &[chain], Some("10.0.2.1:0")),
            ("10.0.0.0/8,192.168.0.2", &[chain], Some("1.2.3.4:0")),
            ("*", &[ports], Some("1.2.3.4:1234")),
            ("2001:db8::1,192.168.0.2", &[ports], Some("1.2.3.4:1234")),
            ("192.168.0.2", &[ports], Some("[2001:db8::1]:8080")),
            ("2001:db8::/32,192.168.0.2", &[ports], Some("1.2.3.4:1234")),
            (
                "*",
                &["1.2.3.4, \u{f0}\u{fd}, unix:, ::1"],
                Some("1.2.3.4:0"),
            ),
            (
                local,
                &["203.0.113.66, 198.51.100.23", "127.0.0.1"],
                Some("198.51.100.23:0"),
            ),
            (
                "127.0.0.1, 10.0.0.1",
                &["1.2.3.4", "10.0.0.1"],
                Some("1.2.3.4:0"),
            ),
            ("*", &["1.2.3.4:1234"], Some("1.2.3.4:1234")),
            ("*", &["[2001:db8::1]:443"], Some("[2001:db8::1]:443")),
            ("*", &["[2001:db8::1]"], Some("[2001:db8::1]:0")),
            ("*", &["2001:db8::1"], Some("[2001:db8::1]:0")),
            ("*", &["[2001:db8::1]:notaport"], Some("[2001:db8::1]:0")),
            (local, &["1.2.3.4, unix:"], None),
            ("*", &["1.2.3.4:notaport"], None),
            ("*", &["[2001:db8::1]extra"], None),
            ("*", &["[2001:db8::1"], None),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(client(trusted, values), expected, "{values:?}, `{trusted}`");
        }
    }
}
