//! The executors that can turn the workers of a server in this process.

use std::env;

use coring::{Builder, Handle, Result, Service};

use super::ENGINE;

/// The environment variable that names the host of the workers: `tokio`, or `glommio`. On the
/// engine `glommio` of the program it is glommio, and otherwise none unless it is set.
const HOST: &str = "CORING_TEST_HOST";

/// Starts a server in this process with that number of workers, which the host under test turns.
pub(crate) fn start_server<S: Service + 'static>(
    builder: Builder,
    cores: usize,
    factory: impl Fn() -> S + Send + Sync + 'static,
) -> Result<Handle> {
    match host().as_deref() {
        None => builder.cores(cores).start(factory),
        #[cfg(feature = "glommio")]
        Some("glommio") => coring::glommio::start(builder.cores(cores), factory),
        #[cfg(feature = "tokio")]
        Some("tokio") => start_in_tokio(builder, cores, factory),
        Some(other) => panic!("{HOST} is {other:?}, which this build of the tests does not have"),
    }
}

/// How many descriptors the host of a worker leaves open. glommio (0.9.0) leaves one of each of its
/// executors, even of one that has run nothing.
pub(crate) fn descriptors_left() -> usize {
    usize::from(host().as_deref() == Some("glommio"))
}

fn host() -> Option<String> {
    let engine = || env::var(ENGINE).ok().filter(|engine| engine == "glommio");
    env::var(HOST).ok().or_else(engine)
}

/// A runtime of tokio's for each worker, on a thread of its own.
#[cfg(feature = "tokio")]
fn start_in_tokio<S: Service + 'static>(
    builder: Builder,
    workers: usize,
    factory: impl Fn() -> S + Send + Sync + 'static,
) -> Result<Handle> {
    let (handle, seats) = builder.attach_all(workers, factory)?;
    let (started, starts) = std::sync::mpsc::channel();
    for seat in seats {
        let started = started.clone();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            let guest = seat.take().expect("a worker");
            started.send(()).expect("the start waits");
            let driven = runtime.block_on(coring::tokio::drive(guest));
            driven.expect("the engine works");
        });
    }
    (0..workers).for_each(|_| starts.recv().expect("a worker"));
    Ok(handle)
}
