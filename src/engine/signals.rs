//! Signals that the process catches, if the program asks for that. The handler notes the signal and
//! writes to an eventfd, so that a thread can wait for it. A handler has no argument but the
//! signal's number, so the eventfd and the notes are static.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// The numbers of signals that programs wait for.
pub mod number {
    pub use libc::{
        SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
    };
}

/// The numbers of signals are less than this.
const NUMBERS: usize = 65;

/// Signals that report a fault of the thread that gets them, besides those that cannot be caught.
const FAULTS: [i32; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

static EVENTFD: OnceLock<OwnedFd> = OnceLock::new();
/// Its number, for the handler.
static NUMBER: AtomicI32 = AtomicI32::new(-1);
/// The signals that have arrived.
static ARRIVED: [AtomicBool; NUMBERS] = [const { AtomicBool::new(false) }; NUMBERS];

/// Makes the eventfd, which stays open as long as the process lives.
///
/// # Errors
/// Those of eventfd(2).
pub fn open() -> io::Result<()> {
    if EVENTFD.get().is_none() {
        let made = eventfd(0, EventfdFlags::CLOEXEC)?;
        let kept = EVENTFD.get_or_init(|| made);
        NUMBER.store(kept.as_raw_fd(), Ordering::Release);
    }
    Ok(())
}

/// Catches the signal from now on. [`open`] must have been called.
///
/// # Errors
/// `InvalidInput` if the signal cannot be caught; `ResourceBusy` if it has another handler.
pub fn catch(signal: i32) -> io::Result<()> {
    if FAULTS.contains(&signal) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let ours = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
    let current = action(signal, None)?.sa_sigaction;
    if current == ours {
        return Ok(());
    }
    if current != libc::SIG_DFL && current != libc::SIG_IGN {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    // SAFETY: every field of this structure may be zero.
    let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_sigaction = ours;
    // System calls of other threads go on.
    new.sa_flags = libc::SA_RESTART;
    action(signal, Some(&new)).map(|_| ())
}

/// Waits until a caught signal arrives, and returns the numbers of those that have.
pub fn wait() -> Vec<i32> {
    if let Some(eventfd) = EVENTFD.get() {
        // If the read is interrupted, the signal may have been one that is caught.
        let _ = rustix::io::read(eventfd, &mut [0; 8]);
    }
    let arrived = (0..).zip(&ARRIVED);
    arrived
        .filter_map(|(number, flag)| flag.swap(false, Ordering::AcqRel).then_some(number))
        .collect()
}

/// Runs when a signal arrives, on any thread, between any two instructions. So it only stores a
/// flag and calls write(2), which signal-safety(7) allows.
extern "C" fn note(signal: libc::c_int) {
    let flag = usize::try_from(signal).ok().and_then(|at| ARRIVED.get(at));
    if let Some(flag) = flag {
        flag.store(true, Ordering::Release);
    }
    // SAFETY: the call has no conditions.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the pointer is to this thread's errno, which always exists.
    let before = unsafe { *errno };
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the bytes live during the call. It does not wait: that would take 2^64 signals.
    unsafe {
        libc::write(
            NUMBER.load(Ordering::Acquire),
            one.as_ptr().cast(),
            one.len(),
        )
    };
    // SAFETY: as above. The code that was interrupted may be about to read it.
    unsafe { *errno = before };
}

/// Sets the action of a signal if there is a new one, and returns the old one.
fn action(signal: i32, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut old = MaybeUninit::zeroed();
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null, or has a handler that may run at any time; `old` has room.
    if unsafe { libc::sigaction(signal, new, old.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has stored the old action.
    Ok(unsafe { old.assume_init() })
}
