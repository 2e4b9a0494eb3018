//! Collects the body of a request before its application is called (WSGI): a client that uploads
//! slowly holds no worker. A small body is kept in memory and travels with the request; a larger
//! one is written to a file without a name, whose descriptor travels instead.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::io::Errno;

use crate::engine::blocking;
use crate::service::Body;

/// The longest body that travels within the message of its request, in bytes.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes that are written to a spool file at a time.
const WRITE_BYTES: usize = 256 << 10;

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

/// Where bodies are kept.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    /// The longest body that is kept in memory, in bytes.
    pub(super) memory_bytes_max: usize,
    /// The directory for longer ones.
    pub(super) directory: PathBuf,
}

/// Why a body is not there.
#[derive(Debug)]
pub(super) enum NotCollected {
    /// The client has not sent it to its end.
    Incomplete,
    /// There is no place for it.
    Spool(io::Error),
}

impl Spool {
    /// Reads all of `body`. `has_body`: the request has one, even if it is empty.
    pub(super) async fn collect(
        &self,
        body: &mut Body,
        has_body: bool,
    ) -> Result<Collected, NotCollected> {
        let expected = body.length();
        if expected == Some(0) {
            return Ok(match has_body {
                true => Collected::Inline(Vec::new()),
                false => Collected::None,
            });
        }
        let memory_bytes_max = self.memory_bytes_max.max(INLINE_BYTES_MAX);
        let is_longer = expected.is_some_and(|length| length > memory_bytes_max as u64);
        let mut memory = Vec::new();
        let mut file = None;
        let mut written = 0;
        if is_longer {
            file = Some(self.file().await?);
        }
        while let Some(part) = body.part().await.map_err(|_| NotCollected::Incomplete)? {
            memory.extend_from_slice(&part);
            if file.is_none() && memory.len() > memory_bytes_max {
                file = Some(self.file().await?);
            }
            if file.is_some() && memory.len() >= WRITE_BYTES {
                written += memory.len() as u64;
                file = Some(write(file, &mut memory).await?);
            }
        }
        written += memory.len() as u64;
        match file {
            Some(_) => {
                let file = write(file, &mut memory).await?;
                Ok(Collected::File(file.into(), written))
            }
            None if memory.len() <= INLINE_BYTES_MAX => Ok(Collected::Inline(memory)),
            None => {
                let file = sealed(&memory).map_err(NotCollected::Spool)?;
                Ok(Collected::File(file, written))
            }
        }
    }

    /// A new file in the directory, which no name leads to.
    async fn file(&self) -> Result<File, NotCollected> {
        let directory = self.directory.clone();
        let opened = blocking(move || {
            let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
            open(&directory, flags, Mode::RUSR | Mode::WUSR)
        });
        let opened = opened
            .await
            .map_err(|error| NotCollected::Spool(error.into()))?;
        let opened = opened.map_err(|errno| NotCollected::Spool(errno.into()))?;
        Ok(opened.into())
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

/// A file in memory that cannot be changed any more.
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
