//! Taking an address: for all workers at once, and for nobody who does not ask to share it.
//!
//! The first TCP socket is bound and listens *without* `SO_REUSEPORT`, so a port that anybody has
//! is refused. Then the option is switched on, and the other workers' sockets, which have it from
//! the start, can join. Since the first one was alone when it began to listen, two servers can
//! never share a port by accident, even if they start at the same moment.

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

/// Connections that may wait to be accepted, per socket; `net.core.somaxconn` may lower it.
const BACKLOG: i32 = 4096;

/// The sockets that a killed process gave to its ring outlive it by some milliseconds: nobody has
/// them, yet they are there. So long we wait for them to go.
const GHOST_TRIES: u32 = 20;
const GHOST_PAUSE: Duration = Duration::from_millis(50);

/// An address that is ours: a listening socket for each worker.
#[derive(Debug)]
pub struct Bound {
    /// The address with the real port.
    pub address: Address,
    /// One per worker. Those of a Unix address are the same socket.
    pub sockets: Vec<OwnedFd>,
    /// Removes a Unix socket's file when the server is gone.
    pub file: Option<SocketFile>,
}

/// Why an address cannot be had: one line, with the cure.
#[derive(Debug)]
pub struct BindError {
    address: String,
    cause: String,
    kind: io::ErrorKind,
}

impl BindError {
    fn new(address: &Address, cause: impl fmt::Display) -> Self {
        Self {
            address: address.to_string(),
            cause: cause.to_string(),
            kind: io::ErrorKind::Other,
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

/// Takes `address` for `workers` workers.
///
/// # Errors
/// When somebody has it, it is not ours to take, or it does not exist here.
pub fn bind(address: &Address, workers: usize) -> Result<Bound, BindError> {
    match address {
        Address::Tcp(tcp) => {
            let explain = |errno| BindError {
                kind: io::Error::from(errno).kind(),
                ..BindError::new(address, explain_tcp(errno, tcp.port()))
            };
            let has_ghost = |errno: &Errno| {
                *errno == Errno::ADDRINUSE && port::listener_of(tcp.port()).is_none()
            };
            let sockets = patiently(|| bind_tcp(*tcp, workers), has_ghost).map_err(explain)?;
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
    }
}

/// Tries again while the failure is that of a ghost.
fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    has_ghost: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut tries = 0;
    loop {
        match attempt() {
            Err(error) if tries < GHOST_TRIES && has_ghost(&error) => {
                tries += 1;
                std::thread::sleep(GHOST_PAUSE);
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
        // What every connection shall have is set here once: it is inherited.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
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
                    "this very {process} has the port; if another of its addresses takes this \
                     one in (`[::]` is for IPv4, too), leave one of them out"
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
        "the path is too long for a Unix socket (107 bytes); choose a shorter one".to_owned()
    })?;
    let _alone = lock_folder_of(path);
    clear_stale(path, &address)?;
    let socket = unix_socket().map_err(text)?;
    rustix::net::bind(&socket, &address).map_err(|errno| match errno {
        Errno::NOENT => "its directory does not exist; create it first".to_owned(),
        _ => text(errno),
    })?;
    let file = SocketFile::new(path).map_err(|error| error.to_string())?;
    rustix::net::listen(&socket, BACKLOG).map_err(text)?;
    let mut sockets = vec![socket];
    while sockets.len() < workers {
        let copy = sockets[0].try_clone().map_err(|error| error.to_string())?;
        sockets.push(copy);
    }
    Ok((sockets, file))
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Keeps other servers of ours from the folder while a socket is made there (flock(2)): one that is
/// bound and does not listen yet looks like a dead one's. Who cannot have the lock goes on without.
fn lock_folder_of(path: &Path) -> Option<OwnedFd> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(
        folder.unwrap_or_else(|| Path::new(".")),
        flags,
        Mode::empty(),
    )
    .ok()?;
    let lock = || flock(&folder, FlockOperation::NonBlockingLockExclusive);
    patiently(lock, |errno| *errno == Errno::WOULDBLOCK).ok()?;
    Some(folder)
}

/// Removes the socket that a dead process left at `path`. Whatever else is there stays.
fn clear_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), String> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err("that path exists and is no socket; choose another or remove it".to_owned());
    }
    let refused = || match ask_owner(address) {
        Err(Errno::CONNREFUSED) => Ok(()),
        owner => Err(owner.ok()),
    };
    let is_dead = |pid: &Option<Pid>| pid.is_some_and(|pid| test_kill_process(pid).is_err());
    match patiently(refused, is_dead) {
        Ok(()) => std::fs::remove_file(path)
            .map_err(|error| format!("a stale socket is there and cannot be removed: {error}")),
        Err(_) => Err("another process serves that socket; stop it or choose another path".into()),
    }
}

/// The process that listens on the socket at `address`.
fn ask_owner(address: &SocketAddrUnix) -> Result<Pid, Errno> {
    let probe = unix_socket()?;
    // A backlog that is full would let us wait; it has an owner.
    fcntl_setfl(&probe, OFlags::NONBLOCK)?;
    rustix::net::connect(&probe, address)?;
    Ok(sockopt::socket_peercred(&probe)?.pid)
}

/// A Unix socket's file, removed on drop if it still is the one that was made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device and number, which another file may have later, and the time of birth, if it is known.
type Identity = (u64, u64, Option<SystemTime>);

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: Self::identity(path)?,
        })
    }

    fn identity(path: &Path) -> io::Result<Identity> {
        let found = path.symlink_metadata()?;
        Ok((found.dev(), found.ino(), found.created().ok()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Whoever cannot remove it finds a stale socket, which the next start removes.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who ends late leaves the socket of who came after it, though a file system may give its file
    /// the same number at once.
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

    /// Connections reach every socket of the address, though the first joined the others late.
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
    fn of_two_that_start_at_once_one_is_refused() {
        for _ in 0..20 {
            let port = std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap();
            let address = Address::Tcp(port);
            let taken = std::thread::scope(|scope| {
                let both = [0, 1].map(|_| scope.spawn(|| bind(&address, 2).ok()));
                // Kept until both are known: the first must not make room for the second.
                both.map(|one| one.join().unwrap())
            });
            assert_eq!(taken.iter().flatten().count(), 1);
        }
    }

    #[test]
    fn workers_share_a_port_that_nobody_else_can_have() {
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
        bind(&address, 2).expect("a port that was given up can be had again");
    }
}
