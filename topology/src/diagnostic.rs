//! What is wrong or worth knowing, with its place and an excerpt of the file.

use std::fmt;
use std::sync::Arc;

use crate::environment::Expanded;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is not used.
    Error,
    /// The file is used, but not all of it means what it says.
    Warning,
    /// The file is used; this was decided for its author.
    Note,
}

/// A position in the topology file as its author wrote it. Line and column count from 1, columns in characters;
/// line 0: the file as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1; 0: no particular one.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters to underline, at least 1.
    pub length: usize,
}

/// One finding. Displayed as message, place, the line concerned, and a caret below the column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it, for example `mtu-underlay`; empty for what reading and planning find.
    pub rule: &'static str,
    /// What is wrong with which object, and what to do.
    pub message: String,
    /// What to do about it; empty when the message says it.
    pub help: String,
    /// Name of the file, as given by the caller.
    pub file: String,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line concerned and a line with carets, without line numbers; empty when there is none.
    pub excerpt: String,
}

/// A topology file's name and text, to make diagnostics with.
#[derive(Clone)]
pub(crate) struct Source(Arc<Inner>);

struct Inner {
    name: String,
    text: Expanded,
    /// Byte offset of every line of the original.
    lines: Vec<usize>,
}

/// Longest part of a line that is shown; YAML on one line would otherwise fill the screen.
const EXCERPT_WIDTH: usize = 100;

impl Source {
    pub(crate) fn new(name: &str, text: Expanded) -> Self {
        let lines = std::iter::once(0).chain(text.original.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Source(Arc::new(Inner { name: name.to_owned(), text, lines }))
    }

    /// The text after environment expansion.
    pub(crate) fn text(&self) -> &str {
        &self.0.text.text
    }

    /// The place of bytes `offset..offset + length` of the expanded text.
    pub(crate) fn place(&self, offset: usize, length: usize) -> Place {
        let original = &self.0.text.original;
        let start = floor_char(original, self.0.text.original_offset(offset));
        let end = floor_char(original, self.0.text.original_offset(offset.saturating_add(length))).max(start);
        let line = self.0.lines.partition_point(|&first| first <= start);
        let line_start = line.checked_sub(1).and_then(|i| self.0.lines.get(i)).copied().unwrap_or(0);
        let covered = original.get(start..end).unwrap_or_default();
        let covered = covered.lines().next().unwrap_or_default().trim_end();
        Place {
            line,
            column: original.get(line_start..start).unwrap_or_default().chars().count() + 1,
            length: covered.chars().count().max(1),
        }
    }

    /// The place of line and column (from 1, in characters) of the expanded text.
    pub(crate) fn place_of_line(&self, line: usize, column: usize) -> Place {
        let text = self.text();
        let Some(start) = line_offset(text, line) else { return Place::default() };
        let rest = text.get(start..).unwrap_or_default();
        let offset = rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(i, _)| i);
        self.place(start + offset, 0)
    }

    pub(crate) fn diagnostic(
        &self,
        severity: Severity,
        place: Place,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity,
            rule: "",
            message: message.into(),
            help: String::new(),
            file: self.0.name.clone(),
            line: place.line,
            column: place.column,
            excerpt: self.excerpt(place),
        }
    }

    pub(crate) fn error(&self, place: Place, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, place, message)
    }

    fn excerpt(&self, place: Place) -> String {
        let line_start = place.line.checked_sub(1).and_then(|i| self.0.lines.get(i));
        let Some(&start) = line_start else { return String::new() };
        let line = self.0.text.original.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        // A tab would shift the caret; control characters would play with the terminal.
        let line: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let column = place.column.saturating_sub(1).min(line.len());
        let first = column.saturating_sub(EXCERPT_WIDTH * 2 / 3).min(column);
        let shown: String = line.iter().skip(first).take(EXCERPT_WIDTH).collect();
        let indent = column - first;
        let carets = place.length.max(1).min(EXCERPT_WIDTH.saturating_sub(indent).max(1));
        format!("{}\n{}{}", shown.trim_end(), " ".repeat(indent), "^".repeat(carets))
    }
}

/// Byte offset of the first byte of a line that counts from 1.
fn line_offset(text: &str, line: usize) -> Option<usize> {
    match line {
        0 => None,
        1 => Some(0),
        n => text.match_indices('\n').nth(n - 2).map(|(i, _)| i + 1),
    }
}

fn floor_char(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.0.name).finish()
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            "" => write!(f, "{}: {}", self.severity, self.message)?,
            rule => write!(f, "{}[{rule}]: {}", self.severity, self.message)?,
        }
        if self.line == 0 {
            write!(f, "\n  --> {}", self.file)?;
            return self.write_help(f, " ");
        }
        let number = self.line.to_string();
        let pad = " ".repeat(number.len());
        write!(f, "\n{pad} --> {}:{}:{}", self.file, self.line, self.column)?;
        let mut lines = self.excerpt.lines();
        if let Some(text) = lines.next() {
            write!(f, "\n{pad} |\n{number} | {text}")?;
            if let Some(carets) = lines.next() {
                write!(f, "\n{pad} | {carets}")?;
            }
        }
        self.write_help(f, &pad)
    }
}

impl Diagnostic {
    fn write_help(&self, f: &mut fmt::Formatter<'_>, pad: &str) -> fmt::Result {
        match self.help.as_str() {
            "" => Ok(()),
            help => write!(f, "\n{pad} = help: {help}"),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// All findings as one text, the worst first, with an empty line between two.
pub fn render_all(diagnostics: &[Diagnostic]) -> String {
    let mut sorted: Vec<_> = diagnostics.iter().collect();
    sorted.sort_by_key(|d| (d.severity, d.line, d.column));
    sorted.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}
