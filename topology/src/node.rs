//! Nodes of a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::context::{Context, Text, shorten};
use crate::inherit::{Chain, Level, Levels};
use crate::keys;
use crate::lab::{Bind, Node, Role, RoleSource};
use crate::labels;
use crate::magic;
use crate::split::split_command;
use crate::stages;
use crate::suggest::did_you_mean;
use crate::value::{Key, Span, Value};

/// Reads a node. `None` if it is too wrong to go on with; the errors are said.
pub(crate) fn read(
    cx: &mut Context<'_>,
    levels: &Levels<'_>,
    index: usize,
    key: &Key,
    value: &Value,
) -> Option<Node> {
    let name = key.text.as_str();
    check_name(cx, "node", name, key.span);
    let own = Level::read(cx, format!("node '{name}'"), value);
    let chain = levels.chain(cx, &own);
    let kind = kind(cx, &chain, name, key.span);
    let (labels, causeway) = labels::node(cx, &chain);
    let (role, role_source) = role(&causeway, &chain, name, &kind);
    let network_mode = network_mode(cx, &chain);
    Some(Node {
        name: name.to_owned(),
        index,
        node_type: chain.text(cx, "type").map(|t| t.text),
        group: chain.group.as_ref().map(|t| t.text.clone()),
        image: chain.text(cx, "image").map(|t| t.text),
        role,
        role_source,
        labels,
        causeway,
        env: environment(cx, &chain),
        exec: exec(cx, &chain, name),
        binds: binds(cx, &chain, name),
        startup_config: startup_config(cx, &chain, name),
        entrypoint: command(cx, &chain, "entrypoint"),
        cmd: command(cx, &chain, "cmd"),
        sysctls: chain.map(cx, "sysctls").into_iter().map(|(k, (v, _))| (k, v.text)).collect(),
        hostname: hostname(cx, &chain, name),
        startup_delay: chain
            .text(cx, "startup-delay")
            .and_then(|t| cx.number("startup-delay", &t, 0, 86_400))
            .unwrap_or(0),
        user: chain.text(cx, "user").map(|t| t.text),
        network_mode,
        stages: stages::stages(cx, &chain, name),
        healthcheck: stages::healthcheck(cx, &chain),
        place: cx.place(key.span),
        kind,
    })
}

/// Names become parts of paths, host names and namespace names.
pub(crate) fn check_name(cx: &mut Context<'_>, what: &str, name: &str, span: Span) {
    let good =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') || (c == '|' && what == "node");
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !name.chars().all(good) || name.len() > 200 {
        let shown = shorten(name);
        cx.error(
            span,
            format!("{what} name '{shown}' must begin with a letter or digit, go on with letters, digits, '_', '.' or '-', and have at most 200 bytes"),
        );
    }
}

fn kind(cx: &mut Context<'_>, chain: &Chain<'_, '_>, name: &str, span: Span) -> String {
    let Some(kind) = &chain.kind else {
        cx.warn(span, format!("node '{name}' has no kind: it is taken as 'linux'"));
        return "linux".to_owned();
    };
    let (known, shown) = (kind.text.as_str(), shorten(&kind.text));
    // `vr-` was containerlab's prefix for kinds that are virtual machines.
    if keys::FOREIGN_KINDS.contains(&known) || known.starts_with("vr-") {
        cx.warn(kind.span, format!("kind '{shown}' is run like 'linux' by this runner"));
    } else if !keys::KINDS.contains(&known) {
        let hint = did_you_mean(known, keys::KINDS.iter().chain(keys::FOREIGN_KINDS).copied());
        cx.error(
            kind.span,
            format!("there is no kind '{shown}'{hint}; a container with any image is of kind 'linux'"),
        );
    }
    kind.text.clone()
}

/// The role by label, else by group, else by name.
fn role(labels: &labels::NodeLabels, chain: &Chain<'_, '_>, name: &str, kind: &str) -> (Role, RoleSource) {
    if let Some(role) = labels.role {
        return (role, RoleSource::Label);
    }
    if kind != "linux" && keys::KINDS.contains(&kind) {
        return (Role::Other, RoleSource::Nothing);
    }
    if let Some(group) = &chain.group
        && let Some(role) = group.text.split(',').find_map(role_of_word)
    {
        return (role, RoleSource::Group(group.text.clone()));
    }
    match role_of_word(name) {
        Some(role) => (role, RoleSource::Name),
        None => (Role::Other, RoleSource::Nothing),
    }
}

/// The role that a name like `leaf1`, `dc1-spine-2` or `Servers` speaks of.
fn role_of_word(word: &str) -> Option<Role> {
    const WORDS: [(&str, Role); 18] = [
        ("spine", Role::Spine),
        ("spines", Role::Spine),
        ("rr", Role::Spine),
        ("leaf", Role::Leaf),
        ("leafs", Role::Leaf),
        ("leaves", Role::Leaf),
        ("tor", Role::Leaf),
        ("border", Role::Border),
        ("borders", Role::Border),
        ("host", Role::Host),
        ("hosts", Role::Host),
        ("server", Role::Server),
        ("servers", Role::Server),
        ("bm", Role::Server),
        ("ctl", Role::Controller),
        ("controller", Role::Controller),
        ("controllers", Role::Controller),
        ("ctrl", Role::Controller),
    ];
    let lower = word.to_lowercase();
    let mut parts = lower.split(|c: char| !c.is_ascii_alphabetic()).filter(|p| !p.is_empty());
    parts.find_map(|part| WORDS.iter().find(|(w, _)| *w == part).map(|(_, role)| *role))
}

fn environment(cx: &mut Context<'_>, chain: &Chain<'_, '_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in chain.list(cx, "env-files") {
        env_file(cx, &file, &mut all);
    }
    for (key, (value, name)) in chain.map(cx, "env") {
        if key == "__IMPORT_ENVS" {
            if cx.boolean("__IMPORT_ENVS", &value) == Some(true) {
                // The most general of all: what files and the lab say wins.
                for (key, value) in &cx.options.env {
                    all.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
        } else if key.is_empty() || key.contains(['=', '\0']) || value.text.contains('\0') {
            cx.error(name.span, format!("'{}' cannot be an environment variable", shorten(&key)));
        } else {
            all.insert(key, value.text);
        }
    }
    all
}

/// Lines `KEY=VALUE`; empty ones and those beginning with `#` are skipped.
fn env_file(cx: &mut Context<'_>, file: &Text, all: &mut BTreeMap<String, String>) {
    let Some(path) = cx.resolve("env-files", file) else { return };
    if !cx.options.check_files {
        cx.warn(
            file.span,
            format!("{} is not read: only the text of the topology is looked at", path.display()),
        );
        return;
    }
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            return cx.error(file.span, format!("env-files: cannot read {}: {error}", path.display()));
        }
    };
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                let value = value.trim_matches(|c| c == '"' || c == '\'');
                all.insert(key.trim().to_owned(), value.to_owned());
            }
            _ => cx.error(
                file.span,
                format!("env-files: {} has a line without KEY=VALUE: {}", path.display(), shorten(line)),
            ),
        }
    }
}

fn exec(cx: &mut Context<'_>, chain: &Chain<'_, '_>, name: &str) -> Vec<String> {
    let lines = chain.list(cx, "exec");
    lines.into_iter().filter_map(|line| check_command(cx, "exec", &line, name)).collect()
}

/// A command with its variables expanded, if it can be split into arguments.
pub(crate) fn check_command(cx: &mut Context<'_>, what: &str, line: &Text, node: &str) -> Option<String> {
    let expanded = magic::expand(&line.text, node, &cx.lab, &cx.lab_dir());
    match split_command(&expanded) {
        Ok(words) if words.iter().any(|w| w.contains('\0')) => {
            cx.error(line.span, format!("{what}: a command cannot hold a NUL byte"));
            None
        }
        Ok(_) => Some(expanded),
        Err(error) => {
            cx.error(line.span, format!("{what}: '{}' is no command: {error}", shorten(&line.text)));
            None
        }
    }
}

fn command(cx: &mut Context<'_>, chain: &Chain<'_, '_>, key: &str) -> Option<Vec<String>> {
    let text = chain.text(cx, key)?;
    match split_command(&text.text) {
        Ok(words) => Some(words),
        Err(error) => {
            cx.error(text.span, format!("{key}: '{}' is no command: {error}", shorten(&text.text)));
            None
        }
    }
}

/// By destination: the most specific level wins.
fn binds(cx: &mut Context<'_>, chain: &Chain<'_, '_>, name: &str) -> Vec<Bind> {
    let mut by_target: BTreeMap<PathBuf, (usize, Bind, Span)> = BTreeMap::new();
    for (order, text) in chain.list(cx, "binds").into_iter().enumerate() {
        let span = text.span;
        if let Some(bind) = bind(cx, &text, name) {
            by_target.insert(bind.target.clone(), (order, bind, span));
        }
    }
    let mut binds: Vec<_> = by_target.into_values().collect();
    binds.sort_by_key(|(order, ..)| *order);
    for (_, bind, span) in &binds {
        cx.must_exist(&format!("bind of node '{name}'"), &bind.source, *span);
    }
    binds.into_iter().map(|(_, bind, _)| bind).collect()
}

fn bind(cx: &mut Context<'_>, text: &Text, node: &str) -> Option<Bind> {
    let expanded = magic::expand(&text.text, node, &cx.lab, &cx.lab_dir());
    let parts: Vec<&str> = expanded.split(':').collect();
    let (source, target, flags) = match parts.as_slice() {
        [target] => {
            cx.warn(
                text.span,
                format!("bind '{}' is ignored by this runner: it has no source", shorten(target)),
            );
            return None;
        }
        [source, target] => (*source, *target, ""),
        [source, target, flags] => (*source, *target, *flags),
        _ => {
            cx.error(
                text.span,
                format!("bind '{}' is not SOURCE:TARGET or SOURCE:TARGET:ro", shorten(&expanded)),
            );
            return None;
        }
    };
    if source.is_empty()
        || !target.starts_with('/')
        || Path::new(target).components().any(|c| c.as_os_str() == "..")
    {
        cx.error(text.span, format!("bind '{}': the source must not be empty and the target must be an absolute path without '..'", shorten(&expanded)));
        return None;
    }
    let mut read_only = false;
    for flag in flags.split(',').filter(|f| !f.is_empty()) {
        match flag {
            "ro" => read_only = true,
            "rw" | "z" | "Z" | "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate"
            | "cached" | "delegated" | "consistent" => {}
            other => cx.error(
                text.span,
                format!("bind '{}' has an unknown option '{}'", shorten(&expanded), shorten(other)),
            ),
        }
    }
    let source = Text { text: source.to_owned(), span: text.span };
    let source = cx.resolve(&format!("bind of node '{node}'"), &source)?;
    Some(Bind { source, target: PathBuf::from(target), read_only })
}

fn startup_config(cx: &mut Context<'_>, chain: &Chain<'_, '_>, name: &str) -> Option<PathBuf> {
    let mut text = chain.text(cx, "startup-config")?;
    if text.text.contains('\n') {
        cx.warn(
            text.span,
            "a startup-config written into the topology file is ignored by this runner: name a file",
        );
        return None;
    }
    if text.text.starts_with("http://") || text.text.starts_with("https://") {
        cx.error(text.span, "startup-config: a file on this machine is needed, nothing is fetched");
        return None;
    }
    text.text = magic::expand(&text.text, name, &cx.lab, &cx.lab_dir());
    let path = cx.resolve("startup-config", &text)?;
    cx.must_exist(&format!("startup-config of node '{name}'"), &path, text.span);
    Some(path)
}

fn hostname(cx: &mut Context<'_>, chain: &Chain<'_, '_>, name: &str) -> String {
    // '|' in a bridge's name is no part of a host name; such nodes have no host name of their own anyway.
    let Some(text) = chain.text(cx, "hostname") else { return name.replace('|', "-") };
    if text.text.len() > 64 || text.text.contains(|c: char| !c.is_ascii_graphic()) {
        cx.error(
            text.span,
            format!("hostname '{}' must have at most 64 bytes and no blanks", shorten(&text.text)),
        );
    }
    text.text
}

fn network_mode(cx: &mut Context<'_>, chain: &Chain<'_, '_>) -> Option<String> {
    let text = chain.text(cx, "network-mode")?;
    let good = matches!(text.text.as_str(), "host" | "none" | "bridge")
        || text.text.strip_prefix("container:").is_some_and(|n| !n.is_empty());
    if !good {
        cx.error(
            text.span,
            format!("network-mode '{}' is not host, none, bridge or container:NODE", shorten(&text.text)),
        );
    }
    Some(text.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_guessed_from_whole_words() {
        for (name, want) in [
            ("leaf1", Some(Role::Leaf)),
            ("dc1-spine-2", Some(Role::Spine)),
            ("RR2", Some(Role::Spine)),
            ("ctl", Some(Role::Controller)),
            ("bm1", Some(Role::Server)),
            ("host12", Some(Role::Host)),
            ("ghost1", None),
            ("etcd", None),
            ("", None),
        ] {
            assert_eq!(role_of_word(name), want, "{name}");
        }
    }
}
