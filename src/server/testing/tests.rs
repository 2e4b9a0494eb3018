//! Tests of the carrier in memory, and of what a caller of `respond` receives.

use ::http::HeaderValue;

use super::*;
use crate::{run, spawn};

/// Sends the request's body back, with the request's path before each part.
async fn prefixed(mut request: Request) -> Response {
    let path = request.path().to_owned();
    let (mut sender, body) = Body::channel(16);
    spawn(async move {
        while let Some(part) = request.body().part().await.expect("a whole body") {
            sender.write(path.clone()).await.expect("a reader");
            sender.write(part).await.expect("a reader");
        }
        sender.finish();
    });
    Response::text(body)
}

/// A request whose body has this many `parts`, each written in a turn of its own.
fn request(path: &str, parts: usize) -> Request {
    let (mut sender, body) = Body::channel(1);
    spawn(async move {
        for number in 0..parts {
            sender.write(format!("{number};")).await.expect("a reader");
        }
        sender.finish();
    });
    let builder = Request::builder().method(Method::POST).uri(path.to_owned());
    builder.body(body).expect("a valid request")
}

#[test]
fn exchanges_interleave_on_one_connection() {
    run(async {
        let wire = Rc::default();
        let (mut one, mut carrier_one) = begin(&prefixed, request("/one", 20), 1, &wire);
        let (mut two, mut carrier_two) = begin(&prefixed, request("/two", 20), 2, &wire);
        let mut frames = Vec::new();
        let mut is_done = [false; 2];
        poll_fn(|context| {
            loop {
                is_done[0] = is_done[0] || one.poll(&mut carrier_one, context).is_ready();
                is_done[1] = is_done[1] || two.poll(&mut carrier_two, context).is_ready();
                let before = frames.len();
                while let Some(frame) = wire.borrow_mut().read() {
                    frames.push(frame);
                }
                if is_done == [true; 2] {
                    return Poll::Ready(());
                } else if frames.len() == before {
                    return Poll::Pending;
                }
            }
        })
        .await;
        let changes = frames
            .windows(2)
            .filter(|pair| pair[0].0 != pair[1].0)
            .count();
        assert!(changes > 4, "only {changes} changes between the exchanges");
        for (number, path) in [(1, "/one"), (2, "/two")] {
            let own = || {
                frames
                    .iter()
                    .filter(|frame| frame.0 == number)
                    .map(|frame| &frame.1)
            };
            assert!(matches!(own().next(), Some(Frame::Head(StatusCode::OK, _))));
            assert!(matches!(own().next_back(), Some(Frame::End(_))));
            let bytes = own().filter_map(|frame| match frame {
                Frame::Data(bytes) => Some(&bytes[..]),
                _ => None,
            });
            let expected: String = (0..20).map(|part| format!("{path}{part};")).collect();
            assert_eq!(bytes.collect::<Vec<_>>().concat(), expected.as_bytes());
        }
    });
}

#[test]
fn a_response_is_received_as_a_client_would() {
    run(async {
        let echo = async |mut request: Request| match request.path() {
            "/panic" => panic!("requested by the test"),
            "/interim" => Response::new(StatusCode::CONTINUE),
            "/cut" => Response::text(Body::channel(1).1),
            _ => Response::text(mem::take(request.body())),
        };
        let ask = |method: Method, path: &'static str, content: &'static str| {
            let request = Request::builder().method(method).uri(path).body(content);
            respond(&echo, request.expect("a valid request"))
        };
        let received = ask(Method::POST, "/", "content").await.unwrap();
        assert_eq!(received.status, StatusCode::OK);
        assert_eq!(received.body, b"content");
        assert_eq!(
            received.headers["content-type"],
            "text/plain; charset=utf-8"
        );
        let received = ask(Method::HEAD, "/", "content").await.unwrap();
        assert_eq!(received.body, b"");
        for path in ["/panic", "/interim", "/cut"] {
            let failed = ask(Method::GET, path, "").await.expect_err(path);
            assert!(
                failed.to_string().contains("service") == (path == "/panic"),
                "{failed}"
            );
        }
    });
}

#[test]
fn no_content_is_received_where_a_response_has_none() {
    run(async {
        for status in [204, 205, 304] {
            let status = StatusCode::from_u16(status).expect("a status");
            let full = async move |_: Request| Response::text("content").with_status(status);
            // A request's body is read to its end, but not sent.
            let echo = async move |request: Request| {
                Response::text(request.into_body()).with_status(status)
            };
            let received = respond(&full, request("/", 3)).await.unwrap();
            assert_eq!((received.status, &*received.body), (status, &b""[..]));
            let received = respond(&echo, request("/", 3)).await.unwrap();
            assert_eq!((received.status, &*received.body), (status, &b""[..]));
        }
    });
}

#[test]
fn trailers_are_received_only_after_chunks() {
    run(async {
        for (method, length, expected) in [
            (Method::GET, None, 1),
            (Method::GET, Some(1), 0),
            (Method::HEAD, None, 0),
        ] {
            let service = async move |_: Request| {
                let (mut sender, body) = Body::channel(1);
                spawn(async move {
                    let _ = sender.write("a").await;
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-a", HeaderValue::from_static("1"));
                    sender.finish_with_trailers(trailers);
                });
                Response::text(match length {
                    Some(length) => body.with_length(length),
                    None => body,
                })
            };
            let request = Request::builder().method(method).body("");
            let received = respond(&service, request.expect("a valid request")).await;
            assert_eq!(received.unwrap().trailers.len(), expected, "{length:?}");
        }
    });
}

struct PanicsInCall;

impl Service for PanicsInCall {
    fn call(&self, _: Request) -> impl Future<Output = Response> {
        match true {
            true => panic!("requested by the test"),
            false => std::future::ready(Response::text("")),
        }
    }
}

#[test]
fn a_panic_before_the_future_exists_is_an_error() {
    run(async {
        let failed = respond(&PanicsInCall, request("/", 1)).await.unwrap_err();
        assert_eq!(failed.to_string(), "the service panicked");
    });
}

#[test]
fn a_switch_is_received_with_the_bytes_of_the_other_protocol() {
    run(async {
        let service = async |request: Request| {
            let protocol = HeaderValue::from_static("echo");
            Response::upgrade(&request, protocol, async |mut stream| {
                stream.write("hello").await.expect("a client");
                assert!(stream.read().await.expect("a half-close").is_none());
                stream.write(" and bye").await.expect("a client");
            })
        };
        let request = Request::builder().header("connection", "upgrade");
        let request = request.header("upgrade", "echo").body("");
        let received = respond(&service, request.expect("a valid request")).await;
        let received = received.expect("a whole response");
        assert_eq!(received.status, StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(received.headers["upgrade"], "echo");
        assert_eq!(received.body, b"hello and bye");
    });
}

/// A client that does not read slows the service down.
#[test]
fn a_response_that_is_not_read_is_bounded() {
    run(async {
        let endless = async |_: Request| {
            let (mut sender, body) = Body::channel(1 << 20);
            spawn(async move { while sender.write(vec![1; 10_000]).await.is_ok() {} });
            Response::text(body)
        };
        let wire = Rc::default();
        let request = Request::builder().body("").unwrap();
        let (mut exchange, mut carrier) = begin(&endless, request, 0, &wire);
        for _ in 0..100 {
            let polled = poll_fn(|context| Poll::Ready(exchange.poll(&mut carrier, context)));
            assert!(polled.await.is_pending());
            crate::rt::yield_now().await;
        }
        let bytes = wire.borrow().bytes;
        assert!(
            (QUEUED_BYTES_MAX..QUEUED_BYTES_MAX + 10_000).contains(&bytes),
            "{bytes}"
        );
    });
}
