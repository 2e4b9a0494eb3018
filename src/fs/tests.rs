//! Tests of `Root` and `File` on real files, each in its own temporary directory.

use std::convert::identity;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use super::*;
use crate::engine::{EngineChoice, Worker};

/// A temporary directory, removed on drop. It has `site`, which is the root, and `outside/secret`.
pub(super) struct TestDir(PathBuf);

impl TestDir {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("coring-fs-{}-{number}", std::process::id());
        let test_dir = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(test_dir.site("folder")).unwrap();
        fs::create_dir(test_dir.0.join("outside")).unwrap();
        fs::write(test_dir.0.join("outside/secret"), "secret").unwrap();
        test_dir
    }

    pub(super) fn site(&self, name: &str) -> PathBuf {
        self.0.join("site").join(name)
    }

    fn root(&self) -> Root {
        Root::open(self.0.join("site")).unwrap()
    }

    pub(super) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.site(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) {
        symlink(target, self.site(name)).unwrap();
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `main` on a new worker, once on the default engine and once on epoll.
pub(super) fn on_each_engine<F: Future<Output = ()> + 'static>(main: impl Fn() -> F) {
    for choice in [EngineChoice::Auto, EngineChoice::Epoll] {
        let selected = choice.probe().unwrap();
        let worker = Worker::new(&selected, usize::MAX, &Arc::default()).unwrap();
        worker.run(main()).unwrap();
    }
}

/// Opens `name`. Returns a file's content, a word for another kind of file, or the errno.
async fn open_and_read(root: &Root, name: impl AsRef<Path>) -> Result<String, i32> {
    match root.open_file(name).await {
        Ok(Entry::File(file)) => {
            let len = usize::try_from(file.metadata().len()).unwrap();
            let content = file.read_at(0, len).await.unwrap();
            Ok(String::from_utf8(content.into()).unwrap())
        }
        Ok(Entry::Directory) => Ok("a directory".to_owned()),
        Ok(Entry::Other) => Ok("something else".to_owned()),
        Err(error) => Err(error.raw_os_error().unwrap()),
    }
}

fn found(what: &str) -> Result<String, i32> {
    Ok(what.to_owned())
}

/// Evicts the file from the page cache. False if this file system does not allow that.
fn evict(file: &fs::File) -> bool {
    file.sync_all().unwrap();
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut byte = Vec::with_capacity(1);
    let read = crate::sys::file::read_cached(file, &mut byte, 0);
    let cold = read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    // The read above has started readahead.
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    cold
}

/// Only the first and the last byte of a span are in the page cache: the send would read the rest
/// from the disk, on the worker.
#[test]
fn a_span_whose_middle_is_cold_is_not_sent() {
    const LEN: usize = 256 << 10;
    let test_dir = TestDir::new();
    let path = test_dir.file("a", &pattern(LEN));
    let on_disk = fs::File::open(&path).unwrap();
    let root = test_dir.root();
    on_each_engine(|| {
        let (root, on_disk) = (root.clone(), on_disk.try_clone().unwrap());
        async move {
            let Ok(Entry::File(file)) = root.open_file("a").await else {
                panic!("not a regular file")
            };
            // Without readahead, a read loads its page alone.
            rustix::fs::fadvise(&on_disk, 0, None, rustix::fs::Advice::Random).unwrap();
            evict(&on_disk);
            let mut byte = [0];
            on_disk.read_exact_at(&mut byte, 0).unwrap();
            on_disk.read_exact_at(&mut byte, LEN as u64 - 1).unwrap();
            let span = file.span(0, LEN);
            let middle_is_cold = !crate::sys::file::is_cached(&on_disk, LEN as u64 / 2);
            assert!(span.is_none() || !middle_is_cold);
            on_disk.read_exact_at(&mut vec![0; LEN], 0).unwrap();
            assert!(file.span(0, LEN).is_some() && file.span(1, LEN - 1).is_some());
            assert!(file.span(LEN as u64 - 1, 1).is_some() && file.span(0, 0).is_none());
        }
    });
}

fn pattern(len: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from(at * 7 % 251).unwrap();
    (0..len).map(byte).collect()
}

#[test]
fn files_beneath_the_root_are_opened() {
    let test_dir = TestDir::new();
    test_dir.file("a.txt", b"a");
    test_dir.file("folder/b.txt", b"b");
    test_dir.file("folder/nothing", b"");
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            assert_eq!(open_and_read(&root, "a.txt").await, found("a"));
            assert_eq!(open_and_read(&root, "folder/b.txt").await, found("b"));
            assert_eq!(open_and_read(&root, "folder//./b.txt").await, found("b"));
            assert_eq!(open_and_read(&root, "folder/../a.txt").await, found("a"));
            assert_eq!(open_and_read(&root, "folder/nothing").await, found(""));
            assert_eq!(open_and_read(&root, "folder").await, found("a directory"));
            assert_eq!(open_and_read(&root, "").await, found("a directory"));
            assert_eq!(open_and_read(&root, "c.txt").await, Err(libc::ENOENT));
            assert_eq!(open_and_read(&root, "a.txt/").await, Err(libc::ENOTDIR));
            let long = "x".repeat(300);
            assert_eq!(open_and_read(&root, long).await, Err(libc::ENAMETOOLONG));
            assert_eq!(open_and_read(&root, "a.txt\0").await, Err(libc::EINVAL));
        }
    });
}

#[test]
fn no_name_or_link_leads_out_of_the_root() {
    let test_dir = TestDir::new();
    test_dir.file("a.txt", b"a");
    test_dir.link("up", "../outside/secret");
    test_dir.link("up_folder", "..");
    test_dir.link("absolute", test_dir.0.join("outside/secret"));
    test_dir.link("absolute_beneath", test_dir.site("a.txt"));
    test_dir.link("to_link", "up");
    test_dir.link("folder/to_link", "../to_link");
    test_dir.link("magic", "/proc/self/root");
    let outside = test_dir.0.join("outside/secret");
    let root = test_dir.root();
    on_each_engine(|| {
        let (root, outside) = (root.clone(), outside.clone());
        async move {
            let names = [
                "..",
                "../outside/secret",
                "folder/../../outside/secret",
                "folder/../../site/a.txt",
                "/etc/passwd",
                "//etc/passwd",
                "up",
                "up_folder/outside/secret",
                "absolute",
                "absolute_beneath",
                "to_link",
                "folder/to_link",
                "magic/etc/passwd",
            ];
            for name in names {
                assert_eq!(open_and_read(&root, name).await, Err(libc::EXDEV), "{name}");
            }
            assert_eq!(open_and_read(&root, outside).await, Err(libc::EXDEV));
            // Bytes that some decoders take for `..` or `/` are ordinary parts of a name here.
            for name in [&b"..\\outside\\secret"[..], b"\xc0\xae\xc0\xae/secret"] {
                let name = OsStr::from_bytes(name);
                assert_eq!(
                    open_and_read(&root, name).await,
                    Err(libc::ENOENT),
                    "{name:?}"
                );
            }
        }
    });
}

#[test]
fn links_beneath_the_root_are_followed_as_in_a_kubernetes_config_map() {
    let test_dir = TestDir::new();
    test_dir.file("folder/page", b"old");
    test_dir.link("..data", "folder");
    test_dir.link("page", "..data/page");
    test_dir.link("folder/up", "../page");
    test_dir.link("loop", "loop");
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            assert_eq!(open_and_read(&root, "page").await, found("old"));
            assert_eq!(open_and_read(&root, "folder/up").await, found("old"));
            assert_eq!(open_and_read(&root, "..data").await, found("a directory"));
            assert_eq!(open_and_read(&root, "loop").await, Err(libc::ELOOP));
        }
    });
}

#[test]
fn a_link_that_is_swapped_repeatedly_never_leads_out_of_the_root() {
    let test_dir = TestDir::new();
    test_dir.file("folder/secret", b"beneath");
    test_dir.link("swapped", "folder");
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, site) = (stop.clone(), test_dir.site(""));
    let swapper = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for target in ["../outside", "folder"] {
                symlink(target, site.join("new")).unwrap();
                fs::rename(site.join("new"), site.join("swapped")).unwrap();
            }
        }
    });
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            let mut beneath = 0;
            for _ in 0..2_000 {
                match open_and_read(&root, "folder/../swapped/secret").await {
                    Ok(content) => {
                        assert_eq!(content, "beneath");
                        beneath += 1;
                    }
                    Err(libc::EXDEV | libc::EAGAIN) => {}
                    Err(errno) => panic!("errno {errno}"),
                }
            }
            assert!(beneath > 0, "some attempts found the file");
        }
    });
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
}

/// A tree is replaced by renaming a symlink to the new one and deleting the old one, as Kubernetes
/// does it. An attempt that resolved the old link gets `ENOENT`, and must be repeated.
#[test]
fn replacing_a_tree_leaves_no_gap() {
    let test_dir = TestDir::new();
    let swap = |site: &Path, version: u32| {
        let directory = format!("v{version}");
        fs::create_dir(site.join(&directory)).unwrap();
        fs::write(site.join(&directory).join("file"), "there").unwrap();
        symlink(&directory, site.join("new")).unwrap();
        fs::rename(site.join("new"), site.join("current")).unwrap();
    };
    let site = test_dir.site("");
    swap(&site, 0);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let swapper = std::thread::spawn(move || {
        for version in 1.. {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            swap(&site, version);
            fs::remove_dir_all(site.join(format!("v{}", version - 1))).unwrap();
            // If the tree is replaced during each of three attempts, opening fails. The pause makes
            // that unlikely even on a loaded machine.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            for _ in 0..100_000 {
                assert_eq!(open_and_read(&root, "current/file").await, found("there"));
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
}

#[test]
fn pipes_sockets_and_devices_neither_block_nor_are_read() {
    let test_dir = TestDir::new();
    let made = std::process::Command::new("mkfifo")
        .arg(test_dir.site("pipe"))
        .status();
    assert!(made.unwrap().success());
    let _listener = UnixListener::bind(test_dir.site("socket")).unwrap();
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            assert_eq!(open_and_read(&root, "pipe").await, found("something else"));
            assert_eq!(
                open_and_read(&root, "socket").await,
                found("something else")
            );
            let devices = Root::open("/dev").unwrap();
            assert_eq!(
                open_and_read(&devices, "null").await,
                found("something else")
            );
        }
    });
}

/// A reader that opens a pipe and closes it again ends the pipe's writer.
#[test]
fn a_pipe_is_not_opened() {
    let test_dir = TestDir::new();
    let path = test_dir.site("pipe");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let pipe = path.clone();
    // Waits in open(2) for a reader.
    let writer = std::thread::spawn(move || fs::write(pipe, "message"));
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            for _ in 0..50 {
                assert_eq!(open_and_read(&root, "pipe").await, found("something else"));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    // It still waits. Had the pipe been opened, it would have lost its message.
    assert!(!writer.is_finished());
    assert_eq!(fs::read(path).unwrap(), b"message");
    writer.join().unwrap().unwrap();
}

#[test]
fn a_long_listing_is_cut() {
    let test_dir = TestDir::new();
    for name in ["a", "b", ".hidden"] {
        test_dir.file(name, b"");
    }
    test_dir.link("c", "folder");
    test_dir.link("dangling", "none");
    test_dir.link("out", "../outside");
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            for (entries_max, is_cut) in [(0, true), (6, true), (7, false), (9, false)] {
                let listing = root.list("", entries_max, identity).await.unwrap();
                assert_eq!(listing.is_cut, is_cut, "{entries_max}");
                let mut names: Vec<_> = listing
                    .entries
                    .into_iter()
                    .map(|entry| entry.name)
                    .collect();
                names.sort();
                match is_cut {
                    // Those that are left out count, too.
                    true => assert!(names.len() <= entries_max, "{names:?}"),
                    false => assert_eq!(names, [&b"a"[..], b"b", b"c", b"folder"]),
                }
            }
            let error = root.list("a", 9, identity).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
            let error = root.list("../outside", 9, identity).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
        }
    });
}

#[test]
fn replacement_opens_the_directory_that_is_now_at_the_path() {
    let test_dir = TestDir::new();
    let path = test_dir.file("a.txt", b"a");
    let error = Root::open(path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    let error = Root::open(test_dir.0.join("nowhere")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let root = test_dir.root();
    let test_dir = Arc::new(test_dir);
    on_each_engine(|| {
        let (test_dir, root) = (test_dir.clone(), root.clone());
        async move {
            assert!(root.replacement().await.unwrap().is_none());
            let (site, aside) = (test_dir.0.join("site"), test_dir.0.join("aside"));
            fs::rename(&site, &aside).unwrap();
            let error = root.replacement().await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            fs::create_dir(&site).unwrap();
            test_dir.file("b.txt", b"b");
            let other = root.replacement().await.unwrap().unwrap();
            assert_eq!(open_and_read(&root, "a.txt").await, found("a"));
            assert_eq!(open_and_read(&other, "b.txt").await, found("b"));
            assert_eq!(
                open_and_read(&other, "../aside/a.txt").await,
                Err(libc::EXDEV)
            );
            assert!(other.replacement().await.unwrap().is_none());
            fs::remove_dir_all(&site).unwrap();
            fs::rename(&aside, &site).unwrap();
            assert!(root.replacement().await.unwrap().is_none());
            assert!(other.replacement().await.unwrap().unwrap().is_same(&root));
        }
    });
}

#[test]
fn a_change_of_the_path_is_reported_once() {
    let test_dir = TestDir::new();
    let (root, site) = (test_dir.root(), test_dir.0.join("site"));
    let shared = root.clone();
    assert!(!root.record_target(None));
    assert!(root.record_target(Some(libc::ENOENT)) && !shared.record_target(Some(libc::ENOENT)));
    assert!(shared.record_target(None) && !root.record_target(None));
    fs::rename(&site, test_dir.0.join("aside")).unwrap();
    fs::create_dir(&site).unwrap();
    on_each_engine(|| {
        let (root, shared) = (root.clone(), shared.clone());
        async move {
            let others = [root.replacement().await, shared.replacement().await];
            let [first, second] = others.map(|other| other.unwrap().unwrap());
            assert!(first.record_target(None) && !second.record_target(None));
            assert!(root.record_target(None));
        }
    });
}

/// A relative path becomes absolute when it is opened, so a later rename of the working directory
/// does not matter. The test does not rename it, because the whole process shares it.
#[test]
fn a_relative_path_becomes_absolute() {
    let root = Root::open("src").unwrap();
    assert_eq!(root.path(), std::env::current_dir().unwrap().join("src"));
    let root = Root::open("src/../src").unwrap();
    assert!(root.path().ends_with("src/../src") && root.path().is_absolute());
}

#[test]
fn metadata_belongs_to_the_open_file_after_a_rename() {
    let test_dir = TestDir::new();
    let path = test_dir.file("a.txt", b"first");
    let modified = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 500);
    let times = fs::FileTimes::new().set_modified(modified);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_times(times)
        .unwrap();
    let test_dir = Arc::new(test_dir);
    on_each_engine(|| {
        let (test_dir, path) = (test_dir.clone(), path.clone());
        async move {
            let of_path = metadata(&path).await.unwrap();
            let Ok(Entry::File(file)) = test_dir.root().open_file("a.txt").await else {
                panic!("not a regular file")
            };
            let open = file.metadata();
            assert_eq!(*open, of_path);
            assert_eq!((open.len(), open.modified()), (5, modified));
            assert_eq!(open.modified_unix(), (1_000_000_000, 500));
            assert!(open.is_file() && !open.is_directory());
            fs::rename(&path, test_dir.site("moved")).unwrap();
            fs::write(&path, "second one").unwrap();
            assert_eq!(file.read_at(0, 100).await.unwrap(), "first");
            assert_ne!(metadata(&path).await.unwrap().inode(), open.inode());
            fs::rename(test_dir.site("moved"), &path).unwrap();
        }
    });
}

#[test]
fn reads_are_short_only_at_the_end_of_the_file() {
    let test_dir = TestDir::new();
    let content = pattern(300_000);
    let path = test_dir.file("a", &content);
    let root = test_dir.root();
    on_each_engine(|| {
        let (root, content, path) = (root.clone(), content.clone(), path.clone());
        async move {
            let Ok(Entry::File(file)) = root.open_file("a").await else {
                panic!("not a regular file")
            };
            for cold in [false, true] {
                for (offset, len) in [(0, 300_000), (5, 10), (4095, 70_000), (299_999, 1), (7, 0)] {
                    if cold {
                        evict(&fs::File::open(&path).unwrap());
                    }
                    let read = file.read_at(offset as u64, len).await.unwrap();
                    assert_eq!(read, content[offset..offset + len], "{offset} {len}");
                }
                assert_eq!(
                    file.read_at(299_990, 100).await.unwrap(),
                    content[299_990..]
                );
                assert_eq!(file.read_at(300_000, 100).await.unwrap().len(), 0);
                assert_eq!(file.read_at(1 << 40, 100).await.unwrap().len(), 0);
            }
        }
    });
}

#[test]
fn uncached_bytes_are_read_on_a_blocking_thread() {
    let test_dir = TestDir::new();
    let path = test_dir.file("a", &pattern(1 << 20));
    let on_disk = fs::File::open(path).unwrap();
    let root = test_dir.root();
    let is_cold = evict(&on_disk);
    on_each_engine(|| {
        let (root, on_disk) = (root.clone(), on_disk.try_clone().unwrap());
        async move {
            let Ok(Entry::File(file)) = root.open_file("a").await else {
                panic!("not a regular file")
            };
            evict(&on_disk);
            let mut bytes = Vec::with_capacity(1 << 20);
            let whole = file.read_cached(&mut bytes, 0).unwrap();
            assert!(!whole || !is_cold, "an uncached file is not read here");
            // A read may be cancelled at any time.
            drop(file.read_rest(bytes, 0));
            let bytes = Vec::with_capacity(1 << 20);
            assert_eq!(
                file.read_rest(bytes, 0).await.unwrap().unwrap(),
                pattern(1 << 20)
            );
            let mut bytes = Vec::with_capacity(1 << 20);
            assert!(
                file.read_cached(&mut bytes, 0).unwrap(),
                "now it is in the page cache"
            );
            assert_eq!(bytes, pattern(1 << 20));
        }
    });
}

#[test]
fn offsets_beyond_four_gib_work() {
    let test_dir = TestDir::new();
    let sparse = fs::File::create(test_dir.site("sparse")).unwrap();
    let len = (5 << 30) + 3;
    sparse.set_len(len).unwrap();
    sparse.write_all_at(b"end", len - 3).unwrap();
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            let Ok(Entry::File(file)) = root.open_file("sparse").await else {
                panic!("not a regular file")
            };
            assert_eq!(file.metadata().len(), len);
            assert_eq!(file.read_at(len - 5, 100).await.unwrap(), "\0\0end");
            assert_eq!(file.read_at(1 << 32, 3).await.unwrap(), "\0\0\0");
        }
    });
}

#[test]
fn whole_files_are_read_and_written() {
    let test_dir = TestDir::new();
    let path = test_dir.site("new");
    on_each_engine(|| {
        let path = path.clone();
        async move {
            let content = pattern(200_000);
            write(&path, content.clone()).await.unwrap();
            assert_eq!(read(&path).await.unwrap(), content);
            write(&path, "short").await.unwrap();
            assert_eq!(read(&path).await.unwrap(), b"short");
            assert_eq!(metadata(&path).await.unwrap().len(), 5);
            let nowhere = path.join("below a file");
            assert_eq!(
                read(nowhere).await.unwrap_err().raw_os_error(),
                Some(libc::ENOTDIR)
            );
        }
    });
}

#[test]
fn the_descriptor_is_closed_with_its_last_user() {
    let test_dir = TestDir::new();
    test_dir.file("a", b"a");
    let root = test_dir.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            let Ok(Entry::File(file)) = root.open_file("a").await else {
                panic!("not a regular file")
            };
            let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            let target = fs::read_link(&link).unwrap();
            let reading = file.read_rest(Vec::with_capacity(1), 0);
            drop(file);
            assert_eq!(reading.await.unwrap().unwrap(), b"a");
            let now = fs::read_link(&link);
            assert!(now.is_err() || now.is_ok_and(|now| now != target));
        }
    });
}
