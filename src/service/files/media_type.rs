//! The media type of a file, by its name. The list is that of `mime_guess`. Where it differs from
//! mime-db 1.54.0, which collects the lists of IANA, Apache and nginx and is maintained, for a type
//! that the web uses, [`CORRECTIONS`] has the type of mime-db. The test below has all types that
//! were compared.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ::http::HeaderValue;

/// Extensions, in lower case and in order, and their types.
const CORRECTIONS: [(&str, &str); 23] = [
    // mime-db has application/node, which no browser runs as a script.
    ("cjs", "text/javascript"),
    ("cur", "image/x-icon"),
    ("m2ts", "video/mp2t"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4s", "video/iso.segment"),
    ("manifest", "text/cache-manifest"),
    ("map", "application/json"),
    ("mid", "audio/midi"),
    ("midi", "audio/midi"),
    ("mjs", "text/javascript"),
    ("mts", "video/mp2t"),
    ("obj", "model/obj"),
    ("otf", "font/otf"),
    ("psd", "image/vnd.adobe.photoshop"),
    ("rpm", "application/x-redhat-package-manager"),
    ("stl", "model/stl"),
    ("tgz", "application/gzip"),
    ("toml", "application/toml"),
    ("ts", "video/mp2t"),
    ("usdz", "model/vnd.usdz+zip"),
    ("woff", "font/woff"),
    ("zst", "application/zstd"),
];

/// The value of Content-Type for the file at `path`. Text is assumed to be UTF-8.
pub(super) fn content_type(path: &[u8]) -> HeaderValue {
    let media_type = media_type(path).unwrap_or("application/octet-stream");
    if media_type.starts_with("text/") {
        let value = HeaderValue::try_from(format!("{media_type}; charset=utf-8"));
        return value.expect("a media type is visible ASCII");
    }
    HeaderValue::from_static(media_type)
}

/// The value of Content-Encoding for the file at `path`: its type is that of what was compressed.
pub(super) fn content_encoding(path: &[u8]) -> Option<HeaderValue> {
    let is_coded = extension(path).is_some_and(|extension| extension == "svgz");
    is_coded.then(|| HeaderValue::from_static("gzip"))
}

fn media_type(path: &[u8]) -> Option<&'static str> {
    let extension = extension(path)?;
    match CORRECTIONS.binary_search_by_key(&&*extension, |&(known, _)| known) {
        Ok(at) => Some(CORRECTIONS[at].1),
        Err(_) => mime_guess::from_ext(&extension).first_raw(),
    }
}

/// The extension of a path, in lower case.
fn extension(path: &[u8]) -> Option<String> {
    let extension = Path::new(OsStr::from_bytes(path)).extension()?;
    Some(extension.to_str()?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corrections_are_in_order() {
        assert!(CORRECTIONS.is_sorted_by_key(|(extension, _)| *extension));
    }

    #[test]
    fn the_extension_determines_the_media_type() {
        for (path, expected) in [
            ("a/b.HTM", "text/html; charset=utf-8"),
            ("a.MJS", "text/javascript; charset=utf-8"),
            ("a.tar.gz", "application/gzip"),
            ("a.unheard-of", "application/octet-stream"),
            ("README", "application/octet-stream"),
            ("a.html/b", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            assert_eq!(content_type(path.as_bytes()), expected, "{path}");
        }
        assert_eq!(content_type(b"\xff.html"), "text/html; charset=utf-8");
        assert_eq!(content_type(b"a.\xff"), "application/octet-stream");
        assert_eq!(content_encoding(b"a.SVGZ").unwrap(), "gzip");
        assert_eq!(content_encoding(b"a.svg"), None);
    }

    /// The types of mime-db 1.54.0, or others with the reason.
    #[test]
    fn the_types_of_the_web_are_those_of_a_maintained_list() {
        for (extensions, expected) in [
            ("html htm", "text/html"),
            ("css", "text/css"),
            ("js mjs", "text/javascript"),
            ("txt log conf ini", "text/plain"),
            ("csv", "text/csv"),
            ("md markdown", "text/markdown"),
            ("ics", "text/calendar"),
            ("vtt", "text/vtt"),
            ("json map", "application/json"),
            ("jsonld", "application/ld+json"),
            ("geojson", "application/geo+json"),
            ("webmanifest", "application/manifest+json"),
            ("wasm", "application/wasm"),
            ("xhtml", "application/xhtml+xml"),
            ("xml", "text/xml"),
            ("rss", "application/rss+xml"),
            ("atom", "application/atom+xml"),
            ("pdf", "application/pdf"),
            ("epub", "application/epub+zip"),
            ("zip", "application/zip"),
            ("gz", "application/gzip"),
            ("7z", "application/x-7z-compressed"),
            ("svg svgz", "image/svg+xml"),
            ("png", "image/png"),
            ("apng", "image/apng"),
            ("jpg jpeg", "image/jpeg"),
            ("gif", "image/gif"),
            ("webp", "image/webp"),
            ("avif", "image/avif"),
            ("heic", "image/heic"),
            ("jxl", "image/jxl"),
            ("bmp", "image/bmp"),
            ("tif tiff", "image/tiff"),
            ("ico", "image/x-icon"),
            ("ttf", "font/ttf"),
            ("otf", "font/otf"),
            ("ttc", "font/collection"),
            ("woff", "font/woff"),
            ("woff2", "font/woff2"),
            ("eot", "application/vnd.ms-fontobject"),
            ("mp3", "audio/mpeg"),
            ("m4a", "audio/mp4"),
            ("aac", "audio/aac"),
            ("oga ogg opus", "audio/ogg"),
            ("wav", "audio/wav"),
            ("weba", "audio/webm"),
            // RFC 9639, which mime-db does not have yet.
            ("flac", "audio/flac"),
            ("mp4", "video/mp4"),
            ("webm", "video/webm"),
            ("ogv", "video/ogg"),
            ("mov", "video/quicktime"),
            ("mpeg mpg", "video/mpeg"),
            ("ts", "video/mp2t"),
            ("m3u8", "application/vnd.apple.mpegurl"),
            ("mpd", "application/dash+xml"),
            ("glb", "model/gltf-binary"),
            ("gltf", "model/gltf+json"),
        ] {
            for extension in extensions.split(' ') {
                let path = format!("a.{extension}");
                assert_eq!(media_type(path.as_bytes()), Some(expected), "{extension}");
            }
        }
    }
}
