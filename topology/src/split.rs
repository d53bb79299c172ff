//! Command lines as argument lists, the way a shell splits them.

/// Why a command line cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A quote is not closed.
    #[error("a {0} quote is not closed")]
    Quote(&'static str),
    /// The last byte is a backslash.
    #[error("nothing follows the last backslash")]
    Backslash,
    /// There is no word.
    #[error("the command is empty")]
    Empty,
}

/// Splits a command line into arguments: blanks separate, `'…'` is literal, in `"…"` a backslash quotes `"`, `\`, `$`
/// and a backquote, outside it quotes anything. No variables, no globs, no `;` or `|`: there is no shell.
///
/// # Errors
/// An open quote, a trailing backslash, or no argument at all.
pub fn split_command(line: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err(SplitError::Quote("single")),
                    }
                }
            }
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err(SplitError::Backslash),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.is_empty() { Err(SplitError::Empty) } else { Ok(words) }
}

fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), SplitError> {
    const OPEN: SplitError = SplitError::Quote("double");
    loop {
        match chars.next().ok_or(OPEN)? {
            '"' => return Ok(()),
            '\\' => match chars.next().ok_or(OPEN)? {
                '\n' => {}
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        let cases: [(&str, &[&str]); 9] = [
            ("ip link  show", &["ip", "link", "show"]),
            ("  a\tb\n", &["a", "b"]),
            ("sh -c 'a \"b\" \\n $X'", &["sh", "-c", "a \"b\" \\n $X"]),
            (r#"x "a \"b\" \$c \d" y"#, &["x", r#"a "b" $c \d"#, "y"]),
            (r"a\ b c\'d", &["a b", "c'd"]),
            ("a'b'\"c\"d", &["abcd"]),
            ("'' \"\"", &["", ""]),
            ("a | b; c > d", &["a", "|", "b;", "c", ">", "d"]),
            ("a \\\nb", &["a", "b"]),
        ];
        for (line, want) in cases {
            assert_eq!(split_command(line).unwrap(), want, "{line}");
        }
    }

    #[test]
    fn what_is_open_is_an_error() {
        for (line, want) in [
            ("a 'b", SplitError::Quote("single")),
            ("a \"b\\", SplitError::Quote("double")),
            ("a\\", SplitError::Backslash),
            (" \t", SplitError::Empty),
            ("", SplitError::Empty),
        ] {
            assert_eq!(split_command(line), Err(want), "{line}");
        }
    }
}
