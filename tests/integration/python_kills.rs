//! Workers of `coring run` are killed while clients ask. Each request has one response: that of the
//! application, which ran it once, or 502, if a worker that was killed had begun with it. If the
//! response had begun, too, the connection is cut. The application keeps a ledger of what it does.

use std::collections::{HashMap, HashSet};
use std::env;
use std::fs;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Client, Coring, children, digest, eventually, get, head_with_length, is_timeout, noise, report,
    run_application,
};

/// How long a campaign takes, in seconds.
const SECONDS: &str = "CORING_CAMPAIGN_SECONDS";
/// The seed of a campaign; by default another one each time.
const SEED: &str = "CORING_CAMPAIGN_SEED";
const CLIENTS: u64 = 8;
const WORKERS: &str = "3";
const BETWEEN_KILLS: Duration = Duration::from_millis(500);
const BODY_LENGTHS: [usize; 5] = [0, 10, 3000, 100_000, 400_000];
/// Thousands of lines of a response, most of which are more than one message.
const BLOCKS: [usize; 4] = [0, 0, 3, 60];

#[test]
fn killed_workers_of_class_sync_lose_only_what_they_had_begun() {
    campaign("wsgi", "sync", 1);
}

#[test]
fn killed_workers_of_class_gthread_lose_only_what_they_had_begun() {
    campaign("wsgi", "gthread", 8);
}

#[test]
fn killed_workers_of_class_asgi_lose_only_what_they_had_begun() {
    campaign("asgi", "asgi", CLIENTS);
}

/// All workers are stopped, so that they receive nothing. Then one is killed, and the other one, or
/// the one in its place, has all requests with their whole bodies.
#[test]
fn what_a_killed_worker_has_not_received_goes_to_another() {
    for (application, class, count) in [
        ("asgi", "asgi", 2),
        ("asgi", "asgi", 1),
        ("wsgi", "sync", 1),
    ] {
        let flags = ["-k", class, "-w", &count.to_string()];
        let (server, directory) = run_application(application, &flags);
        eventually("all workers", || {
            let mut clients = [server.connect(), server.connect()];
            for client in &mut clients {
                client.send(get("/task/first/0?slow"));
            }
            for client in &mut clients {
                assert_eq!(client.response().status, 200);
            }
            let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
            let pids = progress(&ledger)["first"].begun.clone();
            (pids.iter().collect::<HashSet<_>>().len() == count).then_some(())
        });
        let running = children(server.pid());
        let signal_all = |signal| {
            for pid in &running {
                // One of them was killed.
                let _ = kill_process(*pid, signal);
            }
        };
        signal_all(Signal::STOP);
        let body = noise(300_000);
        let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
        thread::scope(|scope| {
            for client in &clients {
                let mut upload = client.twin();
                let body = &body;
                scope.spawn(move || {
                    upload.send(head_with_length("POST", "/digest", body.len()));
                    upload.send(body);
                });
            }
            // Time for the requests to reach the sockets of the workers.
            thread::sleep(Duration::from_millis(500));
            kill_process(running[0], Signal::KILL).expect("a worker");
            signal_all(Signal::CONT);
        });
        for client in &mut clients {
            let response = client.response();
            assert_eq!(response.text(), digest(&body), "{application}");
        }
        drop(clients);
        assert_eq!(server.stop().code, Some(0), "{application}");
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % limit
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        let count = u64::try_from(choices.len()).expect("few choices");
        choices[usize::try_from(self.below(count)).expect("a small number")]
    }
}

/// How a request ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// A whole response, with the right content if the status is 200.
    Status(u16),
    /// The connection ended within the response.
    Cut,
}

/// How far a request came in the application.
#[derive(Debug, Default)]
struct Progress<'a> {
    /// The workers that began with it.
    begun: Vec<&'a str>,
    /// How often its last part was about to be sent.
    ended: usize,
    /// How often its last part had been sent.
    closed: usize,
}

/// A setting from the environment.
fn setting(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

/// `width` is the number of requests that a worker runs at a time.
fn campaign(application: &str, class: &str, width: u64) {
    let seed = setting(SEED).unwrap_or_else(|| u64::from(process::id()) << 32 | 1);
    let length = Duration::from_secs(setting(SECONDS).unwrap_or(3));
    let (server, directory) = run_application(application, &["-k", class, "-w", WORKERS]);
    let until = Instant::now() + length;
    let (outcomes, killed) = thread::scope(|scope| {
        let server = &server;
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|number| scope.spawn(move || ask(server, number, seed ^ number << 8, until)))
            .collect();
        let killed = kill_workers(server, &mut Random(seed), until);
        let outcomes = clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client"));
        (outcomes.collect::<Vec<_>>(), killed)
    });
    assert_eq!(server.stop().code, Some(0), "{class}, seed {seed}");
    let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
    let counted = judge(&outcomes, &progress(&ledger), &killed)
        .unwrap_or_else(|fault| panic!("{class}, seed {seed}: {fault}"));
    let kills = killed.len();
    report(&format!("{class}: seed {seed}, {kills} kills, {counted:?}"));
    let bound = width.min(CLIENTS) * u64::try_from(kills).expect("few kills");
    assert!(counted.presumed <= bound, "{class}, seed {seed}");
    assert!(counted.whole > 10, "{class}, seed {seed}");
}

/// Kills one worker after another, and returns their process ids.
fn kill_workers(server: &Coring, random: &mut Random, until: Instant) -> Vec<String> {
    let mut killed = Vec::new();
    while Instant::now() + BETWEEN_KILLS < until {
        thread::sleep(BETWEEN_KILLS);
        let running = children(server.pid());
        if !running.is_empty() {
            let victim: Pid = random.of(&running);
            // It may have ended by itself.
            let _ = kill_process(victim, Signal::KILL);
            killed.push(victim.as_raw_nonzero().to_string());
        }
    }
    killed
}

/// Sends requests, one after the other, and returns how each of them ended.
fn ask(server: &Coring, number: u64, seed: u64, until: Instant) -> Vec<(String, Outcome)> {
    let mut random = Random(seed);
    let mut outcomes = Vec::new();
    let mut client = server.connect();
    let mut count = 0;
    while Instant::now() < until {
        let name = format!("{number}-{count}");
        let (outcome, persists) = ask_once(&mut client, &name, &mut random);
        if !persists {
            client = server.connect();
        }
        outcomes.push((name, outcome));
        count += 1;
    }
    outcomes
}

/// Sends one request. Returns how it ended, and whether the connection persists.
fn ask_once(client: &mut Client, name: &str, random: &mut Random) -> (Outcome, bool) {
    let is_post = random.below(2) == 0;
    let len = if is_post { random.of(&BODY_LENGTHS) } else { 0 };
    // Bodies of one length differ in their first bytes.
    let body = [name.as_bytes(), &noise(len)].concat()[..len].to_vec();
    let blocks = random.of(&BLOCKS);
    let query = if random.below(3) == 0 { "?slow" } else { "" };
    let target = format!("/task/{name}/{blocks}{query}");
    let head = head_with_length(if is_post { "POST" } else { "GET" }, &target, len);
    // A response may arrive, and the connection end, while the body is being sent.
    let sent = client.try_send([head.as_bytes(), &body].concat());
    let response = match client.try_response() {
        Ok(Some(response)) => response,
        Ok(None) => panic!("{name}: no response ({sent:?})"),
        Err(error) if is_timeout(&error) => panic!("{name} hangs"),
        Err(_) => return (Outcome::Cut, false),
    };
    if response.status == 200 {
        let expected =
            format!("{}\n", digest(&body)) + &format!("{name}\n").repeat(blocks * 1000 + 1);
        let is_right = response.body == expected.as_bytes();
        assert!(
            is_right,
            "{name}: {} bytes, not its own",
            response.body.len()
        );
    }
    (Outcome::Status(response.status), !response.closes())
}

/// Reads the lines `WORD NAME PID` of a ledger.
fn progress(ledger: &str) -> HashMap<&str, Progress<'_>> {
    let mut all: HashMap<&str, Progress<'_>> = HashMap::new();
    for line in ledger.lines() {
        let [word, name, pid] = line.split(' ').collect::<Vec<_>>()[..] else {
            continue;
        };
        let progress = all.entry(name).or_default();
        match word {
            "begin" => progress.begun.push(pid),
            "end" => progress.ended += 1,
            _ => progress.closed += 1,
        }
    }
    all
}

/// Requests by their ends.
#[derive(Debug, Default)]
struct Counted {
    /// Answered by the application.
    whole: u64,
    /// In progress in a worker that was killed.
    lost: u64,
    /// Lost, though the application does not know of them: they were just being handed to it.
    presumed: u64,
}

/// Counts requests, or names one that did not end as it must.
fn judge(
    outcomes: &[(String, Outcome)],
    all: &HashMap<&str, Progress<'_>>,
    killed: &[String],
) -> Result<Counted, String> {
    let mut counted = Counted::default();
    let nothing = Progress::default();
    for (name, outcome) in outcomes {
        let progress = all.get(&**name).unwrap_or(&nothing);
        let was_killed = |pid: &&str| killed.iter().any(|other| other == pid);
        match (outcome, &progress.begun[..]) {
            (Outcome::Status(200), [_]) if progress.ended == 1 => counted.whole += 1,
            // One that had been sent would have been delivered.
            (Outcome::Status(502) | Outcome::Cut, [pid])
                if was_killed(pid) && progress.closed == 0 =>
            {
                counted.lost += 1;
            }
            (Outcome::Status(502), []) => counted.presumed += 1,
            _ => return Err(format!("{name} got {outcome:?}: {progress:?}")),
        }
    }
    Ok(counted)
}
