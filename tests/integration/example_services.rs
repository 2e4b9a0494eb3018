//! The examples `events` and `switch_points`: pages that stay open, and a service that asks another
//! server.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::examples::Running;
use crate::support::{
    Address, Client, GET, TempDir, get, head_with_length, python, report, request, run_with,
};

#[test]
fn events_reach_every_open_page() {
    let mut server = Running::start("events", &["127.0.0.1:0"]);
    let address = Address::Tcp(server.address());
    let connect = || Client::connect(&address).expect("a listener");
    let mut speaker = connect();
    speaker.send(GET);
    assert!(
        speaker
            .response()
            .text()
            .contains("new EventSource(`/${room}/events`)")
    );
    let mut pages = [(); 3].map(|()| {
        let mut page = connect();
        page.send(get("/lobby/events"));
        let head = page.head();
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        page
    });
    let mut say = |text: &str, status| {
        speaker.send(head_with_length("POST", "/lobby/say", text.len()));
        speaker.send(text);
        assert_eq!(speaker.response().status, status);
    };
    for (text, event) in [
        ("hello", "id: 1\ndata: hello\n\n"),
        ("two\nlines", "id: 2\ndata: two\ndata: lines\n\n"),
        ("two\r\nlines", "id: 3\ndata: two\ndata: lines\n\n"),
        // A lone CR ends a line, too.
        (
            "one\revent: forged",
            "id: 4\ndata: one\ndata: event: forged\n\n",
        ),
    ] {
        say(text, 204);
        for page in &mut pages {
            assert_eq!(page.chunk().expect("an event"), event.as_bytes());
        }
    }
    let [first, mut second, _] = pages;
    first.reset();
    say("still there?", 204);
    let still = b"id: 5\ndata: still there?\n\n";
    assert_eq!(second.chunk().expect("an event"), still);
    // A page that reconnects gets the messages that it has missed; one in another room gets none.
    let mut returned = connect();
    returned.send(request("GET", "/lobby/events", &["Last-Event-ID: 4"]));
    assert_eq!(returned.head().status, 200);
    assert_eq!(returned.chunk().expect("an event"), still);
    let mut elsewhere = connect();
    elsewhere.send(get("/tea/events"));
    assert_eq!(elsewhere.head().status, 200);
    say("bye", 204);
    assert_eq!(returned.chunk().expect("an event"), b"id: 6\ndata: bye\n\n");
    speaker.send(head_with_length("POST", "/tea/say", 3) + "tea");
    assert_eq!(speaker.response().status, 204);
    assert_eq!(
        elsewhere.chunk().expect("an event"),
        b"id: 1\ndata: tea\n\n"
    );
}

/// Each line becomes seven bytes. A page that joins gets as many messages as fit into its queue.
#[test]
fn a_page_that_joins_gets_the_last_events_without_a_gap() {
    let mut server = Running::start("events", &["127.0.0.1:0"]);
    let address = Address::Tcp(server.address());
    let connect = || Client::connect(&address).expect("a listener");
    let mut speaker = connect();
    let mut say_lines = |lines: usize| {
        let text = "\n".repeat(lines);
        speaker.send(head_with_length("POST", "/long/say", lines) + &text);
        assert_eq!(speaker.response().status, 204);
    };
    (0..3).for_each(|_| say_lines(4000));
    let mut long = connect();
    long.send(get("/long/events"));
    assert_eq!(long.head().status, 200);
    say_lines(1);
    let mut events = String::new();
    while !events.contains("id: 4\n") {
        events += str::from_utf8(&long.chunk().expect("an event")).expect("text");
    }
    assert!(events.starts_with("id: 2\n") && events.contains("\nid: 3\n"));
}

#[test]
fn messages_appear_on_all_pages_of_a_room_in_a_browser() {
    if Command::new("chromium")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        report("not tested: the page of the example `events`: chromium is not installed");
        return;
    }
    let mut server = Running::start("events", &["127.0.0.1:0"]);
    let url = format!("http://{}/tea", server.address());
    let shown = run_with(&mut python("browser.py", &[&url]), b"").succeeded();
    assert_eq!(shown, "shown\n");
}

/// Serves `count` requests with the same content, and returns their heads.
fn serve_content(content: &'static str, count: usize) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        for _ in 0..count {
            let mut head = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
            while !head.next().expect("a line").expect("a line").is_empty() {}
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                content.len()
            );
            stream
                .write_all((head + content).as_bytes())
                .expect("a client");
        }
    });
    (address, serving)
}

#[test]
fn switch_points_reads_a_file_asks_a_server_and_writes_a_file() {
    let (origin, serving) = serve_content("world\n", 2);
    let directory = TempDir::new();
    directory.write("greeting", "hello ");
    let path = directory.path().to_str().expect("a path in UTF-8");
    let url = format!("http://{origin}/");
    let mut server = Running::start("switch_points", &["127.0.0.1:0", path, &url]);
    let mut client = Client::connect(&Address::Tcp(server.address())).expect("a listener");
    for number in 1..=2 {
        client.send(GET);
        let response = client.response();
        let expected = format!("{number}: hello world\n");
        assert_eq!((response.status, response.text()), (200, &*expected));
    }
    let written = fs::read_to_string(directory.file("last")).expect("a file");
    assert_eq!(written, "hello world\n");
    serving.join().expect("no panic");
    client.send(GET);
    let response = client.response();
    assert_eq!(response.status, 502);
    assert!(
        response.text().starts_with("cannot connect to "),
        "{}",
        response.text()
    );
}

#[test]
fn a_page_gets_one_comment_at_a_time_however_many_pages_have_left() {
    let mut server = Running::start("events", &["127.0.0.1:0"]);
    let address = Address::Tcp(server.address());
    let connect = || Client::connect(&address).expect("a listener");
    let join = || {
        let mut page = connect();
        // It has seen all messages, so it gets none of those that the room keeps.
        page.send(request("GET", "/lobby/events", &["Last-Event-ID: 99"]));
        assert_eq!(page.head().status, 200);
        page
    };
    let mut speaker = connect();
    let mut say = |text: &str| {
        speaker.send(head_with_length("POST", "/lobby/say", text.len()));
        speaker.send(text);
        assert_eq!(speaker.response().status, 204);
    };
    for _ in 0..5 {
        join().reset();
        // By the second message the server has noticed the reset, so it has no pages.
        say("one");
        say("two");
    }
    let mut page = join();
    let comment = page.chunk().expect("a comment");
    assert_eq!(comment, b": still there\n\n");
    // Time for comments of pages that have left.
    thread::sleep(Duration::from_millis(500));
    say("the next");
    assert_eq!(
        page.chunk().expect("an event"),
        b"id: 11\ndata: the next\n\n"
    );
}
