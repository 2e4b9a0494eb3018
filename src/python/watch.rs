//! Notices that Python files below some directories have changed: on a thread of its own, which
//! inotify wakes, or which looks regularly where the kernel refuses that.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::messages;

/// How long the files have to stay as they are: several saves within that time are one change.
const SETTLE: Duration = Duration::from_millis(100);
/// How many times that is waited for.
const SETTLE_ROUNDS: u32 = 20;
/// How often the files are looked at where the kernel does not tell of changes.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How many directories are watched.
const DIRECTORIES_MAX: usize = 10_000;
/// Names of directories without source files of the application. Those whose names begin with a
/// dot are left out as well, and virtual environments.
const LEFT_OUT: &[&str] = &[
    "__pycache__",
    "node_modules",
    "site-packages",
    "dist-packages",
];
/// The file by which a virtual environment is known.
const ENVIRONMENT: &str = "pyvenv.cfg";

/// The thread that notices changes. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Watcher {
    end: OwnedFd,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread. Each change after this call is told to `changed`, with the path of a file
    /// that has changed, relative to the directory that it was found in.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn start(
        directories: Vec<PathBuf>,
        changed: impl Fn(PathBuf) + Send + 'static,
    ) -> io::Result<Self> {
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let asked = end.try_clone()?;
        let mut watch = Watch {
            directories,
            end: asked,
            inotify: None,
            is_limit_reported: false,
        };
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(inotify) => watch.inotify = Some(inotify),
            Err(error) => report_polling(error),
        }
        let files = watch.look();
        let thread = thread::Builder::new()
            .name("coring-reload".to_owned())
            .spawn(move || watch.run(files, &changed))?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What tells one state of a file from another: when it was changed last, in seconds and
/// nanoseconds, its size, and its inode.
type Stamp = (i64, i64, u64, u64);

/// The files below the directories.
#[derive(Debug, Default, PartialEq, Eq)]
struct Files {
    stamps: BTreeMap<PathBuf, Stamp>,
    /// A directory that was to be watched is missing: the kernel cannot tell when it comes.
    is_incomplete: bool,
}

impl Files {
    /// A file that is not as it was.
    fn difference<'a>(&'a self, later: &'a Self) -> Option<&'a Path> {
        let changed = |(path, stamp): &(&PathBuf, &Stamp)| self.stamps.get(*path) != Some(stamp);
        let removed = |path: &&PathBuf| !later.stamps.contains_key(*path);
        let changed = later.stamps.iter().find(changed).map(|(path, _)| path);
        let found = changed.or_else(|| self.stamps.keys().find(removed));
        found.map(PathBuf::as_path)
    }
}

struct Watch {
    directories: Vec<PathBuf>,
    end: OwnedFd,
    /// None where files are looked at regularly.
    inotify: Option<OwnedFd>,
    is_limit_reported: bool,
}

impl Watch {
    fn run(mut self, mut files: Files, changed: &impl Fn(PathBuf)) {
        loop {
            let limit = match self.inotify {
                Some(_) if !files.is_incomplete => None,
                _ => Some(POLL_INTERVAL),
            };
            match self.wait(limit) {
                Wakeup::End => return,
                Wakeup::Events if !self.concern_files() => continue,
                Wakeup::Events | Wakeup::Time => {}
            }
            let mut later = self.look();
            for _ in 0..SETTLE_ROUNDS {
                if later == files {
                    break;
                }
                if self.sleep(SETTLE) {
                    return;
                }
                let settled = self.look();
                if settled == later {
                    break;
                }
                later = settled;
            }
            if let Some(path) = files.difference(&later) {
                let mut directories = self.directories.iter();
                let short = directories.find_map(|directory| path.strip_prefix(directory).ok());
                changed(short.unwrap_or(path).to_owned());
            }
            files = later;
        }
    }

    /// Waits until there are events, or the time is over.
    fn wait(&self, limit: Option<Duration>) -> Wakeup {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut polled = vec![PollFd::new(&self.end, PollFlags::IN)];
        polled.extend(
            self.inotify
                .iter()
                .map(|inotify| PollFd::new(inotify, PollFlags::IN)),
        );
        loop {
            match poll(&mut polled, limit.as_ref()) {
                Err(Errno::INTR) => {}
                Err(_) => return Wakeup::End,
                Ok(0) => return Wakeup::Time,
                Ok(_) if polled[0].revents().is_empty() => return Wakeup::Events,
                Ok(_) => return Wakeup::End,
            }
        }
    }

    /// `true`: the thread is to end.
    fn sleep(&self, time: Duration) -> bool {
        let mut polled = [PollFd::new(&self.end, PollFlags::IN)];
        let time = Timespec::try_from(time).ok();
        !matches!(poll(&mut polled, time.as_ref()), Ok(0) | Err(Errno::INTR))
    }

    /// Takes all events: whether one of them may be about a Python file.
    fn concern_files(&self) -> bool {
        let Some(inotify) = &self.inotify else {
            return true;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut is_concerned = false;
        while let Ok(event) = reader.next() {
            let flags = event.events();
            let name = event.file_name().map(|name| name.to_bytes());
            // Without a name it is about a directory that is watched, or events were lost.
            is_concerned |=
                flags.contains(ReadFlags::ISDIR) || name.is_none_or(|name| name.ends_with(b".py"));
        }
        is_concerned
    }

    /// Looks at all files, and has the kernel tell of their changes from now on.
    fn look(&mut self) -> Files {
        let mut files = Files::default();
        let mut waiting = self.directories.clone();
        let mut count = 0;
        while let Some(directory) = waiting.pop() {
            count += 1;
            if count > DIRECTORIES_MAX {
                self.report_limit();
                break;
            }
            let is_given = self.directories.contains(&directory);
            if !is_given && fs::exists(directory.join(ENVIRONMENT)).unwrap_or(false) {
                continue;
            }
            // Watched before it is read, so that no change comes between.
            self.watch(&directory);
            let Ok(entries) = fs::read_dir(&directory) else {
                files.is_incomplete |= is_given;
                continue;
            };
            for entry in entries.flatten() {
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let path = entry.path();
                if is_directory && !is_left_out(&entry.file_name()) {
                    waiting.push(path);
                } else if !is_directory
                    && path.extension() == Some(OsStr::new("py"))
                    && let Ok(file) = fs::metadata(&path)
                {
                    let stamp = (file.mtime(), file.mtime_nsec(), file.size(), file.ino());
                    files.stamps.insert(path, stamp);
                }
            }
        }
        files
    }

    fn watch(&mut self, directory: &Path) {
        let Some(inotify) = &self.inotify else { return };
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(inotify, directory, flags) {
            // The directory has just gone, or may not be read.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(error) => {
                report_polling(error);
                self.inotify = None;
            }
        }
    }

    fn report_limit(&mut self) {
        if !self.is_limit_reported {
            self.is_limit_reported = true;
            messages::report(format_args!(
                "reload: there are more than {DIRECTORIES_MAX} directories, and the others are not \
                 watched; name those with source files with --reload-dir"
            ));
        }
    }
}

enum Wakeup {
    End,
    Events,
    Time,
}

fn is_left_out(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || LEFT_OUT.iter().any(|other| name == *other)
}

fn report_polling(error: Errno) {
    messages::report(format_args!(
        "reload: the kernel tells of no changes here: {error}; files are looked at every {} ms",
        POLL_INTERVAL.as_millis()
    ));
}

#[cfg(test)]
mod tests {
    use std::fs::{self, create_dir, create_dir_all, remove_file, rename, write};
    use std::process;
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("coring-{name}-{}", process::id()));
        create_dir_all(&path).expect("a directory");
        path
    }

    /// Each kind of change is noticed, and others are not.
    fn notices(root: &Path, mut watch: Watch) {
        let (sender, changes) = mpsc::channel();
        write(root.join("a.py"), "1").expect("a file");
        let files = watch.look();
        let end = watch.end.try_clone().expect("a descriptor");
        let told = move |path: PathBuf| {
            let _ = sender.send(path.display().to_string());
        };
        let thread = thread::spawn(move || watch.run(files, &told));
        let next = |what: &str| match changes.recv_timeout(PATIENCE) {
            Ok(path) => path,
            Err(_) => panic!("not noticed: {what}"),
        };
        write(root.join("a.py"), "2").expect("a write");
        assert_eq!(next("a write"), "a.py");
        write(root.join("a.tmp"), "3").expect("a write");
        rename(root.join("a.tmp"), root.join("a.py")).expect("a rename");
        assert_eq!(next("a rename"), "a.py");
        create_dir(root.join("new")).expect("a directory");
        write(root.join("new/b.py"), "4").expect("a write");
        assert_eq!(next("a new directory"), "new/b.py");
        write(root.join("new/b.py"), "55").expect("a write");
        assert_eq!(next("a write in a new directory"), "new/b.py");
        remove_file(root.join("new/b.py")).expect("a removal");
        assert_eq!(next("a removal"), "new/b.py");
        for left_out in [
            ".git",
            "__pycache__",
            "node_modules",
            "lib/site-packages",
            "v",
        ] {
            create_dir_all(root.join(left_out)).expect("a directory");
            write(root.join("v/pyvenv.cfg"), "").unwrap_or_default();
            write(root.join(left_out).join("c.py"), "6").expect("a write");
        }
        write(root.join("a.txt"), "7").expect("a write");
        assert!(changes.recv_timeout(Duration::from_secs(1)).is_err());
        // Several saves are one change.
        write(root.join("a.py"), "8").expect("a write");
        write(root.join("z.py"), "9").expect("a write");
        assert_eq!(next("two writes"), "a.py");
        assert!(changes.recv_timeout(Duration::from_secs(1)).is_err());
        rustix::io::write(&end, &1_u64.to_ne_bytes()).expect("an end");
        thread.join().expect("no panic");
        fs::remove_dir_all(root).expect("a removal");
    }

    fn watch_of(root: &Path, inotify: Option<OwnedFd>) -> Watch {
        Watch {
            directories: vec![root.to_owned()],
            end: eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor"),
            inotify,
            is_limit_reported: false,
        }
    }

    #[test]
    fn the_kernel_tells_of_changes() {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let root = directory("watched");
        notices(&root, watch_of(&root, Some(inotify.expect("inotify"))));
    }

    #[test]
    fn changes_are_noticed_without_the_kernel() {
        let root = directory("polled");
        notices(&root, watch_of(&root, None));
    }

    #[test]
    fn a_directory_that_is_missing_is_waited_for() {
        let root = directory("late");
        let missing = root.join("missing");
        let (sender, changes) = mpsc::channel();
        let watcher = Watcher::start(vec![missing.clone()], move |path| {
            let _ = sender.send(path);
        });
        let watcher = watcher.expect("a thread");
        create_dir(&missing).expect("a directory");
        write(missing.join("a.py"), "1").expect("a write");
        assert_eq!(changes.recv_timeout(PATIENCE).ok(), Some("a.py".into()));
        drop(watcher);
        fs::remove_dir_all(root).expect("a removal");
    }
}
