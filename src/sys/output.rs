//! Writing to a descriptor that shares its status flags with other processes.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec, write};

/// A descriptor that is written to as if it were blocking. `O_NONBLOCK` belongs to the open file
/// description: any process that shares it may set the flag, and would notice if we cleared it. So
/// a write that would block is repeated once there is room.
#[derive(Debug)]
pub struct BlockingWriter<F>(pub F);

impl<F: AsFd> Write for BlockingWriter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match write(&self.0, bytes) {
                Err(Errno::AGAIN) => wait_for_room(&self.0, None)?,
                written => return Ok(written?),
            };
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until a write to `file` would not block, or would fail. Returns false if that takes longer
/// than `timeout`.
///
/// # Errors
/// Those of poll(2).
pub fn wait_for_room(file: impl AsFd, timeout: Option<&Timespec>) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(&file, PollFlags::OUT)];
    Ok(poll(&mut descriptors, timeout)? > 0)
}

/// A copy of the descriptor that a path like `/dev/stdout` names; none if it names none.
pub fn copy_named(path: &Path) -> Option<io::Result<OwnedFd>> {
    let number: RawFd = match path.to_str()? {
        "/dev/stdout" => 1,
        "/dev/stderr" => 2,
        path => {
            let mut directories = ["/dev/fd/", "/proc/self/fd/"].into_iter();
            let name = directories.find_map(|directory| path.strip_prefix(directory))?;
            name.parse().ok().filter(|number| *number >= 0)?
        }
    };
    // SAFETY: it is used for this one call, which fails if the number is not of an open file.
    let named = unsafe { BorrowedFd::borrow_raw(number) };
    Some(fcntl_dupfd_cloexec(named, 3).map_err(io::Error::from))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::thread;

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    #[test]
    fn a_nonblocking_pipe_gets_every_byte() {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let sent = content.clone();
        let writing = thread::spawn(move || BlockingWriter(writer).write_all(&sent));
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        writing.join().unwrap().unwrap();
        assert!(received == content);
    }

    #[test]
    fn paths_may_name_descriptors() {
        let (mut reader, writer) = io::pipe().unwrap();
        for directory in ["/dev/fd", "/proc/self/fd"] {
            let path = format!("{directory}/{}", writer.as_raw_fd());
            let copy = copy_named(path.as_ref()).expect(directory).unwrap();
            BlockingWriter(copy).write_all(b"a").unwrap();
        }
        drop(writer);
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"aa");
        for path in ["/dev/stdout", "/dev/stderr"] {
            assert!(copy_named(path.as_ref()).expect(path).is_ok());
        }
        for path in ["/dev/null", "/dev/fd/-1", "/dev/fd/a", "stdout", "/dev/fd/"] {
            assert!(copy_named(path.as_ref()).is_none(), "{path}");
        }
        assert!(
            copy_named("/dev/fd/1000000".as_ref())
                .expect("a number")
                .is_err()
        );
    }

    #[test]
    fn a_full_pipe_has_no_room_until_it_is_read() {
        let at_once = Timespec::default();
        let (mut reader, mut writer) = io::pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        while writer.write(&[0; 4096]).is_ok() {}
        assert!(!wait_for_room(&writer, Some(&at_once)).unwrap());
        reader.read_exact(&mut [0; 4096]).unwrap();
        assert!(wait_for_room(&writer, Some(&at_once)).unwrap());
        drop(reader);
        assert!(wait_for_room(&writer, Some(&at_once)).unwrap());
        let error = BlockingWriter(writer).write(b"a").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
