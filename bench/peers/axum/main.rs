//! axum with its own `serve`, and a runtime for each worker.

use std::io;

use peer_shared::Arguments;
use tokio::net::TcpListener;
use tokio::runtime;

fn main() -> io::Result<()> {
    Arguments::from_env().run(|listener| {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            axum::serve(TcpListener::from_std(listener)?, peer_axum::app()).await
        })
    })
}
