//! actix-web with its own workers: a page and an echo.

use std::io;

use actix_web::body::SizedStream;
use actix_web::http::KeepAlive;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap};
use actix_web::web::{self, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use peer_shared::{Arguments, PAGE, PAGE_TYPE};

#[actix_web::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::from_env();
    let app = || {
        App::new()
            .route("/", web::get().to(page))
            .route("/echo", web::post().to(echo))
    };
    // Keep idle connections open, as the other peers do.
    HttpServer::new(app)
        .workers(arguments.workers)
        .keep_alive(KeepAlive::Os)
        .listen(arguments.listen()?)?
        .run()
        .await
}

async fn page() -> HttpResponse {
    HttpResponse::Ok().content_type(PAGE_TYPE).body(PAGE)
}

async fn echo(request: HttpRequest, payload: Payload) -> HttpResponse {
    match length(request.headers()) {
        Some(length) => HttpResponse::Ok().body(SizedStream::new(length, payload)),
        None => HttpResponse::Ok().streaming(payload),
    }
}

fn length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
