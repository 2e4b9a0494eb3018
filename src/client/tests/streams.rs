//! Bodies that are sent and received part by part, and requests that are dropped.

use super::*;

#[test]
fn bodies_stream_in_both_directions_at_once() {
    on_each(async || {
        let server = Server::start(|_, stream| async move {
            let (mut reader, mut writer) = stream.split();
            while reader
                .read_line(8192)
                .await?
                .is_some_and(|line| !line.is_empty())
            {}
            // An early response. Then each chunk is sent back as it is, with the last one.
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            writer.write_all(head).await?;
            while let Some(chunk) = reader.read().await? {
                writer.write_all(chunk).await?;
            }
            Ok(())
        });
        let client = Client::new();
        let (mut sender, body) = Body::channel(1 << 16);
        let response = client
            .post(&server.url(), body)
            .await
            .expect("an early response");
        let mut body = response.into_body();
        for text in ["one", "two"] {
            sender.write(text).await.expect("a reader");
            assert_eq!(
                body.part().await.expect("a part").as_deref(),
                Some(text.as_bytes())
            );
        }
        let writing = spawn(async move {
            for _ in 0..300 {
                sender.write(vec![b'x'; 10_000]).await.expect("a reader");
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "9".parse().expect("a value"));
            sender.finish_with_trailers(trailers);
        });
        assert_eq!(body.read(4_000_000).await.expect("a body").len(), 3_000_000);
        assert_eq!(body.take_trailers().expect("trailers")["x-sum"], "9");
        writing.await.expect("no panic");
        assert_eq!(client.0.pool.len(), 1);
    });
}

#[test]
fn a_response_can_come_before_a_large_request_is_sent() {
    on_each(async || {
        for closes in [false, true] {
            let server = Server::start(move |_, mut stream| async move {
                read_head(&mut stream).await?;
                let length = "Content-Length: 2\r\n\r\nno";
                stream
                    .write_all(format!("HTTP/1.1 413 Too Large\r\n{length}"))
                    .await?;
                if !closes {
                    sleep(Duration::from_secs(60)).await;
                }
                // Read a little, so that the close is a FIN and not a reset.
                stream.shutdown_write();
                sleep(Duration::from_millis(50)).await;
                while let Ok(Some(_)) = stream.read().await {}
                Ok(())
            });
            let client = Client::new();
            let response = client.post(&server.url(), vec![0; 20_000_000]).await;
            let response = response.expect("an early response");
            assert_eq!(response.status(), 413);
            assert_eq!(response.into_body().read(10).await.expect("a body"), b"no");
            assert_eq!(client.0.pool.len(), 0, "the request is not complete");
        }
    });
}

#[test]
fn a_body_that_fails_or_has_another_length_is_an_error() {
    on_each(async || {
        let server = Server::start(|_, mut stream| async move {
            while stream.read().await?.is_some() {}
            Ok(())
        });
        let client = Client::new();
        let send = async |body: Body| client.post(&server.url(), body).await.unwrap_err();
        let (mut sender, body) = Body::channel(10);
        sender.write("begun").await.expect("a reader");
        drop(sender);
        let error = send(body).await;
        assert!(
            matches!(error, Error::RequestBody(BodyError::Incomplete)),
            "{error:?}"
        );
        for length in [4, 6] {
            let (mut sender, body) = Body::channel(10);
            sender.write("begun").await.expect("a reader");
            sender.finish();
            let error = send(body.with_length(length)).await;
            assert!(
                matches!(error, Error::RequestBody(BodyError::WrongLength)),
                "{error:?}"
            );
        }
    });
}

#[test]
fn a_body_can_wait_for_100_continue() {
    on_each(async || {
        let server = Server::start(|number, mut stream| async move {
            let head = read_head(&mut stream).await?.expect("a head");
            assert!(
                head.contains(&"expect: 100-continue".to_owned()),
                "{head:?}"
            );
            let early = timeout(Duration::from_millis(30), stream.read()).await;
            assert!(early.is_err(), "the body must wait");
            let status = match number {
                0 => {
                    stream.write_all("HTTP/1.1 100 Continue\r\n\r\n").await?;
                    assert_eq!(&*stream.read_exact(4).await?, b"body");
                    "200 OK"
                }
                // The body comes after the wait.
                1 => {
                    assert_eq!(&*stream.read_exact(4).await?, b"body");
                    "200 OK"
                }
                _ => "417 Expectation Failed",
            };
            let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(response).await?;
            assert!(stream.read().await?.is_none(), "no body follows");
            Ok(())
        });
        let client = Client::with_limits(Limits {
            continue_timeout: Duration::from_millis(300),
            idle_per_host_max: 0,
            ..Limits::default()
        })
        .expect("valid limits");
        for status in [200, 200, 417] {
            let request = Request::put(server.url()).header("expect", "100-continue");
            let request = request.body("body").expect("a request");
            let response = client.send(request).await.expect("a response");
            assert_eq!(response.status(), status);
        }
        assert_eq!(client.0.pool.len(), 0);
    });
}

#[test]
fn dropped_futures_and_bodies_close_their_connections() {
    on_each(async || {
        let ended = Rc::new(Cell::new(0));
        let count = ended.clone();
        let server = Server::start(move |number, mut stream| {
            let count = count.clone();
            async move {
                read_head(&mut stream).await?;
                if number > 0 {
                    stream
                        .write_all("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                        .await?;
                }
                // A FIN or a reset.
                let _ = stream.read().await;
                count.set(count.get() + 1);
                Ok(())
            }
        });
        let client = Client::new();
        let url = server.url();
        let early = timeout(Duration::from_millis(30), client.get(&url)).await;
        assert!(early.is_err());
        drop(client.get(&url).await.expect("a head"));
        let mut body = client.get(&url).await.expect("a head").into_body();
        assert_eq!(
            body.part().await.expect("a part").as_deref(),
            Some(&b"half"[..])
        );
        let early = timeout(Duration::from_millis(30), body.part()).await;
        assert!(
            early.is_err(),
            "dropping the future of a part loses nothing"
        );
        drop(body);
        while ended.get() < 3 {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((server.accepted.get(), client.0.pool.len()), (3, 0));
    });
}

#[test]
fn a_body_whose_last_byte_was_read_gives_its_connection_back() {
    on_each(async || {
        let server = Server::of(["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"; 2]);
        let client = Client::new();
        for _ in 0..2 {
            let mut body = client.get(&server.url()).await.expect("a head").into_body();
            assert_eq!(
                body.part().await.expect("a part").as_deref(),
                Some(&b"hello"[..])
            );
            assert_eq!(body.length(), Some(0));
        }
        assert_eq!(server.accepted.get(), 1);
    });
}
