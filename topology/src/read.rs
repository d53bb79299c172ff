//! From a file to a [`Lab`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::context::{Context, shorten};
use crate::diagnostic::{Diagnostic, Place, Severity, Source};
use crate::environment::Expanded;
use crate::inherit::Levels;
use crate::keys;
use crate::lab::{Lab, Link, Node, Role, RoleSource};
use crate::link;
use crate::magic;
use crate::node;
use crate::stages;
use crate::value::{Data, Key, Span, Value};

/// What reading a file depends on, beside the file.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Environment variables to expand. [`LoadOptions::from_process`] takes those of this process.
    pub env: BTreeMap<String, String>,
    /// Home folder, for `~/` in paths. `None`: `~` is refused.
    pub home: Option<PathBuf>,
    /// Git branch and hash of the file's repository, for `__gitBranch__` and `__gitHash__` in the lab's name.
    pub git: Option<(String, String)>,
    /// True: files named by the lab (binds, startup-config, env-files) are looked at. False: the text alone counts,
    /// and env-files are not read.
    pub check_files: bool,
}

impl LoadOptions {
    /// Environment and home folder of this process; files are checked. Variables that are no UTF-8 are left out.
    pub fn from_process() -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        let home = env.get("HOME").map(PathBuf::from);
        LoadOptions { env, home, git: None, check_files: true }
    }
}

/// A lab and what was noticed while it was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The lab.
    pub lab: Lab,
    /// Warnings and notes, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a topology file. See [`parse`]. A relative path is taken from the current folder.
///
/// # Errors
/// All that is wrong with it, at least one diagnostic of severity error.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, Vec<Diagnostic>> {
    let whole = |message: String| {
        let source = Source::new(&path.display().to_string(), Expanded::verbatim(""));
        vec![source.error(Place::default(), message)]
    };
    let bytes = std::fs::read(path).map_err(|e| whole(format!("cannot read the topology file: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        whole(format!("the topology file is not UTF-8 text: byte {} is wrong", e.utf8_error().valid_up_to()))
    })?;
    let absolute =
        std::path::absolute(path).map_err(|e| whole(format!("cannot tell the current folder: {e}")))?;
    parse_named(&text, &path.display().to_string(), &absolute, options)
}

/// Expands variables, parses and validates a topology file's text. `file` names it in diagnostics; relative paths are
/// relative to its folder. Pure unless [`LoadOptions::check_files`] is set.
///
/// # Errors
/// All that is wrong with it, at least one diagnostic of severity error.
pub fn parse(text: &str, file: &Path, options: &LoadOptions) -> Result<Loaded, Vec<Diagnostic>> {
    parse_named(text, &file.display().to_string(), file, options)
}

fn parse_named(
    text: &str,
    name: &str,
    file: &Path,
    options: &LoadOptions,
) -> Result<Loaded, Vec<Diagnostic>> {
    let verbatim = Source::new(name, Expanded::verbatim(text));
    if let Some(offset) = template(text) {
        let message = "this file is a Go template ('{{'): render it first, templates are not supported";
        return Err(vec![verbatim.error(verbatim.place(offset, 2), message)]);
    }
    let expanded = Expanded::new(text, &options.env)
        .map_err(|e| vec![verbatim.error(verbatim.place(e.offset, e.length), e.message)])?;
    let unset = expanded.unset.clone();
    let source = Source::new(name, expanded);
    let value = Value::parse(&source).map_err(|e| vec![e])?;
    let dir = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut cx = Context { source, options, dir, lab: String::new(), findings: Vec::new() };
    let lab = read_lab(&mut cx, &value, file);
    for (variable, offset) in unset {
        let place = verbatim.place(offset, 1);
        let message =
            format!("variable '{}' is not set and has no default: it stays as it is", shorten(&variable));
        cx.findings.push(verbatim.diagnostic(Severity::Warning, place, message));
    }
    finish(cx, lab)
}

/// Byte offset of the first template action outside comments.
fn template(text: &str) -> Option<usize> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if !line.trim_start().starts_with('#')
            && let Some(i) = line.find("{{")
        {
            return Some(start + i);
        }
        start += line.len();
    }
    None
}

fn finish(cx: Context<'_>, lab: Option<Lab>) -> Result<Loaded, Vec<Diagnostic>> {
    let failed = cx.failed();
    let mut findings = cx.findings;
    findings.sort_by_key(|d| (d.line, d.column, d.severity));
    // What is wrong with a group or the defaults is found again with every node that inherits it.
    let mut seen = BTreeSet::new();
    findings.retain(|d| seen.insert((d.line, d.column, d.message.clone())));
    match lab {
        Some(lab) if !failed => Ok(Loaded { lab, warnings: findings }),
        _ => {
            findings.sort_by_key(|d| d.severity);
            Err(findings)
        }
    }
}

fn read_lab(cx: &mut Context<'_>, value: &Value, file: &Path) -> Option<Lab> {
    if matches!(value.data, Data::Null) {
        let place = Place::default();
        cx.findings.push(cx.source.error(place, "the topology file is empty"));
        return None;
    }
    if !matches!(value.data, Data::Map(_)) {
        cx.error(
            value.span,
            format!("the topology file must be a mapping (key: value), this is {}", value.describe()),
        );
        return None;
    }
    let fields = cx.fields("the topology file", value, keys::TOP);
    let field = |name: &str| fields.iter().find(|(k, _)| k.text == name).map(|(_, v)| *v);
    let prefix = field("prefix").and_then(|v| cx.text("prefix", v));
    if let Some(prefix) = prefix.as_ref().filter(|p| !p.text.is_empty() && p.text != "__lab-name") {
        node::check_name(cx, "prefix", &prefix.text, prefix.span);
    }
    match field("name") {
        Some(name) => {
            if let Some(name) = cx.word("name", name) {
                cx.lab = magic::expand_git(&name.text, cx.options.git.as_ref());
                let lab = cx.lab.clone();
                node::check_name(cx, "lab", &lab, name.span);
            }
        }
        None => missing(cx, "the topology file needs a 'name'"),
    }
    let Some(topology) = field("topology") else {
        missing(cx, "the topology file needs a 'topology'");
        return None;
    };
    let (nodes, links) = read_topology(cx, topology);
    Some(Lab {
        name: cx.lab.clone(),
        prefix: prefix.map(|p| p.text),
        file: file.to_path_buf(),
        dir: cx.dir.clone(),
        nodes,
        links,
        source: cx.source.clone(),
    })
}

fn missing(cx: &mut Context<'_>, message: &str) {
    cx.error(Span { offset: 0, length: 1 }, message);
}

fn read_topology(cx: &mut Context<'_>, topology: &Value) -> (BTreeMap<String, Node>, Vec<Link>) {
    let fields = cx.fields("topology", topology, keys::TOPOLOGY);
    let levels = Levels::read(cx, &fields);
    let nodes = match fields.iter().find(|(k, _)| k.text == "nodes") {
        Some((_, value)) => read_nodes(cx, &levels, value),
        None => {
            cx.error(topology.span, "topology needs 'nodes'");
            BTreeMap::new()
        }
    };
    stages::check_waits(cx, &nodes);
    let mut links = Vec::new();
    if let Some((_, value)) = fields.iter().find(|(k, _)| k.text == "links") {
        let items: Vec<&Value> = cx.list("links", value).iter().collect();
        links = items.into_iter().filter_map(|item| link::read(cx, item)).collect();
    }
    link::check(cx, &nodes, &links);
    (nodes, links.into_iter().map(|read| read.link).collect())
}

fn read_nodes(cx: &mut Context<'_>, levels: &Levels<'_>, value: &Value) -> BTreeMap<String, Node> {
    let entries: Vec<(&Key, &Value)> = cx.map("nodes", value);
    let mut nodes = BTreeMap::new();
    for (index, (key, value)) in entries.into_iter().enumerate() {
        let Some(node) = node::read(cx, levels, index, key, value) else { continue };
        say_role(cx, &node, key.span);
        nodes.insert(node.name.clone(), node);
    }
    for node in nodes.values() {
        if let Some(other) = node.network_mode.as_deref().and_then(|m| m.strip_prefix("container:"))
            && !nodes.contains_key(other)
        {
            let message =
                format!("node '{}' shares the network of '{other}', which is no node of this lab", node.name);
            cx.findings.push(cx.source.diagnostic(Severity::Warning, node.place, message));
        }
    }
    nodes
}

/// A guess is said: it decides what the node becomes in the fabric.
fn say_role(cx: &mut Context<'_>, node: &Node, span: Span) {
    let from = match &node.role_source {
        RoleSource::Label => return,
        RoleSource::Group(group) => format!("its group '{}'", shorten(group)),
        RoleSource::Name => "its name".to_owned(),
        RoleSource::Nothing => return,
    };
    debug_assert_ne!(node.role, Role::Other);
    cx.say(
        Severity::Note,
        span,
        format!(
            "node '{}' is taken as a {} because of {from}; causeway.role says otherwise",
            node.name, node.role
        ),
    );
}
