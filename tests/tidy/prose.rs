//! Words and phrases that comments and pages may not use, because they hide the actor or the fact.
//! Text in backticks is not checked, so a comment can name any identifier.

use std::ops::Range;

use crate::scan;
use crate::violation;

/// A phrase that is refused, as whole words and with the case as given here.
struct Phrase {
    text: &'static str,
    /// It is refused only at the end of a sentence or a clause.
    at_end: bool,
    /// It is allowed behind this word.
    unless_after: Option<&'static str>,
    /// It is refused only in files whose path begins with this.
    below: &'static str,
    cure: &'static str,
}

const ACTOR: &str = "name the actor: the client, the peer, the caller, the task, the kernel";
const NOUN: &str = "use a noun: the in-flight requests, the queued chunks";
const NUMBER: &str = "give the number or its name: N bytes, `len` bytes, at most 64";
const EXITS: &str = "write: exits, ends, closes";

const PHRASES: &[Phrase] = &[
    refused("Who", ACTOR),
    refused("Whoever", ACTOR),
    refused("whoever", ACTOR),
    refused("What is", NOUN),
    refused("What was", NOUN),
    refused("What has", NOUN),
    refused("Nor", "begin the sentence with its subject, and use `not`"),
    refused("so many", NUMBER),
    refused("So many", NUMBER),
    refused("shall", "write: is, does, will, must"),
    refused("Shall", "write: is, does, will, must"),
    refused("take leave", EXITS),
    refused("takes leave", EXITS),
    refused("take its leave", EXITS),
    refused("takes its leave", EXITS),
    refused("took its leave", EXITS),
    refused("rung", "write: feature level"),
    refused("rungs", "write: feature levels"),
    Phrase {
        at_end: true,
        unless_after: Some("there"),
        ..refused("is none", "write: is not valid, is not a …, does not exist")
    },
    in_src("nobody"),
    in_src("Nobody"),
    in_src("somebody"),
    in_src("Somebody"),
    in_src("everybody"),
    in_src("Everybody"),
];

const fn refused(text: &'static str, cure: &'static str) -> Phrase {
    Phrase {
        text,
        at_end: false,
        unless_after: None,
        below: "",
        cure,
    }
}

const fn in_src(text: &'static str) -> Phrase {
    Phrase {
        below: "src/",
        ..refused(text, ACTOR)
    }
}

/// Files of these kinds are checked, and scripts without an extension.
const EXTENSIONS: &[&str] = &["rs", "md", "py", "toml", "yaml", "service"];

/// Whether a file has comments or text to check. A file without an extension has if it is a script.
pub(crate) fn is_checked(name: &str, is_script: impl FnOnce() -> bool) -> bool {
    match name.rsplit_once('.') {
        Some((_, extension)) => EXTENSIONS.contains(&extension),
        None => name == "Containerfile" || is_script(),
    }
}

/// Refuses the phrases of the table in the comments of a source file and in the text of a page.
pub(crate) fn phrases(path: &str, text: &str) -> Vec<String> {
    let phrases = PHRASES
        .iter()
        .filter(|phrase| path.starts_with(phrase.below));
    let phrases: Vec<&Phrase> = phrases.collect();
    let mut faults = Vec::new();
    for paragraph in paragraphs(path, text) {
        for phrase in &phrases {
            for at in paragraph.find(phrase) {
                let what = format!("`{}`; {}", phrase.text, phrase.cure);
                faults.push((paragraph.line_at(at), what));
            }
        }
    }
    faults.sort();
    let faults = faults.into_iter();
    faults
        .map(|(line, what)| violation(path, line, "phrases", &what))
        .collect()
}

/// Successive lines of text, joined by spaces.
#[derive(Default)]
struct Paragraph {
    text: String,
    /// Where each line begins in `text`, and its number in the file.
    lines: Vec<(usize, usize)>,
}

impl Paragraph {
    fn push(&mut self, number: usize, line: &str) {
        self.lines.push((self.text.len(), number));
        self.text.push_str(line);
        self.text.push(' ');
    }

    fn line_at(&self, offset: usize) -> usize {
        let line = self.lines.iter().rev().find(|(begin, _)| *begin <= offset);
        line.map_or(1, |(_, number)| *number)
    }

    fn find(&self, phrase: &Phrase) -> Vec<usize> {
        let quoted = quoted(&self.text);
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let matches = self.text.match_indices(phrase.text).map(|(at, _)| at);
        let found = matches.filter(|&at| {
            let (before, after) = (&self.text[..at], &self.text[at + phrase.text.len()..]);
            let is_whole = !before.ends_with(is_word) && !after.starts_with(is_word);
            let ends = after.trim().is_empty()
                || after
                    .trim_start()
                    .starts_with(['.', ',', ';', ':', '!', '?', ')', '|']);
            let is_quoted = quoted.iter().any(|span| span.contains(&at));
            let before = before.trim_end();
            let is_allowed = phrase
                .unless_after
                .is_some_and(|word| before.ends_with(word));
            is_whole && (ends || !phrase.at_end) && !is_allowed && !is_quoted
        });
        found.collect()
    }
}

/// The spans of `text` in backticks.
fn quoted(text: &str) -> Vec<Range<usize>> {
    let ticks: Vec<usize> = text.match_indices('`').map(|(at, _)| at).collect();
    ticks.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect()
}

/// The text of a file to check, in paragraphs.
fn paragraphs(path: &str, text: &str) -> Vec<Paragraph> {
    let lines = if path.ends_with(".rs") {
        rust_comments(text)
    } else if path.ends_with(".md") {
        (1..).zip(text.lines()).collect()
    } else {
        hash_comments(text)
    };
    let mut paragraphs = vec![Paragraph::default()];
    let mut last = 0;
    for (number, line) in lines {
        let line = line.trim();
        // The mark of a code block is no text.
        if line.is_empty() || line.starts_with("```") || number > last + 1 {
            paragraphs.push(Paragraph::default());
        }
        if !line.is_empty() && !line.starts_with("```") {
            let paragraph = paragraphs.last_mut().expect("there is a first one");
            paragraph.push(number, line);
        }
        last = number;
    }
    paragraphs
}

/// The lines of all comments in Rust source, with their numbers and without their marks.
fn rust_comments(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    for span in scan::comments(text) {
        let first = scan::line_at(text, span.start);
        for (number, line) in (first..).zip(text[span].lines()) {
            lines.push((number, line.trim_matches(['/', '*', '!', ' '])));
        }
    }
    lines
}

/// The lines of all comments that begin with `#`, and of Python's docstrings, with their numbers.
fn hash_comments(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut in_docstring = false;
    for (number, line) in (1..).zip(text.lines()) {
        let marks = line.matches("\"\"\"").count();
        if in_docstring || marks > 0 {
            lines.push((number, line.trim().trim_matches('"')));
            in_docstring ^= marks % 2 == 1;
            continue;
        }
        let mut marks = line.match_indices('#').map(|(at, _)| at);
        if let Some(at) = marks.find(|&at| line[..at].is_empty() || line[..at].ends_with(' ')) {
            lines.push((number, line[at..].trim_start_matches(['#', '!'])));
        }
    }
    lines
}
