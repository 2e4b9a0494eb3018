//! Reads of a whole piece: a number of bytes, or the bytes up to a delimiter. Bytes of an
//! incomplete piece stay in the receive buffer, so a read that is dropped loses none.

use std::io;
use std::task::{Context, Poll, ready};

use super::transport::{RecvOutcome, Transport};
use crate::buf::Part;

/// Receives more bytes. Returns false after the peer's FIN.
pub(super) fn poll_more(
    transport: &mut Transport,
    context: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    Poll::Ready(Ok(match ready!(transport.poll_recv(context))? {
        RecvOutcome::Bytes(_) => true,
        RecvOutcome::Fin => false,
        RecvOutcome::Overdue => unreachable!("this transport has no deadlines"),
    }))
}

fn take(transport: &mut Transport, len: usize) -> Part {
    let mut part = Part::Static(b"");
    if len > 0 {
        transport.recv_buf.take(len, &mut part);
    }
    part
}

/// The next `len` bytes.
pub(super) fn poll_exact(
    transport: &mut Transport,
    len: usize,
    context: &mut Context<'_>,
) -> Poll<io::Result<Part>> {
    while transport.recv_buf.unread().len() < len {
        if !ready!(poll_more(transport, context))? {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Poll::Ready(Ok(take(transport, len)))
}

/// The bytes up to and including the next `delimiter`, or the rest before a FIN; `None` if there is
/// no rest. `scanned` is the number of unread bytes that earlier polls have searched.
pub(super) fn poll_until(
    transport: &mut Transport,
    delimiter: u8,
    bytes_max: usize,
    scanned: &mut usize,
    context: &mut Context<'_>,
) -> Poll<io::Result<Option<Part>>> {
    loop {
        let unread = transport.recv_buf.unread();
        let window = &unread[..unread.len().min(bytes_max)];
        let found = window[*scanned..]
            .iter()
            .position(|&byte| byte == delimiter);
        if let Some(at) = found {
            return Poll::Ready(Ok(Some(take(transport, *scanned + at + 1))));
        }
        if unread.len() >= bytes_max {
            let message = format!("no delimiter within {bytes_max} bytes");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, message)));
        }
        *scanned = window.len();
        if !ready!(poll_more(transport, context))? {
            let len = transport.recv_buf.unread().len();
            return Poll::Ready(Ok((len > 0).then(|| take(transport, len))));
        }
    }
}

/// A line as text, without its LF or CR LF.
pub(super) fn line(bytes: &[u8]) -> io::Result<String> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = str::from_utf8(line);
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "a line is not UTF-8");
    text.map(str::to_owned).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use super::*;
    use crate::net::TcpStream;
    use crate::net::tests::on_each;
    use crate::time::timeout;

    const SHORT_WAIT: Duration = Duration::from_millis(30);

    async fn pair() -> io::Result<(TcpStream, std::net::TcpStream)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let (peer, _) = listener.accept()?;
        peer.set_nodelay(true)?;
        Ok((stream, peer))
    }

    #[test]
    fn an_exact_read_waits_for_all_its_bytes_and_loses_none_when_dropped() {
        on_each(async || {
            let (mut stream, mut peer) = pair().await?;
            assert!(stream.read_exact(0).await?.is_empty());
            peer.write_all(b"abc")?;
            assert!(timeout(SHORT_WAIT, stream.read_exact(5)).await.is_err());
            peer.write_all(b"defgh")?;
            assert_eq!(&*stream.read_exact(5).await?, b"abcde");
            assert_eq!(&*stream.read_exact(2).await?, b"fg");
            let (mut reader, _writer) = stream.split();
            let large = vec![b'x'; 300_000];
            let copy = large.clone();
            let thread = std::thread::spawn(move || peer.write_all(&copy).map(|()| peer));
            assert_eq!(&*reader.read_exact(1).await?, b"h");
            assert!(*reader.read_exact(large.len()).await? == *large);
            let mut peer = thread.join().expect("no panic")?;
            peer.write_all(b"end")?;
            drop(peer);
            let error = reader.read_exact(4).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(&*reader.read().await?.expect("the rest"), b"end");
            Ok(())
        });
    }

    #[test]
    fn lines_end_in_lf_or_the_fin_and_have_a_limit() {
        on_each(async || {
            let (mut stream, mut peer) = pair().await?;
            peer.write_all(b"one\r\ntwo\n\nthr")?;
            assert_eq!(stream.read_line(5).await?.as_deref(), Some("one"));
            assert_eq!(stream.read_line(5).await?.as_deref(), Some("two"));
            assert_eq!(stream.read_line(5).await?.as_deref(), Some(""));
            assert!(timeout(SHORT_WAIT, stream.read_line(6)).await.is_err());
            peer.write_all(b"ee\nfourteen bytes\n")?;
            assert_eq!(stream.read_line(6).await?.as_deref(), Some("three"));
            let error = stream.read_line(14).await.unwrap_err();
            assert_eq!(error.to_string(), "no delimiter within 14 bytes");
            // The bytes are still there, for a reader with a larger limit.
            assert_eq!(
                stream.read_line(15).await?.as_deref(),
                Some("fourteen bytes")
            );
            peer.write_all(b"a,b,\xff\nlast")?;
            let part = stream.read_until(b',', 10).await?;
            assert_eq!(part.as_deref(), Some(&b"a,"[..]));
            assert_eq!(&*stream.read_exact(2).await?, b"b,");
            assert_eq!(
                stream.read_line(10).await.unwrap_err().to_string(),
                "a line is not UTF-8"
            );
            drop(peer);
            assert_eq!(stream.read_line(10).await?.as_deref(), Some("last"));
            assert_eq!(stream.read_line(10).await?, None);
            Ok(())
        });
    }

    #[test]
    fn a_line_is_found_wherever_it_is_split() {
        on_each(async || {
            let text = b"GET / HTTP/1.1\r\n";
            for split in 0..text.len() {
                let (mut stream, mut peer) = pair().await?;
                peer.write_all(&text[..split])?;
                let mut line = std::pin::pin!(stream.read_line(16));
                let early = timeout(Duration::from_millis(2), line.as_mut()).await;
                assert!(early.is_err(), "{split}");
                peer.write_all(&text[split..])?;
                assert_eq!(line.await?.as_deref(), Some("GET / HTTP/1.1"));
            }
            Ok(())
        });
    }

    #[test]
    fn parts_are_written_in_order() {
        on_each(async || {
            let (mut stream, peer) = pair().await?;
            let parts = [
                Part::from("head "),
                vec![b'x'; 100_000].into(),
                " end".into(),
            ];
            stream.write_all_vectored(parts).await?;
            stream.shutdown_write();
            let received = crate::task::blocking(move || io::read_to_string(peer)).await??;
            assert!(received.starts_with("head xx") && received.ends_with("xx end"));
            assert_eq!(received.len(), 100_009);
            Ok(())
        });
    }
}
