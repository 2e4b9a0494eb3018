//! The classes of workers, by the names that they have in coring, gunicorn and elsewhere.

/// The values of `--worker-class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Auto,
    Sync,
    Gthread,
    Gevent,
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
        "gevent"
        | "gevent_wsgi"
        | "gevent_pywsgi"
        | "gunicorn.workers.ggevent.GeventWorker"
        | "gunicorn.workers.ggevent.GeventPyWSGIWorker" => Class::Gevent,
        "asgi"
        | "gunicorn.workers.gasgi.ASGIWorker"
        | "uvicorn.workers.UvicornWorker"
        | "uvicorn.workers.UvicornH11Worker"
        | "uvicorn_worker.UvicornWorker"
        | "uvicorn_worker.UvicornH11Worker" => Class::Asgi,
        "egg:meinheld#gunicorn_worker" | "meinheld.gmeinheld.MeinheldWorker" => Class::Meinheld,
        "eventlet" | "gunicorn.workers.geventlet.EventletWorker" => {
            return Err("the authors of eventlet advise against its use; use gevent".to_owned());
        }
        "tornado" | "gunicorn.workers.gtornado.TornadoWorker" => {
            return Err(
                "an application of Tornado is neither WSGI nor ASGI, and has a server of its own; \
                 start that"
                    .to_owned(),
            );
        }
        _ => return Err("it is one of auto, sync, gthread, gevent and asgi".to_owned()),
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
            ("gevent", Class::Gevent),
            ("egg:gunicorn#gevent_pywsgi", Class::Gevent),
            ("gunicorn.workers.ggevent.GeventWorker", Class::Gevent),
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
        for (name, reason) in [
            ("eventlet", "use gevent"),
            ("egg:gunicorn#tornado", "server of its own"),
        ] {
            assert!(class(name).expect_err(name).contains(reason), "{name}");
        }
    }
}
