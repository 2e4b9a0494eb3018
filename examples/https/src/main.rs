//! An HTTPS client made of others' parts: hyper's HTTP/1.1 and HTTP/2, over rustls, over a socket
//! of coring. In this directory:
//!
//! ```text
//! cargo run --release -- www.rust-lang.org /
//! ```
//!
//! These parts know nothing of io_uring. They use the traits that coring's streams have with the
//! feature `tokio-io`, and need no runtime of tokio.

use std::error::Error;
use std::sync::Arc;

use coring::net::TcpStream;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The certificates that Linux distributions trust.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let host = arguments
        .next()
        .unwrap_or_else(|| "www.rust-lang.org".to_owned());
    let path = arguments.next().unwrap_or_else(|| "/".to_owned());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(ROOTS)?.flatten());
    coring::run(async move {
        let stream = connect(&host, 443, roots, &[b"h2", b"http/1.1"]).await?;
        let response = get(stream, &host, &path).await?;
        println!("{:?} {}", response.version(), response.status());
        let body = response.into_body().collect().await?.to_bytes();
        println!("{}", String::from_utf8_lossy(&body));
        Ok(())
    })
}

/// Connects to a host, and proposes these protocols.
async fn connect(
    host: &str,
    port: u16,
    roots: RootCertStore,
    protocols: &[&[u8]],
) -> Result<TlsStream<TcpStream>> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect((host, port)).await?;
    let name = ServerName::try_from(host.to_owned())?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?)
}

/// Asks for a page in the protocol that the server has chosen.
async fn get(stream: TlsStream<TcpStream>, host: &str, path: &str) -> Result<Response<Incoming>> {
    let request = Request::get(format!("https://{host}{path}")).header("host", host);
    let request = request.body(Empty::<Bytes>::new())?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    if is_http2 {
        let (mut sender, connection) = http2::handshake(OnThisWorker, stream).await?;
        coring::spawn(connection);
        Ok(sender.send_request(request).await?)
    } else {
        let (mut sender, connection) = http1::handshake(stream).await?;
        coring::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

/// Runs what hyper starts as coroutines of the worker.
#[derive(Clone)]
struct OnThisWorker;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisWorker {
    fn execute(&self, future: F) {
        coring::spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use coring::net::TcpListener;
    use http_body_util::Full;
    use hyper::Version;
    use hyper::server;
    use hyper::service::service_fn;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::*;

    /// Larger than a send, a receive and the windows of HTTP/2.
    const CONTENT: &[u8] = &[b'x'; 1 << 20];

    /// Serves one connection by hyper, over rustls.
    async fn serve(mut listener: TcpListener, mut config: ServerConfig) -> Result<()> {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = listener.accept().await?;
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = TokioIo::new(stream);
        let service = service_fn(async |request: Request<Incoming>| {
            assert_eq!(request.uri().path(), "/page");
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(CONTENT))))
        });
        if is_http2 {
            let http2 = server::conn::http2::Builder::new(OnThisWorker);
            http2.serve_connection(stream, service).await?;
        } else {
            let http1 = server::conn::http1::Builder::new();
            http1.serve_connection(stream, service).await?;
        }
        Ok(())
    }

    fn ask_by(protocol: &'static [u8], version: Version) {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let certified = certified.expect("a certificate");
        let certificate = certified.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a valid certificate");
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))
            .expect("a valid key");
        coring::run(async move {
            let listener = TcpListener::bind(([127, 0, 0, 1], 0)).expect("a port");
            let port = listener.local_addr().port();
            let serving = coring::spawn(async { serve(listener, config).await.map_err(drop) });
            let stream = connect("localhost", port, roots, &[protocol]).await;
            let response = get(stream.expect("a connection"), "localhost", "/page").await;
            let response = response.expect("a response");
            assert_eq!(
                (response.version(), response.status().as_u16()),
                (version, 200)
            );
            let body = response.into_body().collect().await.expect("a body");
            assert!(body.to_bytes() == CONTENT);
            drop(serving);
        });
    }

    #[test]
    fn hyper_asks_and_serves_by_http_1_over_rustls() {
        ask_by(b"http/1.1", Version::HTTP_11);
    }

    #[test]
    fn hyper_asks_and_serves_by_http_2_over_rustls() {
        ask_by(b"h2", Version::HTTP_2);
    }
}
