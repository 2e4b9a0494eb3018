//! Pipelined responses from an anonymous file, to a client that pauses: spans of the file and the
//! memory around them arrive in order, however each send is cut.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use coring::fs::Root;
use coring::sim::{Connection, Faults, Mutant, Random, Received, Simulated, World, with_mutant};
use coring::{Files, Limits};

use crate::answer::Answer;

/// The cures that show here and in no life.
pub(crate) const CURES: &[Mutant] = &[Mutant::SpanFromStart];

/// The number of four-byte words in the file.
const WORDS: u32 = 15_000;
/// The file's size in bytes: between the bounds of what anonymous files are used for.
const LEN: usize = 4 * WORDS as usize;
/// Longer than a cached file is trusted without a look at it, in ms.
const TRUSTED_MS: u64 = 600;
/// Longer than one timeout of a send, and shorter than two, in ms: the send is cancelled, and what
/// is left of it is sent again.
const PAUSE_MS: u64 = 45_000;
/// How long a client waits in all, in ms.
const WAIT_MS: u64 = 200_000;

/// The file's content, in which no four bytes are repeated.
fn content() -> Vec<u8> {
    let words = (0..WORDS).map(|word| word.wrapping_mul(0x9E37_79B1));
    words.flat_map(u32::to_le_bytes).collect()
}

/// A folder with the file, last changed long ago.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("spans");
        fs::create_dir_all(&folder).expect("a folder");
        // Renamed into its place, because another process may be reading it.
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
    /// Turns the worker's loop until `end_ms`.
    fn turn_until(&mut self, end_ms: u64) -> Result<(), String> {
        while let Some(next_ms) = self.server.next_ms(0).filter(|at_ms| *at_ms <= end_ms) {
            self.world.advance(next_ms);
            self.server.step(0);
            self.world.violation().map_or(Ok(()), Err)?;
        }
        self.world.advance(end_ms);
        Ok(())
    }

    /// The next `count` responses, which the client reads in pieces of up to `piece_max` bytes. It
    /// pauses once, after `pause_at` bytes.
    fn answers(
        &mut self,
        client: &Connection,
        count: usize,
        piece_max: usize,
        mut pause_at: usize,
    ) -> Result<Vec<Answer>, String> {
        let (mut received, mut answers) = (Vec::new(), Vec::new());
        let end_ms = self.world.now_ms() + WAIT_MS;
        while answers.len() < count {
            match client.read(piece_max) {
                Received::Bytes(bytes) => received.extend(bytes),
                Received::Nothing if self.world.now_ms() > end_ms => {
                    return Err("a response is not sent".to_owned());
                }
                Received::Nothing => self.turn_until(self.world.now_ms() + 1)?,
                Received::End | Received::Reset => return Err("the connection ends".to_owned()),
            }
            if received.len() >= pause_at {
                pause_at = usize::MAX;
                self.turn_until(self.world.now_ms() + PAUSE_MS)?;
            }
            let mut used = 0;
            while let Some(answer) = Answer::parse(&received[used..])? {
                used += answer.len;
                answers.push(answer);
            }
            received.drain(..used);
            pause_at = pause_at.saturating_sub(used);
        }
        Ok(answers)
    }

    fn end(mut self) -> Result<(), String> {
        self.server.stop();
        while self.server.next_ms(0).is_some() {
            self.server.step(0);
        }
        self.world.violation().map_or(Ok(()), Err)
    }
}

/// A request for a part of the file, or for one that is not there.
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

/// # Errors
/// What did not hold.
pub(crate) fn look(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let faults = Faults {
        short: random.pick(&[0, 300]),
        passing: random.pick(&[0, 100]),
        delay: random.pick(&[0, 300]),
        delay_ms_max: 40,
        window_max: random.pick(&[2_000, 20_000, 100_000]),
        ..Faults::none()
    };
    let world = World::new(seed, faults, false);
    let root = Root::open(folder()).map_err(|error| error.to_string())?;
    let service = || Files::new(root.clone());
    let mut limits = Limits::default();
    // A pause may come when little has been sent.
    limits.bytes_per_second_min = None;
    let server = world.enter(|| Simulated::new(&world, 1, &limits, service));
    let mut scene = Scene { world, server };
    let (world, content) = (scene.world.clone(), content());
    world.enter(|| {
        let client = world.connect(0).ok_or("no listener")?;
        // The content moves to an anonymous file within three looks at the file.
        for _ in 0..5 {
            client.send(request(Some(&(0..LEN))).as_bytes());
            scene.answers(&client, 1, LEN, usize::MAX)?;
            scene.turn_until(world.now_ms() + TRUSTED_MS)?;
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
        let answers = scene.answers(&client, ranges.len(), piece_max, pause_at)?;
        for (range, answer) in ranges.into_iter().zip(answers) {
            let is_right = match range {
                Some(range) => answer.status == 206 && answer.body == content[range],
                None => answer.status == 404,
            };
            if !is_right {
                return Err(format!("a wrong response, of status {}", answer.status));
            }
        }
        scene.end()
    })
}

#[test]
fn pipelined_spans_arrive_in_order() {
    for seed in 0..100 {
        look(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    for &fault in [Mutant::PutBackLast].iter().chain(CURES) {
        let missed = with_mutant(fault, || (0..100).any(|seed| look(seed).is_err()));
        assert!(missed, "{fault:?} is not noticed");
    }
}
