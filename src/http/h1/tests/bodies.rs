//! Request bodies: Content-Length, chunked framing, limits, and framing that smuggles requests.

use super::{check, check_with};
use crate::http::h1::MessageLimits;

fn counted(length: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

fn framed(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n")
}

#[test]
fn decodes_bodies_with_a_content_length() {
    check(counted("0", ""), &["POST /"]);
    check(counted("00", ""), &["POST /"]);
    check(
        counted("5", "hello"),
        &["POST / length 5", "data hello", "end"],
    );
    check(
        counted("005", "hello"),
        &["POST / length 5", "data hello", "end"],
    );
    check(
        counted("5", "hell"),
        &["POST / length 5", "data hell", "Truncated"],
    );
    check(counted("5", ""), &["POST / length 5", "Truncated"]);
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = ["POST / length 5", "data hello", "end", "GET /next"];
    check(counted("5", "hello") + next, &both);
    check(counted("0", next), &["POST /", "GET /next"]);
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        &["GET / length 1", "data x", "end"],
    );
}

#[test]
fn refuses_invalid_content_lengths() {
    for bad in [
        "",
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 5",
        "5 5",
        "five",
        "5.0",
        "5;",
        "\u{b2}",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        check(counted(bad, "hello"), &["BadContentLength"]);
    }
    check(
        framed("Content-Length: 5\r\nContent-Length: 5\r\n"),
        &["BadContentLength"],
    );
    check(
        framed("Content-Length: 5\r\ncontent-length: 6\r\n"),
        &["BadContentLength"],
    );
    check(framed("Content-Length : 5\r\n"), &["BadField"]);
}

#[test]
fn refuses_ambiguous_framing() {
    let te = "Transfer-Encoding: chunked\r\n";
    check(
        framed(&format!("{te}Content-Length: 5\r\n")),
        &["ConflictingFraming"],
    );
    check(
        framed(&format!("Content-Length: 5\r\n{te}")),
        &["ConflictingFraming"],
    );
    check(
        framed(&format!("Content-Length: 0\r\n{te}")),
        &["ConflictingFraming"],
    );
    check(
        format!("POST / HTTP/1.0\r\n{te}\r\n0\r\n\r\n"),
        &["ConflictingFraming"],
    );
    check(framed("Transfer-Encoding:\u{b}chunked\r\n"), &["BadField"]);
    check(framed("Transfer-Encoding : chunked\r\n"), &["BadField"]);
    check(framed("Transfer-Encoding:\r\n chunked\r\n"), &["BadField"]);
    check(
        framed("tRANSFER-eNCODING:\tCHUNKED \r\n"),
        &["POST / chunked", "end"],
    );
}

/// A body whose last coding is not `chunked` has no end (RFC 9112 §6.3): 400. The end of a body
/// that is only coded otherwise as well is known: 501.
#[test]
fn refuses_other_transfer_codings() {
    let check_value = |value: &str, fault| {
        check(framed(&format!("Transfer-Encoding: {value}\r\n")), &[fault]);
    };
    for bad in [
        "",
        "identity",
        "gzip",
        "chunked, chunked",
        "chunked, identity",
        "chunked, gzip",
        "gzip, chunked, chunked",
        "chunked;q=1",
        "gzip, chunked;q=1",
        "xchunked",
        "chunked,",
        ",chunked",
        "gzip,, chunked",
        "\"chunked\"",
        "g zip, chunked",
    ] {
        check_value(bad, "BadTransferCoding");
    }
    for other in [
        "gzip, chunked",
        "gzip;q=1 , CHUNKED",
        "identity,gzip,\tchunked",
    ] {
        check_value(other, "UnsupportedTransferCoding");
    }
    let te = "Transfer-Encoding:";
    for (fields, fault) in [
        (
            format!("{te}chunked\r\n{te}chunked\r\n"),
            "BadTransferCoding",
        ),
        (format!("{te}chunked\r\n{te}gzip\r\n"), "BadTransferCoding"),
        (format!("{te}chunked\r\n{te}\r\n"), "BadTransferCoding"),
        (
            format!("{te}gzip\r\n{te}chunked\r\n"),
            "UnsupportedTransferCoding",
        ),
    ] {
        check(framed(&fields), &[fault]);
    }
}

#[test]
fn decodes_chunked_bodies() {
    let head = "POST / chunked";
    check(chunked("0\r\n\r\n"), &[head, "end"]);
    check(
        chunked("5\r\nhello\r\n0\r\n\r\n"),
        &[head, "data hello", "end"],
    );
    check(
        chunked("3\r\nhel\r\n02\r\nlo\r\n000\r\n\r\n"),
        &[head, "data hello", "end"],
    );
    check(
        chunked("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        &[head, "data 01234567890123456789", "end"],
    );
    check(
        chunked("000000000000000a\r\n0123456789\r\n0\r\n\r\n"),
        &[head, "data 0123456789", "end"],
    );
    check(
        chunked("1;a=b;c=\"d; e\"\r\nx\r\n0;z\r\n\r\n"),
        &[head, "data x", "end"],
    );
    for extension in [
        ";a",
        " ;a=b",
        "\t; a =\tb ; c",
        ";a=\"\"",
        ";a=\"\\\"\\\\ \t;\u{e9}\" ;b=c",
        ";a=b;a=b",
        ";!#$%&'*+-.^_`|~=1",
    ] {
        let body = format!("1{extension}\r\nx\r\n0{extension}\r\n\r\n");
        check(chunked(&body), &[head, "data x", "end"]);
    }
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    check(
        chunked("1\r\nx\r\n0\r\n\r\n") + next,
        &[head, "data x", "end", "GET /next"],
    );
}

#[test]
fn refuses_malformed_chunks() {
    let head = "POST / chunked";
    for bad in [
        "\r\n",
        ";a\r\n",
        "x\r\n",
        "0x1\r\nx\r\n",
        " 1\r\nx\r\n",
        "1 \r\nx\r\n",
        "+1\r\nx\r\n",
        "-1\r\nx\r\n",
        "1\nx\r\n",
        "1\r\r\nx\r\n",
        "1;a\nx\r\n",
        "1;\0\r\nx\r\n",
        "1;\u{7f}\r\nx\r\n",
        "1;\r\nx\r\n",
        "1;;a\r\nx\r\n",
        "1;a;\r\nx\r\n",
        "1;=x\r\nx\r\n",
        "1;a=\r\nx\r\n",
        "1;a b\r\nx\r\n",
        "1;a=b c\r\nx\r\n",
        "1;a=b=c\r\nx\r\n",
        "1;a=b \r\nx\r\n",
        "1;a \r\nx\r\n",
        "1;a=\"b\r\nx\r\n",
        "1;a=\"b\"c\r\nx\r\n",
        "1;a=\"b\\\r\nx\r\n",
        "1;a=\"\u{1}\"\r\nx\r\n",
        "1;\u{e9}\r\nx\r\n",
        "1;a=\u{e9}\r\nx\r\n",
        "1;a,b\r\nx\r\n",
        "1 a\r\nx\r\n",
        "1_0\r\n",
        "00000000000000001\r\nx\r\n",
        "fffffffffffffffff\r\n",
        "0\n\r\n",
    ] {
        check(chunked(bad), &[head, "BadChunk"]);
    }
    for bad in [
        "1\r\nx\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\r\nx0\r\n\r\n",
        "1\r\nx\r0\r\n\r\n",
    ] {
        check(chunked(bad), &[head, "data x", "BadChunk"]);
    }
    check(chunked("ffffffffffffffff\r\n"), &[head, "BodyTooLarge"]);
    for cut in [
        "",
        "1",
        "1\r\n",
        "1;a",
        "0",
        "0\r",
        "0\r\n",
        "0\r\n\r",
        "0\r\nA: b\r\n",
    ] {
        check(chunked(cut), &[head, "Truncated"]);
    }
    check(chunked("1\r\nx"), &[head, "data x", "Truncated"]);
    check(chunked("1\r\nx\r\n"), &[head, "data x", "Truncated"]);
}

#[test]
fn validates_trailers() {
    let head = "POST / chunked";
    let body = |trailers: &str| chunked(&format!("0\r\n{trailers}\r\n"));
    check(body("A: b\r\n"), &[head, "end"]);
    check(body("Digest:\t\u{e9} c \r\nB:\r\n"), &[head, "end"]);
    for bad in [
        "Content-Length: 5\r\n",
        "transfer-encoding: chunked\r\n",
        "Host: b\r\n",
        "A b\r\n",
        "A : b\r\n",
        ": b\r\n",
        "A: b\r\n c\r\n",
        "A: b\0\r\n",
        "A: b\rc\r\n",
        "GET / HTTP/1.1\r\n",
    ] {
        check(body(bad), &[head, "BadTrailer"]);
    }
    check(body("A: b\n"), &[head, "BareLineFeed"]);
    check(chunked("0\r\n\n"), &[head, "BareLineFeed"]);

    let limits = MessageLimits {
        head_bytes_max: 100,
        fields_max: 3,
        ..MessageLimits::default()
    };
    check_with(&limits, body("A:\r\nB:\r\nC:\r\n"), &[head, "end"]);
    check_with(
        &limits,
        body("A:\r\nB:\r\nC:\r\nD:\r\n"),
        &[head, "TooManyFields"],
    );
    let long = |len: usize| format!("A:{}\r\n", "b".repeat(len - 4));
    check_with(&limits, body(&long(98)), &[head, "end"]);
    check_with(&limits, body(&long(99)), &[head, "HeadTooLarge"]);
    check_with(
        &limits,
        body(&[long(50), long(49)].concat()),
        &[head, "HeadTooLarge"],
    );
    check_with(&limits, body(&long(1000)), &[head, "HeadTooLarge"]);
}

#[test]
fn enforces_the_body_limit() {
    let limits = MessageLimits {
        body_bytes_max: 5,
        ..MessageLimits::default()
    };
    check_with(
        &limits,
        counted("5", "hello"),
        &["POST / length 5", "data hello", "end"],
    );
    check_with(&limits, counted("6", "hello!"), &["BodyTooLarge"]);
    check_with(&limits, counted("6", ""), &["BodyTooLarge"]);
    let head = "POST / chunked";
    check_with(
        &limits,
        chunked("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
        &[head, "data hello", "end"],
    );
    check_with(
        &limits,
        chunked("3\r\nhel\r\n3\r\nlo!\r\n"),
        &[head, "data hel", "BodyTooLarge"],
    );
    check_with(&limits, chunked("6\r\n"), &[head, "BodyTooLarge"]);
    let unlimited = MessageLimits {
        body_bytes_max: u64::MAX,
        ..MessageLimits::default()
    };
    check_with(
        &unlimited,
        counted("18446744073709551615", "x"),
        &["POST / length 18446744073709551615", "data x", "Truncated"],
    );
    check_with(
        &unlimited,
        chunked("1\r\nx\r\nffffffffffffffff\r\n"),
        &[head, "data x", "BodyTooLarge"],
    );
    check_with(
        &unlimited,
        chunked("ffffffffffffffff\r\nx"),
        &[head, "data x", "Truncated"],
    );
}

#[test]
#[cfg_attr(miri, ignore = "half a megabyte in small chunks takes Miri minutes")]
fn refuses_bodies_that_are_mostly_framing() {
    let limits = MessageLimits::default();
    let replay = |body: &str| super::replay([chunked(body).as_bytes()], &limits).pop();
    let ends = Some(String::from("end"));
    let refused = Some(String::from("TooMuchFraming"));
    // The framing that chunks need is not limited, however short they are.
    let replay_chunks = |chunk: &str, count: usize| replay(&(chunk.repeat(count) + "0\r\n\r\n"));
    assert_eq!(replay_chunks("1\r\nx\r\n", 40_000), ends);
    assert_eq!(replay_chunks("00001\r\nx\r\n", 20_000), ends);
    assert_eq!(replay_chunks("00001\r\nx\r\n", 30_000), refused);
    let signed = format!("20;s={}\r\n{}\r\n", "f".repeat(64), "x".repeat(32));
    assert_eq!(replay_chunks(&signed, 4_000), ends);
    let extended = |len: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(len));
    assert_eq!(replay(&extended(102_000)), ends);
    assert_eq!(replay(&extended(103_000)), refused);
}
