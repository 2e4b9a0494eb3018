//! What a simulated kernel does to those who trust it, and how often.

use super::random::Random;

/// The faults of one simulation: chances per mille, and sizes.
#[derive(Debug, Clone)]
pub struct Faults {
    /// A completion comes later than it could.
    pub delay: u16,
    /// By so much at most, in ms.
    pub delay_ms_max: u64,
    /// A receive or a send moves fewer bytes than it could.
    pub short: u16,
    /// A multishot ends, with or without data.
    pub lose_more: u16,
    /// An operation fails with an error that only ends the attempt.
    pub passing: u16,
    /// An operation fails with an error that ends the connection.
    pub fatal: u16,
    /// There is no descriptor or memory for a connection that could be accepted.
    pub exhausted: u16,
    /// A connection in the backlog is gone before it is taken from there.
    pub aborted: u16,
    /// Entering the kernel fails with EINTR, EAGAIN or EBUSY.
    pub enter: u16,
    /// Cancelling comes too late to be more than a wish (EALREADY).
    pub already: u16,
    /// Places in the submission queue.
    pub submissions: usize,
    /// Places in the completion queue.
    pub completions: usize,
    /// Provided buffers, a power of two.
    pub buffers: u16,
    /// Bytes on their way to a client, per connection.
    pub window_max: usize,
}

impl Faults {
    /// A kernel that does what one hopes for.
    pub fn none() -> Self {
        Self {
            delay: 0,
            delay_ms_max: 0,
            short: 0,
            lose_more: 0,
            passing: 0,
            fatal: 0,
            exhausted: 0,
            aborted: 0,
            enter: 0,
            already: 0,
            submissions: 512,
            completions: 8192,
            buffers: 256,
            window_max: 1 << 20,
        }
    }

    /// Some faults, others not: what always fails together hides what fails alone.
    pub fn random(random: &mut Random) -> Self {
        let mut some = |per_mille_max: usize| match random.below(2) {
            0 => 0,
            _ => u16::try_from(random.below(per_mille_max)).unwrap_or(u16::MAX),
        };
        Self {
            delay: some(700),
            delay_ms_max: 1 + u64::from(some(60)),
            short: some(500),
            lose_more: some(300),
            passing: some(80),
            fatal: some(15),
            exhausted: some(300).max(some(300) * 3),
            aborted: some(500),
            enter: some(200),
            already: some(500),
            submissions: 4 << random.below(7),
            completions: 2 << random.below(8),
            buffers: 1 << (1 + random.below(7)),
            window_max: 512 << random.below(10),
        }
    }
}

/// What accept(2) may answer that concerns one attempt only.
pub(super) const ACCEPT_PASSING: &[i32] = &[
    libc::EINTR,
    libc::EAGAIN,
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
];
/// … and of these, what it says of a connection that was gone before it could be accepted.
pub(super) const ACCEPT_GONE: &[i32] = &[libc::ECONNABORTED, libc::EPROTO];
/// … and when something is used up, or forbidden.
pub(super) const ACCEPT_EXHAUSTED: &[i32] = &[
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::EPERM,
];
/// What recv(2) and send(2) may answer without harm to the connection.
pub(super) const STREAM_PASSING: &[i32] = &[libc::EINTR, libc::EAGAIN];
/// What recv(2) answers when the connection is gone.
pub(super) const RECV_FATAL: &[i32] = &[
    libc::ECONNRESET,
    libc::ECONNREFUSED,
    libc::ETIMEDOUT,
    libc::ENOTCONN,
    libc::ENOMEM,
];
/// What send(2) and sendmsg(2) answer when the connection is gone.
pub(super) const SEND_FATAL: &[i32] = &[
    libc::ECONNRESET,
    libc::EPIPE,
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
    libc::ENOBUFS,
    libc::ENOMEM,
];
/// What recvmsg(2) and sendmsg(2) on a Unix socket answer when there is no memory. The message
/// stays where it is.
pub(super) const MESSAGE_FATAL: &[i32] = &[libc::ENOBUFS, libc::ENOMEM];
/// What connect(2) answers when the peer is not to be had.
pub(super) const CONNECT: &[i32] = &[
    libc::ECONNREFUSED,
    libc::ETIMEDOUT,
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EADDRNOTAVAIL,
];
/// What close(2) may answer; the descriptor is gone all the same.
pub(super) const CLOSE: &[i32] = &[libc::EINTR, libc::EIO, libc::ENOSPC, libc::EDQUOT];
/// What io_uring_enter(2) may answer without having waited.
pub(super) const ENTER: &[i32] = &[libc::EINTR, libc::EAGAIN, libc::EBUSY];
