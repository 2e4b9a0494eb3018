//! Tests of the service without a server.

use super::*;

/// The status and the fields of the response to a request of `files`.
async fn ask(files: &Files, method: &str, uri: &str) -> (u16, Vec<(String, String)>) {
    let request = Request::builder().method(method).uri(uri).body("");
    let response = files.call(request.unwrap()).await;
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    (
        response.status().as_u16(),
        response.headers().map(text).collect(),
    )
}

fn field<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    let mut fields = fields.iter();
    Some(&fields.find(|(other, _)| other == name)?.1)
}

fn source_files() -> Files {
    Files::new(Root::open(env!("CARGO_MANIFEST_DIR")).unwrap())
}

#[test]
fn methods_are_allowed_known_or_unknown() {
    crate::run(async {
        let files = source_files();
        for (method, uri, status, allow) in [
            ("GET", "/README.md", 200, None),
            ("POST", "/README.md", 405, Some("GET, HEAD")),
            ("OPTIONS", "/none", 405, Some("GET, HEAD")),
            ("OPTIONS", "*", 204, Some("GET, HEAD")),
            ("BREW", "/README.md", 501, None),
            ("get", "/README.md", 501, None),
        ] {
            let (found, fields) = ask(&files, method, uri).await;
            assert_eq!(
                (found, field(&fields, "allow")),
                (status, allow),
                "{method} {uri}"
            );
        }
    });
}
