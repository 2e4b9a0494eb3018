//! Tests of the lines: each atom, each named format, and that no request forges anything.

use super::*;
use crate::service::Request;

const DATE: &[u8; DATE_LEN] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn request(target: &str, fields: &[(&str, &str)]) -> Request {
    let request = Request::builder().uri(target);
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body("").expect("a valid request")
}

fn line_of(format: &AccessLogFormat, request: Option<&Request>, response: &Response) -> String {
    let client = Client::Inet("1.2.3.4:5".parse().expect("an address"));
    let mut line = Line::of_client(client, format);
    let mut lines = Vec::new();
    // The second line of a connection is as the first.
    for _ in 0..2 {
        lines.clear();
        match request {
            Some(request) => line.begin(format, DATE, request.head()),
            None => line.refuse(format, DATE, "malformed request line"),
        }
        line.take_values(format, response);
        (line.status, line.body_bytes) = (response.status().as_u16(), 12);
        line.write_to(format, &mut lines);
    }
    String::from_utf8(lines).expect("ASCII")
}

fn parsed(format: &str) -> AccessLogFormat {
    AccessLogFormat::parse(format).expect(format)
}

#[test]
fn each_atom_has_its_value() {
    let fields = [
        ("Referer", "http://b/"),
        ("User-Agent", "x/1 \"y\""),
        ("Authorization", "Basic YWxpY2U6c2VjcmV0"),
        ("Content-Type", "text/plain"),
    ];
    let request = request("/a%20b/c?q=1", &fields);
    let value = ::http::HeaderValue::from_static("v|w");
    let response = Response::text("hello world!")
        .with_header(::http::HeaderName::from_static("x-id"), value)
        .with_log_note("worker", "3");
    for (format, expected) in [
        ("%(h)s", "1.2.3.4"),
        ("%(l)s", "-"),
        ("%(u)s", "alice"),
        ("%(t)s", "[06/Nov/1994:08:49:37 +0000]"),
        ("%(r)s", "GET /a%20b/c?q=1 HTTP/1.1"),
        ("%(m)s", "GET"),
        ("%(U)s", r"/a\x20b/c"),
        ("\"%(U)s\"", "\"/a b/c\""),
        ("%(q)s", "q=1"),
        ("%(H)s", "HTTP/1.1"),
        ("%(s)s", "200"),
        ("%(b)s %(B)d", "12 12"),
        ("\"%(X)s\"", "\"-\""),
        ("\"%(f)s\"", "\"http://b/\""),
        ("\"%(a)s\"", r#""x/1 \"y\"""#),
        ("%({x-id}o)s", "v|w"),
        ("%({X-Id}o)s|", r"v\x7Cw|"),
        ("%({content-length}o)s", "12"),
        ("%({none}o)s", "-"),
        ("%({CONTENT-type}i)s", "text/plain"),
        ("%({none}i)s", "-"),
        ("%({HTTP_REFERER}e)s", "http://b/"),
        ("%({path_info}e)s", r"/a\x20b/c"),
        ("%({content_type}e)s", "text/plain"),
        ("%({REMOTE_ADDR}e)s", "1.2.3.4"),
        ("%({wsgi.input}e)s", "-"),
        ("%({worker}x)s %({queue}x)s", "3 -"),
        ("%(x)s %({a}y)s", "- -"),
        ("100%% %(s)s%%", "100% 200%"),
        ("%(m)s%(s)s", "GET200"),
        ("", ""),
    ] {
        let line = line_of(&parsed(format), Some(&request), &response);
        assert_eq!(line, format!("{expected}\n"), "{format}");
    }
    let pid = format!("<{}>\n", std::process::id());
    assert_eq!(line_of(&parsed("%(p)s"), Some(&request), &response), pid);
    let times = line_of(
        &parsed("%(T)s %(M)s %(D)s %(L)s"),
        Some(&request),
        &response,
    );
    let times: Vec<f64> = times.split_whitespace().flat_map(str::parse).collect();
    assert!(
        times.len() == 4 && times.iter().all(|&time| time < 60e6),
        "{times:?}"
    );
}

#[test]
fn a_request_that_was_not_read_has_a_line() {
    let response = Response::new(StatusCode::BAD_REQUEST);
    let line = |format| line_of(&format, None, &response);
    assert_eq!(
        line(AccessLogFormat::gunicorn()),
        "1.2.3.4 - - [06/Nov/1994:08:49:37 +0000] \"-\" 400 12 \"-\" \"-\"\n"
    );
    assert_eq!(
        line(AccessLogFormat::uvicorn(false)),
        "INFO:     1.2.3.4:5 - \"-\" 400 Bad Request\n"
    );
}

#[test]
fn the_host_is_the_one_that_counts() {
    let response = Response::new(StatusCode::OK);
    let mut request = request("http://a/", &[("Host", "b")]);
    let line = line_of(&parsed("%({Host}i)s"), Some(&request), &response);
    assert_eq!(line, "a\n");
    request = self::request("/", &[("Host", "b")]);
    let line = line_of(&AccessLogFormat::json(), Some(&request), &response);
    assert!(line.contains("\"host\":\"b\""), "{line}");
}

#[test]
fn the_client_is_not_blamed_for_what_the_server_cut() {
    let format = parsed("%(s)s %(X)s");
    for (reason, expected) in [
        (CloseReason::Reset, "499 client\\x20reset"),
        (CloseReason::HalfClosed, "499 client\\x20closed"),
        (CloseReason::Drained, "503 server\\x20stopped"),
    ] {
        let mut line = Line::of_client(Client::Gone, &format);
        line.begin(&format, DATE, request("/", &[]).head());
        line.cut(0, reason);
        let mut lines = Vec::new();
        line.write_to(&format, &mut lines);
        let line = String::from_utf8(lines).expect("ASCII");
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn a_refused_request_is_logged_as_it_came() {
    let line = |format: &AccessLogFormat, received: &[&[u8]]| {
        let client = Client::Inet("1.2.3.4:5".parse().expect("an address"));
        let mut line = Line::of_client(client, format);
        line.refuse(format, DATE, "malformed request target");
        received.iter().for_each(|bytes| line.receive(bytes));
        line.status = 400;
        let mut lines = Vec::new();
        line.write_to(format, &mut lines);
        String::from_utf8(lines).expect("ASCII")
    };
    let parts = parsed("\"%(r)s\" %(m)s %(U)s %(q)s %(H)s %(a)s %(s)s \"%(X)s\"");
    for (received, expected) in [
        (
            &[&b"\r\nGET /a b?c HTTP"[..], b"/1.1\r\nUser-Agent: x\r\n"][..],
            r#""GET /a b?c HTTP/1.1" GET /a\x20b c HTTP/1.1 -"#,
        ),
        (&[b"GET /"], r#""GET /" GET / - - -"#),
        (&[b"\x16\x03\"\n"], r#""\x16\x03\"" - \x16\x03\x22 - - -"#),
        (&[b""], r#""-" - - - - -"#),
    ] {
        let expected = format!("{expected} 400 \"malformed request target\"\n");
        assert_eq!(line(&parts, received), expected);
    }
    let long = line(&parsed("%(r)s"), &[&[b'x'; 20_000]]);
    assert_eq!(long, format!("{}...\n", "x".repeat(REFUSED_BYTES_MAX)));
    let json = line(&AccessLogFormat::json(), &[b"GET /a\r\n"]);
    let part = r#""method":"GET","target":"/a","protocol":null,"#;
    assert!(json.contains(part), "{json}");
    assert!(
        json.contains(r#","error":"malformed request target","#),
        "{json}"
    );
}

#[test]
fn servers_that_are_known_have_their_formats() {
    let request = request("/x?y", &[("User-Agent", "\u{e9}\"")]);
    let response = Response::new(StatusCode::NOT_FOUND).with_log_note("queue", "0.000001");
    let line = |format| line_of(&format, Some(&request), &response);
    assert_eq!(
        line(AccessLogFormat::uvicorn(false)),
        "INFO:     1.2.3.4:5 - \"GET /x?y HTTP/1.1\" 404 Not Found\n"
    );
    assert_eq!(
        line(AccessLogFormat::uvicorn(true)),
        "\x1b[32mINFO\x1b[0m:     1.2.3.4:5 - \"\x1b[1mGET /x?y HTTP/1.1\x1b[0m\" \
         \x1b[31m404 Not Found\x1b[0m\n"
    );
    assert_eq!(
        line(AccessLogFormat::default()),
        "1.2.3.4 - - [06/Nov/1994:08:49:37 +0000] \"GET /x?y HTTP/1.1\" 404 12 \"-\" \
         \"\\xC3\\xA9\\\"\"\n"
    );
    let json = line(AccessLogFormat::json());
    let (start, end) = json.split_once("\"seconds\":0.").expect("the time");
    assert_eq!(
        start,
        "{\"time\":\"1994-11-06T08:49:37Z\",\"client\":\"1.2.3.4\",\"method\":\"GET\",\
         \"target\":\"/x?y\",\"protocol\":\"HTTP/1.1\",\"host\":null,\"status\":404,\
         \"bytes\":12,"
    );
    let expected = ",\"error\":null,\"referer\":null,\"user_agent\":\"\\u00c3\\u00a9\\\"\",\
                    \"queue\":0.000001,\"worker\":null}\n";
    assert!(end.ends_with(expected), "{json}");
}

#[test]
fn a_wrong_format_is_an_error_with_its_cure() {
    for (format, part) in [
        ("%h", "write %(NAME)s"),
        ("%(h", "write %(NAME)s"),
        ("100%", "%% for a percent sign"),
        ("%(h)x", "write `%(h)` as `%(h)s`"),
        ("%(h)10s", "write `%(h)` as `%(h)s`"),
        ("a\nb", "no line break"),
    ] {
        let error = AccessLogFormat::parse(format)
            .expect_err(format)
            .to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn only_a_trusted_peer_names_another_client() {
    let request = request("/", &[("X-Forwarded-For", "9.9.9.9")]);
    for (trusted, expected) in [("1.2.3.4", "9.9.9.9:0"), ("1.2.3.5", "1.2.3.4:5")] {
        let format = AccessLogFormat::uvicorn(false);
        let format = format.with_forwarded_clients(trusted.parse().expect("an address"));
        let line = line_of(&format, Some(&request), &Response::text(""));
        assert!(line.contains(&format!(" {expected} - ")), "{line}");
    }
}

/// Whatever a client sends, a line has as many fields as the format, and is one line. Its own
/// values are found in it by the rules that a reader of the log has.
#[test]
fn no_request_forges_a_line_or_a_field() {
    let formats = [
        AccessLogFormat::gunicorn(),
        AccessLogFormat::default(),
        parsed("%(u)s %({x}i)s %(U)s %(a)s %(q)s \"%(f)s\" \"%({x}i)s\" %(s)s %({y}o)s"),
    ];
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move |bound: u16| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u16::try_from(state >> 48).expect("16 bits") % bound
    };
    let special = b" \"\\\t-[]%|\xff\x80x";
    let mut text = |lowest: u8| -> Vec<u8> {
        let bytes = (0..random(12)).map(|_| match random(3) {
            0 => special[usize::from(random(11))],
            _ => u8::try_from(random(256)).expect("8 bits"),
        });
        bytes
            .filter(|&byte| byte >= lowest && byte != 127 || byte == b'\t')
            .collect()
    };
    for _ in 0..20_000 {
        let mut target = b"/".to_vec();
        let raw = text(33)
            .into_iter()
            .filter(|byte| byte.is_ascii() && *byte != b'\t');
        target.extend(raw.filter(|byte| !b"\"<>\\^`{|}#".contains(byte)));
        let encoded = text(0)
            .into_iter()
            .flat_map(|byte| format!("%{byte:02x}").into_bytes());
        target.extend(encoded);
        let target = String::from_utf8(target).expect("ASCII");
        let Ok(request) = ["Referer", "User-Agent", "X", "Authorization"]
            .into_iter()
            .fold(Request::builder().uri(&*target), |request, name| {
                request.header(name, text(32))
            })
            .body("")
        else {
            continue;
        };
        let value = ::http::HeaderValue::from_bytes(&text(32));
        let name = ::http::HeaderName::from_static("y");
        let response = Response::text("").with_header(name, value.expect("no control bytes"));
        for format in &formats {
            let line = line_of(format, Some(&request), &response);
            let fields = count_fields(line.strip_suffix('\n').expect("a whole line"));
            assert_eq!(fields, 9, "{line}");
        }
        let json = line_of(&AccessLogFormat::json(), Some(&request), &response);
        assert_eq!(json.matches('\n').count(), 1, "{json}");
        let quotes = json
            .replace("\\\\", "")
            .replace("\\\"", "")
            .matches('"')
            .count();
        assert_eq!(quotes % 2, 0, "{json}");
    }
}

/// The number of fields: separated by spaces, unless in quotes or brackets.
fn count_fields(line: &str) -> usize {
    let (mut count, mut quote, mut escaped) = (1, None, false);
    for byte in line.bytes() {
        assert!(matches!(byte, b' '..=b'~'), "{line}");
        match (byte, quote) {
            _ if escaped => escaped = false,
            (b'\\', Some(b'"')) => escaped = true,
            (b'"', None) => quote = Some(b'"'),
            (b'[', None) => quote = Some(b']'),
            (byte, Some(end)) if byte == end => quote = None,
            (b' ', None) => count += 1,
            _ => {}
        }
    }
    assert_eq!(quote, None, "{line}");
    count
}
