//! Tests of the fields of a response.

use ::http::header::{ETAG, SET_COOKIE};

use super::*;

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

fn fields(response: &Response) -> Vec<(&str, &str)> {
    response
        .headers()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect()
}

#[test]
fn with_header_replaces_all_fields_of_its_name() {
    let json = Response::text("{}").with_header(CONTENT_TYPE, value("application/json"));
    assert_eq!(fields(&json), [("content-type", "application/json")]);
    let cookies = json
        .append_header(SET_COOKIE, value("a=1"))
        .append_header(SET_COOKIE, value("b=2"));
    assert_eq!(
        fields(&cookies)[1..],
        [("set-cookie", "a=1"), ("set-cookie", "b=2")]
    );
    let one = cookies.with_header(SET_COOKIE, value("c=3"));
    assert_eq!(fields(&one)[1..], [("set-cookie", "c=3")]);
    let first = Response::new(StatusCode::OK)
        .append_header(SET_COOKIE, value("a=1"))
        .append_header(SET_COOKIE, value("b=2"))
        .with_header(SET_COOKIE, value("c=3"));
    assert_eq!(fields(&first), [("set-cookie", "c=3")]);
}

#[test]
fn with_header_replaces_a_shared_field_in_this_response_only() {
    let lines = Rc::new(FieldLines::new([
        (CONTENT_TYPE, value("text/css")),
        (ETAG, value("\"1\"")),
    ]));
    let shared = || Response::new(StatusCode::OK).with_field_lines(lines.clone());
    let replaced = shared().with_header(CONTENT_TYPE, value("text/plain"));
    assert_eq!(
        fields(&replaced),
        [("etag", "\"1\""), ("content-type", "text/plain")]
    );
    let other = shared().with_header(SET_COOKIE, value("a=1"));
    assert!(other.shared().is_some());
    assert_eq!(fields(&other).len(), 3);
}

#[test]
fn with_field_lines_replaces_fields_of_their_names() {
    let lines = Rc::new(FieldLines::new([
        (CONTENT_TYPE, value("text/css")),
        (CONNECTION, value("close")),
    ]));
    let response = Response::text("")
        .append_header(ETAG, value("\"1\""))
        .append_header(CONTENT_TYPE, value("text/html"))
        .with_field_lines(lines);
    let expected = [("etag", "\"1\""), ("content-type", "text/css")];
    assert_eq!(fields(&response), expected);
    // Replacing a shared field splits the lines up; their `Connection: close` must not get
    // lost.
    let replaced = response.with_header(CONTENT_TYPE, value("text/plain"));
    let expected = [
        ("etag", "\"1\""),
        ("connection", "close"),
        ("content-type", "text/plain"),
    ];
    let mut replaced = fields(&replaced);
    replaced.sort_by_key(|(name, _)| expected.iter().position(|(other, _)| other == name));
    assert_eq!(replaced, expected);
}

#[test]
fn fields_of_one_name_keep_their_order() {
    let cookies = |response: &Response| -> Vec<String> {
        let fields = fields(response).into_iter();
        let cookies = fields.filter(|(name, _)| *name == "set-cookie");
        cookies.map(|(_, value)| value.to_owned()).collect()
    };
    let cookie = |response: Response, text| response.append_header(SET_COOKIE, value(text));
    let lines = |fields: &[(HeaderName, HeaderValue)]| Rc::new(FieldLines::new(fields.to_vec()));
    // The lines remove the first field, and leave another.
    let css = lines(&[(CONTENT_TYPE, value("text/css"))]);
    let response = cookie(Response::text(""), "a=1").with_field_lines(css.clone());
    assert_eq!(cookies(&cookie(response, "a=2")), ["a=1", "a=2"]);
    let response = cookie(Response::text(""), "a=1").with_field_lines(css);
    let response = response.with_header(ETAG, value("\"1\""));
    assert_eq!(cookies(&cookie(response, "a=2")), ["a=1", "a=2"]);
    // The lines have a field of that name themselves.
    let first = lines(&[(SET_COOKIE, value("a=1")), (CONNECTION, value("close"))]);
    for response in [Response::new(StatusCode::OK), Response::text("")] {
        let response = cookie(response.with_field_lines(first.clone()), "a=2");
        let response = cookie(response, "a=3");
        assert_eq!(cookies(&response), ["a=1", "a=2", "a=3"]);
        assert!(fields(&response).contains(&("connection", "close")));
    }
    assert_eq!(first.fields().len(), 1);
}

#[test]
fn only_an_interim_response_can_be_followed() {
    for status in [101, 200, 404, 500] {
        let status = StatusCode::from_u16(status).unwrap();
        let then = || Response::new(status).then(async { Response::text("") });
        assert!(std::panic::catch_unwind(then).is_err(), "{status}");
    }
    for status in [100, 102, 103, 199] {
        let status = StatusCode::from_u16(status).unwrap();
        let mut response = Response::new(status).then(async { Response::text("") });
        assert!(response.take_next().is_some(), "{status}");
        assert!(response.take_next().is_none(), "{status}");
    }
}

#[test]
fn text_and_html_name_their_charset() {
    for (response, expected) in [
        (Response::html(""), "text/html; charset=utf-8"),
        (Response::not_found(""), "text/html; charset=utf-8"),
        (Response::text(""), "text/plain; charset=utf-8"),
    ] {
        assert_eq!(fields(&response), [("content-type", expected)]);
    }
}
