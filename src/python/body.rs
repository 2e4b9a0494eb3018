//! Collects the body of a request before its application is called (WSGI): a client that uploads
//! slowly holds no worker. A small body is kept in memory and travels with the request; a larger
//! one is written to a file without a name, whose descriptor travels instead. Where no such file
//! can be made, as with a read-only root, the file is in memory. The sum of what a core's bodies
//! have in memory is limited: beyond that they are written to files early, or refused.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, SealFlags, fcntl_add_seals, open, unlink};
use rustix::io::Errno;

use super::options::Options;
use super::pool::Loaded;
use crate::engine::blocking;
use crate::messages;
use crate::service::Body;
use crate::sys::file::anonymous_file;
use crate::sys::limits::is_reserved_descriptor;

/// The longest body that travels within the message of its request, in bytes.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes that are written to a spool file at a time, if that many may be in memory.
const WRITE_BYTES: usize = 256 << 10;
/// Bytes that the bodies of a core may have in memory together.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// A whole body.
#[derive(Debug)]
pub(super) enum Collected {
    None,
    Inline(Vec<u8>),
    /// A file and its length in bytes, to be read from its beginning.
    File(OwnedFd, u64),
}

impl Collected {
    /// Its length in bytes; none if there is no body.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Inline(bytes) => Some(bytes.len() as u64),
            Self::File(_, length) => Some(*length),
        }
    }
}

/// Where a core keeps bodies.
#[derive(Debug)]
pub(super) struct Spool {
    /// The longest body that is kept in memory, in bytes.
    memory_bytes_max: usize,
    /// The directory for longer ones; none if no file can be made there.
    directory: Option<PathBuf>,
    /// Bytes of bodies that are in memory.
    held: Rc<Cell<u64>>,
}

/// Why a body is not there.
#[derive(Debug)]
pub(super) enum NotCollected {
    /// The client has not sent it to its end.
    Incomplete,
    /// There is no place for it.
    Spool(io::Error),
}

/// The part of [`MEMORY_BYTES_MAX`] that a body takes, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    held: Rc<Cell<u64>>,
    bytes: u64,
}

impl Share {
    /// Whether there is room for it to become `bytes`.
    fn can_be(&self, bytes: u64) -> bool {
        let others = self.held.get() - self.bytes;
        others.saturating_add(bytes) <= MEMORY_BYTES_MAX
    }

    /// Makes it `bytes`, if there is room. Returns whether there is.
    fn resize(&mut self, bytes: u64) -> bool {
        let has_room = self.can_be(bytes);
        if has_room {
            self.held.set(self.held.get() - self.bytes + bytes);
            self.bytes = bytes;
        }
        has_room
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.set(self.held.get() - self.bytes);
    }
}

impl Spool {
    pub(super) fn new(memory_bytes_max: usize, directory: Option<PathBuf>) -> Self {
        Self {
            memory_bytes_max: memory_bytes_max.max(INLINE_BYTES_MAX),
            directory,
            held: Rc::default(),
        }
    }

    /// Reads all of `body`. `has_body`: the request has one, even if it is empty. The share is to
    /// be kept until the worker needs the body no longer.
    pub(super) async fn collect(
        &self,
        body: &mut Body,
        has_body: bool,
    ) -> Result<(Collected, Share), NotCollected> {
        let mut share = Share {
            held: self.held.clone(),
            bytes: 0,
        };
        let expected = body.length();
        if expected == Some(0) {
            let empty = match has_body {
                true => Collected::Inline(Vec::new()),
                false => Collected::None,
            };
            return Ok((empty, share));
        }
        let mut memory = Vec::new();
        let mut file = None;
        let mut written = 0;
        let write_bytes = WRITE_BYTES.min(self.memory_bytes_max);
        if let Some(length) = expected.filter(|&length| length > self.memory_bytes_max as u64) {
            // Refused at once if it cannot fit, but counted only as it arrives.
            file = Some(self.file(&share, length).await?);
        }
        while let Some(part) = body.part().await.map_err(|_| NotCollected::Incomplete)? {
            memory.extend_from_slice(&part);
            let length = written + memory.len() as u64;
            let has_room = self.count(&mut share, written, memory.len())?;
            if file.is_none() && (!has_room || memory.len() > self.memory_bytes_max) {
                file = Some(self.file(&share, length).await?);
            }
            if file.is_some() && (!has_room || memory.len() >= write_bytes) {
                file = Some(write(file, &mut memory).await?);
                written = length;
                self.count(&mut share, written, 0)?;
            }
        }
        written += memory.len() as u64;
        let collected = match file {
            Some(_) => {
                let file = write(file, &mut memory).await?;
                self.count(&mut share, written, 0)?;
                Collected::File(file.into(), written)
            }
            None if memory.len() <= INLINE_BYTES_MAX => Collected::Inline(memory),
            None => {
                let file = sealed(&memory).and_then(unreserved);
                let file = file.map_err(NotCollected::Spool)?;
                Collected::File(file, written)
            }
        };
        Ok((collected, share))
    }

    /// Counts the bytes of a body that are in memory. `written` bytes are in its file, `kept` are
    /// not. `false`: there is no room for them, and they are to be written.
    fn count(&self, share: &mut Share, written: u64, kept: usize) -> Result<bool, NotCollected> {
        match self.directory {
            Some(_) => Ok(share.resize(kept as u64)),
            None if share.resize(written + kept as u64) => Ok(true),
            None => Err(no_room()),
        }
    }

    /// A new file for a body of `length` bytes, which no name leads to.
    async fn file(&self, share: &Share, length: u64) -> Result<File, NotCollected> {
        let Some(directory) = self.directory.clone() else {
            if !share.can_be(length) {
                return Err(no_room());
            }
            let file = anonymous_file("coring").and_then(unreserved);
            return Ok(file.map_err(NotCollected::Spool)?.into());
        };
        let opened = blocking(move || file_in(&directory).and_then(unreserved)).await;
        let opened = opened.map_err(|error| NotCollected::Spool(error.into()))?;
        opened.map_err(NotCollected::Spool)
    }
}

/// Refuses one of the last descriptors. They are reserved for connections, so that their clients
/// can get 503.
fn unreserved<F: AsFd>(file: F) -> io::Result<F> {
    match is_reserved_descriptor(&file) {
        true => Err(Errno::MFILE.into()),
        false => Ok(file),
    }
}

/// A body is beyond what may be in memory.
fn no_room() -> NotCollected {
    let reason = "there is neither a directory nor enough memory for it";
    NotCollected::Spool(io::Error::other(reason))
}

/// A new file in a directory, which no name leads to.
///
/// # Errors
/// Those of open(2).
fn file_in(directory: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match open(directory, flags, Mode::RUSR | Mode::WUSR) {
        // File systems such as NFS make no file without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => unlinked_file_in(directory),
        opened => Ok(opened?.into()),
    }
}

/// Like [`file_in`], for every file system: the file has a name at first.
fn unlinked_file_in(directory: &Path) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".coring-{}-{number}", std::process::id()));
        match open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => {}
            opened => {
                let file = opened?;
                unlink(&path)?;
                return Ok(file.into());
            }
        }
    }
}

/// Appends what is in memory.
async fn write(file: Option<File>, memory: &mut Vec<u8>) -> Result<File, NotCollected> {
    let mut file = file.expect("there is a file");
    let bytes = std::mem::take(memory);
    let written = blocking(move || file.write_all(&bytes).map(|()| file));
    let written = written
        .await
        .map_err(|error| NotCollected::Spool(error.into()))?;
    written.map_err(NotCollected::Spool)
}

/// A file in memory that cannot be changed.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut writer = File::from(anonymous_file("coring")?);
    writer.write_all(bytes)?;
    let file = OwnedFd::from(writer);
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// The directory for large request bodies, if a file can be made there. Else it is reported that
/// there is none, unless the application gets all bodies as they arrive.
pub(super) fn spool_directory(options: &Options, loaded: Option<&Loaded>) -> Option<PathBuf> {
    let directory = &options.spool_dir;
    match file_in(directory) {
        Ok(_) => Some(directory.clone()),
        Err(error) => {
            if loaded.is_none_or(|loaded| loaded.interface == "wsgi") {
                messages::report(format_args!(
                    "no file can be made in {}: {error}; request bodies are kept in memory, at \
                     most {} MiB for each core, and further ones get 503; name another directory \
                     with --spool-dir",
                    directory.display(),
                    MEMORY_BYTES_MAX >> 20,
                ));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::python::link::Link;
    use crate::python::outbox::Outgoing;
    use crate::python::{pair, request};
    use crate::run;
    use crate::task::time::{sleep, timeout};

    #[test]
    fn a_file_has_no_name() {
        let directory = std::env::temp_dir().join(format!("coring-spool-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        for make in [file_in, unlinked_file_in] {
            make(&directory).unwrap().write_all(b"x").unwrap();
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        }
        fs::remove_dir(&directory).unwrap();
        assert!(file_in(&directory).is_err());
    }

    #[test]
    fn the_shares_of_all_bodies_are_limited() {
        let held = Rc::new(Cell::new(0));
        let share = || Share {
            held: held.clone(),
            bytes: 0,
        };
        let (mut one, mut other) = (share(), share());
        assert!(one.resize(MEMORY_BYTES_MAX - 10));
        assert!(other.resize(4));
        assert!(other.resize(10));
        assert!(!other.resize(11));
        assert!(!share().can_be(u64::MAX));
        drop(one);
        assert!(other.resize(MEMORY_BYTES_MAX));
        assert!(other.resize(1));
        drop(other);
        assert_eq!(held.get(), 0);
    }

    /// Bodies that have no room in memory go to files, and are refused if there can be none.
    #[test]
    fn the_bodies_of_a_core_share_the_memory() {
        const BODY_BYTES: usize = 200 << 10;
        const FITTING: u64 = MEMORY_BYTES_MAX / BODY_BYTES as u64;
        let directory = std::env::temp_dir();
        let device = rustix::fs::stat(&directory).expect("a directory").st_dev;
        let is_in_directory = move |body: &Collected| match body {
            Collected::File(file, length) => {
                assert_eq!(*length, BODY_BYTES as u64);
                rustix::fs::fstat(file).expect("a file").st_dev == device
            }
            _ => false,
        };
        for directory in [Some(directory), None] {
            let spool = Spool::new(256 << 10, directory.clone());
            let held = spool.held.clone();
            run(async move {
                let collect = async || {
                    let mut body = Body::from(vec![1; BODY_BYTES]);
                    spool.collect(&mut body, true).await
                };
                let mut kept = Vec::new();
                for _ in 0..FITTING {
                    let (body, share) = collect().await.expect("room in memory");
                    assert!(!is_in_directory(&body));
                    kept.push((body, share));
                }
                let further = collect().await;
                match directory {
                    Some(_) => assert!(is_in_directory(&further.expect("a file").0)),
                    None => assert!(matches!(further, Err(NotCollected::Spool(_)))),
                }
                kept.pop();
                assert!(!is_in_directory(
                    &collect().await.expect("room in memory").0
                ));
            });
            assert_eq!(held.get(), 0);
        }
    }

    /// Its client may have gone before.
    #[test]
    fn a_body_has_its_share_until_no_worker_needs_it() {
        run(async {
            let spool = Spool::new(0, None);
            let mut body = Body::from(vec![1; 1000]);
            let (_, share) = spool.collect(&mut body, true).await.expect("room");
            let (near, _far) = pair(4096).expect("a pair");
            let link = Link::new(0, near, usize::MAX, (0, 0));
            // It is late at once.
            let call = link.open(0.0, false);
            let bytes = request::begin(0, call.id).into_bytes();
            call.keep(share);
            drop(call);
            assert_eq!(spool.held.get(), 1000);
            let descriptor = None;
            link.send_shared(Outgoing { bytes, descriptor });
            let is_over = async {
                while spool.held.get() > 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            let outcome = timeout(Duration::from_secs(20), is_over).await;
            assert!(outcome.is_ok(), "the share is kept");
        });
    }
}
