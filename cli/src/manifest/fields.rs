//! Typed access to the fields of one record, collecting what is wrong instead of stopping.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::source::{Place, Problem};
use super::yaml::{Key, Node, Value};
use crate::suggest::did_you_mean;
use crate::words::Words;

/// The fields of a record while it is read. A wrong or absent field reads as its default; what is wrong is recorded.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    entries: &'a [(Key, Rc<Node>)],
    asked: Vec<&'static str>,
    places: BTreeMap<String, Place>,
    problems: &'a mut Vec<Problem>,
    before: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(entries: &'a [(Key, Rc<Node>)], problems: &'a mut Vec<Problem>) -> Self {
        let before = problems.len();
        Fields { entries, asked: Vec::new(), places: BTreeMap::new(), problems, before }
    }

    /// Where a field's value stands.
    pub(crate) fn place(&self, name: &str) -> Option<Place> {
        self.entries.iter().find(|(k, _)| k.text == name).map(|(_, v)| v.place)
    }

    /// Records a problem.
    pub(crate) fn problem(&mut self, place: Place, message: String) {
        self.problems.push(Problem { place, message });
    }

    /// True while nothing wrong was found in this record.
    pub(crate) fn is_clean(&self) -> bool {
        self.problems.len() == self.before
    }

    /// Refuses what was not asked for; returns the place of every value by its path.
    pub(crate) fn finish(&mut self, kind: &str) -> BTreeMap<String, Place> {
        self.finish_as(&format!("a {kind}"))
    }

    fn finish_as(&mut self, what: &str) -> BTreeMap<String, Place> {
        for (key, _) in self.entries {
            if !self.asked.contains(&key.text.as_str()) {
                let known = self.asked.iter().copied();
                let hint = did_you_mean(&key.text, known.clone());
                let message = if hint.is_empty() {
                    let known: Vec<&str> = known.filter(|k| *k != "kind").collect();
                    format!("unknown field '{}' of {what}; known are {}", key.text, known.join(", "))
                } else {
                    format!("unknown field '{}' of {what}{hint}", key.text)
                };
                self.problems.push(Problem { place: key.place, message });
            }
        }
        std::mem::take(&mut self.places)
    }

    /// The value of a field; an empty one counts as absent.
    fn take(&mut self, name: &'static str) -> Option<&'a Rc<Node>> {
        self.asked.push(name);
        let (_, node) = self.entries.iter().find(|(k, _)| k.text == name)?;
        self.places.insert(name.to_owned(), node.place);
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// The text of a scalar.
    fn scalar(&mut self, name: &str, node: &'a Node) -> Option<(&'a str, bool)> {
        if let Value::Scalar { text, plain } = &node.value {
            return Some((text, *plain));
        }
        self.problem(node.place, format!("field '{name}' wants one value, found {}", node.value.describe()));
        None
    }

    /// Text; numbers written without quotes are text too.
    pub(crate) fn text(&mut self, name: &'static str) -> String {
        let node = self.take(name);
        node.and_then(|n| self.scalar(name, n)).map(|(text, _)| text.to_owned()).unwrap_or_default()
    }

    /// A whole number from `min` to `max`.
    fn integer(&mut self, name: &'static str, min: i128, max: i128) -> Option<i128> {
        let node = self.take(name)?;
        let (text, plain) = self.scalar(name, node)?;
        let shown: String = text.chars().take(40).collect();
        match text.parse::<i128>() {
            Ok(n) if !plain => {
                self.problem(
                    node.place,
                    format!("field '{name}' wants a number, this is text; write {n} without quotes"),
                );
                None
            }
            Ok(n) if (min..=max).contains(&n) => Some(n),
            Ok(_) => {
                self.problem(node.place, format!("field '{name}': {shown} is not between {min} and {max}"));
                None
            }
            Err(_) => {
                self.problem(node.place, format!("field '{name}' wants a whole number, found '{shown}'"));
                None
            }
        }
    }

    pub(crate) fn uint32(&mut self, name: &'static str) -> u32 {
        let number = self.integer(name, 0, i128::from(u32::MAX));
        number.and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
    }

    pub(crate) fn int64(&mut self, name: &'static str) -> i64 {
        let number = self.integer(name, i128::from(i64::MIN), i128::from(i64::MAX));
        number.and_then(|n| i64::try_from(n).ok()).unwrap_or_default()
    }

    /// A number whose absence means something else than 0.
    pub(crate) fn some_int64(&mut self, name: &'static str) -> Option<i64> {
        let number = self.integer(name, i128::from(i64::MIN), i128::from(i64::MAX));
        number.and_then(|n| i64::try_from(n).ok())
    }

    /// The same, of 32 bits and not negative.
    pub(crate) fn some_uint32(&mut self, name: &'static str) -> Option<u32> {
        let number = self.integer(name, 0, i128::from(u32::MAX));
        number.and_then(|n| u32::try_from(n).ok())
    }

    pub(crate) fn flag(&mut self, name: &'static str) -> bool {
        let Some(node) = self.take(name) else { return false };
        match self.scalar(name, node) {
            Some(("true", true)) => true,
            Some(("false", true)) | None => false,
            Some((text, _)) => {
                let shown: String = text.chars().take(40).collect();
                self.problem(node.place, format!("field '{name}' is true or false, found '{shown}'"));
                false
            }
        }
    }

    /// One of some words; the number that goes with it.
    pub(crate) fn choice(&mut self, name: &'static str, words: Words) -> i32 {
        self.take(name).map_or(0, |node| self.chosen(name, node, words))
    }

    /// A list of words; the numbers that go with them.
    pub(crate) fn choices(&mut self, name: &'static str, words: Words) -> Vec<i32> {
        let items = self.items(name, "[A, B]");
        items.iter().map(|item| self.chosen(name, item, words)).collect()
    }

    fn chosen(&mut self, name: &str, node: &'a Node, words: Words) -> i32 {
        let Some((text, _)) = self.scalar(name, node) else { return 0 };
        if let Some((_, _, number)) = words.iter().find(|(short, long, _)| text == *short || text == *long) {
            return *number;
        }
        let known: Vec<&str> = words.iter().map(|w| w.0).collect();
        let shown: String = text.chars().take(40).collect();
        let hint = did_you_mean(text, known.iter().copied());
        self.problem(
            node.place,
            format!("field '{name}': unknown '{shown}'{hint}; known are {}", known.join(", ")),
        );
        0
    }

    /// A list of texts.
    pub(crate) fn list(&mut self, name: &'static str) -> Vec<String> {
        let items = self.items(name, "[A, B]");
        items.iter().filter_map(|item| self.scalar(name, item).map(|(text, _)| text.to_owned())).collect()
    }

    /// A list of records of their own, each read by `read`. `like` shows one.
    pub(crate) fn records<T>(
        &mut self,
        name: &'static str,
        like: &str,
        read: impl Fn(&mut Fields<'_>) -> T,
    ) -> Vec<T> {
        let items = self.items(name, &format!("[{like}]"));
        let mut records = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let Value::Map(entries) = &item.value else {
                let found = item.value.describe();
                self.problem(item.place, format!("field '{name}' wants {like}, found {found}"));
                continue;
            };
            let mut fields = Fields::new(entries, self.problems);
            records.push(read(&mut fields));
            let places = fields.finish_as(&format!("an entry of {name}"));
            self.places
                .extend(places.into_iter().map(|(path, place)| (format!("{name}[{index}].{path}"), place)));
        }
        records
    }

    /// The items of a list, their places taken down.
    fn items(&mut self, name: &'static str, like: &str) -> &'a [Rc<Node>] {
        let Some(node) = self.take(name) else { return &[] };
        let Value::List(items) = &node.value else {
            let found = node.value.describe();
            self.problem(node.place, format!("field '{name}' wants a list such as {like}, found {found}"));
            return &[];
        };
        for (index, item) in items.iter().enumerate() {
            self.places.insert(format!("{name}[{index}]"), item.place);
        }
        items
    }

    /// A map of texts.
    pub(crate) fn map(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let Some(node) = self.take(name) else { return BTreeMap::new() };
        let Value::Map(entries) = &node.value else {
            let found = node.value.describe();
            self.problem(node.place, format!("field '{name}' wants KEY: VALUE lines, found {found}"));
            return BTreeMap::new();
        };
        let mut map = BTreeMap::new();
        for (key, value) in entries {
            self.places.insert(format!("{name}.{}", key.text), value.place);
            let text = match value.value {
                Value::Null => Some(""),
                _ => self.scalar(name, value).map(|(text, _)| text),
            };
            map.extend(text.map(|text| (key.text.clone(), text.to_owned())));
        }
        map
    }
}
