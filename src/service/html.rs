//! Text in pages that coring itself makes.

use std::fmt::{self, Write};

/// Text that is written as HTML, also in the value of an attribute.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            other => f.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let escaped = Escaped("<a b=\"c\">&é").to_string();
        assert_eq!(escaped, "&lt;a b=&quot;c&quot;&gt;&amp;é");
    }
}
