//! The header fields of a file: media type and validators. They depend only on its name, size and
//! mtime, so they are the same on every worker, and on every machine to which it is copied with its
//! mtime.

use std::rc::Rc;
use std::time::Duration;

use ::http::HeaderValue;
use ::http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_TYPE, ETAG, LAST_MODIFIED};

use super::media_type::{content_encoding, content_type};
use crate::fs::Metadata;
use crate::http::FieldLines;
use crate::http::conditional::Validators;
use crate::http::date::DateCache;

/// The header values of a file, made once for all its responses.
#[derive(Debug, Clone)]
pub(super) struct Representation {
    /// The file's metadata, from which these values are derived.
    pub(super) metadata: Metadata,
    pub(super) etag: Option<HeaderValue>,
    pub(super) last_modified: Option<HeaderValue>,
    /// All fields of a response with the file's content.
    pub(super) fields: Rc<FieldLines>,
    /// The value of Last-Modified, in seconds since the epoch.
    modified_seconds: Option<u64>,
}

/// A file whose mtime is younger may change again without another mtime: the kernel takes it from a
/// clock that lags behind by up to a tick, of 10 ms at most.
const CLOCK_LAG: Duration = Duration::from_millis(20);

/// The coarsest times of a file system: FAT has every second one, ext3 and sshfs have each.
const COARSEST: Duration = Duration::from_secs(2);

impl Representation {
    /// The header values of the file at `path`. `now` is the time since the epoch.
    pub(super) fn new(path: &[u8], metadata: Metadata, now: Duration) -> Self {
        let modified = metadata.modified_unix();
        let modified_seconds = date_validator(modified, now);
        let tag = || text(etag(modified, metadata.len()));
        let etag = (is_of_a_change(modified) && is_settled(modified, now)).then(tag);
        let last_modified = modified_seconds.map(|seconds| text(DateCache::new().at(seconds)));
        let date = last_modified.clone().map(|date| (LAST_MODIFIED, date));
        let others = [
            (CONTENT_TYPE, content_type(path)),
            (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        ];
        let coding = content_encoding(path).map(|coding| (CONTENT_ENCODING, coding));
        let tag = etag.clone().map(|tag| (ETAG, tag));
        let fields = tag.into_iter().chain(date).chain(others).chain(coding);
        Self {
            fields: Rc::new(FieldLines::new(fields)),
            etag,
            last_modified,
            modified_seconds,
            metadata,
        }
    }

    /// Whether these are the header values of a file with this metadata.
    pub(super) fn is_of(&self, metadata: &Metadata, now: Duration) -> bool {
        self.metadata == *metadata
            && self.modified_seconds == date_validator(metadata.modified_unix(), now)
    }

    /// The validators, to evaluate a conditional request.
    pub(super) fn validators(&self) -> Validators<'_> {
        Validators {
            etag: self.etag.as_ref().map(HeaderValue::as_bytes),
            modified_seconds: self.modified_seconds,
        }
    }
}

/// Whether the file's mtime and ctime tell this content from any later one.
pub(super) fn may_be_cached(metadata: &Metadata, now: Duration) -> bool {
    let times = [metadata.modified_unix(), metadata.changed_unix()];
    times.into_iter().all(|time| is_settled(time, now))
}

/// Whether a file that is changed from now on gets another time than this one. A time in the future
/// counts as old, because no recent change has set it.
fn is_settled(time: (i64, u32), now: Duration) -> bool {
    let (seconds, nanoseconds) = time;
    let since_epoch = Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
    now.checked_sub(since_epoch)
        .is_none_or(|age| age >= resolution(time) + CLOCK_LAG)
}

/// How long a file system may give the same time to changes, as far as that time shows it.
fn resolution((_, nanoseconds): (i64, u32)) -> Duration {
    match nanoseconds {
        0 => COARSEST,
        _ => Duration::ZERO,
    }
}

/// Whether a change has set this mtime. Images and Nix set it to 0 or 1 for every file, so it tells
/// no two contents apart.
fn is_of_a_change((seconds, _): (i64, u32)) -> bool {
    !matches!(seconds, 0 | 1)
}

/// The value of Last-Modified for a file that was `modified` at this time, if the date can tell two
/// contents apart (RFC 9110 §8.8.2.2). It cannot while the second of the change is not over, since
/// the file may change again in it. A date in the future is that of no change.
fn date_validator(modified: (i64, u32), now: Duration) -> Option<u64> {
    let seconds = u64::try_from(modified.0).ok();
    let seconds = seconds.filter(|_| is_of_a_change(modified))?;
    let unsettled = resolution(modified).max(Duration::from_secs(1)) + CLOCK_LAG;
    let end = Duration::from_secs(seconds).checked_add(unsettled)?;
    (end <= now).then_some(seconds)
}

/// The entity tag of a file of `len` bytes that was `modified` at this time, in seconds and
/// nanoseconds since the epoch. The format is nginx's, but with nanoseconds, so that two changes
/// within a second get different tags. It has no inode number, so all copies of a file behind a
/// load balancer have the same tag.
fn etag(modified: (i64, u32), len: u64) -> String {
    let (seconds, nanoseconds) = modified;
    let modified_ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    format!("\"{modified_ns:x}-{len:x}\"")
}

/// Makes a header value of text that must be visible ASCII.
fn text(value: impl AsRef<[u8]>) -> HeaderValue {
    HeaderValue::from_bytes(value.as_ref()).expect("the value is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_depend_on_mtime_and_size() {
        let (modified, len) = ((1_700_000_000, 1), 5 << 30);
        assert_eq!(etag(modified, len), "\"17979cfe362a0001-140000000\"");
        let others = [
            ((modified.0, 2), len),
            ((modified.0 + 1, 1), len),
            (modified, len + 1),
            ((-1, 0), len),
            ((0, 0), 0),
        ];
        for (other, other_len) in others {
            assert_ne!(etag(other, other_len), etag(modified, len), "{other:?}");
            assert!(HeaderValue::from_str(&etag(other, other_len)).is_ok());
        }
    }

    /// A time without nanoseconds may have been rounded down to two seconds.
    #[test]
    fn a_coarse_time_settles_later() {
        let now = Duration::from_millis(1_002_020);
        for (time, expected) in [
            ((1000, 0), true),
            ((1001, 0), false),
            ((1002, 1), false),
            ((1001, 1), true),
            ((1003, 0), true),
            ((-1, 0), true),
            ((i64::MIN, 0), true),
            ((i64::MAX, 999_999_999), true),
        ] {
            assert_eq!(is_settled(time, now), expected, "{time:?}");
        }
        let earlier = now - Duration::from_millis(1);
        assert!(!is_settled((1000, 0), earlier));
        assert_eq!(date_validator((1000, 0), now), Some(1000));
        assert_eq!(date_validator((1000, 0), earlier), None);
    }

    #[test]
    fn a_date_is_a_validator_when_its_second_is_over() {
        let now = Duration::from_millis(1_000_020);
        for (seconds, expected) in [
            (i64::MIN, None),
            (-1, None),
            (0, None),
            (1, None),
            (2, Some(2)),
            (999, Some(999)),
            (1000, None),
            (i64::MAX, None),
        ] {
            assert_eq!(date_validator((seconds, 1), now), expected, "{seconds}");
        }
        assert_eq!(
            date_validator((999, 1), Duration::from_millis(1_000_019)),
            None
        );
    }
}
