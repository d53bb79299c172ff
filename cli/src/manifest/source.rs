//! Places in a manifest and excerpts that point at them.

use std::fmt::Write as _;

/// Longest piece of a line that an excerpt shows, in characters.
const EXCERPT_WIDTH: usize = 100;

/// One input: a file or standard input.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// What the user calls it: the path as given, or `<stdin>`.
    pub(crate) name: String,
    /// Its text.
    pub(crate) text: String,
}

/// Some characters of one line of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub(crate) column: usize,
    /// How many characters, at least 1.
    pub(crate) width: usize,
}

/// Something wrong at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) place: Place,
    /// What is wrong and, where it is known, what would be right.
    pub(crate) message: String,
}

impl Source {
    /// `NAME:LINE:COLUMN: message` and the line with a caret under the place.
    pub(crate) fn excerpt(&self, problem: &Problem) -> String {
        let Place { line, column, width } = problem.place;
        let mut out = format!("{}:{line}:{column}: {}", self.name, problem.message);
        let Some(text) = self.text.lines().nth(line.saturating_sub(1)) else {
            return out;
        };
        // A control character would move the cursor and the caret with it.
        let chars: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let at = column.saturating_sub(1).min(chars.len());
        let from = if at < EXCERPT_WIDTH { 0 } else { at - EXCERPT_WIDTH / 2 };
        let shown: String = chars.iter().skip(from).take(EXCERPT_WIDTH).collect();
        let shown = shown.trim_end();
        let carets = width.clamp(1, (from + EXCERPT_WIDTH).saturating_sub(at).max(1));
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let pad = " ".repeat(at - from);
        let carets = "^".repeat(carets);
        // Writing to a String cannot fail.
        let _ = write!(out, "\n {margin} |\n {number} | {shown}\n {margin} | {pad}{carets}");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(text: &str) -> Source {
        Source { name: "net.yaml".into(), text: text.into() }
    }

    fn problem(line: usize, column: usize, width: usize) -> Problem {
        Problem { place: Place { line, column, width }, message: "is wrong".into() }
    }

    #[test]
    fn caret_is_under_the_place() {
        let text = source("kind: Vrf\nname: red\n").excerpt(&problem(2, 7, 3));
        assert_eq!(text, "net.yaml:2:7: is wrong\n   |\n 2 | name: red\n   |       ^^^");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text =
            source(&format!("{}here{}", "x".repeat(500), "y".repeat(500))).excerpt(&problem(1, 501, 4));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].len() < 120, "{text}");
        assert_eq!(lines[2].find("here"), lines[3].find("^^^^"), "{text}");
    }

    proptest! {
        #[test]
        fn any_place_in_any_text_is_answered(text in "\\PC{0,300}", line in 0usize..5, column in 0usize..400, width in 0usize..400) {
            let _ = source(&text).excerpt(&problem(line, column, width));
        }
    }
}
