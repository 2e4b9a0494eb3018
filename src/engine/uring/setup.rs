//! Setting up a ring: its feature level, a probe, and restrictions; and the reason if that fails.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::{IoUring, Submitter, opcode};

use super::buf_ring::BufRing;
use super::{Cqe, Ring, Sqe};
use crate::buf::Pool;
use crate::sys::kernel;

const SUBMISSIONS: u32 = 512;
const COMPLETIONS: u32 = 8192;
/// Provided buffers, of one block each. Everything that arrives in one turn must fit. The kernel
/// cycles through all of them, so each further buffer keeps 4 KiB in memory and in the caches.
const BUFFERS: u16 = 256;
/// The most threads (io-wq) that the kernel may start for one ring: for regular files, and for
/// everything else (`IORING_REGISTER_IOWQ_MAX_WORKERS`, Linux 5.15).
const KERNEL_THREADS_MAX: [u32; 2] = [4, 16];
/// The kernel releases the locked memory of a closed ring about 30 ms late. So after a restart the
/// limit may be exceeded for a moment, and the setup is repeated.
const MEMORY_RETRIES: u32 = 30;
const MEMORY_RETRY: Duration = Duration::from_millis(33);
/// How long the probe waits for its completion. It arrives at once, unless a signal interrupts.
const PROBE_TIME: Duration = Duration::from_secs(1);
/// `IORING_REGISTER_RING_FDS` and `IORING_UNREGISTER_RING_FDS` (io_uring_register(2)).
const REGISTER_RING_FDS: u8 = 20;
const UNREGISTER_RING_FDS: u8 = 21;

/// A ring ready for use, and the buffers registered with it.
pub(super) struct Made {
    pub(super) ring: Ring,
    pub(super) buffers: BufRing,
    pub(super) feature_level: &'static str,
}

/// Why io_uring cannot be used here.
#[derive(Debug)]
pub(in crate::engine) struct Refusal {
    step: &'static str,
    error: io::Error,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}; {}", self.step, self.error, self.cure())
    }
}

impl Refusal {
    pub(in crate::engine) fn new(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { step, error }
    }

    /// The likely cause, and the cure.
    fn cure(&self) -> String {
        match self.error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => match kernel::io_uring_disabled() {
                Some(level @ 1..) => format!(
                    "the sysctl kernel.io_uring_disabled is {level}: set it to 0, or to 1 with \
                     kernel.io_uring_group set to a group of this user"
                ),
                _ if kernel::seccomp_filtered() => SECCOMP_CURE.to_owned(),
                _ => "a security policy forbids it: allow the io_uring system calls".to_owned(),
            },
            Some(libc::ENOSYS) if kernel::seccomp_filtered() => SECCOMP_CURE.to_owned(),
            Some(libc::ENOMEM) => format!(
                "the locked-memory limit is used up: raise it (ulimit -l is {}, systemd \
                 LimitMEMLOCK=), or run fewer cores",
                kernel::memlock_limit()
            ),
            Some(libc::EINVAL | libc::ENOSYS) => format!(
                "this kernel is {}: Linux 6.1 or later with io_uring is needed",
                kernel::release()
            ),
            _ => format!("this kernel is {}", kernel::release()),
        }
    }
}

const SECCOMP_CURE: &str = "a seccomp filter forbids it, as container runtimes do by default: \
     allow io_uring_setup, io_uring_enter and io_uring_register in the profile";

/// Tests on a small ring what no feature bit tells: whether a multishot receive into provided
/// buffers works. Returns the feature level, or the reason why io_uring cannot be used.
pub(in crate::engine) fn preflight() -> Result<&'static str, Refusal> {
    let pool = Pool::new();
    let mut made = make(&pool, 8, 64, 64, None)?;
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| Refusal {
        step: "socketpair",
        error: errno.into(),
    })?;
    rustix::net::send(&theirs, b"x", rustix::net::SendFlags::empty()).map_err(|errno| Refusal {
        step: "send",
        error: errno.into(),
    })?;
    let sqe = Sqe::RecvMulti {
        fd: ours.as_raw_fd(),
    };
    // SAFETY: a receive points to no memory; its buffers belong to the ring.
    unsafe { made.ring.push(sqe, 1) };
    let step = "the probe of multishot receive";
    let mut completions: Vec<Cqe> = Vec::new();
    let end = Instant::now() + PROBE_TIME;
    while completions.is_empty() && Instant::now() < end {
        made.ring
            .enter(1, Some(PROBE_TIME))
            .map_err(Refusal::new(step))?;
        made.ring.reap(&mut completions);
    }
    let works = |cqe: &Cqe| cqe.result == 1 && cqe.more() && cqe.buffer().is_some();
    if completions.first().is_some_and(works) {
        return Ok(made.feature_level);
    }
    let error = completions.first().map_or(0, |cqe| cqe.result.min(0));
    let errno = if error == 0 { libc::EINVAL } else { -error };
    Err(Refusal {
        step,
        error: io::Error::from_raw_os_error(errno),
    })
}

/// Sets up a worker's ring. Call it on the worker's own thread: the kernel accepts submissions only
/// from the thread that enabled the ring (`IORING_SETUP_SINGLE_ISSUER`).
/// The ring writes to `reports` when completions can be fetched.
pub(super) fn worker_ring(pool: &Pool, reports: Option<BorrowedFd<'_>>) -> Result<Made, Refusal> {
    #[cfg(feature = "sim")]
    if let Some(made) = simulated(pool) {
        return Ok(made);
    }
    let mut tries = 0;
    loop {
        match make(pool, SUBMISSIONS, COMPLETIONS, BUFFERS, reports) {
            Err(refusal)
                if refusal.error.raw_os_error() == Some(libc::ENOMEM) && tries < MEMORY_RETRIES =>
            {
                tries += 1;
                std::thread::sleep(MEMORY_RETRY);
            }
            made => return made,
        }
    }
}

/// A ring of the simulated kernel, if this thread runs in a simulation.
#[cfg(feature = "sim")]
fn simulated(pool: &Pool) -> Option<Made> {
    let world = crate::sim::World::current()?;
    let (capacity, first) = world.buffers();
    let mut buffers = BufRing::new(capacity, first);
    buffers.top_up(pool, false);
    Some(Made {
        ring: Ring::simulated(&world, buffers.entries(), capacity, first),
        buffers,
        feature_level: "sim",
    })
}

fn make(
    pool: &Pool,
    submissions: u32,
    completions: u32,
    buffers: u16,
    reports: Option<BorrowedFd<'_>>,
) -> Result<Made, Refusal> {
    // Declared before the ring, so dropped after it.
    let mut buffers = BufRing::new(buffers, 0);
    let (ring, feature_level) =
        build(submissions, completions).map_err(Refusal::new("io_uring_setup"))?;
    if !ring.params().is_feature_ext_arg() {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        return Err(Refusal {
            step: "waiting with a timeout (EXT_ARG)",
            error,
        });
    }
    let submitter = ring.submitter();
    buffers
        .register(&submitter)
        .map_err(Refusal::new("registering provided buffers"))?;
    // No operation that we submit should need a thread of the kernel's (io-wq). If a kernel starts
    // some all the same, this keeps them few; its own bound is RLIMIT_NPROC.
    let mut threads_max = KERNEL_THREADS_MAX;
    submitter
        .register_iowq_max_workers(&mut threads_max)
        .map_err(Refusal::new("limiting the io-wq threads"))?;
    // Before the ring is enabled. Polling the ring's own descriptor would not do: with deferred
    // task work it does not become readable when an operation is done.
    if let Some(reports) = reports {
        submitter
            .register_eventfd(reports.as_raw_fd())
            .map_err(Refusal::new("registering an eventfd"))?;
    }
    // Hardening only: if the kernel does not support it, the ring works without it.
    let _ = restrict(&submitter);
    submitter
        .register_enable_rings()
        .map_err(Refusal::new("enabling the ring"))?;
    buffers.top_up(pool, false);
    Ok(Made {
        ring: Ring::new(ring),
        buffers,
        feature_level,
    })
}

/// Builds a ring of the highest feature level that works. The levels differ in the indirection
/// array of the submission queue, which Linux 6.6 made optional. Kernels before 6.1 support
/// neither.
fn build(submissions: u32, completions: u32) -> io::Result<(IoUring, &'static str)> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .setup_clamp()
        .setup_r_disabled()
        .dontfork();
    let plain = builder.clone();
    match builder.setup_no_sqarray().build(submissions) {
        Ok(ring) => Ok((ring, "6.6")),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            plain.build(submissions).map(|ring| (ring, "6.1"))
        }
        Err(error) => Err(error),
    }
}

/// Restricts the ring to the operations that coring uses (`IORING_REGISTER_RESTRICTIONS`). So the
/// ring opens no file, whatever goes wrong in this process.
fn restrict(submitter: &Submitter<'_>) -> io::Result<()> {
    let operations = [
        opcode::AcceptMulti::CODE,
        opcode::RecvMulti::CODE,
        opcode::Send::CODE,
        // Gathering sends, and messages with descriptors.
        opcode::SendMsg::CODE,
        // Messages with descriptors.
        opcode::RecvMsg::CODE,
        // Room to send, a peer that disconnects, and everything else that `Polling` waits for.
        opcode::PollAdd::CODE,
        // The eventfd with which other threads wake the worker.
        opcode::Read::CODE,
        opcode::Connect::CODE,
        opcode::Close::CODE,
        opcode::AsyncCancel2::CODE,
    ];
    let mut rules: Vec<Restriction> = operations.map(Restriction::sqe_op).into();
    rules.push(Restriction::sqe_flags_allowed(
        io_uring::squeue::Flags::BUFFER_SELECT.bits(),
    ));
    rules.push(Restriction::register_op(REGISTER_RING_FDS));
    rules.push(Restriction::register_op(UNREGISTER_RING_FDS));
    submitter.register_restrictions(&mut rules)
}
