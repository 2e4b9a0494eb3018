//! What `--reload` shows: whether the newest code of the application runs, and if not, why.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::header::CACHE_CONTROL;
use ::http::{HeaderValue, StatusCode};

use super::options::Options;
use crate::service::{Escaped, Response};
use crate::sys::lock::lock;
use crate::task::time::sleep;

/// The path of the page. All others are the application's.
pub(super) const PATH: &str = "/.coring/reload";
/// How often it is looked whether code that is being loaded runs.
const CHECK: Duration = Duration::from_millis(5);

/// The newest code of an application.
#[derive(Debug)]
pub(super) struct Newest {
    state: Mutex<State>,
    /// Workers that are ready, whatever code they run.
    workers: AtomicUsize,
}

/// Where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// A worker is being started with it.
    Loading,
    /// At least one worker runs it.
    Runs,
    /// It could not be loaded or started, for this reason.
    Failed(String),
}

impl Newest {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::Loading),
            workers: AtomicUsize::new(0),
        }
    }

    pub(super) fn set(&self, state: State) {
        *lock(&self.state) = state;
    }

    fn state(&self) -> State {
        let state = lock(&self.state);
        state.clone()
    }

    pub(super) fn set_workers(&self, count: usize) {
        self.workers.store(count, Ordering::Relaxed);
    }

    /// Whether there will be no worker until a file is saved.
    pub(super) fn is_hopeless(&self) -> bool {
        self.workers.load(Ordering::Relaxed) == 0 && matches!(self.state(), State::Failed(_))
    }

    /// The page, once it is known how the loading went; none if that takes longer than `limit`.
    pub(super) async fn page(&self, limit: Duration) -> Option<Response> {
        let mut waited = Duration::ZERO;
        while waited < limit {
            match self.state() {
                State::Loading => {}
                State::Runs => {
                    let text = "<p>The application is up to date.</p>\n";
                    return Some(page(StatusCode::OK, text));
                }
                State::Failed(reason) => {
                    let text = format!(
                        "<h1>The newest code does not run</h1>\n\
                         <p>coring tries again when a file is saved.</p>\n<pre>{}</pre>\n",
                        Escaped(&reason)
                    );
                    return Some(page(StatusCode::INTERNAL_SERVER_ERROR, &text));
                }
            }
            sleep(CHECK).await;
            waited += CHECK;
        }
        None
    }
}

fn page(status: StatusCode, text: &str) -> Response {
    let head = "<!doctype html>\n<meta charset=\"utf-8\">\n<title>coring: reload</title>\n";
    Response::html(format!("{head}{text}"))
        .with_status(status)
        .with_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// The directories whose files are watched: those of the options, or that of the application, from
/// which Python imports it.
pub(super) fn directories(options: &Options) -> Vec<PathBuf> {
    if !options.reload_dirs.is_empty() {
        return options.reload_dirs.clone();
    }
    let mut directory = options.chdir.clone().unwrap_or_else(|| ".".into());
    if let Some(app_dir) = &options.app_dir {
        directory.push(app_dir);
    }
    let (place, _) = options.app.split_once(':').unwrap_or((&options.app, ""));
    if place.ends_with(".py") {
        directory.push(place);
        directory.pop();
    }
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    let packages = directory
        .ancestors()
        .take_while(|ancestor| ancestor.join("__init__.py").is_file());
    match packages.last().and_then(Path::parent) {
        Some(parent) if place.ends_with(".py") => vec![parent.to_owned()],
        _ => vec![directory],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_the_application_is_watched() {
        let of = |app: &str, chdir: Option<&str>, app_dir: Option<&str>| {
            let mut options = Options::new(app);
            options.chdir = chdir.map(PathBuf::from);
            options.app_dir = app_dir.map(PathBuf::from);
            directories(&options)
        };
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(of("/srv/app.py", None, None), [PathBuf::from("/srv")]);
        assert_eq!(
            of("/srv/app.py:make(1)", None, None),
            [PathBuf::from("/srv")]
        );
        assert_eq!(
            of("app:app", Some("/srv"), Some("shop")),
            [PathBuf::from("/srv/shop")]
        );
        assert_eq!(
            of("app:app", Some("/srv"), Some("/shop")),
            [PathBuf::from("/shop")]
        );
        assert_eq!(of("shop.app:app", None, None)[0], root);
        // A package is imported from its parent.
        assert_eq!(
            of("python/_coring/main.py", None, None),
            [root.join("python")]
        );
    }
}
