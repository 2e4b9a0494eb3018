//! A page that lists a directory, for a directory without `index.html`. It has what a request could
//! get: regular files and directories whose names do not begin with a dot.
//!
//! A worker makes one page at a time, so that listings leave threads for other requests. Requests
//! for a page that is being made share it; others wait until it is finished. Memory for a page
//! counts while it is made.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use ::http::HeaderValue;
use ::http::header::CONTENT_SECURITY_POLICY;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::Files;
use super::path::Relative;
use super::refusals::{error_response, unavailable};
use crate::fs::{Listed, Listing, Root};
use crate::http::date::DateCache;
use crate::rt::{Event, spawn_detached};
use crate::service::response_memory::ResponseMemory;
use crate::service::{Escaped, Request, Response};

/// The most entries of a directory that are read. The page of a directory with more says so.
const ENTRIES_MAX: usize = 10_000;

/// The bytes of a name that a link does not escape.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The page needs no script, and no name can bring one in.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}\
h1{font-size:1.2rem;overflow-wrap:anywhere}\
table{width:100%;border-collapse:collapse}\
th{text-align:left}\
td,th{padding:.3rem .5rem;border-bottom:1px solid #8884;vertical-align:top}\
td:first-child{overflow-wrap:anywhere}\
td+td,th+th{white-space:nowrap;text-align:right}\
a{text-decoration:none}a:hover{text-decoration:underline}\
@media(max-width:40rem){td:last-child,th:last-child{display:none}}";

/// What a page depends on, besides the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// The path beneath the root.
    name: Vec<u8>,
    title: String,
    order: Order,
}

/// A page that is being made, or is finished.
#[derive(Debug)]
pub(super) struct Making {
    wanted: Wanted,
    /// None if memory did not suffice.
    page: OnceCell<io::Result<Option<Bytes>>>,
    finished: Rc<Event>,
}

/// What the entries are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Size,
    Time,
}

/// The order of the entries: `?sort=size` or, from the last to the first, `?sort=-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    key: Key,
    is_reversed: bool,
}

impl Files {
    /// The page that lists the directory at `path`.
    pub(super) async fn list(&self, request: &Request, path: &Relative<'_>) -> Response {
        let title = percent_decode_str(request.full_path()).decode_utf8_lossy();
        let wanted = Wanted {
            name: path.as_bytes().to_vec(),
            title: title.into_owned(),
            order: Order::of(request),
        };
        loop {
            let current = self.listing.borrow().upgrade();
            let making = match current.filter(|making| !making.finished.has_fired()) {
                Some(making) => making,
                None if self.memory.is_full() => return unavailable(),
                None => match self.directory.root() {
                    Ok(root) => Making::start(root, wanted.clone(), self.memory.clone()),
                    Err(error) => return error_response(&error),
                },
            };
            self.listing.replace(Rc::downgrade(&making));
            making.finished.wait().await;
            if making.wanted == wanted {
                return making.response();
            }
        }
    }
}

impl Making {
    /// Starts to make a page. That goes on if the client leaves, because a thread that reads a
    /// directory cannot be stopped, and no other page must be begun meanwhile.
    fn start(root: Root, wanted: Wanted, memory: ResponseMemory) -> Rc<Self> {
        let making = Rc::new(Self {
            wanted: wanted.clone(),
            page: OnceCell::new(),
            finished: Rc::default(),
        });
        let started = making.clone();
        spawn_detached(async move {
            let name = OsStr::from_bytes(&started.wanted.name);
            let read = move |listing| page(&wanted, listing, &memory);
            let page = root.list(name, ENTRIES_MAX, read).await;
            started.page.set(page).expect("a page is made once");
            started.finished.fire();
        });
        making
    }

    fn response(&self) -> Response {
        match self.page.get() {
            Some(Ok(Some(page))) => Response::html(page.clone())
                .with_header(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            Some(Err(error)) => error_response(error),
            Some(Ok(None)) | None => unavailable(),
        }
    }
}

impl Order {
    fn of(request: &Request) -> Self {
        let sort = request.query_pairs().find(|(name, _)| name == "sort");
        let sort = sort.map(|(_, value)| value).unwrap_or_default();
        let key = match sort.trim_start_matches('-') {
            "size" => Key::Size,
            "time" => Key::Time,
            _ => Key::Name,
        };
        let is_reversed = sort.starts_with('-');
        Self { key, is_reversed }
    }

    /// Directories come first, in any order.
    fn compare(self, one: &Listed, other: &Listed) -> Ordering {
        let (a, b) = (&one.metadata, &other.metadata);
        let ordering = match self.key {
            Key::Name => Ordering::Equal,
            // That of a directory is not that of its files.
            Key::Size if a.is_directory() => Ordering::Equal,
            Key::Size => a.len().cmp(&b.len()),
            Key::Time => a.modified_unix().cmp(&b.modified_unix()),
        };
        let ordering = ordering.then_with(|| one.name.cmp(&other.name));
        let ordering = match self.is_reversed {
            true => ordering.reverse(),
            false => ordering,
        };
        b.is_directory().cmp(&a.is_directory()).then(ordering)
    }

    /// The heading of a column, with the link that sorts by it, or turns the order round.
    fn heading(self, key: Key) -> String {
        let (name, text) = match key {
            Key::Name => ("name", "Name"),
            Key::Size => ("size", "Size"),
            Key::Time => ("time", "Changed (UTC)"),
        };
        let is_current = self.key == key;
        let mark = match (is_current, self.is_reversed) {
            (true, false) => " ↑",
            (true, true) => " ↓",
            (false, _) => "",
        };
        // The largest and the latest are looked for more often than the smallest and the oldest.
        let reverses = if is_current {
            !self.is_reversed
        } else {
            key != Key::Name
        };
        let sign = if reverses { "-" } else { "" };
        format!("<th><a href=\"?sort={sign}{name}\">{text}{mark}</a>")
    }
}

/// Makes a page, unless memory does not suffice for it.
fn page(wanted: &Wanted, listing: Listing, memory: &ResponseMemory) -> Option<Bytes> {
    let Listing {
        mut entries,
        is_cut,
    } = listing;
    let order = wanted.order;
    entries.sort_unstable_by(|one, other| order.compare(one, other));
    let title = Escaped(&wanted.title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n<table>\n<tr>"
    );
    for key in [Key::Name, Key::Size, Key::Time] {
        page.push_str(&order.heading(key));
    }
    page.push('\n');
    if !wanted.name.is_empty() {
        page.push_str("<tr><td><a href=\"../\">../</a><td><td>\n");
    }
    let mut date = DateCache::new();
    let mut counted = memory.count(0);
    for Listed { name, metadata } in &entries {
        let slash = if metadata.is_directory() { "/" } else { "" };
        let link = percent_encode(name, PLAIN);
        let text = String::from_utf8_lossy(name);
        let text = Escaped(&text);
        let size = match metadata.is_directory() {
            true => String::new(),
            false => size(metadata.len()),
        };
        let (seconds, _) = metadata.modified_unix();
        let date = date.at(u64::try_from(seconds).unwrap_or(0));
        // Of `Sun, 06 Nov 1994 08:49:37 GMT`.
        let date = str::from_utf8(&date[5..22]).unwrap_or_default();
        writeln!(
            page,
            "<tr><td><a href=\"./{link}{slash}\">{text}{slash}</a><td>{size}<td>{date}"
        )
        .expect("a String takes any text");
        counted.set(page.capacity());
        if counted.is_full() {
            return None;
        }
    }
    page.push_str("</table>\n");
    if is_cut {
        writeln!(page, "<p>Only {ENTRIES_MAX} entries were read.</p>")
            .expect("a String takes any text");
    }
    page.shrink_to_fit();
    counted.set(page.len());
    Some(counted.wrap(page.into_bytes()))
}

/// A size with at most three digits before its unit.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "B";
    for next in UNITS {
        if tenths < 10_000 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (999 * 1024, "999.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
