//! Splits a line into words as a shell does, for variables that hold arguments.

/// The words of a line: blanks separate them, quotation marks and backslashes as in a shell. None
/// if a quotation mark is not closed.
pub(crate) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        let is_escape = letter == '\\' && quote != Some('\'');
        match letter {
            _ if is_escape => {
                let next = letters.next()?;
                let word = word.get_or_insert_default();
                // Between double quotation marks a backslash stands for itself before others.
                if quote.is_some() && next != '"' && next != '\\' {
                    word.push('\\');
                }
                word.push(next);
            }
            _ if quote == Some(letter) => quote = None,
            _ if quote.is_some() => word.get_or_insert_default().push(letter),
            '"' | '\'' => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            _ if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_does() {
        let check = |line: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|words| words.iter().map(|&w| w.to_owned()).collect());
            assert_eq!(split(line), expected, "{line}");
        };
        check("", Some(&[]));
        check("  -w 4\t--bind=:1 ", Some(&["-w", "4", "--bind=:1"]));
        check(
            r#"-e 'A=b c' "x \"y\" \n" ''"#,
            Some(&["-e", "A=b c", "x \"y\" \\n", ""]),
        );
        check(r"a\ b 'c\d'", Some(&["a b", r"c\d"]));
        check("'open", None);
        check("end\\", None);
    }
}
