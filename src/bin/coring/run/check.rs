//! The checks of `--check-config`. They leave nothing behind: no file is made, no address is bound.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use coring::AccessLog;
use coring::net::Address;
use coring::process::copy_descriptor;
use rustix::fs::{Access, access};

use super::{RunArgs, RunError, unusable};
use crate::plan::ServerConfig;

impl RunArgs {
    /// Checks that the addresses are valid, that the user and the directories exist, that files can
    /// be written where they are to be, and that the application can be loaded. Returns what that
    /// has turned out to be.
    ///
    /// # Errors
    /// When one of these is not so. The exit status is 1, as in gunicorn, if the application cannot
    /// be loaded.
    pub(crate) fn check(&self, config: &ServerConfig) -> Result<String, RunError> {
        for text in &config.addresses {
            for address in Address::all_of(text).map_err(RunError::Configuration)? {
                if let Address::Unix(path) = address {
                    checked("the socket", &path, can_make(&path))?;
                }
            }
        }
        self.process.identity().map_err(RunError::Configuration)?;
        if let Some(path) = &self.process.pidfile {
            checked("the pidfile", path, can_make(path))?;
        }
        if let AccessLog::File(path) = &config.access_log {
            checked("the access log", path, can_write(path))?;
        }
        if let Some(path) = self.compat.error_log() {
            checked("the error log", &path, can_write(&path))?;
        }
        if let Some(directory) = &self.spool_dir {
            can_make_in(directory)
                .map_err(|error| unusable("--spool-dir DIR", directory, error))?;
        }
        self.open_mounts()?;
        let options = self.options(Duration::ZERO)?;
        let found = coring::python::check(&options);
        found.map_err(|error| RunError::Start(options.python, error))
    }
}

fn checked(what: &str, path: &Path, found: io::Result<()>) -> Result<(), RunError> {
    found.map_err(|error| {
        let path = path.display();
        RunError::Configuration(format!(
            "cannot write {what} {path}: {error}; check the path and its permissions"
        ))
    })
}

/// Whether a file can be written, or made if there is none.
fn can_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        _ if copy_descriptor(path).is_some() => Ok(()),
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(access(path, Access::WRITE_OK)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => can_make(path),
        Err(error) => Err(error),
    }
}

/// Whether a file of this path can be made.
fn can_make(path: &Path) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    can_make_in(directory.unwrap_or_else(|| Path::new(".")))
}

/// Whether files can be made in this directory.
fn can_make_in(directory: &Path) -> io::Result<()> {
    match fs::metadata(directory)?.is_dir() {
        true => Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}
