//! The arguments of `coring run` that are about proxies in front of it.

use std::env;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, ValueEnum};
use coring::TrustedPeers;
use coring::python::{Forwarded, ProxyCompat};

use super::profile::Profile;

/// The variable of gunicorn and uvicorn that has the trusted proxies.
const ALLOW_IPS: &str = "FORWARDED_ALLOW_IPS";

/// How fields like `X-Forwarded-Proto` are read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Proxies")]
pub(crate) struct ProxyArgs {
    /// The proxies whose X-Forwarded fields count: addresses, networks, or * for all peers. Peers
    /// of a socket file are trusted, too. uvicorn's rules: also names that other proxies write into
    /// X-Forwarded-For [default: $FORWARDED_ALLOW_IPS, or 127.0.0.1,::1]
    #[arg(long, env = "CORING_FORWARDED_ALLOW_IPS", value_name = "ADDRESSES")]
    forwarded_allow_ips: Option<String>,

    /// Whose rules apply. gunicorn: the scheme. uvicorn: scheme and client. auto: gunicorn's for
    /// WSGI applications, uvicorn's for ASGI applications
    #[arg(long, env = "CORING_PROXY_COMPAT", value_name = "SERVER")]
    #[arg(value_enum, default_value_t = Compat::Auto)]
    proxy_compat: Compat,

    /// Read these fields; the default
    #[arg(long, env = "CORING_PROXY_HEADERS", value_parser = FalseyValueParser::new())]
    #[arg(overrides_with = "no_proxy_headers")]
    proxy_headers: bool,

    /// Ignore these fields
    #[arg(long, env = "CORING_NO_PROXY_HEADERS", value_parser = FalseyValueParser::new())]
    no_proxy_headers: bool,

    /// gunicorn's rules: the fields by which a proxy says that the client used https, and their
    /// values for that [default: X-FORWARDED-PROTOCOL=ssl, X-FORWARDED-PROTO=https,
    /// X-FORWARDED-SSL=on]
    #[arg(long, env = "CORING_SECURE_SCHEME_HEADERS", value_name = "NAME=VALUE")]
    #[arg(value_delimiter = ',', action = ArgAction::Append, value_parser = secure_scheme)]
    secure_scheme_headers: Option<Vec<(String, String)>>,

    /// gunicorn's rules, WSGI: the fields of a proxy with _ in their names that are passed on
    /// [default: SCRIPT_NAME,PATH_INFO]
    #[arg(long, env = "CORING_FORWARDER_HEADERS", value_name = "NAMES")]
    #[arg(value_delimiter = ',', action = ArgAction::Append, value_parser = forwarder_field)]
    forwarder_headers: Option<Vec<String>>,
}

/// The values of `--proxy-compat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compat {
    Auto,
    Gunicorn,
    Uvicorn,
}

impl ProxyArgs {
    /// How forwarded fields are read; none if they are not.
    ///
    /// # Errors
    /// One line, if the list of proxies is invalid.
    pub(crate) fn forwarded(&self, profile: &Profile) -> Result<Option<Forwarded>, String> {
        if self.no_proxy_headers {
            return Ok(None);
        }
        let mut forwarded = Forwarded::default();
        forwarded.trusted = self.trusted(profile)?;
        forwarded.compat = match self.proxy_compat {
            Compat::Auto => ProxyCompat::Auto,
            Compat::Gunicorn => ProxyCompat::Gunicorn,
            Compat::Uvicorn => ProxyCompat::Uvicorn,
        };
        if let Some(fields) = &self.secure_scheme_headers {
            forwarded.secure_schemes.clone_from(fields);
        }
        if let Some(fields) = &self.forwarder_headers {
            forwarded.forwarder_fields.clone_from(fields);
        }
        Ok(Some(forwarded))
    }

    /// The proxies. gunicorn refuses names; uvicorn takes whatever is no address for one.
    fn trusted(&self, profile: &Profile) -> Result<TrustedPeers, String> {
        let (list, source) = match &self.forwarded_allow_ips {
            Some(list) => (list.clone(), "--forwarded-allow-ips"),
            None => default_proxies(),
        };
        let is_strict = match self.proxy_compat {
            Compat::Auto => *profile != Profile::ByInterface,
            compat => compat == Compat::Gunicorn,
        };
        match is_strict {
            true => list.parse().map_err(|error| format!("{source}: {error}")),
            false => Ok(TrustedPeers::with_names(&list)),
        }
    }

    /// What the operator should know of the names among the proxies, if there are any.
    pub(crate) fn note(&self, profile: &Profile) -> Option<String> {
        let trusted = self.trusted(profile).ok()?;
        let names = trusted.names().join("`, `");
        let is_of_concern = !names.is_empty() && !self.no_proxy_headers;
        is_of_concern.then(|| {
            format!(
                "`{names}` among the trusted proxies is no address or network: no peer is trusted \
                 for it, but X-Forwarded-For may have it"
            )
        })
    }
}

/// The list of proxies where the flag gives none, and its source.
pub(super) fn default_proxies() -> (String, &'static str) {
    match env::var_os(ALLOW_IPS) {
        Some(list) => (list.to_string_lossy().into_owned(), ALLOW_IPS),
        None => ("127.0.0.1,::1".to_owned(), "the default"),
    }
}

fn secure_scheme(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("give it as NAME=VALUE".to_owned()),
    }
}

fn forwarder_field(text: &str) -> Result<String, String> {
    match text.trim() {
        "*" => Err("name each field; * would let a client set any variable".to_owned()),
        name => Ok(name.to_owned()),
    }
}
