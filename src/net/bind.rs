//! Binding an address for all workers at once.
//!
//! The first TCP socket is bound and listens *without* `SO_REUSEPORT`, so binding fails if any
//! other socket has the port. Then the option is switched on, and the sockets of the other workers,
//! which have it from the start, can join. Because the first socket was alone when it began to
//! listen, two servers cannot share a port by accident, even if they start at the same moment.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_setfl, flock, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, test_kill_process};

use super::address::Address;
use crate::sys::port;

/// The number of connections that can wait in the backlog of each socket. The kernel caps it at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Sockets in the ring of a killed process outlive the process by some milliseconds. They keep
/// their address although no process has them. Binding is retried this often until they are gone.
const RETRIES_MAX: u32 = 20;
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A bound address, with a listening socket for each worker.
#[derive(Debug)]
pub struct Bound {
    /// The address with the real port.
    pub address: Address,
    /// One descriptor per worker. Those of a Unix address refer to the same socket.
    pub sockets: Vec<OwnedFd>,
    /// The file of a Unix socket. Dropping this removes it.
    pub file: Option<SocketFile>,
}

/// Why an address cannot be bound: one line, with the cure.
#[derive(Debug)]
pub struct BindError {
    address: String,
    cause: String,
    kind: io::ErrorKind,
    /// This machine does not have the address.
    is_missing: bool,
}

impl BindError {
    fn new(address: &Address, cause: impl fmt::Display) -> Self {
        Self {
            address: address.to_string(),
            cause: cause.to_string(),
            kind: io::ErrorKind::Other,
            is_missing: false,
        }
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        Self::new(error.kind, error.to_string())
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.cause)
    }
}

/// Binds the `addresses` of one name for `workers` workers, at least one of them. Those that this
/// machine does not have are left out: a name often has an IPv6 address where there is no IPv6. If
/// the port is 0, all of them get the same one.
///
/// # Errors
/// As for [`bind`].
pub fn bind_all(addresses: &[Address], workers: usize) -> Result<Vec<Bound>, BindError> {
    let is_port_free = |address: &Address| matches!(address, Address::Tcp(tcp) if tcp.port() == 0);
    let any_port = addresses.len() > 1 && addresses.iter().all(is_port_free);
    // Another process may have the port that the kernel has chosen on the first address.
    let is_transient = |error: &BindError| any_port && error.kind == io::ErrorKind::AddrInUse;
    retry(|| bind_each(addresses, workers), is_transient)
}

fn bind_each(addresses: &[Address], workers: usize) -> Result<Vec<Bound>, BindError> {
    let mut all: Vec<Bound> = Vec::new();
    let mut missing = None;
    for address in addresses {
        let mut address = address.clone();
        if let Address::Tcp(tcp) = &mut address
            && tcp.port() == 0
            && let Some(Address::Tcp(first)) = all.first().map(|first| &first.address)
        {
            tcp.set_port(first.port());
        }
        match bind(&address, workers) {
            Ok(bound) => all.push(bound),
            Err(error) if error.is_missing && addresses.len() > 1 => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if all.is_empty() => Err(error),
        _ => Ok(all),
    }
}

/// Binds `address` for `workers` workers.
///
/// # Errors
/// If another socket has the address, this process may not bind it, or this machine has no such
/// address.
pub fn bind(address: &Address, workers: usize) -> Result<Bound, BindError> {
    match address {
        Address::Tcp(tcp) => {
            let explain = |errno| BindError {
                kind: io::Error::from(errno).kind(),
                is_missing: matches!(errno, Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT),
                ..BindError::new(address, explain_tcp(errno, tcp.port()))
            };
            let has_no_owner = |errno: &Errno| {
                *errno == Errno::ADDRINUSE && port::listener_of(tcp.port()).is_none()
            };
            let sockets = retry(|| bind_tcp(*tcp, workers), has_no_owner).map_err(explain)?;
            let first = rustix::net::getsockname(&sockets[0]).map_err(explain)?;
            let real = std::net::SocketAddr::try_from(first).map_err(explain)?;
            Ok(Bound {
                address: Address::Tcp(real),
                sockets,
                file: None,
            })
        }
        Address::Unix(path) => {
            let (sockets, file) =
                bind_unix(path, workers).map_err(|cause| BindError::new(address, cause))?;
            Ok(Bound {
                address: address.clone(),
                sockets,
                file: Some(file),
            })
        }
        Address::Abstract(name) => {
            let sockets =
                bind_abstract(name, workers).map_err(|cause| BindError::new(address, cause))?;
            Ok(Bound {
                address: address.clone(),
                sockets,
                file: None,
            })
        }
    }
}

/// Repeats `attempt` while its error `is_transient`, up to [`RETRIES_MAX`] times.
fn retry<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_transient: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut retries = 0;
    loop {
        match attempt() {
            Err(error) if retries < RETRIES_MAX && is_transient(&error) => {
                retries += 1;
                std::thread::sleep(RETRY_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn bind_tcp(address: std::net::SocketAddr, workers: usize) -> Result<Vec<OwnedFd>, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let open = || -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        // Accepted connections inherit these options.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        if family == AddressFamily::INET6 {
            // `[::]` covers IPv4, too, whatever the sysctl net.ipv6.bindv6only says.
            sockopt::set_ipv6_v6only(&socket, false)?;
        }
        Ok(socket)
    };
    let first = open()?;
    rustix::net::bind(&first, &address)?;
    rustix::net::listen(&first, BACKLOG)?;
    sockopt::set_socket_reuseport(&first, true)?;
    let real = rustix::net::getsockname(&first)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        let socket = open()?;
        sockopt::set_socket_reuseport(&socket, true)?;
        rustix::net::bind(&socket, &real)?;
        rustix::net::listen(&socket, BACKLOG)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn explain_tcp(errno: Errno, port: u16) -> String {
    let error = io::Error::from(errno);
    match errno {
        Errno::ADDRINUSE => match port::listener_of(port) {
            Some(process) if process.pid == std::process::id() => {
                format!(
                    "{process} has the port, and is this process; if another of its addresses \
                     covers this one (`[::]` covers IPv4, too), leave one of them out"
                )
            }
            Some(process) => format!("{process} has the port; stop it or choose another port"),
            None => "the port is taken by a process of another user; choose another port".into(),
        },
        Errno::ACCESS => format!(
            "{error}: ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher port or grant it"
        ),
        Errno::ADDRNOTAVAIL => format!("{error}: no interface of this machine has that address"),
        Errno::AFNOSUPPORT => format!("{error}: this machine has no IPv6; use an IPv4 address"),
        _ => error.to_string(),
    }
}

fn bind_unix(path: &Path, workers: usize) -> Result<(Vec<OwnedFd>, SocketFile), String> {
    let text = |errno: Errno| io::Error::from(errno).to_string();
    let address = SocketAddrUnix::new(path).map_err(|_| {
        "the path is too long for a Unix socket (at most 107 bytes); shorten it".to_owned()
    })?;
    let _lock = lock_directory_of(path);
    clear_stale(path, &address)?;
    let socket = unix_socket().map_err(text)?;
    rustix::net::bind(&socket, &address).map_err(|errno| match errno {
        Errno::NOENT => "its directory does not exist; create it first".to_owned(),
        _ => text(errno),
    })?;
    let file = SocketFile::new(path).map_err(|error| error.to_string())?;
    Ok((listen_with_copies(socket, workers)?, file))
}

/// Binds a name that has no file. The kernel forgets it with the last socket, so nothing is stale.
fn bind_abstract(name: &str, workers: usize) -> Result<Vec<OwnedFd>, String> {
    let text = |errno: Errno| io::Error::from(errno).to_string();
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(|_| {
        "the name is too long for a Unix socket (at most 107 bytes); shorten it".to_owned()
    })?;
    let socket = unix_socket().map_err(text)?;
    let bind = || rustix::net::bind(&socket, &address);
    let has_no_owner =
        |errno: &Errno| *errno == Errno::ADDRINUSE && is_dead(listener_pid(&address).ok());
    match retry(bind, has_no_owner) {
        Ok(()) => listen_with_copies(socket, workers),
        Err(Errno::ADDRINUSE) => Err(explain_taken(listener_pid(&address).ok(), "name")),
        Err(errno) => Err(text(errno)),
    }
}

/// Lets a Unix socket listen, and copies its descriptor for each worker.
fn listen_with_copies(socket: OwnedFd, workers: usize) -> Result<Vec<OwnedFd>, String> {
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| io::Error::from(errno).to_string())?;
    let mut sockets = vec![socket];
    while sockets.len() < workers {
        let copy = sockets[0].try_clone().map_err(|error| error.to_string())?;
        sockets.push(copy);
    }
    Ok(sockets)
}

/// Whether a process has ended; not if its id is unknown.
fn is_dead(pid: Option<Pid>) -> bool {
    pid.is_some_and(|pid| test_kill_process(pid).is_err())
}

/// Why a Unix address cannot be bound that the process `owner`, if it is known, listens on.
fn explain_taken(owner: Option<Pid>, choose: &str) -> String {
    let own = Some(rustix::process::getpid());
    match owner {
        owner if owner == own => {
            "this process listens on it already: it is given twice; leave one of them out".into()
        }
        Some(pid) => format!(
            "another process (pid {pid}) serves that socket; stop it or choose another {choose}"
        ),
        None => format!("another process serves that socket; stop it or choose another {choose}"),
    }
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Locks the directory while a socket is made in it (flock(2)), against other instances of coring:
/// a socket that is bound but does not listen yet looks like one of a dead process. Returns `None`
/// if the directory cannot be locked; the caller then continues without the lock.
fn lock_directory_of(path: &Path) -> Option<OwnedFd> {
    let directory = path
        .parent()
        .filter(|directory| *directory != Path::new(""));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(
        directory.unwrap_or_else(|| Path::new(".")),
        flags,
        Mode::empty(),
    )
    .ok()?;
    let lock = || flock(&directory, FlockOperation::NonBlockingLockExclusive);
    retry(lock, |errno| *errno == Errno::WOULDBLOCK).ok()?;
    Some(directory)
}

/// Removes the socket that a dead process has left at `path`. Any other file stays.
fn clear_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), String> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err("that path exists and is not a socket; choose another or remove it".to_owned());
    }
    // `Ok`: the socket has no listener. `Err`: it has one, with this pid if that is known.
    let refused = || match listener_pid(address) {
        Err(Errno::CONNREFUSED) => Ok(()),
        owner => Err(owner.ok()),
    };
    match retry(refused, |pid: &Option<Pid>| is_dead(*pid)) {
        Ok(()) => std::fs::remove_file(path)
            .map_err(|error| format!("cannot remove the stale socket at that path: {error}")),
        Err(owner) => Err(explain_taken(owner, "path")),
    }
}

/// The process that listens on the socket at `address`.
fn listener_pid(address: &SocketAddrUnix) -> Result<Pid, Errno> {
    let probe = unix_socket()?;
    // With a full backlog, connect(2) would otherwise block. It fails with EAGAIN instead.
    fcntl_setfl(&probe, OFlags::NONBLOCK)?;
    rustix::net::connect(&probe, address)?;
    Ok(sockopt::socket_peercred(&probe)?.pid)
}

/// A Unix socket's file. Dropping this removes the file, unless another file has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
}

/// Device and inode number, and the time of creation if it is known. The time is needed because an
/// inode number may be reused.
type FileIdentity = (u64, u64, Option<SystemTime>);

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: Self::identity(path)?,
        })
    }

    fn identity(path: &Path) -> io::Result<FileIdentity> {
        let found = path.symlink_metadata()?;
        Ok((found.dev(), found.ino(), found.created().ok()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // If this fails, the file stays as a stale socket, which the next start removes.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that ends late does not remove its successor's socket, even if the file system has
    /// reused the inode number.
    #[test]
    fn a_successors_socket_is_not_removed() {
        let name = format!("coring-test-{}-successor", std::process::id());
        let path = std::env::temp_dir().join(name);
        let bound = || bind(&Address::Unix(path.clone()), 1).unwrap();
        let mut first = bound();
        first.sockets.clear();
        let second = bound();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    /// Connections reach every socket of the address, even the first, which got the option late.
    #[test]
    fn connections_are_spread_over_all_workers() {
        let bound = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap()), 2).unwrap();
        let Address::Tcp(address) = bound.address else {
            panic!("a TCP address")
        };
        let clients: Vec<_> = (0..64)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let waiting = |socket: &OwnedFd| {
            fcntl_setfl(socket, OFlags::NONBLOCK).unwrap();
            std::iter::from_fn(|| rustix::net::accept(socket).ok()).count()
        };
        let counts: Vec<usize> = bound.sockets.iter().map(waiting).collect();
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    }

    #[test]
    fn of_two_concurrent_binds_one_fails() {
        for _ in 0..20 {
            let port = std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap();
            let address = Address::Tcp(port);
            let taken = std::thread::scope(|scope| {
                let both = [0, 1].map(|_| scope.spawn(|| bind(&address, 2).ok()));
                // Both results are kept, so that the first does not free the port for the second.
                both.map(|one| one.join().unwrap())
            });
            assert_eq!(taken.iter().flatten().count(), 1);
        }
    }

    #[test]
    fn the_addresses_of_a_name_share_a_free_port() {
        // Reserved for documentation (RFC 5737, 3849); no interface has them.
        let missing = ["192.0.2.1:0", "[2001:db8::1]:0"];
        let texts = ["127.0.0.1:0", missing[0], "127.0.0.2:0", missing[1]];
        let parsed = |texts: &[&str]| -> Vec<Address> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let bound = bind_all(&parsed(&texts), 2).unwrap();
        let ports: Vec<u16> = bound
            .iter()
            .map(|bound| match &bound.address {
                Address::Tcp(address) => address.port(),
                other => panic!("{other}"),
            })
            .collect();
        assert!(
            ports.len() == 2 && ports[0] == ports[1] && ports[0] != 0,
            "{ports:?}"
        );
        for one in [&missing[..], &missing[..1]] {
            let error = bind_all(&parsed(one), 1).unwrap_err().to_string();
            assert!(
                error.contains("no interface") || error.contains("no IPv6"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_abstract_name_has_no_file_and_is_bound_once() {
        let name = format!("coring-test-{}", std::process::id());
        let address: Address = format!("unix:@{name}").parse().unwrap();
        let bound = bind(&address, 2).unwrap();
        let peer = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        rustix::net::connect(unix_socket().unwrap(), &peer).unwrap();
        assert!(!Path::new(&format!("@{name}")).exists());
        let error = bind(&address, 1).unwrap_err().to_string();
        assert!(
            error.contains("this process") && error.contains("twice"),
            "{error}"
        );
        drop(bound);
        bind(&address, 1).expect("a released name can be bound again");
    }

    #[test]
    fn workers_share_a_port_that_cannot_be_bound_again() {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = bind(&any, 3).unwrap();
        assert_eq!(bound.sockets.len(), 3);
        let error = bind(&bound.address, 2).unwrap_err().to_string();
        assert!(
            error.contains(&format!("(pid {})", std::process::id())),
            "{error}"
        );
        let address = bound.address.clone();
        drop(bound);
        bind(&address, 2).expect("a released port can be bound again");
    }
}
