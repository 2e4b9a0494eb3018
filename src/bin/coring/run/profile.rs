//! Whose defaults apply: gunicorn's, uvicorn's or coring's own.

use std::collections::HashSet;

use coring::AccessLog;

use crate::plan::ServerConfig;
use crate::units::Duration;

/// Whose defaults apply, as far as the command line tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Those of gunicorn, since this has been used.
    Gunicorn(String),
    /// Those of uvicorn for an ASGI application, else those of coring.
    #[default]
    ByInterface,
}

/// How long uvicorn lets a connection be idle.
const UVICORN_IDLE: Duration = Duration(5000);

impl Profile {
    /// Something that only gunicorn has is used.
    pub(crate) fn choose_gunicorn(&mut self, used: &str) {
        if *self == Self::ByInterface {
            *self = Self::Gunicorn(used.to_owned());
        }
    }

    /// The flags that stand for gunicorn's defaults, where they differ from coring's. Its default
    /// class runs one request at a time.
    pub(crate) fn defaults(&self, has_class: bool) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Gunicorn(_) => {
                let mut flags = vec![
                    ("idle-timeout", "2"),
                    ("proxy-compat", "gunicorn"),
                    ("timeout", "30"),
                    ("access-logformat", "gunicorn"),
                ];
                flags.extend((!has_class).then_some(("threads", "1")));
                flags
            }
            Self::ByInterface => Vec::new(),
        }
    }

    /// The defaults that depend on the interface of the application: those of uvicorn.
    /// Flags with these ids are set already.
    pub(crate) fn apply(
        &self,
        interface: Option<&str>,
        set: &HashSet<String>,
        config: &mut ServerConfig,
    ) {
        if !self.is_uvicorn(interface) {
            return;
        }
        if !set.contains("access_log") && !set.contains("no_access_log") {
            config.access_log = AccessLog::Stdout;
        }
        if !set.contains("idle_timeout") {
            config.limits.idle_timeout = Some(UVICORN_IDLE.into());
        }
    }

    fn is_uvicorn(&self, interface: Option<&str>) -> bool {
        let is_asgi = interface.is_some_and(|interface| interface.starts_with("asgi"));
        *self == Self::ByInterface && is_asgi
    }

    /// The profile for the banner.
    pub(crate) fn describe(&self, interface: Option<&str>) -> String {
        match self {
            Self::Gunicorn(used) => format!("gunicorn (because of {used})"),
            Self::ByInterface if self.is_uvicorn(interface) => {
                "uvicorn (an ASGI application, nothing of gunicorn)".to_owned()
            }
            Self::ByInterface => "coring".to_owned(),
        }
    }
}
