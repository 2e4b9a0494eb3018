//! Splits Rust source into comments, literals and code, and finds the ends of blocks. This is no
//! parser: it expects source that rustc accepts.

use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Comment,
    Literal,
}

/// `text` with comments and literals replaced by spaces. Offsets and lines do not change.
pub(crate) fn code(text: &str) -> String {
    blank(text, spans(text).into_iter().map(|(_, span)| span))
}

/// The comments of `text`, as byte ranges.
pub(crate) fn comments(text: &str) -> Vec<Range<usize>> {
    let spans = spans(text).into_iter();
    spans
        .filter(|(kind, _)| *kind == Kind::Comment)
        .map(|(_, span)| span)
        .collect()
}

/// `text` with literals blanked and comments kept.
pub(crate) fn code_and_comments(text: &str) -> String {
    let literals = spans(text)
        .into_iter()
        .filter(|(kind, _)| *kind == Kind::Literal);
    blank(text, literals.map(|(_, span)| span))
}

/// `code` (see [`code`]) with every item under `#[cfg(test)]` blanked.
pub(crate) fn shipped(code: &str) -> String {
    let mut items: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        // An item within a blanked item is blanked already.
        if items.last().is_none_or(|item| start >= item.end) {
            items.push(start..item_end(code, start));
        }
    }
    blank(code, items.into_iter())
}

/// The line, counted from 1, that holds the byte at `offset`.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}

/// Every identifier and keyword of `code`, with its offset.
pub(crate) fn words(code: &str) -> Vec<(usize, &str)> {
    let bytes = code.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = word_end(bytes, at);
        if end > at && !bytes[at].is_ascii_digit() {
            words.push((at, &code[at..end]));
        }
        at = end.max(at + 1);
    }
    words
}

/// The offset behind the bracket that closes the one at `open`, or the end of `code`.
pub(crate) fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The first `{`, `;` or `}` at or after `from` that is not inside `(…)` or `[…]`.
pub(crate) fn body_or_end(code: &str, from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(byte) = code.as_bytes().get(at) {
        match byte {
            b'{' | b';' | b'}' => return Some(at),
            b'(' | b'[' => at = block_end(code, at),
            _ => at += 1,
        }
    }
    None
}

/// The bodies of inline modules (`mod name { … }`).
pub(crate) fn inline_modules(code: &str) -> Vec<Range<usize>> {
    let words = words(code);
    let bodies = words
        .windows(2)
        .filter(|pair| pair[0].1 == "mod")
        .filter_map(|pair| {
            let open = body_or_end(code, pair[1].0)?;
            (code.as_bytes()[open] == b'{').then(|| open..block_end(code, open))
        });
    bodies.collect()
}

/// The end of the item that has an attribute at `attribute`.
fn item_end(code: &str, attribute: usize) -> usize {
    match body_or_end(code, attribute) {
        Some(at) if code.as_bytes()[at] == b'{' => block_end(code, at),
        Some(at) if code.as_bytes()[at] == b';' => at + 1,
        Some(at) => at,
        None => code.len(),
    }
}

fn blank(text: &str, spans: impl Iterator<Item = Range<usize>>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for span in spans {
        for byte in &mut bytes[span] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(bytes).expect("whole characters are blanked")
}

fn spans(text: &str) -> Vec<(Kind, Range<usize>)> {
    let bytes = text.as_bytes();
    let mut spans = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let word = word_end(bytes, at);
        if word > at {
            // `r`, `br` and `cr` begin a raw string, in which backslashes are plain characters.
            let raw = matches!(&text[at..word], "r" | "br" | "cr");
            at = word;
            if let Some(end) = raw.then(|| raw_string_end(text, at)).flatten() {
                spans.push((Kind::Literal, at..end));
                at = end;
            }
        } else if let Some((kind, end)) = span_end(text, at) {
            spans.push((kind, at..end));
            at = end;
        } else {
            at += 1;
        }
    }
    spans
}

/// The kind and the end of the comment or literal that begins at `at`.
fn span_end(text: &str, at: usize) -> Option<(Kind, usize)> {
    let rest = &text.as_bytes()[at..];
    match rest {
        [b'/', b'/', ..] => {
            let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
            Some((Kind::Comment, end))
        }
        [b'/', b'*', ..] => Some((Kind::Comment, block_comment_end(text, at))),
        [b'"', ..] => Some((Kind::Literal, quoted_end(text, at, b'"'))),
        [b'\'', b'\\', ..] => Some((Kind::Literal, quoted_end(text, at, b'\''))),
        [b'\'', ..] => {
            // A character literal has its second quote behind one character, a lifetime has not.
            let inside = text[at + 1..].chars().next()?;
            let close = at + 1 + inside.len_utf8();
            text[close..]
                .starts_with('\'')
                .then_some((Kind::Literal, close + 1))
        }
        _ => None,
    }
}

fn block_comment_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, start);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => depth += 1,
            [b'*', b'/', ..] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn quoted_end(text: &str, open: usize, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = open + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of the raw string whose hashes begin at `at`; `None` if that is no raw string.
fn raw_string_end(text: &str, at: usize) -> Option<usize> {
    let hashes = text[at..].bytes().take_while(|&byte| byte == b'#').count();
    let inside = text[at + hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&close)?;
    Some(at + hashes + 1 + length + close.len())
}

fn word_end(bytes: &[u8], at: usize) -> usize {
    let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    at + bytes[at..].iter().take_while(is_word).count()
}

#[test]
fn blanks_comments_and_literals() {
    let text = "a /* \" /* */ */ b(\"c \\\" // d\", 'e', '\\'', r#\"f\"g\"#, &'h i) // j\nk";
    let code = code(text);
    let found: Vec<_> = words(&code).into_iter().map(|(_, word)| word).collect();
    assert_eq!(found, ["a", "b", "r", "h", "i", "k"]);
    assert_eq!(code.len(), text.len());
    assert!(code_and_comments(text).contains("// j"));
}

#[test]
fn blanks_test_items() {
    let code =
        "use a;\n#[cfg(test)]\nmod tests {\n fn b() { c() }\n}\n#[cfg(test)] mod d;\nfn e() {}";
    let found: Vec<_> = words(&shipped(code))
        .into_iter()
        .map(|(_, word)| word.to_owned())
        .collect();
    assert_eq!(found, ["use", "a", "fn", "e"]);
}
