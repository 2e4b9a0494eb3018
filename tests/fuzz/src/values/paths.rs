//! The path of a request, as a file path below a folder.

use coring::parts::{Relative, with_slash};

pub(super) fn check(bytes: &[u8]) {
    // Bytes that no request target can contain must not cause a panic.
    let _ = Relative::read(bytes);
    let is_of_paths = |byte: &u8| *byte > 0x20 && *byte < 0x7f && *byte != b'?';
    let path: Vec<u8> = bytes.iter().copied().filter(is_of_paths).collect();
    let relative = Relative::read(&path);
    let read = relative
        .as_ref()
        .map(|relative| relative.as_bytes().to_vec());
    assert_eq!(read, naive(&path), "{}", path.escape_ascii());
    let Some(relative) = relative else { return };
    let is_directory = relative.as_bytes().is_empty() || relative.as_bytes().ends_with(b"/");
    assert_eq!(relative.is_directory(), is_directory);
    let file = relative.file();
    assert!(!file.contains(&0) && !file.starts_with(b"/") && !file.ends_with(b"/"));
    let mut names = file.split(|byte| *byte == b'/');
    assert!(names.all(|name| !name.is_empty() && name != b"." && name != b".."));
    let path = str::from_utf8(&path).expect("ASCII");
    let target = with_slash(path, None);
    let name = target
        .strip_prefix("./")
        .and_then(|rest| rest.strip_suffix('/'));
    assert!(name.is_some_and(|name| !name.contains('/')), "{target}");
    assert!(
        !target.contains(['\\', '^', '`', '{', '|', '}', '[', ']']),
        "{target}"
    );
    assert!(with_slash(path, Some("q=//x")).ends_with("/?q=//x"));
}

/// Decodes the path once, splits it, and checks each name.
fn naive(path: &[u8]) -> Option<Vec<u8>> {
    if path.first() != Some(&b'/') {
        return None;
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < path.len() {
        if path[at] != b'%' {
            decoded.push(path[at]);
            at += 1;
            continue;
        }
        let value = digit(path.get(at + 1))? * 16 + digit(path.get(at + 2))?;
        if value == 0 || value == u32::from(b'/') {
            return None;
        }
        decoded.push(u8::try_from(value).ok()?);
        at += 3;
    }
    let names = decoded
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty());
    let names: Vec<&[u8]> = names.collect();
    let is_hidden = |(at, name): (usize, &&[u8])| {
        name.starts_with(b".") && !(at == 0 && **name == *b".well-known")
    };
    if names.iter().enumerate().any(is_hidden) {
        return None;
    }
    let mut relative = names.join(&b'/');
    if decoded.ends_with(b"/") && !relative.is_empty() {
        relative.push(b'/');
    }
    Some(relative)
}
