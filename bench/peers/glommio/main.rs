//! glommio on io_uring, with `httparse`, and one write for all requests of one read: a page only.

use std::io;
use std::os::fd::{FromRawFd as _, IntoRawFd as _};

use futures_lite::io::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use peer_shared::{Arguments, Next, answer_all};

const RECV_BUFFER_BYTES: usize = 4096;
const RING_DEPTH: usize = 1024;

fn main() -> io::Result<()> {
    Arguments::from_env().run(|listener| {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).ring_depth(RING_DEPTH);
        let executor = builder.make().map_err(io::Error::from)?;
        executor.run(serve(listener))
    })
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    // SAFETY: `into_raw_fd` gives up ownership of the descriptor, so it has no other owner.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    loop {
        let stream = listener.accept().await.map_err(io::Error::from)?;
        glommio::spawn_local(async move {
            // An error of one connection, such as a reset by the client, is ignored.
            drop(converse(stream).await);
        })
        .detach();
    }
}

async fn converse(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; RECV_BUFFER_BYTES];
    let (mut input, mut output) = (Vec::new(), Vec::new());
    loop {
        let received = stream.read(&mut buffer).await?;
        if received == 0 {
            return Ok(());
        }
        input.extend_from_slice(&buffer[..received]);
        let next = answer_all(&mut input, &mut output);
        if !output.is_empty() {
            stream.write_all(&output).await?;
            output.clear();
        }
        if next == Next::Close {
            return stream.close().await;
        }
    }
}
