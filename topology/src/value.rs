//! YAML as a tree in which everything knows its place.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Options, Spanned};

use crate::diagnostic::{Diagnostic, Place, Source};

/// Bytes of the expanded text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) data: Data,
    pub(crate) span: Span,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as text: `0x10`, `yes` and `1.0` stay what was written.
    Scalar(String),
    /// A sequence.
    List(Vec<Value>),
    /// A mapping in the order of the file; no key twice.
    Map(Vec<(Key, Value)>),
}

/// A key and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// Deeper than any topology, shallow enough for any stack.
const MAX_DEPTH: usize = 48;

impl Value {
    /// Parses one document.
    pub(crate) fn parse(source: &Source) -> Result<Value, Diagnostic> {
        let text = source.text();
        let parsed: Result<Spanned<Raw>, _> = serde_saphyr::from_str_with_options(text, options());
        match parsed {
            Ok(raw) => Ok(raw.value.locate(text, span(&raw.defined))),
            Err(error) => {
                let place = error.location().map_or_else(Place::default, |at| {
                    source.place_of_line(to_usize(at.line()), to_usize(at.column()))
                });
                Err(source.error(place, format!("this is not valid YAML: {}", reason(&error))))
            }
        }
    }

    /// A word for what it is.
    pub(crate) fn describe(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Scalar(_) => "a single value",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    /// The entries of a mapping; none if it is none.
    pub(crate) fn entries(&self) -> &[(Key, Value)] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.entries().iter().find(|(k, _)| k.text == key).map(|(_, v)| v)
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.with_snippet = false;
    options.emit_comments = false;
    options.leading_zero_numbers_as_strings = true;
    options.underscored_numbers_as_strings = true;
    options.non_finite_float_policy = serde_saphyr::options::NonFiniteFloatPolicy::PassThrough;
    if let Some(budget) = &mut options.budget {
        budget.max_depth = MAX_DEPTH;
    }
    options
}

/// The parser's message without its own place: line and column are shown by the diagnostic.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    // What follows speaks to programmers.
    let text = text.split(", set ").next().unwrap_or_default();
    match text.strip_prefix("line ").and_then(|t| t.split_once(": ")) {
        Some((place, rest)) if place.chars().all(|c| c.is_ascii_digit() || " column".contains(c)) => {
            rest.to_owned()
        }
        _ => text.lines().next().unwrap_or_default().to_owned(),
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn span(location: &Location) -> Span {
    let span = location.span();
    Span { offset: span.byte_offset().map_or(0, to_usize), length: span.byte_len().map_or(0, to_usize) }
}

/// What serde hands over, before scalars were looked up in the text.
enum Raw {
    Null,
    Text(String),
    /// A number or boolean: its text is taken from the file, for its type is none of the parser's business.
    Typed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl Raw {
    fn locate(self, text: &str, span: Span) -> Value {
        let data = match self {
            Raw::Null => Data::Null,
            Raw::Text(text) => Data::Scalar(text),
            Raw::Typed(fallback) => {
                let written = text.get(span.offset..span.offset.saturating_add(span.length)).map(str::trim);
                Data::Scalar(written.filter(|t| !t.is_empty()).map_or(fallback, str::to_owned))
            }
            Raw::List(items) => Data::List(items.into_iter().map(|i| located(i, text)).collect()),
            Raw::Map(entries) => Data::Map(
                entries
                    .into_iter()
                    .map(|(k, v)| (Key { text: k.value, span: self::span(&k.defined) }, located(v, text)))
                    .collect(),
            ),
        };
        Value { data, span }
    }
}

fn located(raw: Spanned<Raw>, text: &str) -> Value {
    let span = span(&raw.defined);
    raw.value.locate(text, span)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Expanded;

    fn parse(text: &str) -> Result<Value, Diagnostic> {
        Value::parse(&Source::new("x.clab.yml", Expanded::verbatim(text)))
    }

    fn scalar(value: &Value) -> &str {
        match &value.data {
            Data::Scalar(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_keep_their_spelling() {
        let text = "a: 0x10\nb: yes\nc: 1.50\nd: 007\ne: \"q\"\nf: true # c\ng: 1_000\nh: [on, 010 , -5]\ni:\nj: .inf\n";
        let value = parse(text).unwrap();
        for (key, want) in [
            ("a", "0x10"),
            ("b", "yes"),
            ("c", "1.50"),
            ("d", "007"),
            ("e", "q"),
            ("f", "true"),
            ("g", "1_000"),
            ("j", ".inf"),
        ] {
            assert_eq!(scalar(value.get(key).unwrap()), want);
        }
        let Data::List(items) = &value.get("h").unwrap().data else { panic!() };
        assert_eq!(items.iter().map(scalar).collect::<Vec<_>>(), ["on", "010", "-5"]);
        assert!(matches!(value.get("i").unwrap().data, Data::Null));
    }

    #[test]
    fn keys_and_values_know_their_place() {
        let text = "é: 1\nnodes:\n  n1: {kind: linux}\n  7: &x 5\n  n2: *x\n";
        let source = Source::new("x", Expanded::verbatim(text));
        let value = Value::parse(&source).unwrap();
        let (key, node) = &value.get("nodes").unwrap().entries()[0];
        let place = source.place(key.span.offset, key.span.length);
        assert_eq!((place.line, place.column, place.length), (3, 3, 2));
        let kind = node.get("kind").unwrap();
        let place = source.place(kind.span.offset, kind.span.length);
        assert_eq!((place.line, place.column, place.length), (3, 14, 5));
        let (key, seven) = &value.get("nodes").unwrap().entries()[1];
        assert_eq!((key.text.as_str(), scalar(seven)), ("7", "5"));
        assert_eq!(scalar(value.get("nodes").unwrap().get("n2").unwrap()), "5");
    }

    #[test]
    fn bad_yaml_has_line_column_and_caret() {
        let error = parse("name: x\ntopology:\n  nodes: [a\n  links: {}\n").unwrap_err();
        insta::assert_snapshot!(error);
        let error = parse("name: x\nname: y\n").unwrap_err();
        insta::assert_snapshot!(error);
        let error = parse("a: b\n\tc: d\n").unwrap_err();
        insta::assert_snapshot!(error);
    }

    #[test]
    fn deep_nesting_and_alias_bombs_are_refused() {
        assert!(parse(&"[".repeat(10_000)).is_err());
        assert!(parse(&"a: ".repeat(10_000)).is_err());
        assert!(parse(&format!("{}1{}", "[".repeat(200), "]".repeat(200))).is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let previous = format!("*a{}", i - 1);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", [previous.as_str(); 9].join(",")));
        }
        assert!(parse(&bomb).is_err());
    }
}
