//! Root and File on real files, beneath a folder of each test's own.

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

/// A folder of a test's own, gone with it. In it, `outside` holds a secret, and `site` is served.
struct Ground(PathBuf);

impl Ground {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("coring-fs-{}-{number}", std::process::id());
        let ground = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(ground.site("folder")).unwrap();
        fs::create_dir(ground.0.join("outside")).unwrap();
        fs::write(ground.0.join("outside/secret"), "secret").unwrap();
        ground
    }

    fn site(&self, name: &str) -> PathBuf {
        self.0.join("site").join(name)
    }

    fn root(&self) -> Root {
        Root::open(self.0.join("site")).unwrap()
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.site(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) {
        symlink(target, self.site(name)).unwrap();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `main` on a worker of its own, on each engine that there is.
fn on_each_engine<F: Future<Output = ()> + 'static>(main: impl Fn() -> F) {
    for choice in [EngineChoice::Auto, EngineChoice::Epoll] {
        let selected = choice.probe().unwrap();
        let worker = Worker::new(&selected, usize::MAX, &Arc::default()).unwrap();
        worker.run(main()).unwrap();
    }
}

/// What `name` leads to: a file's content, or a word; of an error, its number.
async fn look(root: &Root, name: impl AsRef<Path>) -> Result<String, i32> {
    match root.open_file(name).await {
        Ok(Entry::File(file)) => {
            let len = usize::try_from(file.metadata().len()).unwrap();
            let content = file.read_at(0, len).await.unwrap();
            Ok(String::from_utf8(content.into()).unwrap())
        }
        Ok(Entry::Directory) => Ok("a folder".to_owned()),
        Ok(Entry::Other) => Ok("something else".to_owned()),
        Err(error) => Err(error.raw_os_error().unwrap()),
    }
}

fn found(what: &str) -> Result<String, i32> {
    Ok(what.to_owned())
}

/// Makes the kernel forget what it has in memory of the file. False: this file system keeps all.
fn forget(file: &fs::File) -> bool {
    file.sync_all().unwrap();
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut byte = Vec::with_capacity(1);
    let read = crate::sys::file::read_cached(file, &mut byte, 0);
    let cold = read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    // Trying has made the kernel read ahead.
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    cold
}

fn pattern(len: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from(at * 7 % 251).unwrap();
    (0..len).map(byte).collect()
}

#[test]
fn what_lies_beneath_is_found() {
    let ground = Ground::new();
    ground.file("a.txt", b"a");
    ground.file("folder/b.txt", b"b");
    ground.file("folder/nothing", b"");
    let root = ground.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            assert_eq!(look(&root, "a.txt").await, found("a"));
            assert_eq!(look(&root, "folder/b.txt").await, found("b"));
            assert_eq!(look(&root, "folder//./b.txt").await, found("b"));
            assert_eq!(look(&root, "folder/../a.txt").await, found("a"));
            assert_eq!(look(&root, "folder/nothing").await, found(""));
            assert_eq!(look(&root, "folder").await, found("a folder"));
            assert_eq!(look(&root, "").await, found("a folder"));
            assert_eq!(look(&root, "c.txt").await, Err(libc::ENOENT));
            assert_eq!(look(&root, "a.txt/").await, Err(libc::ENOTDIR));
            let long = "x".repeat(300);
            assert_eq!(look(&root, long).await, Err(libc::ENAMETOOLONG));
            assert_eq!(look(&root, "a.txt\0").await, Err(libc::EINVAL));
        }
    });
}

#[test]
fn nothing_leads_out() {
    let ground = Ground::new();
    ground.file("a.txt", b"a");
    ground.link("up", "../outside/secret");
    ground.link("up_folder", "..");
    ground.link("absolute", ground.0.join("outside/secret"));
    ground.link("absolute_beneath", ground.site("a.txt"));
    ground.link("to_link", "up");
    ground.link("folder/to_link", "../to_link");
    ground.link("magic", "/proc/self/root");
    let outside = ground.0.join("outside/secret");
    let root = ground.root();
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
                assert_eq!(look(&root, name).await, Err(libc::EXDEV), "{name}");
            }
            assert_eq!(look(&root, outside).await, Err(libc::EXDEV));
            // What other decoders might take for two dots or a slash is a name like any other.
            for name in [&b"..\\outside\\secret"[..], b"\xc0\xae\xc0\xae/secret"] {
                let name = OsStr::from_bytes(name);
                assert_eq!(look(&root, name).await, Err(libc::ENOENT), "{name:?}");
            }
        }
    });
}

#[test]
fn links_are_followed_beneath_the_root_as_a_config_map_has_them() {
    let ground = Ground::new();
    ground.file("folder/page", b"old");
    ground.link("..data", "folder");
    ground.link("page", "..data/page");
    ground.link("folder/up", "../page");
    ground.link("loop", "loop");
    let root = ground.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            assert_eq!(look(&root, "page").await, found("old"));
            assert_eq!(look(&root, "folder/up").await, found("old"));
            assert_eq!(look(&root, "..data").await, found("a folder"));
            assert_eq!(look(&root, "loop").await, Err(libc::ELOOP));
        }
    });
}

#[test]
fn a_link_swapped_all_the_time_leads_in_or_nowhere() {
    let ground = Ground::new();
    ground.file("folder/secret", b"beneath");
    ground.link("swapped", "folder");
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, site) = (stop.clone(), ground.site(""));
    let swapper = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for target in ["../outside", "folder"] {
                symlink(target, site.join("new")).unwrap();
                fs::rename(site.join("new"), site.join("swapped")).unwrap();
            }
        }
    });
    let root = ground.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            let mut beneath = 0;
            for _ in 0..2_000 {
                match look(&root, "folder/../swapped/secret").await {
                    Ok(content) => {
                        assert_eq!(content, "beneath");
                        beneath += 1;
                    }
                    Err(libc::EXDEV | libc::EAGAIN) => {}
                    Err(errno) => panic!("errno {errno}"),
                }
            }
            assert!(beneath > 0, "it led in now and then");
        }
    });
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
}

/// A tree is replaced whole by a link that is renamed, as Kubernetes does it: who follows the old
/// link finds nothing where it led.
#[test]
fn a_tree_that_is_replaced_has_no_gap() {
    let ground = Ground::new();
    let swap = |site: &Path, version: u32| {
        let folder = format!("v{version}");
        fs::create_dir(site.join(&folder)).unwrap();
        fs::write(site.join(&folder).join("file"), "there").unwrap();
        symlink(&folder, site.join("new")).unwrap();
        fs::rename(site.join("new"), site.join("current")).unwrap();
    };
    let site = ground.site("");
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
            // A look that meets two changes finds nothing, and a loaded machine may hold it up.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let root = ground.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            for _ in 0..100_000 {
                assert_eq!(look(&root, "current/file").await, found("there"));
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
}

#[test]
fn pipes_and_sockets_block_nobody_and_are_not_read() {
    let ground = Ground::new();
    let made = std::process::Command::new("mkfifo")
        .arg(ground.site("pipe"))
        .status();
    assert!(made.unwrap().success());
    let _listener = UnixListener::bind(ground.site("socket")).unwrap();
    let root = ground.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            assert_eq!(look(&root, "pipe").await, found("something else"));
            assert_eq!(look(&root, "socket").await, found("something else"));
            let devices = Root::open("/dev").unwrap();
            assert_eq!(look(&devices, "null").await, found("something else"));
        }
    });
}

#[test]
fn a_root_is_a_folder_and_finds_the_one_in_its_place() {
    let ground = Ground::new();
    let path = ground.file("a.txt", b"a");
    let error = Root::open(path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    let error = Root::open(ground.0.join("nowhere")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let root = ground.root();
    let ground = Arc::new(ground);
    on_each_engine(|| {
        let (ground, root) = (ground.clone(), root.clone());
        async move {
            assert!(root.replacement().await.unwrap().is_none());
            let (site, aside) = (ground.0.join("site"), ground.0.join("aside"));
            fs::rename(&site, &aside).unwrap();
            let error = root.replacement().await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            fs::create_dir(&site).unwrap();
            ground.file("b.txt", b"b");
            let other = root.replacement().await.unwrap().unwrap();
            assert_eq!(look(&root, "a.txt").await, found("a"));
            assert_eq!(look(&other, "b.txt").await, found("b"));
            assert_eq!(look(&other, "../aside/a.txt").await, Err(libc::EXDEV));
            assert!(other.replacement().await.unwrap().is_none());
            fs::remove_dir_all(&site).unwrap();
            fs::rename(&aside, &site).unwrap();
            assert!(root.replacement().await.unwrap().is_none());
            assert!(other.replacement().await.unwrap().unwrap().is_same(&root));
        }
    });
}

#[test]
fn what_a_path_leads_to_is_news_once() {
    let ground = Ground::new();
    let (root, site) = (ground.root(), ground.0.join("site"));
    let shared = root.clone();
    assert!(!root.is_news(None));
    assert!(root.is_news(Some(libc::ENOENT)) && !shared.is_news(Some(libc::ENOENT)));
    assert!(shared.is_news(None) && !root.is_news(None));
    fs::rename(&site, ground.0.join("aside")).unwrap();
    fs::create_dir(&site).unwrap();
    on_each_engine(|| {
        let (root, shared) = (root.clone(), shared.clone());
        async move {
            let others = [root.replacement().await, shared.replacement().await];
            let [first, second] = others.map(|other| other.unwrap().unwrap());
            assert!(first.is_news(None) && !second.is_news(None));
            assert!(root.is_news(None));
        }
    });
}

/// A relative path is followed from where it led at first, whatever becomes of the name of the
/// working directory; this one, which is the process's own, stays.
#[test]
fn a_relative_path_becomes_absolute() {
    let root = Root::open("src").unwrap();
    assert_eq!(root.path(), std::env::current_dir().unwrap().join("src"));
    let root = Root::open("src/../src").unwrap();
    assert!(root.path().ends_with("src/../src") && root.path().is_absolute());
}

#[test]
fn what_is_known_of_a_file_is_of_the_one_that_is_open() {
    let ground = Ground::new();
    let path = ground.file("a.txt", b"first");
    let modified = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 500);
    let times = fs::FileTimes::new().set_modified(modified);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_times(times)
        .unwrap();
    let ground = Arc::new(ground);
    on_each_engine(|| {
        let (ground, path) = (ground.clone(), path.clone());
        async move {
            let of_path = metadata(&path).await.unwrap();
            let Ok(Entry::File(file)) = ground.root().open_file("a.txt").await else {
                panic!("a file")
            };
            let open = file.metadata();
            assert_eq!(*open, of_path);
            assert_eq!((open.len(), open.modified()), (5, modified));
            assert_eq!(open.modified_unix(), (1_000_000_000, 500));
            assert!(open.is_file() && !open.is_directory());
            fs::rename(&path, ground.site("moved")).unwrap();
            fs::write(&path, "second one").unwrap();
            assert_eq!(file.read_at(0, 100).await.unwrap(), "first");
            assert_ne!(metadata(&path).await.unwrap().inode(), open.inode());
            fs::rename(ground.site("moved"), &path).unwrap();
        }
    });
}

#[test]
fn reading_is_short_only_at_the_end() {
    let ground = Ground::new();
    let content = pattern(300_000);
    let path = ground.file("a", &content);
    let root = ground.root();
    on_each_engine(|| {
        let (root, content, path) = (root.clone(), content.clone(), path.clone());
        async move {
            let Ok(Entry::File(file)) = root.open_file("a").await else {
                panic!("a file")
            };
            for cold in [false, true] {
                for (offset, len) in [(0, 300_000), (5, 10), (4095, 70_000), (299_999, 1), (7, 0)] {
                    if cold {
                        forget(&fs::File::open(&path).unwrap());
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
fn what_is_not_in_memory_is_read_elsewhere() {
    let ground = Ground::new();
    let path = ground.file("a", &pattern(1 << 20));
    let on_disk = fs::File::open(path).unwrap();
    let root = ground.root();
    let is_cold = forget(&on_disk);
    on_each_engine(|| {
        let (root, on_disk) = (root.clone(), on_disk.try_clone().unwrap());
        async move {
            let Ok(Entry::File(file)) = root.open_file("a").await else {
                panic!("a file")
            };
            forget(&on_disk);
            let mut bytes = Vec::with_capacity(1 << 20);
            let whole = file.read_cached(&mut bytes, 0).unwrap();
            assert!(!whole || !is_cold, "a cold file is not read here");
            // Somebody may give up at any time.
            drop(file.read_rest(bytes, 0));
            let bytes = Vec::with_capacity(1 << 20);
            assert_eq!(
                file.read_rest(bytes, 0).await.unwrap().unwrap(),
                pattern(1 << 20)
            );
            let mut bytes = Vec::with_capacity(1 << 20);
            assert!(
                file.read_cached(&mut bytes, 0).unwrap(),
                "now it is in memory"
            );
            assert_eq!(bytes, pattern(1 << 20));
        }
    });
}

#[test]
fn offsets_go_beyond_four_gib() {
    let ground = Ground::new();
    let sparse = fs::File::create(ground.site("sparse")).unwrap();
    let len = (5 << 30) + 3;
    sparse.set_len(len).unwrap();
    sparse.write_all_at(b"end", len - 3).unwrap();
    let root = ground.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            let Ok(Entry::File(file)) = root.open_file("sparse").await else {
                panic!("a file")
            };
            assert_eq!(file.metadata().len(), len);
            assert_eq!(file.read_at(len - 5, 100).await.unwrap(), "\0\0end");
            assert_eq!(file.read_at(1 << 32, 3).await.unwrap(), "\0\0\0");
        }
    });
}

#[test]
fn whole_files_are_read_and_written() {
    let ground = Ground::new();
    let path = ground.site("new");
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
fn descriptors_are_closed_with_their_last_user() {
    let ground = Ground::new();
    ground.file("a", b"a");
    let root = ground.root();
    on_each_engine(|| {
        let root = root.clone();
        async move {
            let Ok(Entry::File(file)) = root.open_file("a").await else {
                panic!("a file")
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
