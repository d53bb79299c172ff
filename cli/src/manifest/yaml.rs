//! YAML text as a tree that remembers where each node stands. The events come from the YAML library's own parser;
//! decoding by hand afterwards lets every wrong field of a file be reported at once, each with its place.

use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{Event, Marker, Options, Parser, ScalarStyle, Span, Tag};

use super::source::{Place, Problem};

/// Deepest nesting of lists and maps. Records need three levels.
const NESTING_LIMIT: usize = 32;

/// A node of the tree. Aliased nodes are shared, so that a small text stays a small tree.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar: its text, and whether it was written without quotes or tag.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Rc<Node>>),
    /// A map in the order of the text. Keys are unique.
    Map(Vec<(Key, Rc<Node>)>),
}

/// A key of a map.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) text: String,
}

impl Value {
    /// For messages: "a list", "a map", …
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Value::Null => "empty",
            Value::Scalar { .. } => "a value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// An open collection while parsing.
enum Open {
    List { place: Place, anchor: usize, items: Vec<Rc<Node>> },
    Map { place: Place, anchor: usize, entries: Vec<(Key, Rc<Node>)>, key: Option<Key> },
}

/// The tree builder.
#[derive(Default)]
struct Builder {
    documents: Vec<Rc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
}

/// The non-empty documents of a text. Stops at the first syntax error.
pub(crate) fn parse(text: &str) -> Result<Vec<Rc<Node>>, Problem> {
    let mut options = Options::default();
    options.flow_nesting_limit = NESTING_LIMIT;
    options.block_nesting_limit = NESTING_LIMIT;
    options.set_emit_comments(false);
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| {
            tab_indent(text, e.marker().line()).unwrap_or_else(|| Problem {
                place: at(e.marker(), 1),
                message: format!("malformed YAML: {}", e.info()),
            })
        })?;
        builder.event(event, &span)?;
    }
    Ok(builder.documents)
}

/// A line indented with a tab at or just after an error's line. The parser points at what came before it, which says
/// little to somebody who cannot see the tab.
fn tab_indent(text: &str, line: usize) -> Option<Problem> {
    let near = text.lines().enumerate().skip(line.saturating_sub(1)).take(2);
    let mut tabs = near.filter_map(|(index, text)| {
        let indent = text.chars().take_while(|c| c.is_whitespace());
        indent.enumerate().find(|(_, c)| *c == '\t').map(|(column, _)| (index, column))
    });
    let (index, column) = tabs.next()?;
    let place = Place { line: index + 1, column: column + 1, width: 1 };
    Some(Problem { place, message: "malformed YAML: indented with a tab; use spaces".into() })
}

/// The place that starts at a marker.
fn at(marker: &Marker, width: usize) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1, width: width.max(1) }
}

/// The place of a span; only its first line counts.
fn place(span: &Span) -> Place {
    let same_line = span.start.line() == span.end.line();
    at(&span.start, if same_line { span.end.col().saturating_sub(span.start.col()) } else { 1 })
}

/// `Some(true)` for text by tag, `None` when there is no tag.
fn check_tag(tag: Option<&Tag>, place: Place) -> Result<bool, Problem> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema_tag("str") => Ok(true),
        Some(tag) => Err(Problem {
            place,
            message: format!("tag '{}' is not supported; write the plain value", tag.original()),
        }),
    }
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problem> {
        let place = place(span);
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = check_tag(tag.as_deref(), place)?;
                let plain = style == ScalarStyle::Plain && !tagged;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar { text: text.into_owned(), plain } };
                self.add(Rc::new(Node { place, value }), anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), place)?;
                self.open.push(Open::List { place, anchor, items: Vec::new() });
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), place)?;
                self.open.push(Open::Map { place, anchor, entries: Vec::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { place, anchor, items }) => {
                    self.add(Rc::new(Node { place, value: Value::List(items) }), anchor)?;
                }
                Some(Open::Map { place, anchor, entries, .. }) => {
                    self.add(Rc::new(Node { place, value: Value::Map(entries) }), anchor)?;
                }
                None => {}
            },
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned();
                let node = node.ok_or_else(|| Problem {
                    place,
                    message: "alias refers to the node it is part of".into(),
                })?;
                self.add(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None if matches!(node.value, Value::Null) => {}
            None => self.documents.push(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(new_key(&node, entries)?),
            },
        }
        Ok(())
    }
}

/// The node as a key that is not among `entries` yet.
fn new_key(node: &Node, entries: &[(Key, Rc<Node>)]) -> Result<Key, Problem> {
    let text = match &node.value {
        Value::Scalar { text, .. } => text.clone(),
        Value::Null => String::new(),
        other => {
            return Err(Problem {
                place: node.place,
                message: format!("a field name must be text, this is {}", other.describe()),
            });
        }
    };
    if let Some((first, _)) = entries.iter().find(|(k, _)| k.text == text) {
        let message = format!("field '{text}' is given twice, first in line {}", first.place.line);
        return Err(Problem { place: node.place, message });
    }
    Ok(Key { place: node.place, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_are_lines_and_columns_of_the_text() {
        let docs = parse("a: 1\n---\nb:\n  - x\n  - 'yy'\n").unwrap();
        assert_eq!(docs.len(), 2);
        let Value::Map(entries) = &docs[1].value else { panic!("{docs:?}") };
        assert_eq!(entries[0].0.place, Place { line: 3, column: 1, width: 1 });
        let Value::List(items) = &entries[0].1.value else { panic!("{docs:?}") };
        assert_eq!(items[1].place, Place { line: 5, column: 5, width: 4 });
        assert!(matches!(&items[1].value, Value::Scalar { text, plain: false } if text == "yy"));
    }

    #[test]
    fn empty_documents_are_nothing() {
        assert!(parse("").unwrap().is_empty());
        assert!(parse("# only a comment\n---\n---\n~\n").unwrap().is_empty());
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let problem = parse("kind: Vrf\nname: [a, b\n").unwrap_err();
        assert!(problem.message.starts_with("malformed YAML: "), "{problem:?}");
        assert!(problem.place.line >= 2, "{problem:?}");
        assert_eq!(parse("a: 1\na: 2\n").unwrap_err().message, "field 'a' is given twice, first in line 1");
        assert!(parse("a: !secret x\n").unwrap_err().message.contains("tag '!secret' is not supported"));
        assert!(parse("a: &x [*x]\n").is_err());
    }

    #[test]
    fn aliases_are_shared_not_copied() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for n in 1..200 {
            let line = vec![format!("*a{}", n - 1); 9].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{line}]\n"));
        }
        assert_eq!(parse(&text).unwrap().len(), 1);
    }

    #[test]
    fn nesting_is_limited() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[\\[\\]{}:,&*!|>'\"\\n \\-a-c#~%]{0,80}") {
            let _ = parse(&text);
        }
    }
}
