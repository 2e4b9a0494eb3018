//! coring on glommio: a worker of coring's runs in a task of glommio's executor, so that handlers
//! await glommio's files, which bypass the page cache, and its timers.
//!
//! ```text
//! cargo run --features glommio --example in_glommio -- 127.0.0.1:8000
//! curl http://127.0.0.1:8000/sleep             sleeps on glommio's timer
//! curl http://127.0.0.1:8000/file/README.md    reads with direct I/O
//! ```

#![allow(clippy::print_stdout, reason = "prints the address")]

use std::time::Duration;

use coring::{EngineChoice, Request, Response, Server};
use glommio::LocalExecutor;
use glommio::io::DmaFile;

fn main() -> coring::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    LocalExecutor::default().run(serve(&address))
}

async fn serve(address: &str) -> coring::Result<()> {
    let builder = Server::builder().bind(address).engine(EngineChoice::Uring);
    let (handle, guest) = builder.attach(|| answer)?;
    println!("listening on {}", handle.addresses()[0]);
    coring::glommio::drive(guest)
        .await
        .expect("the engine works");
    handle.wait()
}

async fn answer(request: Request) -> Response {
    match request.path() {
        "/" => Response::html("<b>hello world</b>"),
        "/sleep" => {
            glommio::timer::sleep(Duration::from_millis(5)).await;
            Response::text("slept in glommio\n")
        }
        path => match path.strip_prefix("/file/") {
            // A file of the working directory: no other path.
            Some(name) if !name.contains(['/', '%']) => match read(name).await {
                Ok(content) => Response::text(content),
                Err(error) => Response::not_found(format!("<p>{error}</p>")),
            },
            _ => Response::not_found("<h1>Not Found</h1>"),
        },
    }
}

/// The first 4 KiB of a file, by direct I/O.
async fn read(name: &str) -> Result<Vec<u8>, glommio::GlommioError<()>> {
    let file = DmaFile::open(name).await?;
    let content = file.read_at(0, 4096).await?.to_vec();
    file.close().await?;
    Ok(content)
}
