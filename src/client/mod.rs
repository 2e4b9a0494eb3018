//! An HTTP/1.1 client for coroutines, over the same engine as the server.
//!
//! ```
//! use coring::client::{Client, Request};
//! # use coring::net::TcpListener;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! coring::run(async {
//! #   let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
//! #   let address = listener.local_addr();
//! #   coring::spawn(async move {
//! #       let mut stream = listener.accept().await?;
//! #       for _ in 0..2 {
//! #           while stream.read_line(1000).await?.is_some_and(|line| !line.is_empty()) {}
//! #           stream.write_all("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await?;
//! #       }
//! #       std::io::Result::Ok(())
//! #   });
//!     let client = Client::new();
//!     let response = client.get(&format!("http://{address}/")).await?;
//!     assert_eq!(response.status(), 200);
//!     let content = response.into_body().read(1 << 20).await?; // at most 1 MiB
//!     assert_eq!(content, b"hello");
//!
//!     let request = Request::put(format!("http://{address}/a"))
//!         .header("content-type", "text/plain")
//!         .body("")?;
//!     let response = client.send(request).await?; // on the same connection
//!     assert!(response.status().is_success());
//!     Ok(())
//! })
//! # }
//! ```
//!
//! A client belongs to one worker; its clones share the connections that it keeps. A server makes
//! one for each worker, in the factory of its service.
//!
//! What a program may rely on:
//!
//! - **Connections** are kept open after a complete exchange and used again, within [`Limits`].
//! - **Cancelling** closes: if the future of a request or the body of its response is dropped, its
//!   connection is reset and not used again. Bytes of two exchanges cannot mix, and the server can
//!   stop working on the request.
//! - **A retry** is made once, on a new connection, if a kept connection ends before any byte of
//!   the response, the method is idempotent and the body is in memory (RFC 9110 §9.2.2). A server
//!   may close a kept connection at any time.
//! - **Bodies** stream in both directions: any [`Body`] can be sent, and that of a response is
//!   received only as it is read. A response may come before the request is sent; the rest of the
//!   request is sent while the response is read, and not after its end.
//! - **Redirects** are responses like others. Interim responses (1xx) are skipped; a request with
//!   `Expect: 100-continue` waits for one before it sends its body.
//! - **Framing** is checked as strictly as the server checks it. A response whose end is in doubt
//!   is an error.
//!
//! There is no TLS yet, so only URLs with `http://` work. There is no proxy and no cookie store.

mod connection;
mod error;
mod exchange;
mod limits;
mod pool;
mod request;

#[doc(no_inline)]
pub use ::http::{Request, Response};
pub use error::{Error, Phase};
pub use limits::Limits;

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use self::connection::Connection;
use self::exchange::{Exchange, ReceivedBody};
use self::limits::Bounds;
use self::pool::Pool;
use self::request::{Origin, Outgoing};
use crate::net::connect_tcp;
use crate::rt::peer_now_ms;
use crate::service::Body;
use crate::task::time::timeout;

/// Sends requests and keeps connections for further ones; see the [module](self). Cloning it is
/// cheap, and the clones share the connections.
#[derive(Debug, Clone, Default)]
pub struct Client(Rc<Shared>);

/// What the clones of a client and its exchanges share.
#[derive(Debug, Default)]
struct Shared {
    bounds: Bounds,
    pool: Pool,
}

impl Client {
    /// A client with the default [`Limits`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A client with other limits.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use coring::client::{Client, Limits};
    ///
    /// let mut limits = Limits::default();
    /// limits.total_timeout = Some(Duration::from_secs(5));
    /// let client = Client::with_limits(limits)?;
    /// # Ok::<(), coring::client::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidLimits`] if no request could succeed within them.
    pub fn with_limits(limits: Limits) -> Result<Self, Error> {
        Ok(Self(Rc::new(Shared {
            bounds: limits.bounds()?,
            pool: Pool::default(),
        })))
    }

    /// Sends a GET request. As [`Client::send`].
    ///
    /// # Errors
    /// Those of [`Client::send`].
    pub async fn get(&self, url: &str) -> Result<Response<Body>, Error> {
        let request = Request::get(url).body(Body::empty());
        self.send(request.map_err(Error::of_request)?).await
    }

    /// Sends a POST request with `body`. As [`Client::send`].
    ///
    /// ```no_run
    /// use coring::client::{Client, Error};
    ///
    /// async fn notify(client: &Client, text: String) -> Result<(), Error> {
    ///     let response = client.post("http://127.0.0.1:8000/say", text).await?;
    ///     println!("{}", response.status());
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`Client::send`].
    pub async fn post(&self, url: &str, body: impl Into<Body>) -> Result<Response<Body>, Error> {
        let request = Request::post(url).body(body);
        self.send(request.map_err(Error::of_request)?).await
    }

    /// Sends a request with an absolute URL, and waits for the head of its response.
    ///
    /// The client writes Host (unless the request has one), the fields that frame the body, and
    /// Connection; the request's own fields about these are left out. `Connection: close` closes
    /// the connection after the response.
    ///
    /// The response's body ends with [`BodyError::Incomplete`](crate::BodyError::Incomplete) if the
    /// server closes the connection early, is too slow, or violates the protocol or a limit. The
    /// connection can be used again once the body was read to its end.
    ///
    /// If the future is dropped, the connection is reset. The server may have received the request,
    /// and may act on it.
    ///
    /// A proxy needs little more:
    ///
    /// ```no_run
    /// use coring::client::Client;
    /// use coring::{Request, Response, StatusCode};
    ///
    /// async fn forward(request: Request, client: &Client) -> Response {
    ///     let mut request = request.into_http();
    ///     let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    ///     let Ok(url) = format!("http://127.0.0.1:8001{target}").parse() else {
    ///         return Response::new(StatusCode::BAD_REQUEST);
    ///     };
    ///     *request.uri_mut() = url;
    ///     match client.send(request).await {
    ///         Ok(response) => Response::from_http(response),
    ///         Err(_) => Response::new(StatusCode::BAD_GATEWAY),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn send(&self, request: Request<impl Into<Body>>) -> Result<Response<Body>, Error> {
        let total_ms = self.0.bounds.total_deadline_ms();
        let mut outgoing = Outgoing::new(request)?;
        let kept = poll_fn(|context| self.0.pool.poll_take(outgoing.origin(), context)).await;
        let is_kept = kept.is_some();
        let connection = match kept {
            Some(connection) => connection,
            None => self.connect(outgoing.origin(), total_ms).await?,
        };
        let again = if is_kept { outgoing.again() } else { None };
        match self.exchange(connection, outgoing, total_ms).await {
            Err((_, true)) if let Some(again) = again => {
                let connection = self.connect(again.origin(), total_ms).await?;
                let outcome = self.exchange(connection, again, total_ms).await;
                outcome.map_err(|(error, _)| error)
            }
            outcome => outcome.map_err(|(error, _)| error),
        }
    }

    /// Sends a request on `connection` and waits for the head of the response. Besides an error,
    /// returns whether the connection has ended before any byte of a response.
    async fn exchange(
        &self,
        connection: Connection,
        outgoing: Outgoing,
        total_ms: u64,
    ) -> Result<Response<Body>, (Error, bool)> {
        let mut exchange = Exchange::begin(self.0.clone(), connection, outgoing, total_ms)
            .map_err(|error| (error, false))?;
        match poll_fn(|context| exchange.poll_head(context)).await {
            Ok(head) => Ok(head.map(|()| ReceivedBody::of(exchange))),
            Err(error) => Err((error, exchange.may_repeat())),
        }
    }

    /// Opens a connection.
    async fn connect(&self, origin: &Origin, total_ms: u64) -> Result<Connection, Error> {
        let left = Duration::from_millis(total_ms.saturating_sub(peer_now_ms()));
        let limit = self.0.bounds.connect_timeout;
        let connect = connect_tcp((origin.host(), origin.port()));
        match timeout(left.min(limit), connect).await {
            Ok(Ok(stream)) => Ok(Connection::new(stream, &self.0.bounds)),
            Ok(Err(error)) => Err(Error::Connect(origin.to_string(), error)),
            Err(_) if left <= limit => Err(Error::Timeout(Phase::Total)),
            Err(_) => Err(Error::Timeout(Phase::Connect)),
        }
    }
}

#[cfg(test)]
mod tests;
