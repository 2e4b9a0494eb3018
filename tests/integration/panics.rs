//! A service that panics costs its own connection; it is counted, and the worker lives.

use coring::{Handle, Request, Response};

use crate::support::{Address, Client, GET, HELLO, builder, eventually};

/// A server of one worker whose service panics for some paths, before and after its first wait.
fn panicking_server() -> (Handle, Address) {
    let service = async |mut request: Request| match request.path() {
        "/panic" => panic!("as it was asked to"),
        "/panic-later" => {
            let body = request.body().read(100).await;
            panic!("as it was asked to, after {body:?}")
        }
        _ => Response::html(HELLO),
    };
    let server = builder()
        .bind("127.0.0.1:0")
        .cores(1)
        .start(move || service);
    let server = server.expect("a server");
    let address = server.addresses()[0]
        .to_string()
        .parse()
        .expect("an IP address");
    (server, Address::Tcp(address))
}

fn service_panics(server: &Handle) -> u64 {
    server
        .metrics()
        .iter()
        .map(|worker| worker.service_panics.get())
        .sum()
}

#[test]
fn a_panic_costs_one_connection() {
    let (server, address) = panicking_server();
    assert_eq!(server.metrics().len(), 1, "one worker, which has to go on");
    let mut bystander = Client::connect(&address).expect("a connection");
    bystander.send(GET);
    assert_eq!(bystander.answer().text(), HELLO);
    let at_once = "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n";
    let later = "POST /panic-later HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for (count, request) in (1..).zip([at_once, later, at_once, later]) {
        let mut client = Client::connect(&address).expect("a connection");
        client.send(request);
        // What is pipelined behind goes with the connection.
        client.send(GET);
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.closes()),
            (500, true),
            "{}",
            answer.head
        );
        client.ends();
        eventually("the count", || {
            (service_panics(&server) == count).then_some(())
        });
        bystander.send(GET);
        assert_eq!(bystander.answer().text(), HELLO, "others go on");
    }
    drop(bystander);
    server.drain();
    server.wait().expect("an end in order");
}

/// What was answered before the panic still arrives.
#[test]
fn answers_before_a_panic_are_sent() {
    let (server, address) = panicking_server();
    let mut client = Client::connect(&address).expect("a connection");
    client.send(format!("{GET}GET /panic HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.answer().text(), HELLO);
    assert_eq!(client.answer().status, 500);
    client.ends();
    server.stop();
    server.wait().expect("an end in order");
}
