//! Tests of the router's own responses and of those of its services, without a server.

use std::cell::Cell;

use ::http::header::LOCATION;

use super::*;
use crate::fs::Root;
use crate::service::Files;

/// A service that responds with the method, path and parameters it got.
async fn echo(request: Request) -> Response {
    let params: Vec<_> = ["a", "b", "rest"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", request.param(name)?)))
        .collect();
    let (method, path) = (request.method(), request.path());
    Response::text(format!("{method} {path} {}", params.join(" ")))
}

/// Calls the router; returns the response's status, Allow field and content.
async fn ask(router: &Router, method: &str, uri: &str) -> (u16, String, String) {
    let request = Request::builder().method(method).uri(uri).body("");
    let mut response = router.call(request.unwrap()).await;
    let mut headers = response.headers();
    let allow = headers.find(|(name, _)| *name == ALLOW);
    let allow = allow
        .map_or("", |(_, value)| value.to_str().unwrap())
        .to_owned();
    drop(headers);
    let body = response.body().read(1000).await.unwrap();
    (
        response.status().as_u16(),
        allow,
        String::from_utf8(body).unwrap(),
    )
}

fn check(router: Router, cases: &'static [(&str, &str, u16, &str)]) {
    crate::run(async move {
        for (method, uri, status, expected) in cases {
            let (found, _, content) = ask(&router, method, uri).await;
            assert_eq!((found, &*content), (*status, *expected), "{method} {uri}");
        }
    });
}

#[test]
fn a_service_is_found_by_path_and_method() {
    let router = Router::new()
        .get("/", echo)
        .get("/x", echo)
        .post("/x", async |_: Request| Response::text("posted"))
        .put("/x/{a}", echo)
        .get("/x/{a}/{b}", echo)
        .get("/x/same", async |_: Request| Response::text("the same"))
        .delete("/files/{*rest}", echo)
        .patch("/{a}.json", echo);
    check(
        router,
        &[
            ("GET", "/", 200, "GET / "),
            ("GET", "/?q", 200, "GET / "),
            ("GET", "/x", 200, "GET /x "),
            ("HEAD", "/x", 200, "HEAD /x "),
            ("POST", "/x", 200, "posted"),
            ("PUT", "/x/1", 200, "PUT /x/1 a=1"),
            ("GET", "/x/1/2", 200, "GET /x/1/2 a=1 b=2"),
            ("GET", "/x/same", 200, "the same"),
            ("DELETE", "/files/1/2/", 200, "DELETE /files/1/2/ rest=1/2/"),
            ("PATCH", "/1.json", 200, "PATCH /1.json a=1"),
            ("GET", "/x/", 404, "Not Found\n"),
            ("GET", "/X", 404, "Not Found\n"),
            ("GET", "/%78", 404, "Not Found\n"),
            ("DELETE", "/files/", 404, "Not Found\n"),
            ("GET", "/x/1/2/3", 404, "Not Found\n"),
            ("PUT", "/x", 405, "Method Not Allowed\n"),
        ],
    );
}

#[test]
fn options_and_405_list_the_methods_of_the_path() {
    crate::run(async {
        let router = Router::new()
            .get("/x", echo)
            .delete("/x", echo)
            .post("/p", echo)
            .route(Method::OPTIONS, "/o", echo)
            .route(Method::HEAD, "/o", echo)
            .route(Method::from_bytes(b"OWN").unwrap(), "/own", echo);
        let call = |method, uri| ask(&router, method, uri);
        let all = "GET, DELETE, HEAD, OPTIONS";
        assert_eq!(
            call("OPTIONS", "/x").await,
            (204, all.into(), String::new())
        );
        let (status, allow, _) = call("POST", "/x").await;
        assert_eq!((status, &*allow), (405, all));
        let (status, allow, _) = call("HEAD", "/p").await;
        assert_eq!((status, &*allow), (405, "POST, OPTIONS"));
        assert_eq!(call("OPTIONS", "/o").await.2, "OPTIONS /o ");
        assert_eq!(call("GET", "/o").await.1, "OPTIONS, HEAD");
        assert_eq!(call("OPTIONS", "/none").await.0, 404);
        assert_eq!(call("BREW", "/x").await.0, 501);
        assert_eq!(call("OWN", "/x").await.0, 405);
        assert_eq!(call("BREW", "/none").await.0, 404);
    });
}

/// `*` is the server itself (RFC 9110 §9.3.7).
#[test]
fn options_of_the_server_are_answered_without_a_route() {
    let router = || Router::new().get("/{a}", echo).nest("/n", echo);
    check(router(), &[("OPTIONS", "*", 204, "")]);
    check(
        router().fallback(echo),
        &[("OPTIONS", "*", 200, "OPTIONS * ")],
    );
}

#[test]
fn parameters_are_decoded_and_must_be_utf_8() {
    let router = Router::new().get("/{a}", echo).get("/{a}/x/{*rest}", echo);
    check(
        router,
        &[
            ("GET", "/%C3%A4%2Fb+c", 200, "GET /%C3%A4%2Fb+c a=ä/b+c"),
            (
                "GET",
                "/1/x/%2e%2e/%",
                200,
                "GET /1/x/%2e%2e/% a=1 rest=../%",
            ),
            ("GET", "/%ff", 400, "Bad Request\n"),
        ],
    );
}

#[test]
fn a_nested_service_gets_the_rest_of_the_path() {
    let inner = Router::new().get("/", echo).get("/{b}", echo);
    let router = Router::new()
        .nest("/in/{a}", inner)
        .nest("/rest", echo)
        .get("/rest/own", async |_: Request| Response::text("own"))
        .fallback(async |request: Request| {
            Response::text(format!("fell back on {}", request.path()))
        });
    check(
        router,
        &[
            ("GET", "/in/1", 200, "GET / a=1"),
            ("GET", "/in/1/", 200, "GET / a=1"),
            ("GET", "/in/1/2?q", 200, "GET /2 a=1 b=2"),
            ("GET", "/in/1/2/3", 404, "Not Found\n"),
            ("PUT", "/in/1/2", 405, "Method Not Allowed\n"),
            ("PUT", "/rest", 200, "PUT / "),
            ("GET", "/rest//a/%20", 200, "GET //a/%20 "),
            ("GET", "/rest/own", 200, "own"),
            ("GET", "/restful", 200, "fell back on /restful"),
            ("GET", "/in", 200, "fell back on /in"),
        ],
    );
}

/// At the prefix itself, relative links of `index.html` would lead out of the prefix.
#[test]
fn nested_files_redirect_from_their_prefix_to_the_one_with_a_slash() {
    let site = || {
        let root = Root::open(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/site"));
        Files::new(root.expect("a directory"))
    };
    let inner = Router::new().nest("/{a}", site());
    let router = Router::new().nest("/static", site()).nest("/in", inner);
    crate::run(async move {
        for (uri, status, location) in [
            ("/static/", 200, ""),
            ("/static", 301, "./static/"),
            ("/static?q=/", 301, "./static/?q=/"),
            ("http://a/static", 301, "./static/"),
            ("/in/b%20c", 301, "./b%20c/"),
            ("/in/b/", 200, ""),
            ("/static//", 200, ""),
        ] {
            let request = Request::builder().uri(uri).body("").unwrap();
            let response = router.call(request).await;
            let mut headers = response.headers();
            let found = headers.find(|(name, _)| *name == LOCATION);
            let found = found.map_or("", |(_, value)| value.to_str().unwrap());
            assert_eq!(
                (response.status().as_u16(), found),
                (status, location),
                "{uri}"
            );
        }
        // An absolute URI without a path means `/`, which has a slash.
        let request = Request::builder().uri("http://a").body("").unwrap();
        assert_eq!(site().call(request).await.status(), StatusCode::OK);
    });
}

#[test]
fn a_service_may_wait_and_the_router_drops_its_state() {
    let count = Rc::new(Cell::new(0));
    let counter = count.clone();
    let router = Router::new().get("/", async move |_: Request| {
        crate::time::sleep(std::time::Duration::from_millis(1)).await;
        counter.set(counter.get() + 1);
        Response::text("")
    });
    crate::run(async move {
        let _ = ask(&router, "GET", "/").await;
        let _ = ask(&router, "GET", "/").await;
        assert_eq!(count.get(), 2);
        drop(router);
        assert_eq!(Rc::strong_count(&count), 1);
    });
}

#[test]
fn invalid_and_conflicting_routes_panic() {
    let refused = |make: fn() -> Router| std::panic::catch_unwind(make).is_err();
    assert!(refused(|| Router::new().get("/a", echo).get("/a", echo)));
    assert!(refused(|| Router::new()
        .get("/{a}", echo)
        .get("/{b}", echo)));
    assert!(refused(|| Router::new().get("/a", echo).nest("/a", echo)));
    assert!(refused(|| Router::new().nest("/a", echo).get("/a", echo)));
    assert!(refused(|| Router::new().get("a", echo)));
    assert!(refused(|| Router::new().get("/{a", echo)));
    assert!(refused(|| Router::new().nest("/a/", echo)));
    assert!(!refused(|| Router::new().get("/{{a}}/{a}", echo)));
}
