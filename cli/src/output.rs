//! Standard output in the form asked for: tables for people, JSON and YAML for programs.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, ContentArrangement};
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// JSON with the field names of the API.
    Json,
    /// YAML with the field names of the API; records can be applied again.
    Yaml,
}

/// How a piece of text stands out when colour is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Faint,
}

/// A table without borders. All cells of a column are as wide as the widest; nothing is wrapped.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

/// Where output goes and how it looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// The form asked for.
    pub(crate) format: Format,
    /// Colour on standard output.
    pub(crate) colour: bool,
    /// Colour on standard error.
    pub(crate) error_colour: bool,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
}

impl Tone {
    /// The SGR parameters of ECMA-48.
    fn code(self) -> &'static str {
        match self {
            Tone::Plain => "0",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
        }
    }
}

/// The text in a tone, if colour is on.
pub(crate) fn paint(text: &str, tone: Tone, colour: bool) -> String {
    if colour && tone != Tone::Plain {
        format!("\x1b[{}m{text}\x1b[0m", tone.code())
    } else {
        text.to_owned()
    }
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Table { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. Empty cells show as "-", so that columns stay countable for scripts.
    pub(crate) fn row(&mut self, cells: Vec<(String, Tone)>) {
        let shown =
            |text: String| if text.is_empty() { "-".to_owned() } else { crate::failure::printable(&text) };
        self.rows
            .push(cells.into_iter().map(|(text, tone)| (shown(text).replace('\n', " "), tone)).collect());
    }

    pub(crate) fn render(&self, colour: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if colour {
            table.enforce_styling().style_text_only();
        } else {
            table.force_no_tty();
        }
        table.set_header(self.header.clone());
        for row in &self.rows {
            table.add_row(row.iter().map(|(text, tone)| cell(text, *tone)).collect::<Vec<_>>());
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

fn cell(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Warn => cell.fg(Color::DarkYellow),
        Tone::Bad => cell.fg(Color::DarkRed),
        Tone::Faint => cell.fg(Color::DarkGrey),
    }
}

/// A cell without colour.
pub(crate) fn plain(text: impl ToString) -> (String, Tone) {
    (text.to_string(), Tone::Plain)
}

impl Output {
    /// Colour only on a terminal, and neither when refused by flag nor by NO_COLOR (any non-empty value).
    pub(crate) fn new(format: Format, no_color: bool) -> Self {
        let refused = no_color
            || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let terminal = std::io::stdout().is_terminal();
        Output {
            format,
            colour: !refused && terminal,
            error_colour: !refused && std::io::stderr().is_terminal(),
            terminal,
        }
    }

    /// Writes text as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
    }

    /// Writes a line.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        self.text(&format!("{text}\n"))
    }

    /// Writes a table.
    pub(crate) fn table(&self, table: &Table) -> Result<(), Failure> {
        self.text(&table.render(self.colour))
    }

    /// A remark on standard error, where it does not disturb what a program reads.
    pub(crate) fn note(&self, text: &str) {
        // Nobody is there to be told when standard error itself is gone.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// The next useful command, for people only.
    pub(crate) fn next(&self, command: &str) {
        if self.terminal && self.format == Format::Table {
            self.note(&paint(&format!("next: {command}"), Tone::Faint, self.error_colour));
        }
    }

    /// Writes one value as JSON or YAML.
    pub(crate) fn data<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.line(&to_json(value)?),
            Format::Yaml | Format::Table => self.text(&to_yaml(value)?),
        }
    }

    /// Writes records: a JSON array, or one YAML document each.
    pub(crate) fn documents<T: Serialize>(&self, values: &[T]) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.line(&to_json(&values)?),
            Format::Yaml | Format::Table => self.text(&to_yaml_documents(values)?),
        }
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot write JSON: {e}")))
}

fn to_yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot write YAML: {e}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// One YAML document a value, separated by `---`.
pub(crate) fn to_yaml_documents<T: Serialize>(values: &[T]) -> Result<String, Failure> {
    let texts: Result<Vec<String>, Failure> = values.iter().map(to_yaml).collect();
    Ok(texts?.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_borders_and_no_trailing_space() {
        let mut table = Table::new(&["NAME", "STATE", "NOTE"]);
        table.row(vec![plain("a"), ("up".into(), Tone::Good), plain("")]);
        table.row(vec![plain("a-much-longer-name"), ("down".into(), Tone::Bad), plain("two\nlines")]);
        insta::assert_snapshot!(table.render(false), @r"
        NAME                 STATE   NOTE
        a                    up      -
        a-much-longer-name   down    two lines
        ");
        let coloured = table.render(true);
        assert!(coloured.contains("\x1b["), "{coloured:?}");
        assert!(!table.render(false).contains('\x1b'));
    }
}
