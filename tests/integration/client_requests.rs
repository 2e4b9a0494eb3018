//! The library's client against other servers: nginx, Python's `http.server`, and coring.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use coring::client::{Client, Limits, Request};
use coring::task::join_all;
use coring::time::{sleep, timeout};
use coring::{Body, BodyError, Handle, Method, Response, StatusCode, run_with, spawn};

use crate::examples::{Running, free_address};
use crate::support::{
    Address, PATIENCE, TempDir, builder, engine, eventually, is_alone, noise, report, start_server,
};

/// Runs a coroutine on the engine under test.
fn run<T: 'static>(coroutine: impl Future<Output = T> + 'static) -> T {
    let limited = async { timeout(PATIENCE, coroutine).await.expect("an end in time") };
    run_with(engine(), limited).expect("an engine")
}

async fn content(client: &Client, url: &str) -> Vec<u8> {
    let response = client.get(url).await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK, "{url}");
    response.into_body().read(10 << 20).await.expect("a body")
}

/// Requests `url` a thousand times at once, and then a hundred times in a row.
async fn many(client: &Client, url: String, expected: Vec<u8>) {
    let (url, expected): (Rc<str>, Rc<[u8]>) = (url.into(), expected.into());
    let calls = (0..1000).map(|_| {
        let (client, url, expected) = (client.clone(), url.clone(), expected.clone());
        spawn(async move { assert!(content(&client, &url).await == *expected) })
    });
    let outcomes = join_all(calls).await;
    assert!(outcomes.iter().all(Result::is_ok), "a call failed");
    for _ in 0..100 {
        assert!(content(client, &url).await == *expected);
    }
}

/// An nginx with the files of `directory`; `None`, and a line that says so, if it is not installed.
fn nginx(directory: &TempDir) -> Option<(Running, SocketAddr)> {
    if Command::new("nginx")
        .arg("-v")
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        report("not tested: the client against nginx, which is not installed");
        return None;
    }
    let address = free_address();
    let path = directory.path().to_str().expect("a path in UTF-8");
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
             access_log off; client_max_body_size 0;\n\
             client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
             fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi;\n\
             scgi_temp_path {path}/scgi;\n\
             server {{\n\
                 listen {address} backlog=2048; root {path}; keepalive_requests 20;\n\
                 location /chunked/ {{ alias {path}/; ssi on; ssi_types *; }}\n\
                 location /put/ {{ dav_methods PUT DELETE; create_full_put_path on; }}\n\
                 location /moved {{ return 302 /small; }}\n\
             }}\n\
         }}\n"
    );
    let file = directory.write("nginx.conf", config);
    let mut command = Command::new("nginx");
    command.args(["-p", path, "-c", &file, "-e", &format!("{path}/log")]);
    let server = Running::of(&mut command);
    eventually("nginx listens", || {
        std::net::TcpStream::connect(address).ok()
    });
    Some((server, address))
}

#[test]
fn nginx_serves_files_chunks_and_uploads() {
    let directory = TempDir::new();
    let large = noise(3_000_000);
    directory.write("small", "small");
    directory.write("large", &large);
    let Some((_server, address)) = nginx(&directory) else {
        return;
    };
    run(async move {
        let client = Client::new();
        let url = |path: &str| format!("http://{address}/{path}");
        assert!(content(&client, &url("large")).await == large);
        let response = client.get(&url("chunked/small")).await.expect("a response");
        assert_eq!(response.headers()["transfer-encoding"], "chunked");
        assert_eq!(
            response.into_body().read(99).await.as_deref(),
            Ok(&b"small"[..])
        );
        assert!(content(&client, &url("chunked/large")).await == large);
        let request = Request::head(url("large")).body("").expect("a request");
        let response = client.send(request).await.expect("a response");
        assert_eq!(response.headers()["content-length"], "3000000");
        let response = client.get(&url("moved")).await.expect("a response");
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["location"].len()
            ),
            (302, url("small").len())
        );
        let request = Request::put(url("put/a"))
            .body(large.clone())
            .expect("a request");
        let status = client.send(request).await.expect("a response").status();
        if status == StatusCode::CREATED {
            assert!(content(&client, &url("put/a")).await == large);
        } else {
            assert_eq!(
                status,
                StatusCode::METHOD_NOT_ALLOWED,
                "nginx without its DAV module"
            );
        }
        many(&client, url("small"), b"small".to_vec()).await;
    });
}

/// Starts Python's `http.server` with the files of `directory`.
fn python_server(directory: &Path, version: &str) -> (Running, SocketAddr) {
    const SCRIPT: &str = "
import functools, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = sys.argv[2]
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 2048
handler = functools.partial(Handler, directory=sys.argv[1])
server = Server(('127.0.0.1', 0), handler)
print('127.0.0.1:%d' % server.server_address[1], flush=True)
server.serve_forever()
";
    let path = directory.to_str().expect("a path in UTF-8");
    let mut server = Running::of(Command::new("python3").args(["-c", SCRIPT, path, version]));
    let address = server.line().parse().expect("an address");
    (server, address)
}

#[test]
fn the_http_server_of_python_serves_with_and_without_keep_alive() {
    let directory = TempDir::new();
    let large = noise(1_000_000);
    directory.write("small", "small");
    directory.write("large", &large);
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let (_server, address) = python_server(directory.path(), version);
        let large = large.clone();
        run(async move {
            let client = Client::new();
            let url = |path: &str| format!("http://{address}/{path}");
            assert!(content(&client, &url("large")).await == large);
            let response = client.get(&url("none")).await.expect("a response");
            assert_eq!(response.status(), 404);
            let page = response.into_body().read(10_000).await;
            assert!(page.is_ok());
            let post = client
                .post(&url("small"), "not accepted")
                .await
                .expect("a response");
            assert_eq!(post.status(), 501);
            assert!(post.into_body().read(10_000).await.is_ok());
            let calls = (0..100).map(|_| {
                let (client, url) = (client.clone(), url("small"));
                spawn(async move { assert_eq!(content(&client, &url).await, b"small") })
            });
            assert!(join_all(calls).await.iter().all(Result::is_ok));
        });
    }
}

/// A server in this process, and its address.
fn coring_server() -> (Handle, SocketAddr) {
    let service = || {
        async |mut request: coring::Request| match (request.method(), request.path()) {
            (&Method::GET, "/small") => Response::text("small"),
            (_, "/echo") => Response::text(request.into_body()),
            (_, "/refuse") => Response::new(StatusCode::PAYLOAD_TOO_LARGE),
            (_, "/half") => {
                let (mut sender, body) = Body::channel(100);
                sender.write("half").await.expect("a reader");
                Response::text(body)
            }
            (_, "/slow") => {
                sleep(Duration::from_secs(60)).await;
                Response::text("")
            }
            (_, "/sum") => match request.body().read(1 << 20).await {
                Ok(content) => Response::text(content.len().to_string()),
                Err(_) => Response::new(StatusCode::PAYLOAD_TOO_LARGE),
            },
            _ => Response::not_found("none"),
        }
    };
    let handle = start_server(builder().bind("127.0.0.1:0"), 1, service).expect("a server");
    let address = handle.addresses()[0].to_string();
    let Address::Tcp(address) = Address::Tcp(address.parse().expect("an IP address")) else {
        unreachable!("made above")
    };
    (handle, address)
}

#[test]
fn coring_answers_a_thousand_requests_at_once_and_echoes_streams() {
    let (handle, address) = coring_server();
    run(async move {
        let client = Client::new();
        let url = |path: &str| format!("http://{address}/{path}");
        many(&client, url("small"), b"small".to_vec()).await;
        let (mut sender, body) = Body::channel(64 << 10);
        let writing = spawn(async move {
            for number in 0..200_u8 {
                sender.write(vec![number; 10_000]).await.expect("a reader");
            }
            sender.finish();
        });
        let echo = client.post(&url("echo"), body).await.expect("a response");
        let echo = echo.into_body().read(3_000_000).await.expect("a body");
        assert_eq!((echo.len(), echo[0], echo[1_999_999]), (2_000_000, 0, 199));
        writing.await.expect("no panic");
        let sum = client
            .post(&url("sum"), vec![0; 500_000])
            .await
            .expect("a response");
        assert_eq!(
            sum.into_body().read(99).await.as_deref(),
            Ok(&b"500000"[..])
        );
        let refused = client.post(&url("refuse"), vec![0; 10_000_000]).await;
        assert_eq!(refused.expect("an early response").status(), 413);
    });
    handle.drain();
    handle.wait().expect("an end");
}

#[test]
fn half_a_response_and_a_late_one_are_errors() {
    let (handle, address) = coring_server();
    run(async move {
        let client = Client::with_limits({
            let mut limits = Limits::default();
            limits.head_timeout = Some(Duration::from_millis(200));
            limits
        })
        .expect("valid limits");
        let url = |path: &str| format!("http://{address}/{path}");
        let half = client.get(&url("half")).await.expect("a head");
        assert_eq!(half.into_body().read(99).await, Err(BodyError::Incomplete));
        let slow = client.get(&url("slow")).await.unwrap_err();
        assert_eq!(
            slow.to_string(),
            "the response's head did not arrive in time"
        );
        assert_eq!(
            content(&client, &url("small")).await,
            b"small",
            "others go on"
        );
    });
    handle.drain();
    handle.wait().expect("an end");
}

/// A request that coring serves is sent on to another server, and its response is sent back.
#[test]
fn a_service_can_be_a_proxy() {
    let (origin, address) = coring_server();
    let proxy = start_server(builder().bind("127.0.0.1:0"), 1, move || {
        let client = Client::new();
        move |request: coring::Request| {
            let client = client.clone();
            async move {
                let target = format!("http://{address}{}", request.path());
                let mut request = request.into_http();
                *request.uri_mut() = target.parse().expect("a URL");
                match client.send(request).await {
                    Ok(response) => Response::from_http(response),
                    Err(_) => Response::new(StatusCode::BAD_GATEWAY),
                }
            }
        }
    });
    let proxy = proxy.expect("a server");
    let front = proxy.addresses()[0].to_string();
    run(async move {
        let client = Client::new();
        let url = |path: &str| format!("http://{front}/{path}");
        for _ in 0..3 {
            let large = noise(2_000_000);
            let echo = client
                .post(&url("echo"), large.clone())
                .await
                .expect("a response");
            assert!(echo.into_body().read(3_000_000).await.expect("a body") == large);
            assert_eq!(content(&client, &url("small")).await, b"small");
        }
        let half = client.get(&url("half")).await.expect("a head");
        assert_eq!(half.into_body().read(99).await, Err(BodyError::Incomplete));
        let refused = client.post(&url("refuse"), vec![0; 1_000_000]).await;
        assert_eq!(refused.expect("an early response").status(), 413);
    });
    for handle in [proxy, origin] {
        handle.drain();
        handle.wait().expect("an end");
    }
}

/// Nothing of the client remains open when its requests are cancelled at any moment.
#[test]
fn cancelled_requests_leave_no_descriptor_behind() {
    // Other tests open descriptors, too.
    if !is_alone("client_requests::cancelled_requests_leave_no_descriptor_behind") {
        return;
    }
    let (handle, address) = coring_server();
    run(async move {
        let count = || fs::read_dir("/proc/self/fd").expect("procfs").count();
        let client = Client::new();
        let url = format!("http://{address}/slow");
        drop(content(&client, &format!("http://{address}/small")).await);
        for round in 0..200_u64 {
            let patience = Duration::from_millis(round % 4);
            let early = timeout(patience, client.get(&url)).await;
            assert!(early.is_err());
        }
        sleep(Duration::from_millis(200)).await;
        assert!(count() < 50, "{} descriptors", count());
    });
    handle.stop();
    handle.wait().expect("an end");
}
