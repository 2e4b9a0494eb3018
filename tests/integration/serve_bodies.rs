//! `coring serve`: what arrives is what lies there, by its digest (SHA-256). Whole and in ranges
//! around every bound on the way, to quick readers and a slow one, all at once over connections
//! that are kept; and a file of more than 4 GiB.

use std::env;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::serve::{field, request, serve};
use crate::support::{Client, Coring, Folder, noise, report};

/// Where the way of a file changes: what is read rather than sent from the file, a part, a span.
const BOUNDS: [u64; 3] = [32 << 10, 64 << 10, 256 << 10];

/// One of the files that are asked for.
struct Served {
    path: String,
    content: Vec<u8>,
}

impl Served {
    fn new(folder: &Folder, len: usize) -> Self {
        let (path, content) = (format!("/{len}"), noise(len));
        folder.write(&path[1..], &content);
        Self { path, content }
    }

    fn len(&self) -> u64 {
        self.content.len() as u64
    }

    /// The first, middle and last bytes, and what goes from one byte before a bound to one behind
    /// it or another.
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

    /// Asks for `range`, as the last bytes where it has the last one, and compares.
    fn check(&self, client: &mut Client, range: &Range<u64>, pause: Duration) {
        let (path, len) = (&self.path, self.len());
        let asked = if range.end == len {
            format!("Range: bytes=-{}", range.end - range.start)
        } else {
            format!("Range: bytes={}-{}", range.start, range.end - 1)
        };
        client.send(request("GET", path, &[&asked]));
        let head = client.head();
        assert_eq!(head.status, 206, "{path} {asked}");
        let told = format!("bytes {}-{}/{len}", range.start, range.end - 1);
        assert_eq!(field(&head, "content-range"), told);
        let at = |offset| usize::try_from(offset).expect("an offset in memory");
        let expected = &self.content[at(range.start)..at(range.end)];
        let received = digest_of_next(client, range.end - range.start, pause);
        assert_eq!(received, digest(expected), "{path} {asked}");
    }

    fn check_whole(&self, client: &mut Client, pause: Duration) {
        client.send(request("GET", &self.path, &[]));
        let head = client.head();
        assert_eq!(field(&head, "content-length"), self.len().to_string());
        let received = digest_of_next(client, self.len(), pause);
        assert_eq!(received, digest(&self.content), "{}", self.path);
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The digest of the next `len` bytes. The reader rests after each of its reads.
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
fn digests_agree_for_many_at_once_over_kept_connections() {
    let folder = Folder::new();
    let files = [1, 64 << 10, 1 << 20, 64 << 20].map(|len| Served::new(&folder, len));
    for cache in [&[][..], &["--file-cache", "0"]] {
        let server = serve(&folder, cache);
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
            scope.spawn(|| reads_slowly(&server, &files));
        });
    }
}

/// The smaller files whole, and of the largest what surrounds its bounds.
fn reads_slowly(server: &Coring, files: &[Served]) {
    const PAUSE: Duration = Duration::from_millis(2);
    let mut client = server.connect();
    client.receive_at_most(64 << 10);
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

/// A sparse file in which every MiB begins with its number, so that no two are alike.
fn numbered(folder: &Folder, len: u64) -> File {
    let path = folder.file("numbered");
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

const GIANT: u64 = 5 << 30;

/// The digest of a part of `file`, read in pieces.
fn digest_of_file(file: &File, part: Range<u64>) -> String {
    let mut sum = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    let mut at = part.start;
    while at < part.end {
        let len = usize::try_from(part.end - at).map_or(bytes.len(), |left| left.min(bytes.len()));
        file.read_exact_at(&mut bytes[..len], at)
            .expect("a file of that length");
        sum.update(&bytes[..len]);
        at += len as u64;
    }
    format!("{:x}", sum.finalize())
}

#[test]
fn digests_agree_near_the_end_of_5_gib() {
    let folder = Folder::new();
    let file = numbered(&folder, GIANT);
    let server = serve(&folder, &[]);
    let mut client = server.connect();
    for from in [
        (4 << 30) - (1 << 20) - 1,
        (4 << 30) - 1,
        4 << 30,
        GIANT - (3 << 20) - 1,
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
        assert_eq!(field(&client.head(), "content-length"), suffix.to_string());
        let expected = digest_of_file(&file, GIANT - suffix..GIANT);
        assert_eq!(
            digest_of_next(&mut client, suffix, Duration::ZERO),
            expected,
            "{range}"
        );
    }
}

#[test]
fn the_digest_of_5_gib_agrees() {
    if env::var_os("CORING_TEST_LONG").is_none() {
        return report(
            "not tested: the digest of 5 GiB, which takes a quarter of a minute:\n    \
             CORING_TEST_LONG=1 cargo test --test integration the_digest_of_5_gib_agrees",
        );
    }
    let folder = Folder::new();
    let file = numbered(&folder, GIANT);
    let server = serve(&folder, &[]);
    let mut client = server.connect();
    client.send(request("GET", "/numbered", &[]));
    assert_eq!(field(&client.head(), "content-length"), GIANT.to_string());
    let reader = thread::spawn(move || digest_of_file(&file, 0..GIANT));
    let received = digest_of_next(&mut client, GIANT, Duration::ZERO);
    assert_eq!(received, reader.join().expect("a file that can be read"));
}
