//! Starts a Python process: which interpreter, with which descriptors, and what it reads first.

use std::collections::HashSet;
use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{LazyLock, Mutex, MutexGuard};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, Resource, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

use super::marshal::Marshal;
use super::options::Options;
use crate::sys::lock::lock;

/// The name and the source of a module in `python/_coring`.
macro_rules! module {
    ("__init__") => {
        ("_coring", include_str!("../../python/_coring/__init__.py"))
    };
    ($name:literal) => {
        (
            concat!("_coring.", $name),
            include_str!(concat!("../../python/_coring/", $name, ".py")),
        )
    };
}

/// The modules that workers, and the process that they are forked from, consist of.
const MODULES: &[(&str, &str)] = &[
    module!("__init__"),
    module!("application"),
    module!("around"),
    module!("asgi"),
    module!("check"),
    module!("cores"),
    module!("cycle"),
    module!("embedded"),
    module!("files"),
    module!("greenlets"),
    module!("heads"),
    module!("hooks"),
    module!("lifespan"),
    module!("link"),
    module!("logs"),
    module!("main"),
    module!("reload"),
    module!("settings"),
    module!("threads"),
    module!("wsgi"),
    module!("zygote"),
];

/// The program that `python -c` runs. It imports the modules from memory, so nothing has to be
/// installed, and no directory of ours is on the application's path.
const BOOTSTRAP: &str = include_str!("../../python/bootstrap.py");

/// What a process reads at its start: all modules, the one of them that it runs, and what `config`
/// writes for that one, as items of a dictionary.
pub(super) fn bundle(entry: &str, config: impl FnOnce(&mut Marshal)) -> Vec<u8> {
    let mut bundle = Marshal::with_capacity(64 << 10);
    bundle.dict();
    bundle.text("modules");
    bundle.dict();
    for (name, source) in MODULES {
        bundle.text(name);
        bundle.text(source);
    }
    bundle.end_dict();
    bundle.text("entry");
    bundle.text(entry);
    bundle.text("config");
    bundle.dict();
    config(&mut bundle);
    bundle.end_dict();
    bundle.end_dict();
    bundle.into_bytes()
}

/// No Python interpreter was found, or not the one that was named.
#[derive(Debug)]
pub struct NoInterpreter(Option<PathBuf>);

impl std::fmt::Display for NoInterpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(named) => write!(
                f,
                "the interpreter `{}` is missing or not executable; name another with --python",
                named.display()
            ),
            None => f.write_str(
                "no Python is in $VIRTUAL_ENV, .venv, beside coring or on $PATH; name one with \
                 --python",
            ),
        }
    }
}

impl std::error::Error for NoInterpreter {}

/// Finds the interpreter for an application: the one that is `named`, else that of `$VIRTUAL_ENV`,
/// of the directory `.venv`, or beside this program (where pip has installed both), else `python3`
/// or `python` on `$PATH`.
///
/// # Errors
/// When there is none, or the named one cannot be executed.
pub fn find_interpreter(named: Option<&Path>) -> Result<PathBuf, NoInterpreter> {
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(named) = named {
        let found = match named.components().count() {
            1 => on_path(&path, named.as_os_str()),
            _ => Some(named.to_owned()).filter(|path| is_executable(path)),
        };
        return found.ok_or_else(|| NoInterpreter(Some(named.to_owned())));
    }
    let virtual_env = env::var_os("VIRTUAL_ENV").filter(|path| !path.is_empty());
    let beside = env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.to_owned()));
    virtual_env
        .map(|path| Path::new(&path).join("bin"))
        .into_iter()
        .chain([PathBuf::from(".venv/bin")])
        .chain(beside)
        .flat_map(|directory| ["python3", "python"].map(|name| directory.join(name)))
        .find(|path| is_executable(path))
        .or_else(|| on_path(&path, OsStr::new("python3")))
        .or_else(|| on_path(&path, OsStr::new("python")))
        .ok_or(NoInterpreter(None))
}

fn on_path(path: &OsStr, name: &OsStr) -> Option<PathBuf> {
    let candidates = env::split_paths(path).map(|directory| directory.join(name));
    candidates.into_iter().find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// How the processes of a pool are started.
#[derive(Debug, Clone)]
pub(super) struct Launcher {
    pub(super) interpreter: PathBuf,
    /// A program that calls [`launch`], and the arguments by which it does.
    pub(super) through: Option<(PathBuf, Vec<OsString>)>,
    /// Further variables of their environment.
    pub(super) environment: Vec<(String, String)>,
}

impl Launcher {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            interpreter: options.python.clone(),
            through: options.launcher.clone(),
            environment: options.environment.clone(),
        }
    }

    /// Starts a process that inherits two descriptors, with the numbers that they have, and no
    /// others. It reads its modules and its settings from `bundle`, and reports to `control`.
    ///
    /// # Errors
    /// Those of fork(2) and execve(2).
    pub(super) fn start(&self, bundle: &OwnedFd, control: &OwnedFd) -> io::Result<Launched> {
        let mut command = match &self.through {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments);
                command.arg(std::process::id().to_string());
                command.arg(&self.interpreter);
                command
            }
            None => Command::new(&self.interpreter),
        };
        command.args(["-c", BOOTSTRAP]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let inherited = [bundle, control];
        command.args(inherited.map(|descriptor| descriptor.as_raw_fd().to_string()));
        // One process is started at a time, so no other one inherits them.
        let mut launched = launched();
        set_flags(inherited, FdFlags::empty())?;
        let child = command.spawn();
        set_flags(inherited, FdFlags::CLOEXEC)?;
        let child = child?;
        launched.insert(Pid::from_child(&child));
        Ok(Launched { child })
    }
}

/// A process that was started here, until it was waited for.
pub(super) struct Launched {
    pub(super) child: Child,
}

impl Drop for Launched {
    fn drop(&mut self) {
        launched().remove(&Pid::from_child(&self.child));
    }
}

/// The processes that were started here. While this is held none is started.
pub(super) fn launched() -> MutexGuard<'static, HashSet<Pid>> {
    static LAUNCHED: LazyLock<Mutex<HashSet<Pid>>> = LazyLock::new(Mutex::default);
    lock(&LAUNCHED)
}

fn set_flags(descriptors: [&OwnedFd; 2], flags: FdFlags) -> io::Result<()> {
    for descriptor in descriptors {
        fcntl_setfd(descriptor, flags)?;
    }
    Ok(())
}

/// Becomes a Python process that ends with its parent: for a program's own launcher of workers. The
/// `arguments` are the parent's process id, the interpreter, and what follows.
///
/// `open_files` is the soft limit of open files that Python gets: select(2) in it cannot use higher
/// numbers than 1023.
///
/// # Errors
/// Those of execve(2); else it does not return.
pub fn launch(
    arguments: impl IntoIterator<Item = OsString>,
    open_files: Option<u64>,
) -> io::Result<Infallible> {
    let mut arguments = arguments.into_iter();
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let parent = arguments.next().ok_or_else(invalid)?;
    let interpreter = arguments.next().ok_or_else(invalid)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let is_child = getppid().is_some_and(|pid| parent == *pid.as_raw_nonzero().to_string());
    if !is_child {
        // The parent ended before the kernel was asked to tell of that.
        return Err(io::Error::other("coring has ended"));
    }
    if let Some(current) = open_files {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(current);
        setrlimit(Resource::Nofile, limit)?;
    }
    Err(Command::new(interpreter).args(arguments).exec())
}
