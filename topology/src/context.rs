//! What the readers of a file's parts share: diagnostics, and values of the expected shape.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::diagnostic::{Diagnostic, Place, Severity, Source};
use crate::keys::Use;
use crate::read::LoadOptions;
use crate::suggest::did_you_mean;
use crate::value::{Data, Key, Span, Value};

/// Text and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// Reads one file.
pub(crate) struct Context<'a> {
    pub(crate) source: Source,
    pub(crate) options: &'a LoadOptions,
    /// Folder of the file, absolute where the caller gave an absolute path.
    pub(crate) dir: PathBuf,
    /// Name of the lab; empty until it was read.
    pub(crate) lab: String,
    pub(crate) findings: Vec<Diagnostic>,
}

impl Context<'_> {
    pub(crate) fn place(&self, span: Span) -> Place {
        self.source.place(span.offset, span.length)
    }

    pub(crate) fn say(&mut self, severity: Severity, span: Span, message: impl Into<String>) {
        let place = self.place(span);
        self.findings.push(self.source.diagnostic(severity, place, message));
    }

    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.say(Severity::Error, span, message);
    }

    pub(crate) fn warn(&mut self, span: Span, message: impl Into<String>) {
        self.say(Severity::Warning, span, message);
    }

    pub(crate) fn failed(&self) -> bool {
        self.findings.iter().any(|d| d.severity == Severity::Error)
    }

    /// `clab-LAB` beside the file.
    pub(crate) fn lab_dir(&self) -> PathBuf {
        self.dir.join(format!("clab-{}", self.lab))
    }

    /// Checks that `value` is a mapping of known keys; says which are unknown and which are ignored. `what` names it,
    /// for example `node 'leaf1'`. Gives the entries that are used.
    pub(crate) fn fields<'v>(
        &mut self,
        what: &str,
        value: &'v Value,
        known: &[(&str, Use)],
    ) -> Vec<(&'v Key, &'v Value)> {
        if matches!(value.data, Data::Null) {
            return Vec::new();
        }
        let mut used = Vec::new();
        for (key, value) in self.map(what, value) {
            match known.iter().find(|(name, _)| *name == key.text) {
                Some((_, Use::Used)) => used.push((key, value)),
                Some((_, Use::Ignored)) => {
                    self.warn(key.span, format!("key '{}' of {what} is ignored by this runner", key.text));
                }
                None => {
                    let hint = did_you_mean(&key.text, known.iter().map(|(name, _)| *name));
                    self.error(key.span, format!("{what} has no key '{}'{hint}", shorten(&key.text)));
                }
            }
        }
        used
    }

    /// The entries of a mapping; nothing counts as an empty one.
    pub(crate) fn map<'v>(&mut self, what: &str, value: &'v Value) -> Vec<(&'v Key, &'v Value)> {
        match &value.data {
            Data::Map(entries) => entries.iter().map(|(k, v)| (k, v)).collect(),
            Data::Null => Vec::new(),
            _ => {
                self.error(
                    value.span,
                    format!("{what} must be a mapping (key: value), this is {}", value.describe()),
                );
                Vec::new()
            }
        }
    }

    /// The items of a list; nothing counts as an empty one.
    pub(crate) fn list<'v>(&mut self, what: &str, value: &'v Value) -> &'v [Value] {
        match &value.data {
            Data::List(items) => items,
            Data::Null => &[],
            _ => {
                self.error(value.span, format!("{what} must be a list, this is {}", value.describe()));
                &[]
            }
        }
    }

    /// A scalar as text; nothing counts as the empty text.
    pub(crate) fn text(&mut self, what: &str, value: &Value) -> Option<Text> {
        match &value.data {
            Data::Scalar(text) => Some(Text { text: text.clone(), span: value.span }),
            Data::Null => Some(Text { text: String::new(), span: value.span }),
            _ => {
                self.error(
                    value.span,
                    format!("{what} must be a single value, this is {}", value.describe()),
                );
                None
            }
        }
    }

    /// A scalar that is not empty.
    pub(crate) fn word(&mut self, what: &str, value: &Value) -> Option<Text> {
        let text = self.text(what, value)?;
        if text.text.is_empty() {
            self.error(value.span, format!("{what} is empty"));
            return None;
        }
        Some(text)
    }

    /// A list of scalars.
    pub(crate) fn texts(&mut self, what: &str, value: &Value) -> Vec<Text> {
        let items: Vec<&Value> = self.list(what, value).iter().collect();
        items.into_iter().filter_map(|item| self.text(what, item)).collect()
    }

    /// A scalar of another type; its error is said with the place.
    pub(crate) fn parse<T>(&mut self, what: &str, value: &Value) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.word(what, value)?;
        self.parse_text(what, &text)
    }

    /// Text as another type; its error is said with the place.
    pub(crate) fn parse_text<T>(&mut self, what: &str, text: &Text) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        match text.text.trim().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let shown = shorten(&text.text);
                let error = T::Err::to_string(&error);
                let message = if error.contains(&shown) {
                    format!("{what}: {error}")
                } else {
                    format!("{what} '{shown}' is not valid: {error}")
                };
                self.error(text.span, message);
                None
            }
        }
    }

    /// A number within bounds.
    pub(crate) fn number(&mut self, what: &str, text: &Text, low: u32, high: u32) -> Option<u32> {
        match text.text.trim().parse::<u32>() {
            Ok(n) if (low..=high).contains(&n) => Some(n),
            _ => {
                self.error(
                    text.span,
                    format!("{what} '{}' is not a number in {low} to {high}", shorten(&text.text)),
                );
                None
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, what: &str, text: &Text) -> Option<bool> {
        match text.text.as_str() {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            other => {
                self.error(text.span, format!("{what} '{}' is neither true nor false", shorten(other)));
                None
            }
        }
    }

    /// A path of the file as an absolute one: `~` is the home folder, relative paths start at the file's folder.
    pub(crate) fn resolve(&mut self, what: &str, text: &Text) -> Option<PathBuf> {
        let path = match text.text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => match &self.options.home {
                Some(home) => home.join(rest.trim_start_matches('/')),
                None => {
                    self.error(
                        text.span,
                        format!("{what} begins with '~', but the home folder is not known"),
                    );
                    return None;
                }
            },
            _ => self.dir.join(&text.text),
        };
        Some(normalise(&path))
    }

    /// Says that a file the lab needs is not there, unless it lies in the folder that the runner itself fills.
    pub(crate) fn must_exist(&mut self, what: &str, path: &Path, span: Span) {
        if self.options.check_files && !path.starts_with(self.lab_dir()) && !path.exists() {
            self.error(span, format!("{what}: {} does not exist", path.display()));
        }
    }
}

/// Without `.` and `..`, by text alone.
fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => match out.components().next_back() {
                Some(std::path::Component::Normal(_)) => {
                    out.pop();
                }
                Some(std::path::Component::RootDir) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    out
}

/// For messages: at most 60 characters, none that plays with a terminal.
pub(crate) fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}
