//! What the kernel knows of a socket: the amount of unsent data, and whether it has a file.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{SocketAddrAny, SocketAddrUnix};

/// How many of the sent bytes the peer has not acknowledged (TCP; `SIOCOUTQ` in tcp(7)), or not
/// read (Unix; including the kernel's overhead).
///
/// # Errors
/// Those of ioctl(2).
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request (SIOCOUTQ under another name) stores an int at the given address, and
    // `bytes` is an int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes.unsigned_abs())
}

/// Whether a socket with this local address is a Unix socket that has a file. The permissions of
/// the file decide which processes may connect; any process may connect to an abstract name.
pub fn has_file(local: &SocketAddrAny) -> bool {
    SocketAddrUnix::try_from(local.clone()).is_ok_and(|local| local.path_bytes().is_some())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn unread_bytes_grow_with_each_send_and_shrink_with_each_read() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        assert_eq!(unacknowledged(&near).unwrap(), 0);
        near.write_all(&[1; 1000]).unwrap();
        assert!(unacknowledged(&near).unwrap() >= 1000);
        far.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unacknowledged(&near).unwrap(), 0);
    }
}
