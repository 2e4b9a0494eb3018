//! Serves an application of the process that has started this one: that process is its worker.

use std::io::{self, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use coring::Handle;
use coring::messages::{flush, report};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};

use super::{Application, RunError};
use crate::LAST_MESSAGES;

/// How long a process may take to end when its sockets are closed.
const END: Duration = Duration::from_secs(1);

/// The argument that `coring.pywsgi` gives. It is not for users.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The process that has started this one. Standard input is a socket to it
    #[arg(long, hide = true, value_name = "PID")]
    attach: Option<i32>,
}

impl AttachArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.attach.is_some()
    }

    /// The socket to the process. From now on this one ends with it.
    ///
    /// # Errors
    /// When that process has ended, or there are no descriptors left.
    pub(crate) fn socket(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = self.attach.and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        // Its number could be that of another one only after its end, and then it is no parent.
        if getppid() != Some(pid) {
            return Err(io::Error::other(
                "the process that has started coring has ended",
            ));
        }
        thread::Builder::new()
            .name("attached".to_owned())
            .spawn(move || {
                let mut polled = [PollFd::new(&process, PollFlags::IN)];
                while poll(&mut polled, None) == Err(Errno::INTR) {}
                report("the program that started coring has ended; coring ends, too");
                flush(LAST_MESSAGES);
                exit(0);
            })?;
        stdin().as_fd().try_clone_to_owned().map(Some)
    }
}

/// Lets the process that serves no longer end, because its sockets close a little before. If it
/// ends, so does this process meanwhile, without an error.
pub(crate) fn wait_for_end() {
    thread::sleep(END);
}

/// Drains the server when the attached process serves no longer, though it goes on.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn end_with_worker(
    application: Arc<Application>,
    server: Handle,
) -> Result<(), RunError> {
    let wait = move || {
        application.workers.wait_for_end();
        server.drain();
    };
    let thread = thread::Builder::new().name("worker-end".to_owned());
    thread.spawn(wait).map_err(RunError::Attach).map(drop)
}
