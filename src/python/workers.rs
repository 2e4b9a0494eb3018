//! The pool of workers, as the program sees it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::net::{SendFlags, send};

use super::body::spool_directory;
use super::news::News;
use super::options::Options;
use super::pool::{Command, Loaded, Observed, StartError, Supervisor};
use super::reload::{self, Newest};
use super::{Python, shared_pair};
use crate::http::forwarded::TrustedPeers;
use crate::task::channel::between::{Receiver, channel};

/// The processes that run an application. Dropping it ends them.
#[derive(Debug)]
pub struct Workers {
    supervisor: Supervisor,
    ends: Arc<Ends>,
    /// Empty until the first one is ready.
    loaded: OnceLock<Option<Loaded>>,
}

/// What the cores know of the pool.
#[derive(Debug)]
pub(super) struct Ends {
    /// Those of each core, until it takes them.
    pub(super) near: Vec<Mutex<Option<NearEnds>>>,
    pub(super) taken: AtomicUsize,
    pub(super) options: Options,
    /// The state of the newest code; none without `--reload`.
    pub(super) newest: Option<Arc<Newest>>,
    /// Whether the server drains.
    pub(super) drains: Arc<AtomicBool>,
    /// Where large request bodies are kept; none if no file can be made there.
    pub(super) spool_directory: OnceLock<Option<PathBuf>>,
}

/// The near ends of what leads to a core.
#[derive(Debug)]
pub(super) struct NearEnds {
    /// The socket that WSGI workers receive from.
    pub(super) shared: OwnedFd,
    /// What the supervisor says of workers.
    pub(super) news: Receiver<News>,
}

impl Workers {
    /// Starts the processes for a server of at most `cores` cores, and waits until the first one
    /// has loaded the application.
    ///
    /// # Errors
    /// When that one did not become ready. With [`Options::reload`] it is no error that the
    /// application cannot be loaded.
    pub fn start(options: Options, cores: usize) -> Result<Self, StartError> {
        let workers = Self::begin(options, cores)?;
        while !workers.wait(Duration::MAX)? {}
        Ok(workers)
    }

    /// As [`Workers::start`], but does not wait: [`Workers::wait`] does, before the server starts.
    ///
    /// # Errors
    /// Those of system calls.
    pub fn begin(options: Options, cores: usize) -> Result<Self, StartError> {
        let (shared, far_shared) = shared_pair()?;
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for _ in 0..cores {
            // One is enough: the supervisor keeps the others, and forgets those out of date.
            let (teller, news) = channel(1);
            let shared = shared.try_clone()?;
            near.push(Mutex::new(Some(NearEnds { shared, news })));
            far.push(teller);
        }
        let newest = options.reload.then(|| Arc::new(Newest::new()));
        let drains = Arc::<AtomicBool>::default();
        let observed = Observed {
            newest: newest.clone(),
            drains: drains.clone(),
        };
        let supervisor = Supervisor::start(options.clone(), observed, far, far_shared)?;
        Ok(Self {
            supervisor,
            ends: Arc::new(Ends {
                near,
                taken: AtomicUsize::new(0),
                options,
                newest,
                drains,
                spool_directory: OnceLock::new(),
            }),
            loaded: OnceLock::new(),
        })
    }

    /// Waits until the first process has loaded the application, at most for `limit`. Returns
    /// whether it has.
    ///
    /// # Errors
    /// Those of [`Workers::start`]. Then there is nothing left but to drop the workers.
    pub fn wait(&self, limit: Duration) -> Result<bool, StartError> {
        if self.loaded.get().is_some() {
            return Ok(true);
        }
        let Some(outcome) = self.supervisor.first(limit) else {
            return Ok(false);
        };
        let loaded = outcome?;
        let ends = &self.ends;
        ends.spool_directory
            .get_or_init(|| spool_directory(&ends.options, loaded.as_ref()));
        self.loaded.get_or_init(|| loaded);
        Ok(true)
    }

    /// What the application turned out to be; none if it could not be loaded, and is to be loaded
    /// when its files have changed ([`Options::reload`]).
    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()?.as_ref()
    }

    /// The directories whose Python files are watched ([`Options::reload`]).
    pub fn watched(&self) -> Vec<PathBuf> {
        match self.ends.newest {
            Some(_) => reload::directories(&self.ends.options),
            None => Vec::new(),
        }
    }

    /// The proxies that may name a request's client, if the rules by which the application reads
    /// forwarded fields let them ([`ProxyCompat`](super::ProxyCompat)).
    pub fn forwarded_clients(&self, is_wsgi: bool) -> Option<&TrustedPeers> {
        let forwarded = self.ends.options.forwarded.as_ref()?;
        forwarded
            .names_clients(is_wsgi)
            .then_some(&forwarded.trusted)
    }

    /// Tells the attached process ([`Options::attached`]) that the server listens.
    pub fn tell_listening(&self) {
        if let Some(attached) = &self.ends.options.attached {
            // It may have ended.
            let _ = send(attached, b"listening", SendFlags::NOSIGNAL);
        }
    }

    /// A factory of services, for [`Builder::serve`](crate::Builder::serve).
    ///
    /// # Panics
    /// The service, when more of them are made than the pool was started for.
    pub fn services(&self) -> impl Fn() -> Python + Clone + Send + Sync + 'static {
        let ends = self.ends.clone();
        move || Python::new(&ends)
    }

    /// Replaces all processes by ones that load the application anew. Each old one gets requests
    /// until its successor is ready, then finishes those that it has. If the application cannot be
    /// loaded, the old ones stay, and a message says why.
    pub fn reload(&self) {
        self.supervisor.command(Command::Reload(None));
    }

    /// As [`Workers::reload`], with other options for the new processes, and as many as these say
    /// if that is another number than before. What the server itself follows stays as it is: the
    /// queue, the memory and files for bodies, fields of proxies and notes for the log, the root
    /// path, `drain_timeout`, `retry_safe`, `reload`; and so does what is attached. If no process
    /// becomes ready, the options before count for those that are started later, until the next
    /// reload tries these again.
    pub fn reload_with(&self, options: Options) {
        let kept = self.ends.options.clone();
        let options = Options {
            attached: kept.attached,
            root_path: kept.root_path,
            log_notes: kept.log_notes,
            forwarded: kept.forwarded,
            queue: kept.queue,
            queue_timeout: kept.queue_timeout,
            body_buffer: kept.body_buffer,
            spool_dir: kept.spool_dir,
            response_buffer: kept.response_buffer,
            response_memory: kept.response_memory,
            drain_timeout: kept.drain_timeout,
            retry_safe: kept.retry_safe,
            reload: kept.reload,
            reload_dirs: kept.reload_dirs,
            ..options
        };
        let options = Box::new(options);
        self.supervisor.command(Command::Configure(options));
    }

    /// Keeps one process more.
    pub fn add(&self) {
        self.supervisor.command(Command::Add);
    }

    /// Keeps one process less, but at least one. The one that goes finishes its requests.
    pub fn remove(&self) {
        self.supervisor.command(Command::Remove);
    }

    /// Waits for the child processes that have ended and that the pool has not started.
    ///
    /// A program that starts workers adopts the orphans of its descendants, because the parent of
    /// each worker ends at once (`PR_SET_CHILD_SUBREAPER` of prctl(2)). If the application starts
    /// processes and ends without waiting for them, they become children of the program. So it
    /// calls this on each SIGCHLD, if it starts no processes itself.
    pub fn reap_orphans(&self) {
        self.supervisor.command(Command::Reap);
    }

    /// Waits until there will be no more processes: after [`Workers::stop`], and when the attached
    /// one ([`Options::attached`]) has ended as a worker, since there is no other one.
    pub fn wait_for_end(&self) {
        self.supervisor.wait();
    }

    /// Ends all processes: they finish their requests, run what the application has for its end,
    /// and exit; after `limit` they are killed. A second call, from another thread, may shorten
    /// that.
    pub fn stop(&self, limit: Duration) {
        self.supervisor.stop(limit);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}
