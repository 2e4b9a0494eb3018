//! The traits of readers and writers of other crates, for streams and their halves: those of the
//! crate futures-io (feature `futures-io`), and those of tokio (feature `tokio-io`).
//!
//! These traits lend their buffers only while they are polled. So received bytes are copied out of
//! the kernel's choice of memory, and bytes to be sent into memory that the operation owns.

use std::io;
use std::ops::DerefMut;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::duplex::{Duplex, ReadHalf, WriteHalf};
use super::tcp::TcpStream;
use super::unix::UnixStream;

/// What the implementations need of a stream or a half.
trait OfDuplex {
    fn duplex(&mut self) -> impl DerefMut<Target = Duplex>;
}

impl OfDuplex for TcpStream {
    fn duplex(&mut self) -> impl DerefMut<Target = Duplex> {
        &mut self.0
    }
}

impl OfDuplex for UnixStream {
    fn duplex(&mut self) -> impl DerefMut<Target = Duplex> {
        &mut self.0
    }
}

impl OfDuplex for ReadHalf {
    fn duplex(&mut self) -> impl DerefMut<Target = Duplex> {
        self.0.borrow_mut()
    }
}

impl OfDuplex for WriteHalf {
    fn duplex(&mut self) -> impl DerefMut<Target = Duplex> {
        self.0.borrow_mut()
    }
}

macro_rules! reads {
    ($($stream:ty),+) => {$(
        #[cfg(feature = "futures-io")]
        impl futures_io::AsyncRead for $stream {
            fn poll_read(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                target: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.duplex().poll_read_into(context, target.len(), |bytes| {
                    target[..bytes.len()].copy_from_slice(bytes);
                })
            }
        }

        #[cfg(feature = "tokio-io")]
        impl tokio::io::AsyncRead for $stream {
            fn poll_read(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                target: &mut tokio::io::ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let len_max = target.remaining();
                let put = |bytes: &[u8]| target.put_slice(bytes);
                self.duplex().poll_read_into(context, len_max, put).map_ok(drop)
            }
        }
    )+};
}

/// The two traits of writers differ in the name of the last method.
macro_rules! writes {
    ($writer:path, $close:ident: $($stream:ty),+) => {$(
        /// Flush or close the writer before it is dropped. Unlike a write to a socket of tokio,
        /// this one is ready when the send has begun, and the kernel may take the bytes later. The
        /// bytes that it has not taken by the drop are lost, and the connection is reset.
        impl $writer for $stream {
            fn poll_write(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.duplex().poll_write(context, bytes)
            }

            fn poll_flush(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                self.duplex().poll_flush(context)
            }

            fn $close(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                self.duplex().poll_close(context)
            }
        }
    )+};
}

reads!(TcpStream, UnixStream, ReadHalf);
#[cfg(feature = "futures-io")]
writes!(futures_io::AsyncWrite, poll_close: TcpStream, UnixStream, WriteHalf);
#[cfg(feature = "tokio-io")]
writes!(tokio::io::AsyncWrite, poll_shutdown: TcpStream, UnixStream, WriteHalf);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::on_each;
    use crate::task::spawn;

    #[cfg(all(feature = "tokio", feature = "tokio-io"))]
    #[test]
    fn streams_and_halves_have_the_traits_of_tokio() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};

        use crate::net::TcpListener;

        on_each(async || {
            let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
            let mut client = TcpStream::connect(listener.local_addr()).await?;
            let (mut reader, mut writer) = listener.accept().await?.split();
            let echo = spawn(async move {
                let len = copy(&mut reader, &mut writer).await?;
                writer.shutdown().await?;
                io::Result::Ok(len)
            });
            let sent: Vec<_> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
            AsyncWriteExt::write_all(&mut client, &sent).await?;
            client.shutdown().await?;
            assert_eq!(AsyncReadExt::read(&mut client, &mut []).await?, 0);
            let mut received = Vec::new();
            client.read_to_end(&mut received).await?;
            assert!(received == sent);
            assert_eq!(echo.await.expect("no panic")?, 800_000);
            Ok(())
        });
    }

    #[cfg(feature = "futures-io")]
    #[test]
    fn streams_and_halves_have_the_traits_of_futures_io() {
        use std::future::poll_fn;

        use futures_io::{AsyncRead, AsyncWrite};

        use crate::net::UnixListener;

        on_each(async || {
            let name = format!("coring-io-traits-{}.sock", std::process::id());
            let mut listener = UnixListener::bind(std::env::temp_dir().join(name))?;
            let mut client = UnixStream::connect(listener.path()).await?;
            let (mut reader, mut writer) = listener.accept().await?.split();
            let echo = spawn(async move {
                let mut bytes = [0; 3];
                loop {
                    let read = poll_fn(|context| {
                        AsyncRead::poll_read(Pin::new(&mut reader), context, &mut bytes)
                    });
                    let len = read.await?;
                    if len == 0 {
                        break;
                    }
                    let write = poll_fn(|context| {
                        AsyncWrite::poll_write(Pin::new(&mut writer), context, &bytes[..len])
                    });
                    assert_eq!(write.await?, len);
                }
                poll_fn(|context| Pin::new(&mut writer).poll_close(context)).await
            });
            let write = poll_fn(|context| {
                AsyncWrite::poll_write(Pin::new(&mut client), context, b"hello world")
            });
            assert_eq!(write.await?, 11);
            poll_fn(|context| AsyncWrite::poll_flush(Pin::new(&mut client), context)).await?;
            assert_eq!(&*client.read_exact(11).await?, b"hello world");
            poll_fn(|context| Pin::new(&mut client).poll_close(context)).await?;
            assert!(client.read().await?.is_none());
            echo.await.expect("no panic")
        });
    }
}
