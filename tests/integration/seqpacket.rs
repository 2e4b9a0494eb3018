//! Messages between processes, in a process that has no descriptor left.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use coring::EngineChoice;
use coring::net::UnixSeqpacket;
use coring::time::timeout;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::support::is_alone;

/// The error of a process that may open no more descriptors.
const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();

/// Takes all descriptors that this process may still open.
fn take_all_descriptors() -> Vec<File> {
    let limit = Rlimit {
        current: Some(64),
        ..rustix::process::getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).expect("a lower limit");
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// Sends messages of 1000 bytes until one fails.
async fn send_until_error(near: &mut UnixSeqpacket) -> io::Error {
    loop {
        let send = near.send(vec![b'x'; 1000], Vec::new());
        let sent = timeout(Duration::from_secs(10), send).await;
        if let Err(error) = sent.expect("an outcome") {
            return error;
        }
    }
}

/// The lengths of the messages that have arrived.
fn received_lengths(far: &mut UnixSeqpacket) -> Vec<usize> {
    let next = || far.try_recv(Vec::with_capacity(2000)).ok().flatten();
    std::iter::from_fn(next)
        .map(|message| message.bytes.len())
        .collect()
}

fn run_on_epoll<F: Future<Output = io::Result<()>> + 'static>(coroutine: F) {
    let outcome = coring::run_with(EngineChoice::Epoll, coroutine);
    outcome.expect("an engine").expect("no error");
}

fn ends() -> io::Result<(UnixSeqpacket, UnixSeqpacket)> {
    let (near, far): (_, OwnedFd) = UnixSeqpacket::pair()?;
    Ok((near, UnixSeqpacket::new(far)?))
}

/// On epoll a send that has to wait needs a descriptor, to be told when the socket has room.
#[test]
fn a_message_that_could_not_wait_for_room_is_not_sent() {
    if !is_alone("seqpacket::a_message_that_could_not_wait_for_room_is_not_sent") {
        return;
    }
    run_on_epoll(async {
        let (mut near, mut far) = ends()?;
        let files = take_all_descriptors();
        for _ in 0..2 {
            let error = send_until_error(&mut near).await;
            assert_eq!(error.raw_os_error(), Some(EMFILE), "{error}");
        }
        assert!(!received_lengths(&mut far).is_empty());
        // There is room now, so this send need not wait.
        near.send("first", Vec::new()).await?;
        drop(files);
        near.send("second", Vec::new()).await?;
        assert_eq!(received_lengths(&mut far), [5, 6]);
        Ok(())
    });
}

/// The same for a receive.
#[test]
fn after_a_receive_that_could_not_wait_the_next_one_receives() {
    if !is_alone("seqpacket::after_a_receive_that_could_not_wait_the_next_one_receives") {
        return;
    }
    run_on_epoll(async {
        let (mut near, mut far) = ends()?;
        let files = take_all_descriptors();
        for _ in 0..2 {
            let error = far.recv(Vec::with_capacity(1)).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(EMFILE), "{error}");
        }
        near.send("first", Vec::new()).await?;
        assert_eq!(received_lengths(&mut far), [5]);
        near.send("second", Vec::new()).await?;
        let message = far.recv(Vec::with_capacity(10)).await?;
        assert_eq!(message.expect("a message").bytes, b"second");
        drop(files);
        Ok(())
    });
}
