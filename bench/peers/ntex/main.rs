//! ntex on io_uring (its own runtime, `neon`), with its own workers: a page and an echo.

use std::error::Error;
use std::io;
use std::rc::Rc;

use futures_lite::StreamExt as _;
use ntex::SharedCfg;
use ntex::http::body::SizedStream;
use ntex::http::header::{CONTENT_LENGTH, HeaderMap};
use ntex::http::{HttpServiceConfig, KeepAlive};
use ntex::web::types::Payload;
use ntex::web::{self, App, HttpRequest, HttpResponse, HttpServer};
use peer_shared::{Arguments, PAGE, PAGE_TYPE};

#[ntex::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::from_env();
    // Keep idle connections open, as the other peers do.
    let http = HttpServiceConfig::new().set_keepalive(KeepAlive::Os);
    let app = async || {
        App::new()
            .route("/", web::get().to(page))
            .route("/echo", web::post().to(echo))
    };
    HttpServer::new(app)
        .workers(arguments.workers)
        .config(SharedCfg::new("peer").add(http))
        .listen(arguments.listen()?)?
        .run()
        .await
}

async fn page() -> HttpResponse {
    HttpResponse::Ok().content_type(PAGE_TYPE).body(PAGE)
}

async fn echo(request: HttpRequest, payload: Payload) -> HttpResponse {
    match length(request.headers()) {
        Some(length) => {
            let parts = payload.map(|part| part.map_err(|error| Rc::new(error) as Rc<dyn Error>));
            HttpResponse::Ok().body(SizedStream::new(length, parts))
        }
        None => HttpResponse::Ok().streaming(payload),
    }
}

fn length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
