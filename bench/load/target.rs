//! The server under test: its address, the request that is sent to it, and how to connect.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt::Timeout;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustix::process::{self, Resource, Rlimit};

/// The most connections from one source address. Linux has about 28,000 ephemeral ports.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

/// Descriptors for anything but connections: standard streams, epoll and a few more.
const OTHER_DESCRIPTORS: u64 = 64;

/// A server and the request that is sent to it.
pub(crate) struct Target {
    address: SocketAddr,
    pub(crate) request: Vec<u8>,
}

impl FromStr for Target {
    type Err = io::Error;

    fn from_str(url: &str) -> io::Result<Self> {
        let wrong = || io::Error::other(format!("{url}: not of the form http://HOST:PORT/PATH"));
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').ok_or_else(wrong)?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        let mut addresses = authority.to_socket_addrs().map_err(|_| wrong())?;
        let request = format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        Ok(Self {
            address: addresses.next().ok_or_else(wrong)?,
            request: request.into_bytes(),
        })
    }
}

impl Target {
    /// Opens connection number `index`. With a `timeout` the socket is blocking, and each operation
    /// on it has that timeout. Without one it is nonblocking, and may still be connecting when this
    /// returns.
    pub(crate) fn connect(&self, index: usize, timeout: Option<Duration>) -> io::Result<TcpStream> {
        let mut flags = SocketFlags::CLOEXEC;
        flags.set(SocketFlags::NONBLOCK, timeout.is_none());
        let family = match self.address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        for side in [Timeout::Recv, Timeout::Send] {
            sockopt::set_socket_timeout(&socket, side, timeout)?;
        }
        if let Some(source) = self.source(index)? {
            net::bind(&socket, &SocketAddr::from((source, 0)))?;
        }
        match net::connect(&socket, &self.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
            Err(error) => Err(io::Error::from(error)),
        }
    }

    /// The source address to bind to. `None` as long as the ports of the default address suffice.
    fn source(&self, index: usize) -> io::Result<Option<Ipv4Addr>> {
        if index < CONNECTIONS_PER_SOURCE {
            return Ok(None);
        }
        let host = u8::try_from(index / CONNECTIONS_PER_SOURCE + 1);
        match (self.address.ip(), host) {
            (IpAddr::V4(ip), Ok(host)) if ip.is_loopback() => {
                Ok(Some(Ipv4Addr::new(127, 0, 0, host)))
            }
            _ => Err(io::Error::other(format!(
                "more than {CONNECTIONS_PER_SOURCE} connections: only possible to 127.0.0.1"
            ))),
        }
    }
}

/// Raises the limit of open files if `connections` need it.
pub(crate) fn allow_descriptors(connections: usize) -> io::Result<()> {
    let needed = connections as u64 + OTHER_DESCRIPTORS;
    let limit = process::getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum.map(|maximum| maximum.max(needed)),
    };
    process::setrlimit(Resource::Nofile, raised).map_err(|error| {
        io::Error::other(format!(
            "cannot raise the limit of open files to {needed}: {error}; raise `ulimit -n`"
        ))
    })
}
