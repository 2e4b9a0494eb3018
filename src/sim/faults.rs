//! The faults of a simulated kernel, and how often they occur.

use super::random::Random;

/// The faults of one simulation. Those of type `u16` are probabilities per mille, except `buffers`.
#[derive(Debug, Clone)]
pub struct Faults {
    /// A completion is delayed.
    pub delay: u16,
    /// The longest such delay, in ms.
    pub delay_ms_max: u64,
    /// A receive or a send moves fewer bytes than it could.
    pub short: u16,
    /// A multishot ends with a completion, with or without data.
    pub lose_more: u16,
    /// An operation fails with a transient error, after which it can be repeated.
    pub transient: u16,
    /// An operation fails with an error that ends the connection.
    pub fatal: u16,
    /// No descriptor or memory is left for an accepted connection or for received descriptors.
    pub exhausted: u16,
    /// A connection in the backlog is aborted before it is accepted.
    pub aborted: u16,
    /// Entering the kernel fails with EINTR, EAGAIN or EBUSY.
    pub enter: u16,
    /// A cancellation finds its target already running (EALREADY).
    pub already: u16,
    /// The size of the submission queue.
    pub submissions: usize,
    /// The size of the completion queue.
    pub completions: usize,
    /// The number of provided buffers, a power of two.
    pub buffers: u16,
    /// The maximum bytes in flight to one client.
    pub window_max: usize,
}

impl Faults {
    /// No faults.
    pub fn none() -> Self {
        Self {
            delay: 0,
            delay_ms_max: 0,
            short: 0,
            lose_more: 0,
            transient: 0,
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

    /// A random subset of the faults: faults that always occur together could hide each other's
    /// effects.
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
            transient: some(80),
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

/// Errors of accept(2) that concern only one attempt.
pub(super) const ACCEPT_TRANSIENT: &[i32] = &[
    libc::EINTR,
    libc::EAGAIN,
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
];
/// Those of them that report a connection which was aborted before it was accepted.
pub(super) const ACCEPT_GONE: &[i32] = &[libc::ECONNABORTED, libc::EPROTO];
/// Errors of accept(2) if a resource is exhausted, or accepting is forbidden.
pub(super) const ACCEPT_EXHAUSTED: &[i32] = &[
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::EPERM,
];
/// Errors of recv(2) and send(2) that do not affect the connection.
pub(super) const STREAM_TRANSIENT: &[i32] = &[libc::EINTR, libc::EAGAIN];
/// Errors of recv(2) after which the connection is broken.
pub(super) const RECV_FATAL: &[i32] = &[
    libc::ECONNRESET,
    libc::ECONNREFUSED,
    libc::ETIMEDOUT,
    libc::ENOTCONN,
    libc::ENOMEM,
];
/// Errors of send(2) and sendmsg(2) after which the connection is broken.
pub(super) const SEND_FATAL: &[i32] = &[
    libc::ECONNRESET,
    libc::EPIPE,
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
    libc::ENOBUFS,
    libc::ENOMEM,
];
/// Errors of recvmsg(2) and sendmsg(2) on a Unix socket without memory. The message is neither
/// received nor sent.
pub(super) const MESSAGE_FATAL: &[i32] = &[libc::ENOBUFS, libc::ENOMEM];
/// Errors of connect(2) if the peer is unreachable.
pub(super) const CONNECT: &[i32] = &[
    libc::ECONNREFUSED,
    libc::ETIMEDOUT,
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EADDRNOTAVAIL,
];
/// Errors of close(2), which closes the descriptor nevertheless.
pub(super) const CLOSE: &[i32] = &[libc::EINTR, libc::EIO, libc::ENOSPC, libc::EDQUOT];
/// Errors of io_uring_enter(2) without having waited.
pub(super) const ENTER: &[i32] = &[libc::EINTR, libc::EAGAIN, libc::EBUSY];
