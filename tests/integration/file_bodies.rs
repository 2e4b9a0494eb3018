//! `Body::file` in services: every byte of the range arrives in order, at fast and slow clients.
//! If the file has become shorter than the announced length, the connection ends without padding.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use coring::fs::{Entry, Root};
use coring::{Body, Files, Limits, Request, Response};

use crate::support::{Client, GET, HELLO, Local, TempDir, eventually, get, noise, request};

/// A server of the directory's files: `/NAME?FROM-TO` is a range of a file, `/` is a small page.
fn serve(directory: &TempDir) -> Local {
    serve_within(Limits::default(), directory)
}

fn serve_within(limits: Limits, directory: &TempDir) -> Local {
    let root = Root::open(directory.path()).expect("a directory");
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

/// Sizes around the sizes at which the server sends differently: the greatest part that it copies,
/// a part, the bytes that it queues, and a send.
const SIZES: &[usize] = &[
    0, 1, 2048, 2049, 65_535, 65_536, 65_537, 131_073, 262_145, 3_000_001,
];

#[test]
fn files_of_every_size_arrive_whole() {
    let directory = TempDir::new();
    let content = noise(3_000_001);
    for len in SIZES {
        directory.write(&len.to_string(), &content[..*len]);
    }
    let server = serve(&directory);
    let mut client = server.connect();
    for len in SIZES {
        client.send(get(&format!("/{len}")));
        assert!(client.response().body == content[..*len], "{len} bytes");
    }
    let all: String = SIZES.iter().map(|len| get(&format!("/{len}"))).collect();
    client.send(all);
    for len in SIZES {
        assert!(client.response().body == content[..*len], "{len} pipelined");
    }
    server.stop();
}

/// Cached files of 8 to 96 KiB that are requested often are sent from memfds. The server queues a
/// batch of such responses together and does not poll the connection once for each.
#[test]
fn pipelined_responses_from_memfds_share_a_poll() {
    const LEN: usize = 8 << 10;
    const BATCH: u64 = 16;
    let directory = TempDir::new();
    let content = noise(LEN);
    directory.write("a", &content);
    // The cache does not trust a file that has just been written.
    thread::sleep(Duration::from_millis(50));
    let root = Root::open(directory.path()).expect("a directory");
    let server = Local::start(move || Files::new(root.clone()));
    let mut client = server.connect();
    let mut batch = || {
        let before = server.count("task_polls");
        client.send(get("/a").repeat(usize::try_from(BATCH).expect("a small number")));
        for _ in 0..BATCH {
            assert!(client.response().body == content);
        }
        server.count("task_polls") - before
    };
    // The content moves to a memfd within three revalidations, which are half a second apart.
    for _ in 0..4 {
        batch();
        thread::sleep(Duration::from_millis(600));
    }
    eventually("few polls", || (batch() <= BATCH / 2).then_some(()));
    server.stop();
}

#[test]
fn ranges_arrive_as_requested() {
    let directory = TempDir::new();
    let content = noise(1_000_000);
    directory.write("a", &content);
    let server = serve(&directory);
    let mut client = server.connect();
    for (from, to) in [
        (0, 1),
        (999_999, 1_000_000),
        (4095, 4097),
        (65_000, 700_001),
        (5, 5),
    ] {
        client.send(get(&format!("/a?{from}-{to}")));
        assert!(client.response().body == content[from..to], "{from}-{to}");
    }
    server.stop();
}

#[test]
fn a_slow_client_gets_the_whole_file_and_does_not_delay_others() {
    let directory = TempDir::new();
    let content = noise(8_000_000);
    directory.write("a", &content);
    let server = serve(&directory);
    let mut slow = server.connect();
    slow.set_receive_buffer(64 << 10);
    slow.send(get("/a"));
    assert_eq!(slow.head().field("content-length"), Some("8000000"));
    let mut other = server.connect();
    let mut received = Vec::new();
    while received.len() < content.len() {
        let len = (content.len() - received.len()).min(400_000);
        received.extend(slow.take(len).expect("more of the file"));
        other.send(GET);
        assert_eq!(other.response().text(), HELLO);
    }
    assert!(received == content);
    server.stop();
}

#[test]
fn a_file_that_is_not_in_the_page_cache_arrives_whole() {
    let directory = TempDir::new();
    let content = noise(5_000_000);
    let path = directory.write("a", &content);
    let file = File::open(path).expect("the file");
    file.sync_all().expect("a written file");
    let server = serve(&directory);
    let mut clients: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    for client in &mut clients {
        client.send(get("/a"));
    }
    for client in &mut clients {
        assert!(client.response().body == content);
    }
    server.stop();
}

#[test]
fn a_response_to_head_does_not_read_the_file() {
    let directory = TempDir::new();
    let sparse = File::create(directory.file("sparse")).expect("a new file");
    sparse.set_len(1 << 40).expect("a sparse file");
    let server = serve(&directory);
    let mut client = server.connect();
    client.send(request("HEAD", "/sparse", &[]));
    assert_eq!(client.head().field("content-length"), Some("1099511627776"));
    client.send(GET);
    assert_eq!(client.response().text(), HELLO);
    server.stop();
}

#[test]
fn a_range_may_lie_beyond_4_gib() {
    let directory = TempDir::new();
    let len = 5 << 30;
    let sparse = File::create(directory.file("sparse")).expect("a new file");
    sparse.set_len(len).expect("a sparse file");
    let content = noise(100_000);
    sparse
        .write_all_at(&content, len - 100_000)
        .expect("a written file");
    let server = serve(&directory);
    let mut client = server.connect();
    client.send(get(&format!("/sparse?{}-{len}", len - 200_000)));
    let body = client.response().body;
    assert!(body[..100_000] == [0; 100_000] && body[100_000..] == content);
    server.stop();
}

/// The connection's task yields after each 256 KiB, even if the client reads without pause.
#[test]
fn a_download_to_a_fast_client_yields_to_other_tasks() {
    const LEN: u64 = 64 << 20;
    let directory = TempDir::new();
    let sparse = File::create(directory.file("sparse")).expect("a new file");
    sparse.set_len(LEN).expect("a sparse file");
    let server = serve(&directory);
    let mut client = server.connect();
    for _ in 0..3 {
        let before = server.count("task_polls");
        client.send(get("/sparse"));
        assert_eq!(client.response().body.len() as u64, LEN);
        let polls = server.count("task_polls") - before;
        // One poll may send the rest of one span and all of the next.
        assert!(polls >= LEN / (384 << 10), "{polls} polls");
    }
    server.stop();
}

/// For a half-closed socket poll(2) reports readiness at once. A server that waits until the
/// client reads must not spin because of that.
#[test]
fn a_half_closed_client_that_does_not_read_does_not_make_the_server_spin() {
    let directory = TempDir::new();
    let content = noise(20_000_000);
    directory.write("a", &content);
    let server = serve(&directory);
    let mut client = server.connect();
    client.set_receive_buffer(64 << 10);
    client.send(get("/a"));
    client.half_close();
    assert_eq!(client.head().field("content-length"), Some("20000000"));
    let mut received = Vec::new();
    while received.len() < content.len() {
        thread::sleep(Duration::from_millis(100));
        let before = server.count("enters");
        thread::sleep(Duration::from_millis(100));
        let enters = server.count("enters") - before;
        assert!(enters < 20, "{enters} system calls in 100 ms");
        let len = (content.len() - received.len()).min(4_000_000);
        received.extend(client.take(len).expect("more of the file"));
    }
    assert!(received == content);
    server.stop();
}

/// The most bytes of a file in one send.
const SPAN: usize = 256 << 10;

/// Connects a client that requests the first `len` bytes of the file `a` and reads nothing.
fn stalled_client(server: &Local, len: usize) -> Client {
    let mut client = server.connect();
    client.set_receive_buffer(64 << 10);
    client.send(get(&format!("/a?0-{len}")));
    client
}

/// Waits until the server has stopped sending, and returns the number of bytes it has sent.
fn bytes_sent_until_stalled(server: &Local) -> u64 {
    let mut before = 0;
    eventually("sending stops", || {
        thread::sleep(Duration::from_millis(100));
        let sent = server.count("bytes_sent");
        (std::mem::replace(&mut before, sent) == sent && sent > 0).then_some(sent)
    })
}

/// The offset at which the blocked send ends if a client requests `len` bytes and reads nothing.
fn end_of_blocked_send(server: &Local, len: usize) -> usize {
    let _client = stalled_client(server, len);
    let sent = usize::try_from(bytes_sent_until_stalled(server)).expect("a number of bytes");
    let end = sent.next_multiple_of(SPAN);
    assert!(
        end + SPAN < len,
        "the socket buffers hold {sent} bytes; the file is too small"
    );
    end
}

/// A client stops reading for so long that the server cancels the blocked send, and reads again
/// before the server closes the connection. It must lose nothing, whether a part of a span, one
/// span or many spans follow the cancelled send.
#[test]
fn a_client_that_reads_again_after_a_cancelled_send_loses_nothing() {
    let mut limits = Limits::default();
    limits.write_timeout = Some(Duration::from_millis(4000));
    let directory = TempDir::new();
    let content = noise(20_000_000);
    directory.write("a", &content);
    let server = serve_within(limits, &directory);
    let end = end_of_blocked_send(&server, content.len());
    let lens = [end + 10_000, end + SPAN, content.len()];
    let clients = lens.map(|len| stalled_client(&server, len));
    thread::sleep(Duration::from_secs(6));
    for (mut client, len) in clients.into_iter().zip(lens) {
        let body = client.response().body;
        assert!(body == content[..len], "{} of {len} bytes", body.len());
        client.send(get("/a?0-1"));
        assert_eq!(client.response().body, content[..1]);
    }
    assert_eq!(server.stop_and_count("closed_by_timeout"), 0);
}

/// The file shrinks by its last bytes while the last send is blocked. The server sends no padding
/// in their place.
#[test]
fn a_file_that_shrinks_during_the_last_send_is_not_padded() {
    let directory = TempDir::new();
    let content = noise(20_000_000);
    let path = directory.write("a", &content);
    let server = serve(&directory);
    let len = end_of_blocked_send(&server, content.len());
    let mut client = stalled_client(&server, len);
    bytes_sent_until_stalled(&server);
    let file = File::options().write(true).open(path).expect("the file");
    file.set_len(len as u64 - 50).expect("a shorter file");
    assert_eq!(
        client.head().field("content-length"),
        Some(&*len.to_string())
    );
    let body = client.expect_fin_or_reset();
    assert!(body.len() < len, "{} of {len} bytes", body.len());
    assert!(body == content[..body.len()], "other bytes arrived");
    assert_eq!(server.stop_and_count("closed_by_service"), 1);
}

/// The server does not pad the response to the announced length, and does not wait for more.
#[test]
fn a_file_that_shrinks_during_a_download_ends_the_connection() {
    let directory = TempDir::new();
    let content = noise(20_000_000);
    let path = directory.write("a", &content);
    let server = serve(&directory);
    let mut client = server.connect();
    client.set_receive_buffer(64 << 10);
    client.send(get("/a"));
    assert_eq!(client.head().field("content-length"), Some("20000000"));
    let file = File::options().write(true).open(path).expect("the file");
    file.set_len(15_000_001).expect("a shorter file");
    let body = client.expect_fin_or_reset();
    assert!(body.len() <= 15_000_001, "{}", body.len());
    assert!(body == content[..body.len()]);
    eventually("the end of the connection", || {
        (server.count("connections_open") == 0).then_some(())
    });
    assert_eq!(server.stop_and_count("closed_by_service"), 1);
}

#[test]
fn a_file_shorter_than_the_announced_length_ends_the_connection() {
    let directory = TempDir::new();
    directory.write("a", b"short");
    let server = serve(&directory);
    let mut client = server.connect();
    client.send(get("/a?0-100000"));
    assert_eq!(client.head().field("content-length"), Some("100000"));
    assert_eq!(client.expect_fin_or_reset(), b"short");
    eventually("the end of the connection", || {
        (server.count("connections_open") == 0).then_some(())
    });
    assert_eq!(server.stop_and_count("closed_by_service"), 1);
}

#[test]
fn a_client_that_resets_leaves_no_file_open() {
    let directory = TempDir::new();
    let path = directory.write("a", noise(20_000_000));
    let file = File::open(path).expect("the file");
    file.sync_all().expect("a written file");
    let server = serve(&directory);
    for _ in 0..20 {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        let mut client = server.connect();
        client.send(get("/a"));
        client.head();
        client.reset();
    }
    eventually("no connection", || {
        (server.count("connections_open") == 0).then_some(())
    });
    let open = || {
        let all = fs::read_dir("/proc/self/fd").expect("this process's descriptors");
        let links = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links
            .filter(|link| link.starts_with(directory.path()) && link.ends_with("a"))
            .count()
    };
    // The test itself has the file open once.
    eventually("the server closes the file", || (open() == 1).then_some(()));
    assert_eq!(server.stop_and_count("blocks_in_use"), 0);
}
