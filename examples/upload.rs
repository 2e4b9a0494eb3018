//! Streams the body of a PUT to disk and answers with its SHA-256: `cargo run --release --example
//! upload -- 127.0.0.1:8000 /tmp/uploads`, then `curl -T FILE http://127.0.0.1:8000/`.
//!
//! Disk accesses and the computation of the digest run on the worker's blocking threads. The
//! coroutine takes the next part of the body when it has written the last one, so a slow disk slows
//! down the client, and memory stays bounded.

#![allow(clippy::print_stdout, reason = "prints the address")]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coring::task::blocking;
use coring::{
    Body, HeaderName, HeaderValue, Limits, Method, Request, Response, Server, StatusCode,
};
use sha2::{Digest, Sha256};

/// The number of bytes that one write collects.
const BATCH_BYTES: usize = 256 << 10;

/// A file that is being written, and the digest of its content. Until it is complete its path is
/// `part`. If the upload is dropped before that, the file is removed.
struct Upload {
    part: PathBuf,
    file: File,
    digest: Sha256,
}

impl Upload {
    fn create(part: PathBuf) -> io::Result<Self> {
        Ok(Self {
            file: File::create(&part)?,
            digest: Sha256::new(),
            part,
        })
    }

    /// Appends a batch, on a blocking thread.
    async fn append(mut self, batch: Vec<u8>) -> io::Result<Self> {
        blocking(move || {
            self.file.write_all(&batch)?;
            self.digest.update(&batch);
            Ok(self)
        })
        .await?
    }

    /// Renames the file to its digest, which is returned.
    fn finish(mut self, directory: &Path) -> io::Result<String> {
        let digest = std::mem::take(&mut self.digest).finalize();
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::rename(&self.part, directory.join(&name))?;
        Ok(name)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // After `finish` there is no file at this path.
        let _ = std::fs::remove_file(&self.part);
    }
}

/// Saves a body in a file that is named after its digest. Returns the digest.
async fn save(body: &mut Body, directory: PathBuf, part: PathBuf) -> io::Result<String> {
    let mut upload = blocking(move || Upload::create(part)).await??;
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    while let Some(part) = body.part().await.map_err(io::Error::other)? {
        batch.extend_from_slice(&part);
        if batch.len() >= BATCH_BYTES {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_BYTES));
            upload = upload.append(full).await?;
        }
    }
    let upload = upload.append(batch).await?;
    blocking(move || upload.finish(&directory)).await?
}

async fn respond(mut request: Request, directory: PathBuf, number: u64) -> Response {
    if request.method() != Method::PUT {
        return Response::text("send it with PUT\n")
            .with_status(StatusCode::METHOD_NOT_ALLOWED)
            .with_header(
                HeaderName::from_static("allow"),
                HeaderValue::from_static("PUT"),
            );
    }
    let part = format!(".{}-{number}.part", std::process::id());
    let part = directory.join(part);
    match save(request.body(), directory, part).await {
        Ok(digest) => Response::text(format!("{digest}\n")).with_status(StatusCode::CREATED),
        Err(error) => {
            Response::text(format!("{error}\n")).with_status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

fn main() -> coring::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next();
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    // All workers share the counter, so that no two uploads have the same `part`.
    let count = Arc::new(AtomicU64::new(1));
    let mut limits = Limits::default();
    limits.body_bytes_max = None;
    let server = Server::builder()
        .bind(address.unwrap_or_else(|| "127.0.0.1:8000".to_owned()))
        .limits(limits)
        .start(move || {
            let (directory, count) = (directory.clone(), count.clone());
            move |request: Request| {
                let number = count.fetch_add(1, Ordering::Relaxed);
                respond(request, directory.clone(), number)
            }
        })?;
    println!("http://{}/", server.addresses()[0]);
    server.wait()
}
