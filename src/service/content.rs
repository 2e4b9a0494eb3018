//! Reading a request's body as an HTML form or as JSON, and writing a response as JSON. Both hold
//! the whole content in memory; nothing here streams.

use std::fmt;

use ::http::StatusCode;

use super::body::BodyError;
use super::request::Request;
use super::response::Response;

/// Why a request's body could not be read as a form or as JSON. It converts into a [`Response`]
/// that tells the client the reason.
///
/// ```
/// use coring::{ContentError, Response, StatusCode};
///
/// let response = Response::from(ContentError::TooLarge);
/// assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContentError {
    /// Content-Type is missing, or differs from this type: 415 (Unsupported Media Type).
    WrongType(&'static str),
    /// The content is longer than the service's limit: 413 (Content Too Large).
    TooLarge,
    /// The content cannot be parsed as the value that the service expects, for this reason: 400.
    Malformed(Box<str>),
    /// The content could not be read to its end: 400.
    Incomplete,
}

impl ContentError {
    /// The status of the response that this error converts into.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::WrongType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Malformed(_) | Self::Incomplete => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongType(expected) => write!(f, "the content is not of type {expected}"),
            Self::TooLarge => f.write_str("the content is too large"),
            Self::Malformed(reason) => write!(f, "the content is malformed: {reason}"),
            Self::Incomplete => f.write_str("the content is incomplete"),
        }
    }
}

impl std::error::Error for ContentError {}

impl From<BodyError> for ContentError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::TooLarge,
            _ => Self::Incomplete,
        }
    }
}

impl From<ContentError> for Response {
    fn from(error: ContentError) -> Self {
        Self::text(format!("{error}\n")).with_status(error.status())
    }
}

impl Request {
    /// Reads the body as a form (`application/x-www-form-urlencoded`) of at most `bytes_max` bytes.
    /// Returns its pairs of name and value, decoded, in the order in which the client sent them.
    ///
    /// ```
    /// use coring::{ContentError, Request, Response};
    ///
    /// async fn sign_up(mut request: Request) -> Result<Response, ContentError> {
    ///     let pairs = request.form(4096).await?;
    ///     let name = pairs.iter().find(|(name, _)| name == "name");
    ///     let name = name.map_or("stranger", |(_, value)| value);
    ///     Ok(Response::text(format!("hello {name}")))
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ContentError::WrongType`], [`ContentError::TooLarge`] and [`ContentError::Incomplete`].
    /// Never [`ContentError::Malformed`]: as with a query, every text can be parsed into pairs.
    pub async fn form(&mut self, bytes_max: usize) -> Result<Vec<(String, String)>, ContentError> {
        let content = self
            .content("application/x-www-form-urlencoded", bytes_max)
            .await?;
        Ok(form_urlencoded::parse(&content).into_owned().collect())
    }

    /// Reads the body as JSON (`application/json`, or a type that ends in `+json`) of at most
    /// `bytes_max` bytes, and returns it as a value of type `T`.
    ///
    /// ```
    /// use coring::{ContentError, Request, Response, Router};
    ///
    /// async fn sum(mut request: Request) -> Result<Response, ContentError> {
    ///     let numbers: Vec<i64> = request.json(1024).await?;
    ///     Ok(Response::json(&numbers.iter().sum::<i64>()))
    /// }
    ///
    /// let router = Router::new().post("/sum", sum);
    /// ```
    ///
    /// # Errors
    /// Each [`ContentError`]; [`ContentError::Malformed`] if the content is not JSON or not a `T`.
    #[cfg(feature = "json")]
    pub async fn json<T>(&mut self, bytes_max: usize) -> Result<T, ContentError>
    where
        T: serde::de::DeserializeOwned,
    {
        let content = self.content("application/json", bytes_max).await?;
        serde_json::from_slice(&content)
            .map_err(|error| ContentError::Malformed(error.to_string().into()))
    }

    /// Reads the whole body, if its Content-Type is `expected`.
    async fn content(
        &mut self,
        expected: &'static str,
        bytes_max: usize,
    ) -> Result<Vec<u8>, ContentError> {
        if !self
            .header("content-type")
            .is_some_and(|value| is_of_type(value, expected))
        {
            return Err(ContentError::WrongType(expected));
        }
        let body = self.body();
        // Refused before it is read: a client that sent `Expect: 100-continue` need not send it.
        if body
            .length()
            .is_some_and(|length| length > bytes_max as u64)
        {
            return Err(ContentError::TooLarge);
        }
        Ok(body.read(bytes_max).await?)
    }
}

/// Whether `value`, of a Content-Type, is the media type `expected`. Parameters are ignored. A type
/// with the suffix `+json` counts as JSON (RFC 6839 §3.1).
fn is_of_type(value: &[u8], expected: &str) -> bool {
    let kind = value.split(|&byte| byte == b';').next().unwrap_or_default();
    let kind = kind.trim_ascii().to_ascii_lowercase();
    kind == expected.as_bytes() || expected.ends_with("/json") && kind.ends_with(b"+json")
}

#[cfg(feature = "json")]
impl Response {
    /// A response of status 200 with `value` as JSON.
    ///
    /// If the value cannot be written as JSON (a map whose keys are not text, or a
    /// [`Serialize`](serde::Serialize) that fails), the server reports that to standard error. The
    /// response then has no content, and status 500 unless the service sets another one.
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Self {
        use ::http::HeaderValue;
        use ::http::header::CONTENT_TYPE;

        match serde_json::to_vec(value) {
            Ok(content) => Self::new(StatusCode::OK)
                .with_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .with_body(content),
            Err(error) => {
                crate::messages::report(format_args!("cannot write a response as JSON: {error}"));
                Self::new(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: &str, content: &'static str) -> Request {
        let request = Request::builder()
            .method("POST")
            .header("Content-Type", kind);
        request.body(content).unwrap()
    }

    #[test]
    fn queries_and_forms_are_parsed_into_pairs() {
        let uri = "/?a=1&b=%C3%A4+x&&flag&a=2&c=%ff%";
        let request_of_query = Request::builder().uri(uri).body("").unwrap();
        let pairs: Vec<_> = request_of_query.query_pairs().collect();
        let expected = [
            ("a", "1"),
            ("b", "ä x"),
            ("flag", ""),
            ("a", "2"),
            ("c", "\u{fffd}%"),
        ];
        let expected = expected.map(|(name, value)| (name.into(), value.into()));
        assert_eq!(pairs, expected);
        let none = Request::builder().body("").unwrap();
        assert_eq!(none.query_pairs().count(), 0);

        crate::run(async {
            const FORM_TYPE: &str = "application/x-www-form-urlencoded";
            let pairs = request(FORM_TYPE, "a=1&b=%26").form(100).await.unwrap();
            assert_eq!(
                pairs,
                [("a", "1"), ("b", "&")].map(|(a, b)| (a.into(), b.into()))
            );
            assert_eq!(request(FORM_TYPE, "").form(0).await, Ok(Vec::new()));
            assert_eq!(
                request(FORM_TYPE, "a").form(0).await,
                Err(ContentError::TooLarge)
            );
            let wrong = request("text/plain", "a=1").form(100).await.unwrap_err();
            assert_eq!(
                wrong.to_string(),
                format!("the content is not of type {FORM_TYPE}")
            );
        });
    }

    #[test]
    fn a_content_error_converts_into_a_response() {
        for (error, status) in [
            (ContentError::WrongType("application/json"), 415),
            (BodyError::TooLarge.into(), 413),
            (ContentError::Malformed("why".into()), 400),
            (BodyError::Incomplete.into(), 400),
        ] {
            assert_eq!(Response::from(error).status(), status);
        }
    }

    #[test]
    fn a_media_type_may_have_parameters_and_a_json_suffix() {
        let json = "application/json";
        for kind in [
            "application/json",
            "Application/JSON ; charset=x",
            "application/a+json",
        ] {
            assert!(is_of_type(kind.as_bytes(), json), "{kind}");
        }
        for kind in [
            "",
            "text/json",
            "application/jsonp",
            "json",
            "application/json x",
        ] {
            assert!(!is_of_type(kind.as_bytes(), json), "{kind}");
        }
        assert!(!is_of_type(
            b"application/a+json",
            "application/x-www-form-urlencoded"
        ));
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_is_read_and_written() {
        use std::collections::BTreeMap;

        crate::run(async {
            const JSON: &str = "application/json; charset=utf-8";
            let read: Vec<u8> = request(JSON, "[1, 2]").json(6).await.unwrap();
            assert_eq!(read, [1, 2]);
            let outcome = request(JSON, "[1, 2]").json::<Vec<u8>>(5).await;
            assert_eq!(outcome, Err(ContentError::TooLarge));
            let outcome = request(JSON, "[1, 300]").json::<Vec<u8>>(100).await;
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains("line 1 column 7"), "{error}");
            let outcome = request("text/html", "1").json::<u8>(100).await;
            assert_eq!(
                outcome.unwrap_err().status(),
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            );

            let mut response = Response::json(&[Some("ä"), None]);
            let kind = response.headers().next().map(|(_, value)| value.clone());
            assert_eq!(kind.unwrap(), "application/json");
            assert_eq!(
                response.body().read(100).await.unwrap(),
                "[\"ä\",null]".as_bytes()
            );
            let keys = BTreeMap::from([((1, 2), 3)]);
            assert_eq!(
                Response::json(&keys).status(),
                StatusCode::INTERNAL_SERVER_ERROR
            );
        });
    }
}
