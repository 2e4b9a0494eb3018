//! monoio on io_uring, with `httparse`, and one write for all requests of one read: a page only.

use std::io;
use std::mem;

use monoio::io::{AsyncReadRent as _, AsyncWriteRentExt as _};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use peer_shared::{Arguments, Next, answer_all};

const RING_ENTRIES: u32 = 4096;
const RECV_BUFFER_BYTES: usize = 4096;

fn main() -> io::Result<()> {
    Arguments::from_env().run(|listener| {
        let builder = RuntimeBuilder::<IoUringDriver>::new().with_entries(RING_ENTRIES);
        builder.build()?.block_on(serve(listener))
    })
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    // The accept waits in the ring. With a nonblocking listener it would return EAGAIN at once.
    listener.set_nonblocking(false)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        monoio::spawn(async move {
            // An error of one connection, such as a reset by the client, is ignored.
            drop(converse(stream).await);
        });
    }
}

async fn converse(mut stream: TcpStream) -> io::Result<()> {
    let (mut buffer, mut output) = (Vec::with_capacity(RECV_BUFFER_BYTES), Vec::new());
    let mut input = Vec::new();
    loop {
        let (received, filled) = stream.read(buffer).await;
        buffer = filled;
        if received? == 0 {
            return Ok(());
        }
        input.extend_from_slice(&buffer);
        buffer.clear();
        let next = answer_all(&mut input, &mut output);
        if !output.is_empty() {
            let (sent, written) = stream.write_all(mem::take(&mut output)).await;
            sent?;
            output = written;
            output.clear();
        }
        if next == Next::Close {
            return Ok(());
        }
    }
}
