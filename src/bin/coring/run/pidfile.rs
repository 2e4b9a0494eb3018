//! The file with the process id.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::RunError;

/// A file with the id of this process. It is removed when this is dropped, or emptied if its
/// directory does not permit that.
#[derive(Debug)]
pub(crate) struct Pidfile {
    path: PathBuf,
    file: File,
}

impl Pidfile {
    /// Writes the file, which appears with its content. The file of a process that has ended is
    /// replaced.
    ///
    /// # Errors
    /// One line, if another process has it, or it cannot be written.
    pub(crate) fn create(path: &Path) -> Result<Self, RunError> {
        let shown = path.display();
        if let Some(pid) = read(path)
            && pid != process::id()
            && is_alive(pid)
        {
            return Err(RunError::Setting(format!(
                "process {pid} has the pidfile {shown}; stop that process, or name another file \
                 with --pidfile"
            )));
        }
        let file = write(path).map_err(|error| {
            RunError::Configuration(format!(
                "cannot write the pidfile {shown}: {error}; check the path and its permissions"
            ))
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if read(&self.path) == Some(process::id()) && fs::remove_file(&self.path).is_err() {
            // An empty file names no process, so it is stale.
            let _ = self.file.set_len(0);
        }
    }
}

fn read(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

fn write(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", process::id()));
    let temporary = PathBuf::from(name);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        writeln!(file, "{}", process::id())?;
        fs::rename(&temporary, path)?;
        Ok(file)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_is_refused_while_its_process_lives() {
        let directory = std::env::temp_dir().join(format!("coring-pidfile-{}", process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("pid");
        fs::write(&path, "1\n").expect("a file");
        let error = Pidfile::create(&path).expect_err("process 1 lives");
        let error = error.to_string();
        assert!(error.starts_with("process 1 has the pidfile"), "{error}");
        // One that has ended, one that never was, and the one of a restarted container.
        for stale in ["4194305", "", "nonsense", &process::id().to_string()] {
            fs::write(&path, stale).expect("a file");
            let pidfile = Pidfile::create(&path).expect(stale);
            assert_eq!(read(&path), Some(process::id()), "{stale}");
            drop(pidfile);
            assert!(!path.exists(), "{stale}");
        }
        // What another process has written meanwhile is left alone.
        let pidfile = Pidfile::create(&path).expect("no file");
        fs::write(&path, "1\n").expect("a file");
        drop(pidfile);
        assert_eq!(read(&path), Some(1));
        assert_eq!(fs::read_dir(&directory).expect("a directory").count(), 1);
        fs::remove_dir_all(&directory).expect("our directory");
    }
}
