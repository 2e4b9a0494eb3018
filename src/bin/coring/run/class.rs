//! The classes of workers, by the names that they have in coring, gunicorn and elsewhere.

/// The values of `--worker-class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Auto,
    Sync,
    Gthread,
    Asgi,
    /// The worker of meinheld patches nothing by itself, so it runs one request at a time, unless
    /// the configuration file lets gevent replace the modules that block.
    Meinheld,
}

/// The class of this name.
///
/// # Errors
/// When there is no such class, or coring does not have it: why.
pub(crate) fn class(name: &str) -> Result<Class, String> {
    let short = name.strip_prefix("egg:gunicorn#").unwrap_or(name);
    Ok(match short {
        "auto" => Class::Auto,
        "sync" | "gunicorn.workers.sync.SyncWorker" => Class::Sync,
        "gthread" | "gunicorn.workers.gthread.ThreadWorker" => Class::Gthread,
        "asgi"
        | "gunicorn.workers.gasgi.ASGIWorker"
        | "uvicorn.workers.UvicornWorker"
        | "uvicorn.workers.UvicornH11Worker"
        | "uvicorn_worker.UvicornWorker"
        | "uvicorn_worker.UvicornH11Worker" => Class::Asgi,
        "egg:meinheld#gunicorn_worker" | "meinheld.gmeinheld.MeinheldWorker" => Class::Meinheld,
        _ => return Err("it is one of auto, sync, gthread and asgi".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_names_of_gunicorn_and_others() {
        for (name, expected) in [
            ("sync", Class::Sync),
            ("egg:gunicorn#sync", Class::Sync),
            ("gthread", Class::Gthread),
            ("uvicorn.workers.UvicornWorker", Class::Asgi),
            ("uvicorn_worker.UvicornH11Worker", Class::Asgi),
            ("egg:meinheld#gunicorn_worker", Class::Meinheld),
            ("meinheld.gmeinheld.MeinheldWorker", Class::Meinheld),
        ] {
            assert_eq!(class(name), Ok(expected), "{name}");
        }
        for name in ["", "Sync", "my.Worker", "egg:other#sync"] {
            assert!(class(name).expect_err(name).contains("one of"), "{name}");
        }
    }
}
