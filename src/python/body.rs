//! Collects the body of a request before its application is called (WSGI): a client that uploads
//! slowly holds no worker. A small body is kept in memory and travels with the request; a larger
//! one is written to a file without a name, whose descriptor travels instead. Where no such file
//! can be made, as with a read-only root, the file is in memory, and the sum of these files is
//! limited.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open, unlink,
};
use rustix::io::Errno;

use super::options::Options;
use super::pool::Loaded;
use crate::engine::blocking;
use crate::messages;
use crate::service::Body;

/// The longest body that travels within the message of its request, in bytes.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes that are written to a spool file at a time, if that many may be in memory.
const WRITE_BYTES: usize = 256 << 10;
/// The longest sum of a core's bodies that are in memory for lack of a directory, in bytes.
const FALLBACK_BYTES_MAX: u64 = 64 << 20;

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
    /// The bytes of longer bodies that are in memory for lack of a directory.
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

/// The part of [`FALLBACK_BYTES_MAX`] that a body takes, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    held: Rc<Cell<u64>>,
    bytes: u64,
}

impl Share {
    /// Whether it may become `bytes`.
    fn check(&self, bytes: u64) -> Result<(), NotCollected> {
        let others = self.held.get() - self.bytes;
        if others.saturating_add(bytes) > FALLBACK_BYTES_MAX {
            let reason = "there is neither a directory nor enough memory for it";
            return Err(NotCollected::Spool(io::Error::other(reason)));
        }
        Ok(())
    }

    /// Makes it `bytes`.
    fn grow_to(&mut self, bytes: u64) -> Result<(), NotCollected> {
        self.check(bytes)?;
        self.held.set(self.held.get() - self.bytes + bytes);
        self.bytes = bytes;
        Ok(())
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
    /// be dropped when the worker needs the body no longer.
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
            if file.is_none() && memory.len() > self.memory_bytes_max {
                file = Some(self.file(&share, length).await?);
            }
            if file.is_some() && memory.len() >= write_bytes {
                self.admit(&mut share, length)?;
                written = length;
                file = Some(write(file, &mut memory).await?);
            }
        }
        written += memory.len() as u64;
        let collected = match file {
            Some(_) => {
                self.admit(&mut share, written)?;
                let file = write(file, &mut memory).await?;
                Collected::File(file.into(), written)
            }
            None if memory.len() <= INLINE_BYTES_MAX => Collected::Inline(memory),
            None => {
                let file = sealed(&memory).map_err(NotCollected::Spool)?;
                Collected::File(file, written)
            }
        };
        Ok((collected, share))
    }

    /// Counts the bytes of a body if they are in memory.
    fn admit(&self, share: &mut Share, length: u64) -> Result<(), NotCollected> {
        match self.directory {
            Some(_) => Ok(()),
            None => share.grow_to(length),
        }
    }

    /// A new file for a body of `length` bytes, which no name leads to.
    async fn file(&self, share: &Share, length: u64) -> Result<File, NotCollected> {
        let Some(directory) = self.directory.clone() else {
            share.check(length)?;
            return Ok(memfd().map_err(NotCollected::Spool)?.into());
        };
        let opened = blocking(move || file_in(&directory)).await;
        let opened = opened.map_err(|error| NotCollected::Spool(error.into()))?;
        opened.map_err(NotCollected::Spool)
    }
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
    let file = memfd()?;
    let mut writer = File::from(file);
    writer.write_all(bytes)?;
    let file = OwnedFd::from(writer);
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// An empty file in memory. It cannot be executed, which `vm.memfd_noexec` may ask for.
pub(super) fn memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(
        match memfd_create("coring", flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not know the flag.
            Err(Errno::INVAL) => memfd_create("coring", flags)?,
            created => created?,
        },
    )
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
                    FALLBACK_BYTES_MAX >> 20,
                ));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
        one.grow_to(FALLBACK_BYTES_MAX - 10).unwrap();
        other.grow_to(4).unwrap();
        other.grow_to(10).unwrap();
        assert!(other.grow_to(11).is_err());
        assert!(share().check(u64::MAX).is_err());
        drop(one);
        other.grow_to(FALLBACK_BYTES_MAX).unwrap();
        drop(other);
        assert_eq!(held.get(), 0);
    }
}
