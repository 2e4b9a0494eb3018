//! Tests of writing files, and of directories.

use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

use super::tests::{TestDir, on_each_engine};
use super::*;
use crate::engine::blocking;

/// Polls a future once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[test]
fn a_file_is_written_and_read_at_offsets_and_at_its_end() {
    on_each_engine(|| async {
        let test_dir = TestDir::new();
        let path = test_dir.site("new");
        let missing = File::open(&path).await.expect_err("no file");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).await.unwrap();
        let again = options.open(&path).await.expect_err("it exists");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        file.write_at(3, "def").await.unwrap();
        file.write_at(0, Arc::<[u8]>::from(*b"abc")).await.unwrap();
        file.append(vec![b'g'; 100_000]).await.unwrap();
        file.append(*b"h").await.unwrap();
        file.sync_data().await.unwrap();
        file.sync_all().await.unwrap();
        let all = file.read_to_end(0).await.unwrap();
        assert!(all.starts_with(b"abcdefg") && all.ends_with(b"gh") && all.len() == 100_007);
        assert_eq!(&*file.read_at(2, 3).await.unwrap(), b"cde");
        assert_eq!(file.read_to_end(100_005).await.unwrap(), b"gh");
        assert_eq!(file.read_to_end(200_000).await.unwrap(), b"");
        file.set_len(4).await.unwrap();
        assert_eq!(read_to_string(&path).await.unwrap(), "abcd");
        assert_eq!(file.metadata_now().unwrap().len(), 4);
        assert_eq!(metadata(&path).await.unwrap().len(), 4);
        let created = File::create(&path).await.unwrap();
        assert_eq!(created.metadata().len(), 0);
        let refused = created.read_to_end(0).await.expect_err("opened to write");
        assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
        write(&path, "x").await.unwrap();
        let log = OpenOptions::new().append(true).open(&path).await.unwrap();
        log.write_at(0, "y").await.unwrap();
        assert_eq!(read(&path).await.unwrap(), b"xy");
    });
}

/// As on Linux 5.9 and 5.10, whose preadv2(2) may return 0 before the end.
#[test]
fn a_file_that_has_grown_does_not_end_where_it_did() {
    on_each_engine(|| async {
        let test_dir = TestDir::new();
        let file = File::create(test_dir.site("new")).await.unwrap();
        file.write_at(0, "abc").await.unwrap();
        let nothing = |_: &mut Vec<u8>, _| Ok(0);
        let is_end = |at| file.fill(&mut Vec::with_capacity(1), at, nothing).unwrap();
        assert!(!is_end(2) && is_end(3));
    });
}

#[test]
fn files_of_the_kernel_are_read_to_their_end() {
    on_each_engine(|| async {
        let file = File::open("/proc/self/status").await.unwrap();
        assert_eq!(file.metadata().len(), 0);
        let text = String::from_utf8(file.read_to_end(0).await.unwrap()).unwrap();
        assert!(text.contains("VmRSS:") && text.ends_with('\n'));
    });
}

#[test]
fn only_regular_files_are_opened() {
    on_each_engine(|| async {
        let test_dir = TestDir::new();
        let pipe = test_dir.site("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let directory = test_dir.site("folder");
        for path in [&pipe, &directory] {
            let refused = File::open(path).await.expect_err("no file");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn appends_of_many_coroutines_do_not_mix() {
    on_each_engine(|| async {
        let test_dir = TestDir::new();
        let path = test_dir.file("log", b"");
        let file = OpenOptions::new().append(true).open(&path).await.unwrap();
        let lines = (0..40_u8).map(|n| {
            let file = file.clone();
            let line = format!("{}\n", char::from(b'0' + n).to_string().repeat(500));
            async move { file.append(line).await.unwrap() }
        });
        let mut appends: Vec<_> = lines.map(Box::pin).collect();
        poll_fn(|context| {
            appends.retain_mut(|append| append.as_mut().poll(context).is_pending());
            match appends.is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        let text = fs::read(&path).unwrap();
        let lines: BTreeSet<_> = text.split(|&byte| byte == b'\n').collect();
        assert!(
            lines
                .iter()
                .all(|line| line.windows(2).all(|two| two[0] == two[1]))
        );
        assert_eq!(lines.len(), 41, "and what follows the last line");
    });
}

/// The bytes of a write belong to it: dropping its future frees nothing that the thread uses.
#[test]
fn a_dropped_write_ends_or_never_begins() {
    on_each_engine(|| async {
        let test_dir = TestDir::new();
        let path = test_dir.file("target", b"");
        let file = OpenOptions::new().write(true).open(&path).await.unwrap();
        // Nothing else runs on the blocking threads until the gate opens.
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let held: Vec<_> = (0..8)
            .map(|_| {
                let gate = gate.clone();
                blocking(move || gate.lock().unwrap().recv().is_ok())
            })
            .collect();
        let mut waits = Box::pin(file.write_at(0, vec![1; 1 << 20]));
        assert!(poll_once(waits.as_mut()).await.is_pending());
        drop(waits);
        drop(open);
        for job in held {
            job.await.unwrap();
        }
        assert_eq!(metadata(&path).await.unwrap().len(), 0, "it never began");
        // One that may have begun is whole, or not there.
        let mut begins = Box::pin(file.write_at(0, vec![2; 1 << 20]));
        let _polled = poll_once(begins.as_mut()).await;
        std::thread::sleep(Duration::from_millis(1));
        drop(begins);
        drop(file);
        let written = read(&path).await.unwrap();
        assert!(written.iter().all(|&byte| byte == 2));
    });
}

#[test]
fn directories_are_made_listed_renamed_and_removed() {
    on_each_engine(|| async {
        let test_dir = TestDir::new();
        let deep = test_dir.site("a/b/c");
        assert!(create_dir(&deep).await.is_err(), "its parent is missing");
        create_dir_all(&deep).await.unwrap();
        create_dir(deep.join("d")).await.unwrap();
        for n in 0..200 {
            fs::write(deep.join(n.to_string()), "").unwrap();
        }
        std::os::unix::fs::symlink("0", deep.join("link")).unwrap();
        let mut entries = read_dir(&deep).await.unwrap();
        let mut names = BTreeSet::new();
        while let Some(entry) = entries.next_entry().await.unwrap() {
            let name = entry.file_name().to_str().unwrap().to_owned();
            assert_eq!(entry.path(), deep.join(&name));
            assert_eq!(entry.is_directory(), name == "d");
            assert_eq!(entry.is_symlink(), name == "link");
            assert_eq!(entry.is_file(), name.parse::<u32>().is_ok());
            assert!(names.insert(name));
        }
        assert_eq!(names.len(), 202);
        assert!(entries.next_entry().await.unwrap().is_none());
        rename(deep.join("0"), deep.join("1")).await.unwrap();
        remove_file(deep.join("1")).await.unwrap();
        assert!(remove_dir(&deep).await.is_err(), "it is not empty");
        remove_dir(deep.join("d")).await.unwrap();
        remove_dir_all(test_dir.site("a")).await.unwrap();
        let gone = read_dir(&deep).await.expect_err("no directory");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    });
}

/// A wait for the next entry that is dropped while a thread reads loses none.
#[test]
fn a_dropped_wait_for_an_entry_loses_none() {
    on_each_engine(|| async {
        let test_dir = TestDir::new();
        for n in 0..150 {
            test_dir.file(&format!("folder/{n}"), b"");
        }
        let mut entries = read_dir(test_dir.site("folder")).await.unwrap();
        let mut count = 0;
        loop {
            match poll_once(Box::pin(entries.next_entry()).as_mut()).await {
                Poll::Ready(Ok(Some(_))) => count += 1,
                Poll::Ready(entry) => break assert!(entry.unwrap().is_none()),
                // The thread reads on.
                Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        assert_eq!(count, 150);
    });
}
