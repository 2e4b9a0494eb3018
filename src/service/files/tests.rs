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

/// An image or a Nix store gives every file the same mtime, so its date is no validator.
#[test]
fn a_date_that_all_files_have_is_not_given_out() {
    let path = std::env::temp_dir().join(format!("coring-dates-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    for (name, seconds) in [("zero", 0), ("one", 1), ("old", 1_000_000_000)] {
        let file = std::fs::File::create(path.join(name)).unwrap();
        let modified = UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_modified(modified).unwrap();
    }
    let files = Files::new(Root::open(&path).unwrap());
    crate::run(async move {
        for (name, is_given) in [("zero", false), ("one", false), ("old", true)] {
            let (status, fields) = ask(&files, "GET", &format!("/{name}")).await;
            assert_eq!(
                (status, field(&fields, "last-modified").is_some()),
                (200, is_given)
            );
            let request = Request::builder()
                .uri(format!("/{name}"))
                .header("If-Modified-Since", "Fri, 31 Dec 2100 23:59:59 GMT");
            let response = files.call(request.body("").unwrap()).await;
            assert_eq!(
                response.status().as_u16(),
                if is_given { 304 } else { 200 },
                "{name}"
            );
        }
        std::fs::remove_dir_all(&path).unwrap();
    });
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
