//! `coring serve`: the received bytes are those of the file, compared by SHA-256. Files arrive
//! whole and in ranges around every internal size limit, at fast clients and a slow one at the
//! same time, over persistent connections. One file is longer than 4 GiB.

use std::env;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::support::{Client, Coring, TempDir, get, noise, report, request};

/// The sizes at which the server sends differently: the greatest content that it reads rather than
/// sends from the file, a part, and a span.
const BOUNDS: [u64; 3] = [32 << 10, 64 << 10, 256 << 10];

/// One of the served files.
struct Served {
    path: String,
    content: Vec<u8>,
}

impl Served {
    fn new(directory: &TempDir, len: usize) -> Self {
        let (path, content) = (format!("/{len}"), noise(len));
        directory.write(&path[1..], &content);
        Self { path, content }
    }

    fn len(&self) -> u64 {
        self.content.len() as u64
    }

    /// Ranges of the first, middle and last bytes, and ranges that begin or end at a bound or one
    /// byte before or after it.
    fn ranges(&self) -> Vec<Range<u64>> {
        let len = self.len();
        let mut ranges = vec![0..1, len / 2..len / 2 + 1, len / 2..len, len - 1..len];
        for bound in BOUNDS.into_iter().flat_map(|bound| [bound, 3 * bound]) {
            ranges.extend([0..bound, bound..2 * bound, bound - 1..bound + 1]);
            ranges.extend(BOUNDS.map(|size| bound - 1..bound + size + 1));
            ranges.push(len.saturating_sub(bound + 1)..len);
        }
        ranges.retain(|range| range.start < range.end && range.end <= len);
        ranges
    }

    /// Requests `range` and compares the digests. A range at the end of the file is requested as a
    /// suffix range.
    fn check(&self, client: &mut Client, range: &Range<u64>, pause: Duration) {
        let (path, len) = (&self.path, self.len());
        let field = if range.end == len {
            format!("Range: bytes=-{}", range.end - range.start)
        } else {
            format!("Range: bytes={}-{}", range.start, range.end - 1)
        };
        client.send(request("GET", path, &[&field]));
        let head = client.head();
        assert_eq!(head.status, 206, "{path} {field}");
        let content_range = format!("bytes {}-{}/{len}", range.start, range.end - 1);
        assert_eq!(head.expect_field("content-range"), content_range);
        let at = |offset| usize::try_from(offset).expect("an offset in memory");
        let expected = &self.content[at(range.start)..at(range.end)];
        let received = digest_of_next(client, range.end - range.start, pause);
        assert_eq!(received, digest(expected), "{path} {field}");
    }

    /// Requests the whole file and compares the digests.
    fn check_whole(&self, client: &mut Client, pause: Duration) {
        client.send(get(&self.path));
        let head = client.head();
        assert_eq!(head.expect_field("content-length"), self.len().to_string());
        let received = digest_of_next(client, self.len(), pause);
        assert_eq!(received, digest(&self.content), "{}", self.path);
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The digest of the next `len` bytes. The client pauses after each read.
fn digest_of_next(client: &mut Client, len: u64, pause: Duration) -> String {
    let mut sum = Sha256::new();
    let mut left = usize::try_from(len).expect("a length in memory");
    while left > 0 {
        let next = left.min(128 << 10);
        sum.update(client.take(next).expect("more of the body"));
        left -= next;
        thread::sleep(pause);
    }
    format!("{:x}", sum.finalize())
}

#[test]
fn digests_match_for_concurrent_clients_on_persistent_connections() {
    let directory = TempDir::new();
    let files = [1, 64 << 10, 1 << 20, 64 << 20].map(|len| Served::new(&directory, len));
    for cache in [&[][..], &["--file-cache", "0"]] {
        let server = Coring::serve(&directory, cache);
        thread::scope(|scope| {
            for first in 0..files.len() {
                let (files, server) = (&files, &server);
                scope.spawn(move || {
                    let mut client = server.connect();
                    for file in files.iter().cycle().skip(first).take(files.len()) {
                        file.check_whole(&mut client, Duration::ZERO);
                        for range in file.ranges() {
                            file.check(&mut client, &range, Duration::ZERO);
                        }
                    }
                });
            }
            scope.spawn(|| check_slowly(&server, &files));
        });
    }
}

/// Checks the smaller files as a whole and the largest around its bounds, with a slow client.
fn check_slowly(server: &Coring, files: &[Served]) {
    const PAUSE: Duration = Duration::from_millis(2);
    let mut client = server.connect();
    client.set_receive_buffer(64 << 10);
    let (largest, smaller) = files.split_last().expect("some files");
    for file in smaller {
        file.check_whole(&mut client, PAUSE);
    }
    for bound in BOUNDS {
        largest.check(&mut client, &(bound - 1..bound + (256 << 10) + 1), PAUSE);
    }
    largest.check(
        &mut client,
        &(largest.len() - (1 << 20)..largest.len()),
        PAUSE,
    );
}

/// Makes a sparse file in which every MiB begins with its number, so that no two are equal.
fn make_numbered(directory: &TempDir, len: u64) -> File {
    let path = directory.file("numbered");
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(path);
    let file = file.expect("a new file");
    file.set_len(len).expect("a file system with sparse files");
    for start in (0..len).step_by(1 << 20) {
        file.write_all_at(&(start >> 20).to_be_bytes(), start)
            .expect("a write");
    }
    file
}

/// The length of a file that needs 64-bit offsets.
const LEN_5_GIB: u64 = 5 << 30;

/// The digest of a range of `file`.
fn digest_of_file(file: &File, range: Range<u64>) -> String {
    let mut sum = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).map_or(bytes.len(), |left| left.min(bytes.len()));
        file.read_exact_at(&mut bytes[..len], at)
            .expect("a file of that length");
        sum.update(&bytes[..len]);
        at += len as u64;
    }
    format!("{:x}", sum.finalize())
}

#[test]
fn digests_match_near_the_end_of_5_gib() {
    let directory = TempDir::new();
    let file = make_numbered(&directory, LEN_5_GIB);
    let server = Coring::serve(&directory, &[]);
    let mut client = server.connect();
    for from in [
        (4 << 30) - (1 << 20) - 1,
        (4 << 30) - 1,
        4 << 30,
        LEN_5_GIB - (3 << 20) - 1,
    ] {
        for len in [1, (256 << 10) + 1, 3 << 20] {
            let range = format!("Range: bytes={from}-{}", from + len - 1);
            client.send(request("GET", "/numbered", &[&range]));
            assert_eq!(client.head().status, 206, "{range}");
            let expected = digest_of_file(&file, from..from + len);
            assert_eq!(
                digest_of_next(&mut client, len, Duration::ZERO),
                expected,
                "{range}"
            );
        }
    }
    for suffix in [1, 8, (1 << 20) + 1, 10 << 20] {
        let range = format!("Range: bytes=-{suffix}");
        client.send(request("GET", "/numbered", &[&range]));
        assert_eq!(
            client.head().expect_field("content-length"),
            suffix.to_string()
        );
        let expected = digest_of_file(&file, LEN_5_GIB - suffix..LEN_5_GIB);
        assert_eq!(
            digest_of_next(&mut client, suffix, Duration::ZERO),
            expected,
            "{range}"
        );
    }
}

#[test]
fn the_digest_of_5_gib_matches() {
    if env::var_os("CORING_TEST_LONG").is_none() {
        return report(
            "not tested: the digest of 5 GiB, which takes 15 s:\n    \
             CORING_TEST_LONG=1 cargo test --test integration the_digest_of_5_gib_matches",
        );
    }
    let directory = TempDir::new();
    let file = make_numbered(&directory, LEN_5_GIB);
    let server = Coring::serve(&directory, &[]);
    let mut client = server.connect();
    client.send(get("/numbered"));
    assert_eq!(
        client.head().expect_field("content-length"),
        LEN_5_GIB.to_string()
    );
    let reader = thread::spawn(move || digest_of_file(&file, 0..LEN_5_GIB));
    let received = digest_of_next(&mut client, LEN_5_GIB, Duration::ZERO);
    assert_eq!(received, reader.join().expect("a file that can be read"));
}
