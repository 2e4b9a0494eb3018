//! Timeouts, limits of size, and the number of connections that are kept.

use super::*;
use crate::sync::Notify;

#[test]
fn every_wait_has_its_timeout() {
    const SHORT: Duration = Duration::from_millis(60);
    on_each(async || {
        let server = Server::start(|_, mut stream| async move {
            let head = read_head(&mut stream).await?.expect("a head");
            if head[0].starts_with("GET /body") {
                stream
                    .write_all("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                    .await?;
            }
            if head[0].starts_with("GET /interim") {
                for _ in 0..1000 {
                    stream.write_all("HTTP/1.1 102 Processing\r\n\r\n").await?;
                    sleep(Duration::from_millis(10)).await;
                }
            }
            sleep(PATIENCE).await;
            Ok(())
        });
        let with = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            Client::with_limits(limits).expect("valid limits")
        };
        let url = |path| format!("{}{path}", server.url());
        let head = with(|limits| limits.head_timeout = Some(SHORT));
        for path in ["head", "interim"] {
            let error = head.get(&url(path)).await.unwrap_err();
            assert!(matches!(error, Error::Timeout(Phase::Head)), "{error:?}");
        }
        let body = with(|limits| limits.body_timeout = Some(SHORT));
        let response = body.get(&url("body")).await.expect("a head");
        assert_eq!(
            response.into_body().read(99).await,
            Err(BodyError::Incomplete)
        );
        let error = body
            .post(&url("send"), vec![0; 20_000_000])
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Timeout(Phase::Send)), "{error:?}");
        let total = with(|limits| limits.total_timeout = Some(SHORT));
        let error = total.get(&url("head")).await.unwrap_err();
        assert!(matches!(error, Error::Timeout(Phase::Total)), "{error:?}");
        let (_sender, never) = Body::channel(10);
        let error = total.post(&url("send"), never).await.unwrap_err();
        assert!(matches!(error, Error::Timeout(Phase::Total)), "{error:?}");
        let response = total.get(&url("body")).await.expect("a head");
        assert_eq!(
            response.into_body().read(99).await,
            Err(BodyError::Incomplete)
        );
        let connect = with(|limits| limits.connect_timeout = Some(SHORT));
        let full = FullListener::new();
        let error = connect
            .get(&format!("http://{}/", full.address))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Timeout(Phase::Connect)), "{error:?}");
    });
}

#[test]
fn heads_and_bodies_have_their_limits() {
    on_each(async || {
        let client = Client::with_limits(Limits {
            head_bytes_max: 100,
            fields_max: 2,
            body_bytes_max: Some(3),
            ..Limits::default()
        })
        .expect("valid limits");
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(100));
        for (response, text) in [
            (&*long, "head too large"),
            (
                "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n",
                "too many header fields",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour",
                "body too large",
            ),
        ] {
            let server = Server::of([response]);
            let error = client.get(&server.url()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("invalid response: {text}"));
        }
        for response in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfour",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        ] {
            let server = Server::of([response]);
            let response = client.get(&server.url()).await.expect("a head");
            assert_eq!(
                response.into_body().read(99).await,
                Err(BodyError::Incomplete)
            );
        }
    });
}

#[test]
fn kept_connections_are_bounded_in_number_and_time() {
    on_each(async || {
        let server = Server::start(|_, mut stream| async move {
            while read_head(&mut stream).await?.is_some() {
                sleep(Duration::from_millis(20)).await;
                stream
                    .write_all("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
                    .await?;
            }
            Ok(())
        });
        let client = Client::with_limits(Limits {
            idle_per_host_max: 2,
            idle_max: 3,
            idle_timeout: Duration::from_millis(150),
            ..Limits::default()
        })
        .expect("valid limits");
        let urls = [server.url(), server.url().replace("127.0.0.1", "localhost")];
        for (url, kept) in urls.into_iter().zip([2, 3]) {
            let calls = (0..4).map(|_| {
                let (client, url) = (client.clone(), url.clone());
                spawn(async move { assert_eq!(text(&client, &url).await, "a") })
            });
            let outcomes = join_all(calls).await;
            assert!(outcomes.iter().all(Result::is_ok));
            assert_eq!(client.0.pool.len(), kept);
        }
        assert_eq!(server.accepted.get(), 8);
        let started = Instant::now();
        while client.0.pool.len() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(50));
        assert_eq!(text(&client, &server.url()).await, "a");
        assert_eq!(server.accepted.get(), 9);
    });
}

#[test]
fn a_thousand_requests_run_at_once() {
    on_each(async || {
        let server = Server::start(|_, mut stream| async move {
            while read_head(&mut stream).await?.is_some() {
                sleep(Duration::from_millis(10)).await;
                stream
                    .write_all("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
                    .await?;
            }
            Ok(())
        });
        let client = Client::new();
        let url: Rc<str> = server.url().into();
        let calls = (0..1000).map(|_| {
            let (client, url) = (client.clone(), url.clone());
            spawn(async move { text(&client, &url).await })
        });
        let outcomes = join_all(calls).await;
        assert!(outcomes.iter().all(|outcome| outcome.as_deref() == Ok("a")));
        assert_eq!(client.0.pool.len(), 64);
    });
}

/// The transport looks at the time only when nothing has arrived.
#[test]
fn timeouts_hold_although_the_server_never_pauses() {
    const SHORT: Duration = Duration::from_millis(100);
    on_each(async || {
        let server = Server::start(|_, mut stream| async move {
            let head = read_head(&mut stream).await?.expect("a head");
            let part = match head[0].starts_with("GET /interim") {
                true => "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000),
                false => {
                    stream.write_all("HTTP/1.1 200 OK\r\n\r\n").await?;
                    "a".repeat(1 << 16)
                }
            };
            loop {
                stream.write_all(part.clone()).await?;
            }
        });
        let limits = Limits {
            head_timeout: Some(SHORT),
            total_timeout: Some(4 * SHORT),
            ..Limits::default()
        };
        let client = Client::with_limits(limits).expect("valid limits");
        let url = |path| format!("{}{path}", server.url());
        let error = client.get(&url("interim")).await.unwrap_err();
        assert!(matches!(error, Error::Timeout(Phase::Head)), "{error:?}");
        let response = client.get(&url("body")).await.expect("a head");
        let mut body = response.into_body();
        let error = loop {
            match body.part().await {
                Ok(part) => assert!(part.is_some()),
                Err(error) => break error,
            }
        };
        assert_eq!(error, BodyError::Incomplete);
    });
}

#[test]
fn a_pause_of_the_program_is_not_one_of_the_server() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    on_each(async || {
        let going = Rc::new(Notify::new());
        let goes = going.clone();
        let server = Server::start(move |_, mut stream| {
            let goes = goes.clone();
            async move {
                read_head(&mut stream).await?;
                for half in [
                    "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n",
                    "half",
                    "half",
                ] {
                    stream.write_all(half).await?;
                    goes.notified().await;
                }
                Ok(())
            }
        });
        let client = Client::with_limits(Limits {
            body_timeout: Some(TIMEOUT),
            ..Limits::default()
        })
        .expect("valid limits");
        let mut body = client.get(&server.url()).await.expect("a head").into_body();
        for _ in 0..2 {
            // The program does not read.
            sleep(TIMEOUT + TIMEOUT / 4).await;
            let going = going.clone();
            // Runs when the reader waits.
            drop(spawn(async move { going.notify_one() }));
            assert_eq!(
                body.part().await.expect("a part").as_deref(),
                Some(&b"half"[..])
            );
        }
    });
}

#[test]
fn a_full_pool_keeps_the_connections_that_were_used_last() {
    on_each(async || {
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
        let server = Server::of([response; 4]);
        let client = Client::with_limits(Limits {
            idle_max: 1,
            ..Limits::default()
        })
        .expect("valid limits");
        let other = server.url().replace("127.0.0.1", "localhost");
        for (url, accepted) in [
            (&server.url(), 1),
            (&other, 2),
            (&other, 2),
            (&server.url(), 3),
        ] {
            assert_eq!(text(&client, url).await, "a");
            assert_eq!((server.accepted.get(), client.0.pool.len()), (accepted, 1));
        }
    });
}
