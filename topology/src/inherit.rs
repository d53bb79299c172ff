//! Inheritance: node over group over kind over defaults.

use std::collections::BTreeMap;

use crate::context::{Context, Text};
use crate::keys;
use crate::value::{Key, Value};

/// One place where node keys stand: a node, a group, a kind or the defaults.
pub(crate) struct Level<'v> {
    /// For messages, for example `group 'leaves'`.
    pub(crate) what: String,
    values: BTreeMap<&'v str, &'v Value>,
}

/// All levels of a file but the nodes.
pub(crate) struct Levels<'v> {
    defaults: Option<Level<'v>>,
    kinds: BTreeMap<String, Level<'v>>,
    groups: BTreeMap<&'v str, Level<'v>>,
}

/// The levels of one node, the most specific first.
pub(crate) struct Chain<'l, 'v> {
    pub(crate) levels: Vec<&'l Level<'v>>,
    /// Kind in lower case, if any level says one.
    pub(crate) kind: Option<Text>,
    pub(crate) group: Option<Text>,
}

impl<'v> Level<'v> {
    pub(crate) fn read(cx: &mut Context<'_>, what: String, value: &'v Value) -> Self {
        let fields = cx.fields(&what, value, keys::NODE);
        let values = fields.into_iter().map(|(k, v)| (k.text.as_str(), v)).collect();
        Level { what, values }
    }

    fn text(&self, cx: &mut Context<'_>, key: &str) -> Option<Text> {
        let value = self.values.get(key)?;
        let what = format!("{key} of {}", self.what);
        cx.text(&what, value).filter(|t| !t.text.is_empty())
    }
}

impl<'v> Levels<'v> {
    pub(crate) fn read(cx: &mut Context<'_>, fields: &[(&'v Key, &'v Value)]) -> Self {
        let mut levels = Levels { defaults: None, kinds: BTreeMap::new(), groups: BTreeMap::new() };
        for (key, value) in fields {
            match key.text.as_str() {
                "defaults" => {
                    not_inheritable(cx, "defaults", value);
                    levels.defaults = Some(Level::read(cx, "the defaults".to_owned(), value));
                }
                "kinds" => {
                    for (name, value) in cx.map("kinds", value) {
                        let what = format!("kind '{}'", name.text);
                        not_inheritable(cx, &what, value);
                        levels.kinds.insert(name.text.to_lowercase(), Level::read(cx, what, value));
                    }
                }
                "groups" => {
                    for (name, value) in cx.map("groups", value) {
                        let what = format!("group '{}'", name.text);
                        not_inheritable(cx, &what, value);
                        levels.groups.insert(&name.text, Level::read(cx, what, value));
                    }
                }
                _ => {}
            }
        }
        levels
    }

    /// A node's levels. Its group, or the one of the defaults, may give the kind; the kind may give the group.
    pub(crate) fn chain<'l>(&'l self, cx: &mut Context<'_>, node: &'l Level<'v>) -> Chain<'l, 'v> {
        let lower = |mut text: Text| {
            text.text = text.text.to_lowercase();
            text
        };
        let own_group = node.text(cx, "group");
        let default_group = self.defaults.as_ref().and_then(|d| d.text(cx, "group"));
        let level = |group: &Option<Text>| group.as_ref().and_then(|g| self.groups.get(g.text.as_str()));
        let kind = node
            .text(cx, "kind")
            .or_else(|| level(&own_group).and_then(|g| g.text(cx, "kind")))
            .or_else(|| level(&default_group).and_then(|g| g.text(cx, "kind")))
            .or_else(|| self.defaults.as_ref().and_then(|d| d.text(cx, "kind")))
            .map(lower);
        let kind_level = kind.as_ref().and_then(|k| self.kinds.get(&k.text));
        let group = own_group.or_else(|| kind_level.and_then(|k| k.text(cx, "group"))).or(default_group);
        let group_level = level(&group);
        let levels = [Some(node), group_level, kind_level, self.defaults.as_ref()];
        Chain { levels: levels.into_iter().flatten().collect(), kind, group }
    }
}

/// Says which keys stand where they cannot be inherited from.
fn not_inheritable(cx: &mut Context<'_>, what: &str, value: &Value) {
    for (key, _) in value.entries() {
        if keys::NODE_ONLY.contains(&key.text.as_str()) {
            cx.warn(
                key.span,
                format!("key '{}' of {what} has no effect: it belongs to single nodes", key.text),
            );
        }
    }
}

impl<'v> Chain<'_, 'v> {
    /// The value of the most specific level that has the key, with the level's name for messages.
    pub(crate) fn value(&self, key: &str) -> Option<(String, &'v Value)> {
        self.levels.iter().find_map(|l| Some((format!("{key} of {}", l.what), *l.values.get(key)?)))
    }

    /// The same as text; an empty text counts as absent.
    pub(crate) fn text(&self, cx: &mut Context<'_>, key: &str) -> Option<Text> {
        self.levels.iter().find_map(|l| l.text(cx, key))
    }

    /// The lists of all levels, the most general first, without duplicates.
    pub(crate) fn list(&self, cx: &mut Context<'_>, key: &str) -> Vec<Text> {
        let mut all: Vec<Text> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for level in self.levels.iter().rev() {
            let Some(value) = level.values.get(key) else { continue };
            for text in cx.texts(&format!("{key} of {}", level.what), value) {
                if seen.insert(text.text.clone()) {
                    all.push(text);
                }
            }
        }
        all
    }

    /// The mappings of all levels in one, the most specific value for each key. The value's text, and the key's place.
    pub(crate) fn map(&self, cx: &mut Context<'_>, key: &str) -> BTreeMap<String, (Text, &'v Key)> {
        let mut all = BTreeMap::new();
        for level in self.levels.iter().rev() {
            let Some(value) = level.values.get(key) else { continue };
            let what = format!("{key} of {}", level.what);
            for (name, value) in cx.map(&what, value) {
                if let Some(text) = cx.text(&format!("'{}' in {what}", name.text), value) {
                    all.insert(name.text.clone(), (text, name));
                }
            }
        }
        all
    }
}
