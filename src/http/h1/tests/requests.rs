//! Request heads: the parsed values, and the refused ones.

use super::{check, check_with, next};
use crate::http::h1::{Codec, Event, Framing, MessageLimits};
use crate::http::{Fault, Head, Version};

/// A POST request with a valid Host and these field lines.
fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn parse(bytes: &[u8]) -> (Head, Framing) {
    let mut head = Head::new();
    match Codec::server().next_event(bytes, &MessageLimits::default(), &mut head) {
        Ok((used, Event::Request(framing))) if used == bytes.len() => (head, framing),
        other => panic!("{other:?}"),
    }
}

#[test]
fn parses_a_head() {
    let bytes = b"\r\nPATCH /a/b?c=d HTTP/1.1\r\nhost:\ta.example:80 \r\nX-A: 1\r\nX-B:\r\n\
        Content-Length: 5\r\nx-a: 2\r\n\r\n";
    let (head, framing) = parse(bytes);
    assert_eq!(
        (head.method.as_str(), head.version),
        ("PATCH", Version::Http11)
    );
    assert_eq!(head.target(bytes), "/a/b?c=d");
    assert_eq!(head.path(bytes), b"/a/b");
    assert_eq!(
        (head.query(bytes), head.host(bytes)),
        (Some("c=d"), Some("a.example:80"))
    );
    assert_eq!(framing, Framing::Length(5));
    let fields = head.fields(bytes);
    assert_eq!(fields.count(), 5);
    assert_eq!(fields.get("x-b"), Some(b"".as_slice()));
    assert_eq!(fields.get_all("X-A").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(fields.last(), Some((b"x-a".as_slice(), b"2".as_slice())));
}

#[test]
fn parses_a_head_without_fields() {
    let bytes = b"GET / HTTP/1.0\r\n\r\n";
    let (head, _) = parse(bytes);
    assert_eq!(head.fields(bytes).count(), 0);
    assert_eq!((head.version, head.host(bytes)), (Version::Http10, None));
}

#[test]
fn parses_targets() {
    let (head, _) = parse(b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n");
    assert_eq!(head.path(b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n"), b"*");
    let bytes = b"GET http://A.example HTTP/1.1\r\nHost: a.EXAMPLE\r\n\r\n";
    let (head, _) = parse(bytes);
    assert_eq!((head.path(bytes), head.query(bytes)), (&b"/"[..], None));
    let bytes = b"GET https://a:8443?q HTTP/1.0\r\n\r\n";
    let (head, _) = parse(bytes);
    assert_eq!(
        (head.path(bytes), head.query(bytes)),
        (&b"/"[..], Some("q"))
    );
    assert_eq!(head.host(bytes), Some("a:8443"));
    check("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", &["BadTarget"]);
    check("GET a HTTP/1.1\r\nHost: a\r\n\r\n", &["BadTarget"]);
    check("GET * HTTP/1.1\r\nHost: a\r\n\r\n", &["BadTarget"]);
    check("GET /\x01 HTTP/1.0\r\n\r\n", &["BadTarget"]);
    check("GET /\u{e9} HTTP/1.0\r\n\r\n", &["BadTarget"]);
    check(b"GET /\xe9 HTTP/1.0\r\n\r\n", &["BadTarget"]);
    check(
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        &["UnsupportedMethod"],
    );
}

#[test]
fn parses_request_lines() {
    check("", &[]);
    check("\r\n\r\n", &[]);
    check("GET / HTTP/1.0\r\n\r\n", &["GET / close"]);
    check("\r\n\r\nGET / HTTP/1.0\r\n\r\n", &["GET / close"]);
    check("BREW / HTTP/1.0\r\n\r\n", &["BREW / close"]);
    check(
        "M-SEARCH_.!#$%&'*+^`|~0 / HTTP/1.0\r\n\r\n",
        &["M-SEARCH_.!#$%&'*+^`|~0 / close"],
    );
    check(
        format!("{} / HTTP/1.0\r\n\r\n", "M".repeat(33)),
        &["UnsupportedMethod"],
    );
    for bad in [
        "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        "\rGET / HTTP/1.0\r\n\r\n",
        " GET / HTTP/1.0\r\n\r\n",
        "G(T / HTTP/1.0\r\n\r\n",
        "GET  / HTTP/1.0\r\n\r\n",
        "GET /  HTTP/1.0\r\n\r\n",
        "GET\t/ HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0 \r\n\r\n",
        "GET / HTTP/1.0\rX: y\r\n\r\n",
        "GET /\r\n\r\n",
        "GET \r\n\r\n",
        "GET\r\n\r\n",
        "GET / \r\n\r\n",
        "GET / a HTTP/1.1\r\n\r\n",
        "GET / http/1.1\r\n\r\n",
        "GET / HTTP/11\r\n\r\n",
        "GET / HTTP/1.\r\n\r\n",
        "GET / HTTP/2\r\n\r\n",
        "GET / HTTP/2.0x\r\n\r\n",
        "GET / HTTP/12.1\r\n\r\n",
        "GET / FTP/1.1\r\n\r\n",
    ] {
        check(bad, &["BadRequestLine"]);
    }
    for later in ["1.2", "1.9"] {
        let fields = "Host: a\r\nX: HTTP/1.2\r\n";
        let get = |end: &str| format!("GET / HTTP/{later}{end}{fields}\r\n");
        check(get("\r\n"), &["GET /"]);
        check(get("\n"), &["BareLineFeed"]);
        check(get(" \r\n"), &["BadRequestLine"]);
        check(format!("GET / HTTP/{later}\r\n\r\n"), &["MissingHost"]);
        check(format!("GET / HTTP/{later}\r\nA B\r\n\r\n"), &["BadField"]);
    }
    for other in ["0.9", "2.0", "3.0", "9.9"] {
        check(
            format!("GET / HTTP/{other}\r\nHost: a\r\n\r\n"),
            &["UnsupportedVersion"],
        );
    }
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &["UnsupportedVersion"]);
}

#[test]
fn refuses_a_request_line_before_the_head_is_complete() {
    let early = |bytes: &[u8]| next(&mut Codec::server(), bytes, &MessageLimits::default());
    assert_eq!(early(b"\x16\x03\x01\x02"), Err(Fault::BadRequestLine));
    assert_eq!(early(b"\0"), Err(Fault::BadRequestLine));
    assert_eq!(early(b"GET /\x7f"), Err(Fault::BadTarget));
    assert_eq!(early(b"GET / HTTP/2"), Ok((0, Event::NeedData)));
    assert_eq!(early(b"GET / HTTQ"), Ok((0, Event::NeedData)));
    assert_eq!(early(b"GET / HTTQ\r\n"), Err(Fault::BadRequestLine));
    assert_eq!(early(b"SSH-2.0-x\r\n"), Err(Fault::BadRequestLine));
    assert_eq!(early(b"GET / HTTP/2.0\r\n"), Err(Fault::UnsupportedVersion));
    assert_eq!(early(b"GET / HTTP/1.1\r\nA B"), Ok((0, Event::NeedData)));
}

/// `check` splits each input at every offset.
#[test]
fn which_of_several_faults_counts_does_not_depend_on_the_pieces() {
    // A request line counts before fields, and the first fault in it before others.
    check(
        "CONNECT a:1 HTTP/1.1\r\nA B\r\n\r\n",
        &["UnsupportedMethod"],
    );
    check("CONNECT \x7f HTTP/1.1\r\n\r\n", &["BadTarget"]);
    check("GET / HTTP/2.0\r\nA B\r\n\r\n", &["UnsupportedVersion"]);
    check("GET / HTTP/2.0\nA B\n\n", &["UnsupportedVersion"]);
    // A head that never ends has no fault in its fields.
    check(with("A B\r\n").trim_end(), &["Truncated"]);
    check(with("A: b\r\nA: b\r\n c").trim_end(), &["Truncated"]);
    let limits = MessageLimits {
        head_bytes_max: 100,
        target_bytes_max: 20,
        fields_max: 3,
        body_bytes_max: 0,
    };
    let long = "x".repeat(200);
    for fields in [
        "A B\r\n",
        "A:\r\nB:\r\nC:\r\n",
        "Host: a\r\n",
        "A:\n",
        "A: \0\r\n",
    ] {
        let head = with(&format!("{fields}X: {long}\r\n"));
        check_with(&limits, &head, &["HeadTooLarge"]);
        check_with(&limits, &head[..100], &["HeadTooLarge"]);
    }
    check_with(
        &limits,
        format!("GET /\x01{long} HTTP/1.1\r\n\r\n"),
        &["BadTarget"],
    );
    check_with(
        &limits,
        format!("GET /{long}\x01 HTTP/1.1\r\n\r\n"),
        &["TargetTooLong"],
    );
    check_with(
        &limits,
        format!("GET /{long} HTTP/2.0\r\nA B\r\n\r\n"),
        &["TargetTooLong"],
    );
}

#[test]
fn refuses_bare_line_feeds() {
    for bad in [
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\nX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX:\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.0\n\n",
        "GET / HTTP/1.0\r\n\n",
        "GET / HTTP/1.0\n\r\n",
    ] {
        check(bad, &["BareLineFeed"]);
    }
}

#[test]
fn refuses_invalid_fields() {
    for bad in [
        "X : y\r\n",
        "X\t: y\r\n",
        " X: y\r\n",
        ": y\r\n",
        "X\r\n",
        "X y\r\n",
        "X: y\r\n folded\r\n",
        "X: y\r\n\tfolded\r\n",
        "X: y\rZ: z\r\n",
        "X: y\r\r\n",
        "\rX: y\r\n",
        "X(: y\r\n",
        "X\u{e9}: y\r\n",
        "Content-Type: a/b\r\nContent-Type: a/b\r\n",
    ] {
        check(with(bad), &["BadField"]);
    }
    // At every offset, because httparse checks many bytes in one step.
    for control in (0..0x20)
        .chain([0x7f])
        .filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n'))
    {
        for at in (0..40).step_by(if cfg!(miri) { 13 } else { 1 }) {
            let mut value = [b'v'; 40];
            value[at] = control;
            let head = [b"GET / HTTP/1.0\r\nX: ", value.as_slice(), b"\r\n\r\n"].concat();
            let event = next(&mut Codec::server(), &head, &MessageLimits::default());
            assert_eq!(event, Err(Fault::BadField), "{control:#x} at {at}");
        }
    }
    check(
        b"GET / HTTP/1.0\r\nX: \xe9\tb\xff\r\n\r\n",
        &["GET / close"],
    );
}

#[test]
fn requires_exactly_one_valid_host() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n");
    check(get(""), &["MissingHost"]);
    check(get("Hos: a\r\n"), &["MissingHost"]);
    check(get("Host:\r\n"), &["GET /"]);
    check(get("HOST: [::1]:80\r\n"), &["GET /"]);
    for bad in [
        "a b", "a,b", "u@a", "a:b", "a/", "[::1", "a#", "\"a\"", "a, a", "\u{e9}",
    ] {
        check(get(&format!("Host: {bad}\r\n")), &["BadHost"]);
    }
    check(get("Host: a\r\nHost: a\r\n"), &["BadHost"]);
    check(get("Host: a\r\nhost: b\r\n"), &["BadHost"]);
    check("GET / HTTP/1.0\r\nHost: a b\r\n\r\n", &["BadHost"]);
    check("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", &["BadHost"]);
    check(
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET http://a/"],
    );
    // The authority of the target counts, and Host means nothing.
    for host in ["b", "", "a:80", "b:1"] {
        let bytes = format!("GET http://a/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        check(&bytes, &["GET http://a/"]);
        let (head, _) = parse(bytes.as_bytes());
        assert_eq!(head.host(bytes.as_bytes()), Some("a"), "{host}");
    }
    check("GET http://a/ HTTP/1.1\r\nHost: a/\r\n\r\n", &["BadHost"]);
    check("GET http://a/ HTTP/1.1\r\n\r\n", &["MissingHost"]);
    check(
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        &["BadTarget"],
    );
}

#[test]
fn parses_connection_fields() {
    let get = |version: &str, fields: &str| format!("GET / HTTP/{version}\r\n{fields}\r\n");
    check(
        get("1.1", "Host: a\r\nConnection: close\r\n"),
        &["GET / close"],
    );
    check(
        get("1.1", "Host: a\r\nConnection: a, CLOSE ,b\r\n"),
        &["GET / close"],
    );
    check(
        get("1.1", "Host: a\r\nConnection: a\r\nConnection: close\r\n"),
        &["GET / close"],
    );
    check(
        get("1.1", "Host: a\r\nConnection: keep-alive, close\r\n"),
        &["GET / close"],
    );
    check(
        get("1.1", "Host: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"),
        &["GET /"],
    );
    check(get("1.0", "Connection: Keep-Alive\r\n"), &["GET /"]);
    check(
        get("1.0", "Connection: keep-alive, close\r\n"),
        &["GET / close"],
    );
    check(
        get("1.0", "Connection: x\r\nConnection: keep-alive\r\n"),
        &["GET /"],
    );
}

#[test]
fn parses_expectations() {
    let post = "Content-Length: 1\r\nExpect: ";
    let after = ["data x", "end"];
    let continues = ["POST / length 1 continue", after[0], after[1]];
    for value in [
        "100-Continue",
        "100-continue,",
        ", 100-continue ,100-CONTINUE",
        "100-continue\r\nExpect: 100-continue",
        "\r\nExpect: 100-continue",
    ] {
        check(with(&format!("{post}{value}\r\n")) + "x", &continues);
    }
    let does_not_wait = ["POST / length 1", after[0], after[1]];
    check(with(&format!("{post}\r\n")) + "x", &does_not_wait);
    check(with(&format!("{post},\r\n")) + "x", &does_not_wait);
    check(
        with(&format!("{post}200-ok\r\n")) + "x",
        &["ExpectationFailed"],
    );
    check(
        with(&format!("{post}100-continue, x\r\n")) + "x",
        &["ExpectationFailed"],
    );
    let old = "POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx";
    check(old, &["POST / length 1 close", after[0], after[1]]);
}

#[test]
fn serves_pipelined_requests_in_order() {
    let get = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let last = "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let events = [
        "GET /1",
        "POST /2 length 2",
        "data hi",
        "end",
        "GET /3 close",
    ];
    check([get, post, "\r\n", last].concat(), &events);
    // Nothing after the last request is parsed.
    check([get, last, get].concat(), &["GET /1", "GET /3 close"]);
    check([get, "GET"].concat(), &["GET /1", "Truncated"]);
    check([get, "\r\n"].concat(), &["GET /1"]);
}

/// A GET request whose target has `target_bytes` bytes.
fn get(target_bytes: usize, fields: &str) -> String {
    let path = "a".repeat(target_bytes - 1);
    format!("GET /{path} HTTP/1.1\r\n{fields}\r\n")
}

#[test]
fn enforces_the_limits() {
    let limits = MessageLimits {
        head_bytes_max: 100,
        target_bytes_max: 20,
        fields_max: 3,
        body_bytes_max: 0,
    };
    let host = "Host: a\r\n";
    let good = format!("GET /{}", "a".repeat(19));
    check_with(&limits, get(20, host), &[&good]);
    check_with(&limits, get(21, host), &["TargetTooLong"]);
    check_with(&limits, &get(21, host)[..26], &["TargetTooLong"]);
    check_with(&limits, &get(1000, host)[..500], &["TargetTooLong"]);
    check_with(
        &limits,
        ["\r\n", &get(21, host)].concat(),
        &["TargetTooLong"],
    );
    // The longest accepted method and the most empty lines before the target.
    let wide = MessageLimits {
        head_bytes_max: 200,
        ..limits
    };
    let method = "M".repeat(32);
    let late = ["\r\n\r\n\r\n\r\n", &method, &get(21, host)[3..]].concat();
    check_with(&wide, late, &["TargetTooLong"]);

    // `GET / HTTP/1.1`, Host, `X: `, its line end and the empty line take 32 bytes.
    let long = |len: usize| get(1, &format!("{host}X: {}\r\n", "x".repeat(len)));
    assert_eq!(long(68).len(), 100);
    check_with(&limits, long(68), &["GET /"]);
    check_with(&limits, long(69), &["HeadTooLarge"]);
    check_with(&limits, long(1000), &["HeadTooLarge"]);
    check_with(&limits, &long(1000)[..100], &["HeadTooLarge"]);
    check_with(&limits, &long(1000)[..99], &["Truncated"]);

    check_with(&limits, get(1, &format!("{host}A:\r\nB:\r\n")), &["GET /"]);
    check_with(
        &limits,
        get(1, &format!("{host}A:\r\nB:\r\nC:\r\n")),
        &["TooManyFields"],
    );
}

/// A client that sends only empty lines is refused, whatever the limit.
#[test]
fn enforces_the_smallest_head_limits() {
    let empty_lines = "\r\n".repeat(100);
    for head_bytes_max in 0..=20 {
        let limits = MessageLimits {
            head_bytes_max,
            ..MessageLimits::default()
        };
        let fault = match head_bytes_max {
            0..=9 => "HeadTooLarge",
            _ => "BadRequestLine",
        };
        check_with(&limits, &empty_lines, &[fault]);
    }
    let limits = MessageLimits {
        head_bytes_max: 18,
        target_bytes_max: 1,
        fields_max: 1,
        body_bytes_max: 1,
    };
    check_with(&limits, "GET / HTTP/1.0\r\n\r\n", &["GET / close"]);
    check_with(&limits, "GET / HTTP/1.0\r\nA:\r\n\r\n", &["HeadTooLarge"]);
    check_with(&limits, "GET /a HTTP/1.0\r\n\r\n", &["TargetTooLong"]);
}

#[test]
#[cfg_attr(miri, ignore = "heads of 16 KiB in many fragments take Miri minutes")]
fn enforces_the_default_limits() {
    let host = "Host: a\r\n";
    let many = |count: usize| get(1, &(host.to_owned() + &"A:b\r\n".repeat(count - 1)));
    check(many(100), &["GET /"]);
    check(many(101), &["TooManyFields"]);
    check(get(8192, host), &[&format!("GET /{}", "a".repeat(8191))]);
    check(get(8193, host), &["TargetTooLong"]);
    check(
        with(&format!("X: {}\r\n", "x".repeat(16384 - 33))),
        &["POST /"],
    );
    check(
        with(&format!("X: {}\r\n", "x".repeat(16384 - 32))),
        &["HeadTooLarge"],
    );
}

#[test]
fn a_head_in_many_fragments_takes_linear_time() {
    const HEAD_BYTES: usize = if cfg!(miri) { 500 } else { 16_000 };
    let limits = MessageLimits::default();
    let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    let mut codec = Codec::server();
    // Quadratic time would be a hundred million steps here, which take a debug build seconds.
    while bytes.len() < HEAD_BYTES {
        assert_eq!(next(&mut codec, &bytes, &limits), Ok((0, Event::NeedData)));
        bytes.push(b'x');
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    assert!(matches!(
        next(&mut codec, &bytes, &limits),
        Ok((used, Event::Request(_))) if used == HEAD_BYTES + 4
    ));
}
