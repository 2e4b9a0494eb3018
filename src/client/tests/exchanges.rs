//! Requests and responses that are whole, faulty or missing.

use std::io::{Read, Write};
use std::sync::mpsc;

use super::*;

#[test]
fn responses_with_every_framing_are_read_to_their_end() {
    on_each(async || {
        let server = Server::of([
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nX-A: 2\r\n\r\nhello",
            "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
        ]);
        let client = Client::new();
        let response = client.get(&server.url()).await.expect("a response");
        assert_eq!(response.status(), StatusCode::OK);
        let twice: Vec<_> = response.headers().get_all("x-a").iter().collect();
        assert_eq!(twice, ["1", "2"]);
        assert_eq!(response.body().length(), Some(5));
        assert_eq!(
            response.into_body().read(5).await.expect("a body"),
            b"hello"
        );
        assert_eq!(text(&client, &server.url()).await, "hello");
        for status in [204, 304] {
            let response = client.get(&server.url()).await.expect("a response");
            assert_eq!(
                (response.status().as_u16(), response.body().length()),
                (status, Some(0))
            );
        }
        assert_eq!(text(&client, &server.url()).await, "x");
        assert_eq!(server.accepted.get(), 1, "all these keep the connection");
        let response = client.get(&server.url()).await.expect("a response");
        assert_eq!(response.body().length(), None);
        assert_eq!(
            response.into_body().read(99).await.expect("a body"),
            b"until the end"
        );
        assert_eq!((server.accepted.get(), client.0.pool.len()), (1, 0));
    });
}

#[test]
fn a_response_to_head_has_no_body() {
    on_each(async || {
        let server = Server::of([
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext",
        ]);
        let client = Client::new();
        for _ in 0..2 {
            let request = Request::head(server.url()).body("").expect("a request");
            let response = client.send(request).await.expect("a response");
            assert_eq!(response.into_body().length(), Some(0));
        }
        assert_eq!(text(&client, &server.url()).await, "next");
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn interim_responses_are_skipped_and_trailers_are_kept() {
    on_each(async || {
        let server = Server::of([
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
             HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             1\r\na\r\n0\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\n",
        ]);
        let response = Client::new().get(&server.url()).await.expect("a response");
        assert!(!response.headers().contains_key("link"));
        let mut body = response.into_body();
        assert!(body.take_trailers().is_none(), "the body is not read yet");
        assert_eq!(body.read(10).await.expect("a body"), b"a");
        let trailers = body.take_trailers().expect("trailers");
        let sums: Vec<_> = trailers.get_all("x-sum").iter().collect();
        assert_eq!(sums, ["7", "8"]);
    });
}

#[test]
fn the_head_of_a_request_is_what_a_strict_server_accepts() {
    on_each(async || {
        let (sender, mut heads) = crate::sync::channel(10);
        let server = Server::start(move |_, mut stream| {
            let sender = sender.clone();
            async move {
                while let Some(head) = read_head(&mut stream).await? {
                    let _ = sender.send(head).await;
                    stream.write_all("HTTP/1.1 204 No Content\r\n\r\n").await?;
                }
                Ok(())
            }
        });
        let client = Client::new();
        let authority = server.address.to_string();
        let request = Request::get(format!("http://{authority}/a%20b?c=d"))
            .header("Transfer-Encoding", "gzip")
            .header("Content-Length", "7")
            .header("Connection", "X-Hop, te, expect")
            .header("X-Hop", "1")
            .header("TE", "trailers")
            .header("Expect", "100-continue")
            .header("Keep-Alive", "1")
            .header("X-Own", "kept");
        client
            .send(request.body("").expect("a request"))
            .await
            .expect("a response");
        let expected = [
            "GET /a%20b?c=d HTTP/1.1",
            &format!("Host: {authority}"),
            "x-own: kept",
        ];
        assert_eq!(heads.recv().await.expect("a head"), expected);
        let request = Request::post(format!("http://{authority}"))
            .header("Host", "a.example")
            .header("TE", "trailers");
        client
            .send(request.body("").expect("a request"))
            .await
            .expect("a response");
        let head = heads.recv().await.expect("a head");
        let expected = [
            "POST / HTTP/1.1",
            "Host: a.example",
            "te: trailers",
            "Content-Length: 0",
            "Connection: te",
        ];
        assert_eq!(head, expected);
    });
}

#[test]
fn requests_that_cannot_be_sent_are_errors_of_one_line() {
    on_each(async || {
        let client = Client::new();
        let error = async |url: &str| client.get(url).await.unwrap_err().to_string();
        for (url, text) in [
            ("/a", "the URL is not absolute: write http://host/path"),
            ("https://a/", "https needs TLS, which is not built in yet"),
            ("ftp://a/", "the scheme \"ftp\" is not http"),
            (
                "http://me@a/",
                "the URL contains a user: set the field Authorization instead",
            ),
            ("http://a:0/", "the URL has no valid host and port"),
            ("http://a:65536/", "the URL has no valid host and port"),
            ("http://a:80*", "the URL has no valid host and port"),
            ("http://a b/", "invalid uri character"),
        ] {
            assert_eq!(error(url).await, format!("invalid request: {text}"));
        }
        let server = Server::of([""; 0]);
        let send = async |request: ::http::request::Builder| {
            let request = request.uri(server.url()).body("").expect("a request");
            client.send(request).await.unwrap_err().to_string()
        };
        let new = Request::builder;
        let connect = send(new().method(Method::CONNECT)).await;
        assert_eq!(connect, "invalid request: unsupported method");
        let two = new().header("host", "a").header("host", "b");
        assert_eq!(send(two).await, "invalid request: invalid Host");
        let long = send(new().method(&*"M".repeat(70_000))).await;
        assert_eq!(long, "invalid request: request target too long");
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let refused = error(&format!("http://{address}/")).await;
        assert!(
            refused.starts_with(&format!("cannot connect to {address}: ")),
            "{refused}"
        );
    });
}

#[test]
fn faulty_responses_are_errors_and_their_connections_are_not_used_again() {
    on_each(async || {
        const OK: &str = "HTTP/1.1 200 OK\r\n";
        let client = Client::new();
        for (response, text) in [
            ("SSH-2.0-OpenSSH_9.9\r\n", "malformed status line"),
            ("HTTP/2.0 200 OK\r\n\r\n", "unsupported HTTP version"),
            ("HTTP/1.1 99 Low\r\n\r\n", "malformed status line"),
            ("HTTP/1.1 200 OK\n\n", "line ends in LF without CR"),
            (
                "HTTP/1.1 101 Switching Protocols\r\n\r\n",
                "unexpected switch of protocols",
            ),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "malformed header field"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
                "invalid Content-Length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
                "invalid Content-Length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
                 0\r\n\r\n",
                "conflicting message framing",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
                "unsupported transfer coding",
            ),
            (
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "conflicting message framing",
            ),
        ] {
            let server = Server::of([response]);
            let error = client.get(&server.url()).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("invalid response: {text}"),
                "{response:?}"
            );
        }
        for body in [
            "Content-Length: 9\r\nConnection: close\r\n\r\nhalf",
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n9\r\nhalf",
            "Transfer-Encoding: chunked\r\n\r\nx\r\n",
            "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nHost: a\r\n\r\n",
        ] {
            let server = Server::of([format!("{OK}{body}")]);
            let mut body = client.get(&server.url()).await.expect("a head").into_body();
            assert_eq!(body.read(100).await, Err(BodyError::Incomplete));
            assert_eq!(body.read(100).await, Err(BodyError::Incomplete), "still");
        }
        assert_eq!(client.0.pool.len(), 0);
    });
}

#[test]
fn bytes_behind_a_response_are_not_taken_for_the_next_response() {
    on_each(async || {
        let extra = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n\r\n";
        let server = Server::of([extra, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"]);
        let client = Client::new();
        assert_eq!(text(&client, &server.url()).await, "a");
        assert_eq!(text(&client, &server.url()).await, "b");
        assert_eq!(server.accepted.get(), 2);
    });
}

#[test]
fn a_kept_connection_that_ends_is_replaced_once_for_an_idempotent_request() {
    on_each(async || {
        // Each connection serves one request and ends with the second, without a response.
        let server = Server::start(|_, mut stream| async move {
            read_head(&mut stream).await?;
            stream
                .write_all("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
                .await?;
            read_head(&mut stream).await.map(drop)
        });
        let client = Client::new();
        for _ in 0..2 {
            assert_eq!(text(&client, &server.url()).await, "a");
        }
        assert_eq!(server.accepted.get(), 2);
        let request = Request::put(server.url())
            .body("in memory")
            .expect("a request");
        assert_eq!(
            client.send(request).await.expect("a response").status(),
            200
        );
        let (mut sender, body) = Body::channel(10);
        sender.write("a").await.expect("a reader");
        sender.finish();
        for (method, body) in [(Method::POST, Body::empty()), (Method::PUT, body)] {
            assert_eq!(text(&client, &server.url()).await, "a");
            let request = Request::builder().method(&method).uri(server.url());
            let error = client
                .send(request.body(body).expect("a request"))
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Broken(_)), "{method} {error:?}");
        }
    });
}

#[test]
fn a_new_connection_that_ends_is_not_replaced() {
    on_each(async || {
        let server =
            Server::start(|_, mut stream| async move { read_head(&mut stream).await.map(drop) });
        let error = Client::new().get(&server.url()).await.unwrap_err();
        let expected = "the server closed the connection before the response";
        assert_eq!(
            (error.to_string(), server.accepted.get()),
            (expected.to_owned(), 1)
        );
    });
}

#[test]
fn a_query_needs_no_path() {
    on_each(async || {
        let server = Server::start(|_, mut stream| async move {
            let mut lines = read_head(&mut stream).await?.expect("a head");
            let first = lines.swap_remove(0);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
            stream.write_all(head.to_owned() + &first).await
        });
        let url = format!("http://{}?a=1", server.address);
        assert_eq!(text(&Client::new(), &url).await, "GET /?a=1 HTTP/1.1");
    });
}

#[test]
fn a_kept_connection_that_was_closed_since_is_not_used() {
    on_each(async || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("its address"));
        let (close, closing) = mpsc::channel();
        let (closed, is_closed) = mpsc::channel();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().expect("a client");
                let _ = stream.read(&mut [0; 1000]).expect("a head");
                let response = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
                stream.write_all(response).expect("a client");
                closing.recv().expect("the client");
                drop(stream);
                closed.send(()).expect("the client");
            }
        });
        let client = Client::new();
        for _ in 0..2 {
            // Not idempotent, so it is not sent again.
            let response = client.post(&url, "").await.expect("a response");
            assert_eq!(response.into_body().read(9).await, Ok(b"a".to_vec()));
            assert_eq!(client.0.pool.len(), 1);
            close.send(()).expect("the server");
            // Blocks the worker, so that it cannot have noticed the close.
            is_closed.recv().expect("the server");
        }
        server.join().expect("no panic");
    });
}
