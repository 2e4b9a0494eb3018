//! Conditional requests (RFC 9110 §13): evaluates the preconditions of a request against the
//! validators of the current representation. The caller supplies the validators and the time.

use ::http::Method;

use super::date;
use super::field::{Fields, trim_ows};

/// The validators of the current representation (RFC 9110 §8.8).
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// The entity tag: a strong one, with its quotes; `None` if no tag can tell this representation
    /// from the next. Then only `*` matches it.
    pub etag: Option<&'a [u8]>,
    /// The time of the last modification, in seconds since the Unix epoch; `None` if it is not a
    /// validator. Fields that compare dates then have no effect, except that If-Range does not
    /// match.
    pub modified_seconds: Option<u64>,
}

/// The result of evaluating the preconditions of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Respond as if the request had no preconditions.
    Proceed,
    /// The client's copy is current: respond 304.
    NotModified,
    /// The current representation is not the one that the client expects: respond 412.
    Failed,
}

impl Validators<'_> {
    /// Evaluates the preconditions among `fields` in the order of precedence (RFC 9110 §13.2.2).
    /// If-Range is evaluated separately, by [`Validators::if_range`].
    #[must_use]
    pub fn evaluate(&self, method: &Method, fields: Fields<'_>) -> Outcome {
        let is_get_or_head = matches!(*method, Method::GET | Method::HEAD);
        match self.matches(fields, "if-match", is_strong_match) {
            Some(false) => return Outcome::Failed,
            Some(true) => {}
            None => {
                if let Some(modified) = self.modified_seconds
                    && date_of(fields, "if-unmodified-since").is_some_and(|since| modified > since)
                {
                    return Outcome::Failed;
                }
            }
        }
        match self.matches(fields, "if-none-match", is_weak_match) {
            Some(true) if is_get_or_head => Outcome::NotModified,
            Some(true) => Outcome::Failed,
            Some(false) => Outcome::Proceed,
            None => {
                let is_old = self.modified_seconds.is_some_and(|modified| {
                    date_of(fields, "if-modified-since").is_some_and(|since| modified <= since)
                });
                if is_get_or_head && is_old {
                    Outcome::NotModified
                } else {
                    Outcome::Proceed
                }
            }
        }
    }

    /// Whether the request's Range field applies: the request has no If-Range, or its single
    /// If-Range field matches the current representation exactly (RFC 9110 §13.1.5).
    #[must_use]
    pub fn if_range(&self, fields: Fields<'_>) -> bool {
        let mut lines = fields.get_all("if-range");
        let (value, None) = (lines.next(), lines.next()) else {
            return false;
        };
        match value {
            None => true,
            Some(tag @ ([b'"', ..] | [b'W', b'/', ..])) => {
                self.etag.is_some_and(|etag| is_strong_match(tag, etag))
            }
            Some(text) => {
                self.modified_seconds.is_some() && date::parse(text) == self.modified_seconds
            }
        }
    }

    /// Whether the field `name` is `*` or lists the current entity tag; `None` if it is absent.
    fn matches(
        &self,
        fields: Fields<'_>,
        name: &str,
        is_match: fn(&[u8], &[u8]) -> bool,
    ) -> Option<bool> {
        let mut lines = fields.get_all(name).peekable();
        lines.peek()?;
        let is_ours = |tag| self.etag.is_some_and(|etag| is_match(tag, etag));
        Some(lines.any(|line| line == b"*" || Tags(line).any(is_ours)))
    }
}

/// The date in the field `name`, in seconds since the Unix epoch. An invalid date is ignored
/// (RFC 9110 §13.1.3, §13.1.4), and so is a field that occurs twice.
fn date_of(fields: Fields<'_>, name: &str) -> Option<u64> {
    let mut lines = fields.get_all(name);
    match (lines.next(), lines.next()) {
        (Some(value), None) => date::parse(value),
        _ => None,
    }
}

/// Strong comparison (RFC 9110 §8.8.3.2) of a client's `tag` with our `etag`, which is strong.
fn is_strong_match(tag: &[u8], etag: &[u8]) -> bool {
    tag == etag
}

/// Weak comparison (RFC 9110 §8.8.3.2) of a client's `tag` with our `etag`, which is strong.
fn is_weak_match(tag: &[u8], etag: &[u8]) -> bool {
    tag.strip_prefix(b"W/").unwrap_or(tag) == etag
}

/// Iterates over the entity tags of a list, each with its quotes and its `W/` prefix if it is weak.
/// Returns `None` at the first element that is not an entity tag. A tag may contain commas.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while let [b',' | b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
        let weak_len = if self.0.starts_with(b"W/") { 2 } else { 0 };
        let opaque = self.0[weak_len..].strip_prefix(b"\"")?;
        let len = weak_len + opaque.iter().position(|&byte| byte == b'"')? + 2;
        let (tag, rest) = self.0.split_at(len);
        self.0 = trim_ows(rest);
        matches!(self.0, [] | [b',', ..]).then_some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const CURRENT: Validators<'static> = Validators {
        etag: Some(b"\"now, a\""),
        modified_seconds: Some(784_111_777),
    };

    fn lines(fields: &[(&str, &str)]) -> String {
        let lines = fields.iter();
        lines
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect()
    }

    #[track_caller]
    fn check(method: &Method, fields: &[(&str, &str)], expected: Outcome) {
        let section = lines(fields);
        let outcome = CURRENT.evaluate(method, Fields::new(section.as_bytes()));
        assert_eq!(outcome, expected, "{method} {section}");
    }

    #[test]
    fn without_preconditions_a_request_proceeds() {
        check(&Method::GET, &[], Outcome::Proceed);
        check(&Method::GET, &[("If-Range", "\"x\"")], Outcome::Proceed);
    }

    #[test]
    fn if_match_compares_strongly() {
        for (value, expected) in [
            ("\"now, a\"", Outcome::Proceed),
            ("*", Outcome::Proceed),
            ("\"x\", \"now, a\"", Outcome::Proceed),
            (",\t\"x\" ,\"now, a\",", Outcome::Proceed),
            ("W/\"now, a\"", Outcome::Failed),
            ("\"now\"", Outcome::Failed),
            ("now, a", Outcome::Failed),
            ("\"x\" \"now, a\"", Outcome::Failed),
            ("\"x", Outcome::Failed),
            ("", Outcome::Failed),
        ] {
            check(&Method::GET, &[("If-Match", value)], expected);
        }
        let on_two_lines = [("If-Match", "\"x\""), ("If-Match", "\"now, a\"")];
        check(&Method::GET, &on_two_lines, Outcome::Proceed);
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for (value, expected) in [
            ("\"now, a\"", Outcome::NotModified),
            ("W/\"now, a\"", Outcome::NotModified),
            ("*", Outcome::NotModified),
            ("W/\"x\",W/\"now, a\"", Outcome::NotModified),
            ("w/\"now, a\"", Outcome::Proceed),
            ("\"x\"", Outcome::Proceed),
            ("\"*\"", Outcome::Proceed),
            ("", Outcome::Proceed),
        ] {
            check(&Method::GET, &[("If-None-Match", value)], expected);
            check(&Method::HEAD, &[("If-None-Match", value)], expected);
        }
        check(&Method::PUT, &[("If-None-Match", "*")], Outcome::Failed);
    }

    #[test]
    fn dates_are_read_in_three_formats() {
        for date in [
            DATE,
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            check(
                &Method::GET,
                &[("If-Modified-Since", date)],
                Outcome::NotModified,
            );
            check(
                &Method::GET,
                &[("If-Unmodified-Since", date)],
                Outcome::Proceed,
            );
        }
        let since = |date| [("If-Modified-Since", date)];
        check(&Method::GET, &since(LATER), Outcome::NotModified);
        check(&Method::GET, &since(EARLIER), Outcome::Proceed);
        check(&Method::PUT, &since(DATE), Outcome::Proceed);
        let since = |date| [("If-Unmodified-Since", date)];
        check(&Method::GET, &since(LATER), Outcome::Proceed);
        check(&Method::GET, &since(EARLIER), Outcome::Failed);
    }

    #[test]
    fn invalid_dates_are_ignored() {
        for date in [
            "",
            "yesterday",
            "784111778",
            "Sun, 06 Nov 1994 08:49:38 CET",
        ] {
            check(
                &Method::GET,
                &[("If-Modified-Since", date)],
                Outcome::Proceed,
            );
            check(
                &Method::GET,
                &[("If-Unmodified-Since", date)],
                Outcome::Proceed,
            );
        }
        let twice = [("If-Modified-Since", DATE), ("If-Modified-Since", DATE)];
        check(&Method::GET, &twice, Outcome::Proceed);
    }

    #[test]
    fn etags_take_precedence_over_dates_and_if_match_over_if_none_match() {
        let same = "\"now, a\"";
        for (fields, expected) in [
            // If-Unmodified-Since would fail, but it is ignored because If-Match is present.
            (
                [("If-Match", same), ("If-Unmodified-Since", EARLIER)],
                Outcome::Proceed,
            ),
            (
                [("If-Match", "\"x\""), ("If-None-Match", same)],
                Outcome::Failed,
            ),
            (
                [("If-Match", same), ("If-None-Match", same)],
                Outcome::NotModified,
            ),
            (
                [("If-Unmodified-Since", EARLIER), ("If-None-Match", same)],
                Outcome::Failed,
            ),
            (
                [("If-Unmodified-Since", DATE), ("If-None-Match", same)],
                Outcome::NotModified,
            ),
            // If-Modified-Since would give 304, but it is ignored because of If-None-Match.
            (
                [("If-None-Match", "\"x\""), ("If-Modified-Since", DATE)],
                Outcome::Proceed,
            ),
            (
                [("If-None-Match", same), ("If-Modified-Since", EARLIER)],
                Outcome::NotModified,
            ),
            (
                [("If-Match", same), ("If-Modified-Since", DATE)],
                Outcome::NotModified,
            ),
        ] {
            check(&Method::GET, &fields, expected);
        }
    }

    #[test]
    fn if_range_requires_an_exact_match() {
        let check = |fields: &[(&str, &str)], expected| {
            let section = lines(fields);
            let fields = Fields::new(section.as_bytes());
            assert_eq!(CURRENT.if_range(fields), expected, "{section}");
        };
        check(&[], true);
        check(&[("If-Range", "\"now, a\"")], true);
        check(&[("If-Range", "W/\"now, a\"")], false);
        check(&[("If-Range", "\"x\"")], false);
        check(&[("If-Range", "*")], false);
        check(&[("If-Range", "\"x\", \"now, a\"")], false);
        check(&[("If-Range", DATE)], true);
        check(&[("If-Range", LATER)], false);
        check(&[("If-Range", EARLIER)], false);
        check(&[("If-Range", "")], false);
        check(
            &[("If-Range", "\"now, a\""), ("If-Range", "\"now, a\"")],
            false,
        );
    }

    #[test]
    fn without_a_tag_only_a_star_matches() {
        let untagged = Validators {
            etag: None,
            ..CURRENT
        };
        for (name, value, expected) in [
            ("If-Match", "\"now, a\"", Outcome::Failed),
            ("If-Match", "*", Outcome::Proceed),
            ("If-None-Match", "\"now, a\"", Outcome::Proceed),
            ("If-None-Match", "*", Outcome::NotModified),
        ] {
            let section = lines(&[(name, value)]);
            let outcome = untagged.evaluate(&Method::GET, Fields::new(section.as_bytes()));
            assert_eq!(outcome, expected, "{section}");
        }
        let section = lines(&[("If-Range", "\"now, a\"")]);
        assert!(!untagged.if_range(Fields::new(section.as_bytes())));
    }

    /// A date that is not a validator neither lets a copy pass for current nor refuses a change.
    #[test]
    fn dates_are_not_compared_without_one_of_our_own() {
        let undated = Validators {
            modified_seconds: None,
            ..CURRENT
        };
        for name in ["If-Modified-Since", "If-Unmodified-Since", "If-Range"] {
            for date in [EARLIER, LATER, "Thu, 01 Jan 1970 00:00:00 GMT"] {
                let section = lines(&[(name, date)]);
                let fields = Fields::new(section.as_bytes());
                let outcome = undated.evaluate(&Method::GET, fields);
                assert_eq!(outcome, Outcome::Proceed, "{section}");
                assert_eq!(undated.if_range(fields), name != "If-Range", "{section}");
            }
        }
    }
}
