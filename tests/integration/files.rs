//! Bodies from files: every byte of the range that was asked for, in order, to quick and slow
//! clients; and an end, not a filling, when the file does not have what was promised.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use coring::fs::{Entry, Root};
use coring::{Body, Files, Limits, Request, Response};

use crate::support::{Client, Folder, GET, HELLO, Local, eventually, noise};

/// A server of the folder's files: `/name?from-to` is the part of one, `/` a greeting.
fn serve(folder: &Folder) -> Local {
    serve_within(Limits::default(), folder)
}

fn serve_within(limits: Limits, folder: &Folder) -> Local {
    let root = Root::open(folder.path()).expect("a folder");
    Local::start_within(limits, move || {
        let root = root.clone();
        async move |request: Request| {
            if request.path() == "/" {
                return Response::html(HELLO);
            }
            let Ok(Entry::File(file)) = root.open_file(&request.path()[1..]).await else {
                return Response::not_found("no such file");
            };
            let bound = |text: &str| text.parse().expect("a number");
            let range = request.query().and_then(|range| range.split_once('-'));
            let range = range.map_or_else(
                || 0..file.metadata().len(),
                |(from, to)| bound(from)..bound(to),
            );
            Response::text(Body::file(file, range))
        }
    })
}

fn get(target: &str) -> String {
    format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Both sides of every bound there is: a copied part, a part, what is owed at most, a send.
const SIZES: &[usize] = &[
    0, 1, 2048, 2049, 65_535, 65_536, 65_537, 131_073, 262_145, 3_000_001,
];

#[test]
fn every_size_comes_whole_one_after_the_other() {
    let folder = Folder::new();
    let content = noise(3_000_001);
    for len in SIZES {
        folder.write(&len.to_string(), &content[..*len]);
    }
    let server = serve(&folder);
    let mut client = server.connect();
    for len in SIZES {
        client.send(get(&len.to_string()));
        assert!(client.answer().body == content[..*len], "{len} bytes");
    }
    let all: String = SIZES.iter().map(|len| get(&len.to_string())).collect();
    client.send(all);
    for len in SIZES {
        assert!(client.answer().body == content[..*len], "{len} pipelined");
    }
    server.stop();
}

/// Content of 8 to 96 KiB that is asked for often is sent from anonymous files. A batch of such
/// answers is queued together, so the connection is not polled once for each.
#[test]
fn pipelined_answers_from_anonymous_files_share_a_poll() {
    const LEN: usize = 8 << 10;
    const BATCH: u64 = 16;
    let folder = Folder::new();
    let content = noise(LEN);
    folder.write("a", &content);
    // The cache does not trust a file that has just been written.
    thread::sleep(Duration::from_millis(50));
    let root = Root::open(folder.path()).expect("a folder");
    let server = Local::start(move || Files::new(root.clone()));
    let mut client = server.connect();
    let mut batch = || {
        let before = server.count("task_polls");
        client.send(get("a").repeat(usize::try_from(BATCH).expect("a few")));
        for _ in 0..BATCH {
            assert!(client.answer().body == content);
        }
        server.count("task_polls") - before
    };
    // The content moves to an anonymous file within three looks at the file, half a second apart.
    for _ in 0..4 {
        batch();
        thread::sleep(Duration::from_millis(600));
    }
    eventually("few polls", || (batch() <= BATCH / 2).then_some(()));
    server.stop();
}

#[test]
fn ranges_come_as_asked_for() {
    let folder = Folder::new();
    let content = noise(1_000_000);
    folder.write("a", &content);
    let server = serve(&folder);
    let mut client = server.connect();
    for (from, to) in [
        (0, 1),
        (999_999, 1_000_000),
        (4095, 4097),
        (65_000, 700_001),
        (5, 5),
    ] {
        client.send(get(&format!("a?{from}-{to}")));
        assert!(client.answer().body == content[from..to], "{from}-{to}");
    }
    server.stop();
}

#[test]
fn a_slow_reader_gets_it_whole_and_keeps_nobody_waiting() {
    let folder = Folder::new();
    let content = noise(8_000_000);
    folder.write("a", &content);
    let server = serve(&folder);
    let mut slow = server.connect();
    slow.receive_at_most(64 << 10);
    slow.send(get("a"));
    assert_eq!(slow.head().field("content-length"), Some("8000000"));
    let mut other = server.connect();
    let mut received = Vec::new();
    while received.len() < content.len() {
        let len = (content.len() - received.len()).min(400_000);
        received.extend(slow.take(len).expect("more of it"));
        other.send(GET);
        assert_eq!(other.answer().text(), HELLO);
    }
    assert!(received == content);
    server.stop();
}

#[test]
fn a_file_that_is_not_in_memory_comes_whole() {
    let folder = Folder::new();
    let content = noise(5_000_000);
    let path = folder.write("a", &content);
    let file = File::open(path).expect("the file");
    file.sync_all().expect("a disk that takes it");
    let server = serve(&folder);
    let mut clients: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    for client in &mut clients {
        client.send(get("a"));
    }
    for client in &mut clients {
        assert!(client.answer().body == content);
    }
    server.stop();
}

#[test]
fn nothing_is_read_for_who_asks_for_the_head_only() {
    let folder = Folder::new();
    let sparse = File::create(folder.file("sparse")).expect("a new file");
    sparse.set_len(1 << 40).expect("a sparse file");
    let server = serve(&folder);
    let mut client = server.connect();
    client.send("HEAD /sparse HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().field("content-length"), Some("1099511627776"));
    client.send(GET);
    assert_eq!(client.answer().text(), HELLO);
    server.stop();
}

#[test]
fn offsets_go_beyond_four_gib() {
    let folder = Folder::new();
    let len = 5 << 30;
    let sparse = File::create(folder.file("sparse")).expect("a new file");
    sparse.set_len(len).expect("a sparse file");
    let content = noise(100_000);
    sparse
        .write_all_at(&content, len - 100_000)
        .expect("its end");
    let server = serve(&folder);
    let mut client = server.connect();
    client.send(get(&format!("sparse?{}-{len}", len - 200_000)));
    let body = client.answer().body;
    assert!(body[..100_000] == [0; 100_000] && body[100_000..] == content);
    server.stop();
}

/// However quickly a client takes what comes: others have their turn after each 256 KiB.
#[test]
fn a_quick_reader_leaves_others_their_turn() {
    const LEN: u64 = 64 << 20;
    let folder = Folder::new();
    let sparse = File::create(folder.file("sparse")).expect("a new file");
    sparse.set_len(LEN).expect("a sparse file");
    let server = serve(&folder);
    let mut client = server.connect();
    for _ in 0..3 {
        let before = server.count("task_polls");
        client.send(get("sparse"));
        assert_eq!(client.answer().body.len() as u64, LEN);
        let polls = server.count("task_polls") - before;
        // Now and then a turn takes the rest of a span and the next one.
        assert!(polls >= LEN / (384 << 10), "{polls} turns");
    }
    server.stop();
}

/// Its end is known at once and again and again, its room is what is waited for.
#[test]
fn who_sends_no_more_and_does_not_read_keeps_nobody_busy() {
    let folder = Folder::new();
    let content = noise(20_000_000);
    folder.write("a", &content);
    let server = serve(&folder);
    let mut client = server.connect();
    client.receive_at_most(64 << 10);
    client.send(get("a"));
    client.half_close();
    assert_eq!(client.head().field("content-length"), Some("20000000"));
    let mut received = Vec::new();
    while received.len() < content.len() {
        thread::sleep(Duration::from_millis(100));
        let before = server.count("enters");
        thread::sleep(Duration::from_millis(100));
        let enters = server.count("enters") - before;
        assert!(enters < 20, "{enters} in a tenth of a second");
        let len = (content.len() - received.len()).min(4_000_000);
        received.extend(client.take(len).expect("more of it"));
    }
    assert!(received == content);
    server.stop();
}

/// The most of a file in one send, in bytes.
const SPAN: usize = 256 << 10;

/// A client that asks for the first `len` bytes of the file `a` and takes nothing.
fn stuck(server: &Local, len: usize) -> Client {
    let mut client = server.connect();
    client.receive_at_most(64 << 10);
    client.send(get(&format!("a?0-{len}")));
    client
}

/// How many bytes have been sent when no more are.
fn sent(server: &Local) -> u64 {
    let mut before = 0;
    eventually("a pause", || {
        thread::sleep(Duration::from_millis(100));
        let sent = server.count("bytes_sent");
        (std::mem::replace(&mut before, sent) == sent && sent > 0).then_some(sent)
    })
}

/// The end of the send that is on its way to a client which takes nothing of a file of `len` bytes.
fn end_of_stuck_send(server: &Local, len: usize) -> usize {
    let _client = stuck(server, len);
    let sent = usize::try_from(sent(server)).expect("what is in memory");
    let end = sent.next_multiple_of(SPAN);
    assert!(end + SPAN < len, "the sockets take {sent} bytes");
    end
}

/// Who takes nothing for so long that the send is cancelled, and goes on before it is cut, misses
/// nothing of what was on its way, nor of what was to follow: a part, a span, or many.
#[test]
fn who_stops_and_goes_on_misses_nothing() {
    let mut limits = Limits::default();
    limits.write_timeout = Some(Duration::from_millis(4000));
    let folder = Folder::new();
    let content = noise(20_000_000);
    folder.write("a", &content);
    let server = serve_within(limits, &folder);
    let end = end_of_stuck_send(&server, content.len());
    let lens = [end + 10_000, end + SPAN, content.len()];
    let clients = lens.map(|len| stuck(&server, len));
    thread::sleep(Duration::from_secs(6));
    for (mut client, len) in clients.into_iter().zip(lens) {
        let body = client.answer().body;
        assert!(body == content[..len], "{} of {len} bytes", body.len());
        client.send(get("a?0-1"));
        assert_eq!(client.answer().body, content[..1]);
    }
    assert_eq!(server.stop_and_count("closed_by_timeout"), 0);
}

/// All of the answer is on its way already: what cannot be sent of it is not made up for.
#[test]
fn a_file_that_shrinks_by_its_last_bytes_is_followed_by_nothing() {
    let folder = Folder::new();
    let content = noise(20_000_000);
    let path = folder.write("a", &content);
    let server = serve(&folder);
    let len = end_of_stuck_send(&server, content.len());
    let mut client = stuck(&server, len);
    sent(&server);
    let file = File::options().write(true).open(path).expect("the file");
    file.set_len(len as u64 - 50).expect("a shorter file");
    assert_eq!(
        client.head().field("content-length"),
        Some(&*len.to_string())
    );
    let body = client.broken();
    assert!(body.len() < len, "{} of {len} bytes", body.len());
    assert!(body == content[..body.len()], "something else came");
    assert_eq!(server.stop_and_count("closed_by_service"), 1);
}

/// The promised length is not made up with anything, and nobody waits for it.
#[test]
fn a_file_that_shrinks_ends_its_connection() {
    let folder = Folder::new();
    let content = noise(20_000_000);
    let path = folder.write("a", &content);
    let server = serve(&folder);
    let mut client = server.connect();
    client.receive_at_most(64 << 10);
    client.send(get("a"));
    assert_eq!(client.head().field("content-length"), Some("20000000"));
    let file = File::options().write(true).open(path).expect("the file");
    file.set_len(15_000_001).expect("a shorter file");
    let body = client.broken();
    assert!(body.len() <= 15_000_001, "{}", body.len());
    assert!(body == content[..body.len()]);
    eventually("the end of the connection", || {
        (server.count("connections_open") == 0).then_some(())
    });
    assert_eq!(server.stop_and_count("closed_by_service"), 1);
}

#[test]
fn a_file_that_is_empty_by_now_is_no_answer() {
    let folder = Folder::new();
    folder.write("a", b"short");
    let server = serve(&folder);
    let mut client = server.connect();
    client.send(get("a?0-100000"));
    assert_eq!(client.head().field("content-length"), Some("100000"));
    assert_eq!(client.broken(), b"short");
    assert_eq!(server.stop_and_count("closed_by_service"), 1);
}

#[test]
fn who_breaks_off_leaves_nothing_behind() {
    let folder = Folder::new();
    let path = folder.write("a", noise(20_000_000));
    let file = File::open(path).expect("the file");
    file.sync_all().expect("a disk that takes it");
    let server = serve(&folder);
    for _ in 0..20 {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        let mut client = server.connect();
        client.send(get("a"));
        client.head();
        client.reset();
    }
    eventually("no connection", || {
        (server.count("connections_open") == 0).then_some(())
    });
    let open = || {
        let all = fs::read_dir("/proc/self/fd").expect("our descriptors");
        let links = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links
            .filter(|link| link.starts_with(folder.path()) && link.ends_with("a"))
            .count()
    };
    eventually("the file closed but for our own", || {
        (open() == 1).then_some(())
    });
    assert_eq!(server.stop_and_count("blocks_in_use"), 0);
}
