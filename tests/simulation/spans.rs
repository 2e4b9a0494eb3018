//! Pipelined responses from an anonymous file, to a client that pauses. Spans of the file and the
//! memory between them must arrive in order, however the sends are split.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use coring::fs::Root;
use coring::sim::{ClientEnd, Faults, Mutant, Random, Received, Simulated, World, with_mutant};
use coring::{Files, Limits};

use crate::response::ParsedResponse;

/// The planted faults that only this test detects.
pub(crate) const MUTANTS: &[Mutant] = &[Mutant::SpanFromStart];

/// The number of four-byte words in the file.
const WORDS: u32 = 15_000;
/// The file's size in bytes, for which the cache uses anonymous files.
const LEN: usize = 4 * WORDS as usize;
/// Longer than a cached file is served without being checked for changes, in ms.
const TRUSTED_MS: u64 = 600;
/// The client's pause in ms: longer than one write timeout, shorter than two. So the send is
/// cancelled, and the rest of its bytes is sent again.
const PAUSE_MS: u64 = 45_000;
/// The longest time that a client waits for all responses, in ms.
const WAIT_MS: u64 = 200_000;

/// The file's content, in which every four-byte word is different.
fn content() -> Vec<u8> {
    let words = (0..WORDS).map(|word| word.wrapping_mul(0x9E37_79B1));
    words.flat_map(u32::to_le_bytes).collect()
}

/// A folder with the file, whose modification time is long ago.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("spans");
        fs::create_dir_all(&folder).expect("a folder");
        // Another process may be reading the file, so it is replaced by a rename.
        let new = folder.join(std::process::id().to_string());
        fs::write(&new, content()).expect("a file");
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = File::options().write(true).open(&new).expect("a file");
        file.set_modified(long_ago).expect("a time");
        fs::rename(new, folder.join("file")).expect("the file");
        folder
    })
}

struct Scene {
    world: World,
    server: Simulated,
}

impl Scene {
    /// Runs the worker's loop until `end_ms`.
    fn run_until(&mut self, end_ms: u64) -> Result<(), String> {
        while let Some(next_ms) = self.server.next_ms(0).filter(|at_ms| *at_ms <= end_ms) {
            self.world.advance(next_ms);
            self.server.step(0);
            self.world.violation().map_or(Ok(()), Err)?;
        }
        self.world.advance(end_ms);
        Ok(())
    }

    /// Reads the next `count` responses, up to `piece_max` bytes at a time. The client pauses once,
    /// after `pause_at` bytes.
    fn responses(
        &mut self,
        client: &ClientEnd,
        count: usize,
        piece_max: usize,
        mut pause_at: usize,
    ) -> Result<Vec<ParsedResponse>, String> {
        let (mut received, mut responses) = (Vec::new(), Vec::new());
        let end_ms = self.world.now_ms() + WAIT_MS;
        while responses.len() < count {
            match client.read(piece_max) {
                Received::Bytes(bytes) => received.extend(bytes),
                Received::Nothing if self.world.now_ms() > end_ms => {
                    return Err("a response did not arrive".to_owned());
                }
                Received::Nothing => self.run_until(self.world.now_ms() + 1)?,
                Received::End | Received::Reset => return Err("the connection ended".to_owned()),
            }
            if received.len() >= pause_at {
                pause_at = usize::MAX;
                self.run_until(self.world.now_ms() + PAUSE_MS)?;
            }
            let mut used = 0;
            while let Some(response) = ParsedResponse::parse(&received[used..])? {
                used += response.len;
                responses.push(response);
            }
            received.drain(..used);
            pause_at = pause_at.saturating_sub(used);
        }
        Ok(responses)
    }

    fn end(mut self) -> Result<(), String> {
        self.server.stop();
        while self.server.next_ms(0).is_some() {
            self.server.step(0);
        }
        self.world.violation().map_or(Ok(()), Err)
    }
}

/// A request for a range of the file, or for a file that does not exist.
fn request(range: Option<&Range<usize>>) -> String {
    let mut request = match range {
        Some(_) => "GET /file HTTP/1.1\r\nHost: simulated\r\n".to_owned(),
        None => "GET /none HTTP/1.1\r\nHost: simulated\r\n".to_owned(),
    };
    if let Some(Range { start, end }) = range {
        let _ = write!(request, "Range: bytes={start}-{}\r\n", end - 1);
    }
    request + "\r\n"
}

/// Requests ranges of the file, pipelined.
///
/// # Errors
/// If a response is wrong or missing; the text says which.
pub(crate) fn check(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let faults = Faults {
        short: random.pick(&[0, 300]),
        transient: random.pick(&[0, 100]),
        delay: random.pick(&[0, 300]),
        delay_ms_max: 40,
        window_max: random.pick(&[2_000, 20_000, 100_000]),
        ..Faults::none()
    };
    let world = World::new(seed, faults, false);
    let root = Root::open(folder()).map_err(|error| error.to_string())?;
    let service = || Files::new(root.clone());
    let mut limits = Limits::default();
    // The pause may begin after a few bytes, so the average rate may be below any minimum.
    limits.bytes_per_second_min = None;
    let server = world.enter(|| Simulated::new(&world, 1, &limits, service));
    let mut scene = Scene { world, server };
    let (world, content) = (scene.world.clone(), content());
    world.enter(|| {
        let client = world.connect(0).ok_or("no listener")?;
        // The cache moves the content to an anonymous file when it has checked the file three
        // times.
        for _ in 0..5 {
            client.send(request(Some(&(0..LEN))).as_bytes());
            scene.responses(&client, 1, LEN, usize::MAX)?;
            scene.run_until(world.now_ms() + TRUSTED_MS)?;
        }
        let mut ranges = Vec::new();
        for _ in 0..1 + random.below(12) {
            let start = random.below(LEN);
            let len_max = random.pick(&[100, 9000, LEN]).min(LEN - start);
            let range = start..start + 1 + random.below(len_max);
            ranges.push((!random.chance(200)).then_some(range));
        }
        let requests: String = ranges.iter().map(|range| request(range.as_ref())).collect();
        client.send(requests.as_bytes());
        let piece_max = random.pick(&[600, 5000, LEN]);
        let pause_at = random.below(2 * LEN);
        let responses = scene.responses(&client, ranges.len(), piece_max, pause_at)?;
        for (range, response) in ranges.into_iter().zip(responses) {
            let is_right = match range {
                Some(range) => response.status == 206 && response.body == content[range],
                None => response.status == 404,
            };
            if !is_right {
                return Err(format!("a wrong response with status {}", response.status));
            }
        }
        scene.end()
    })
}

#[test]
fn pipelined_spans_arrive_in_order() {
    for seed in 0..100 {
        check(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    for &fault in [Mutant::PutBackLast].iter().chain(MUTANTS) {
        let detected = with_mutant(fault, || (0..100).any(|seed| check(seed).is_err()));
        assert!(detected, "{fault:?} is not detected");
    }
}
