//! The topology file, written anew: without inheritance, with the rendered files bound.

use std::fmt::Write;
use std::path::Path;

use crate::lab::{Endpoint, Lab, Link, LinkKind, Node, StageName};
use crate::plan::Plan;

/// The whole file. Writing to text does not fail.
pub(super) fn text(lab: &Lab, plan: &Plan) -> String {
    let mut out = format!("name: {}\n", quote(&lab.name));
    if let Some(prefix) = &lab.prefix {
        out += &format!("prefix: {}\n", quote(prefix));
    }
    out += "\ntopology:\n  nodes:\n";
    for node in lab.nodes_in_order() {
        let _ = write_node(&mut out, lab, plan, node);
    }
    out += "\n  links:\n";
    for link in &lab.links {
        let _ = write_link(&mut out, link);
    }
    out
}

/// A scalar in double quotes, whatever is in it. `$$` is what the reader makes a `$` of.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '$' => out += "$$",
            c if c.is_control() => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// A path of the file's folder as relative to it.
fn relative(lab: &Lab, path: &Path) -> String {
    path.strip_prefix(&lab.dir).unwrap_or(path).display().to_string()
}

fn write_list<T: AsRef<str>>(out: &mut String, key: &str, items: &[T]) -> std::fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(out, "      {key}:")?;
    for item in items {
        writeln!(out, "        - {}", quote(item.as_ref()))?;
    }
    Ok(())
}

fn write_map<'a>(
    out: &mut String,
    key: &str,
    map: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> std::fmt::Result {
    let mut entries = map.into_iter().peekable();
    if entries.peek().is_none() {
        return Ok(());
    }
    writeln!(out, "      {key}:")?;
    for (name, value) in entries {
        writeln!(out, "        {}: {}", quote(name), quote(value))?;
    }
    Ok(())
}

fn write_node(out: &mut String, lab: &Lab, plan: &Plan, node: &Node) -> std::fmt::Result {
    writeln!(out, "    {}:\n      kind: {}", quote(&node.name), quote(&node.kind))?;
    let startup = node.startup_config.as_deref().map(|p| relative(lab, p));
    let command = |words: &Option<Vec<String>>| words.as_ref().map(|w| shell(w));
    let scalars = [
        ("type", node.node_type.clone()),
        ("group", node.group.clone()),
        ("image", node.image.clone()),
        ("hostname", Some(node.hostname.clone()).filter(|h| *h != node.name && !node.name.contains('|'))),
        ("user", node.user.clone()),
        ("network-mode", node.network_mode.clone()),
        ("startup-config", startup),
        ("entrypoint", command(&node.entrypoint)),
        ("cmd", command(&node.cmd)),
        ("startup-delay", Some(node.startup_delay).filter(|d| *d > 0).map(|d| d.to_string())),
    ];
    for (key, value) in scalars {
        if let Some(value) = value {
            // A number stays one.
            let text = if key == "startup-delay" { value } else { quote(&value) };
            writeln!(out, "      {key}: {text}")?;
        }
    }
    write_map(out, "labels", &node.labels)?;
    write_map(out, "env", &node.env)?;
    write_map(out, "sysctls", &node.sysctls)?;
    write_files(out, lab, plan, node)?;
    write_stages(out, node)?;
    write_health(out, node)
}

/// Binds and commands, the rendered ones included.
fn write_files(out: &mut String, lab: &Lab, plan: &Plan, node: &Node) -> std::fmt::Result {
    const SCRIPT: &str = "/etc/causeway/setup.sh";
    let mut binds = Vec::new();
    for bind in &node.binds {
        let flag = if bind.read_only { ":ro" } else { "" };
        binds.push(format!("{}:{}{flag}", relative(lab, &bind.source), bind.target.display()));
    }
    let mut exec = node.exec.clone();
    let own = plan.nodes.get(&node.name);
    let mut rendered = |file: &str, target: &str| {
        let taken = node.binds.iter().any(|b| Path::new(target).starts_with(&b.target));
        if !taken {
            binds.push(format!("configs/{}/{file}:{target}:ro", node.name));
        }
        !taken
    };
    if own.is_some_and(|p| p.role.is_switch()) {
        rendered("frr.conf", "/etc/frr/frr.conf");
    }
    let setup = super::setup(lab, plan, &node.name).unwrap_or_default();
    let lines: Vec<&str> = setup.lines().collect();
    let machine = matches!(node.kind.as_str(), "linux");
    // A file may have the commands as its own already.
    if machine && !setup.is_empty() && exec != lines && rendered("setup.sh", SCRIPT) {
        exec.push(format!("sh -e {SCRIPT}"));
    }
    write_list(out, "binds", &binds)?;
    write_list(out, "exec", &exec)
}

/// Words as a command that is split into the same words.
fn shell(words: &[String]) -> String {
    let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

fn write_stages(out: &mut String, node: &Node) -> std::fmt::Result {
    if node.stages.is_empty() {
        return Ok(());
    }
    writeln!(out, "      stages:")?;
    for name in StageName::ALL {
        let Some(stage) = node.stages.get(&name) else { continue };
        writeln!(out, "        {name}:")?;
        if stage.wait_for.is_empty() && stage.exec.is_empty() {
            continue;
        }
        if !stage.wait_for.is_empty() {
            writeln!(out, "          wait-for:")?;
            for wait in &stage.wait_for {
                writeln!(out, "            - {{node: {}, stage: {}}}", quote(&wait.node), wait.stage)?;
            }
        }
        if !stage.exec.is_empty() {
            writeln!(out, "          exec:")?;
            for exec in &stage.exec {
                let target = if exec.target == crate::lab::Target::Host { "host" } else { "container" };
                let phase = if exec.phase == crate::lab::Phase::OnEnter { "on-enter" } else { "on-exit" };
                let command = quote(&exec.command);
                writeln!(out, "            - {{command: {command}, target: {target}, phase: {phase}}}")?;
            }
        }
    }
    Ok(())
}

fn write_health(out: &mut String, node: &Node) -> std::fmt::Result {
    let Some(health) = &node.healthcheck else { return Ok(()) };
    writeln!(out, "      healthcheck:\n        test:\n          - \"CMD\"")?;
    for word in &health.test {
        writeln!(out, "          - {}", quote(word))?;
    }
    writeln!(out, "        interval: {}\n        timeout: {}", health.interval, health.timeout)?;
    writeln!(out, "        retries: {}\n        start-period: {}", health.retries, health.start_period)
}

fn write_link(out: &mut String, link: &Link) -> std::fmt::Result {
    let ends = |out: &mut String, all: &[&Endpoint]| -> std::fmt::Result {
        let texts: Vec<String> = all.iter().map(|e| endpoint(e)).collect();
        match texts.as_slice() {
            [one] => writeln!(out, "      endpoint: {one}"),
            several => {
                writeln!(out, "      endpoints:")?;
                several.iter().try_for_each(|e| writeln!(out, "        - {e}"))
            }
        }
    };
    let kind = match &link.kind {
        LinkKind::Veth => "veth",
        LinkKind::Host { .. } => "host",
        LinkKind::MgmtNet { .. } => "mgmt-net",
        LinkKind::Macvlan { .. } => "macvlan",
        LinkKind::Dummy => "dummy",
        LinkKind::Vxlan { stitch: true, .. } => "vxlan-stitch",
        LinkKind::Vxlan { .. } => "vxlan",
    };
    writeln!(out, "    - type: {kind}")?;
    match &link.b {
        Some(b) => ends(out, &[&link.a, b])?,
        None => ends(out, &[&link.a])?,
    }
    match &link.kind {
        LinkKind::Host { interface } | LinkKind::MgmtNet { interface } => {
            writeln!(out, "      host-interface: {}", quote(interface))?;
        }
        LinkKind::Macvlan { parent, mode } => {
            writeln!(out, "      host-interface: {}\n      mode: {mode}", quote(parent))?;
        }
        LinkKind::Vxlan { remote, vni, dst_port, src_port, .. } => {
            writeln!(out, "      remote: \"{remote}\"\n      vni: {vni}\n      dst-port: {dst_port}")?;
            if let Some(port) = src_port {
                writeln!(out, "      src-port: {port}")?;
            }
        }
        LinkKind::Veth | LinkKind::Dummy => {}
    }
    writeln!(out, "      mtu: {}", link.mtu)?;
    write_map(out, "labels", &link.labels)
}

fn endpoint(end: &Endpoint) -> String {
    let mut out = format!("{{node: {}, interface: {}", quote(&end.node), quote(&end.interface));
    let fields = [
        ("mac", end.mac.map(|m| m.to_string())),
        ("ipv4", end.ipv4.map(|a| a.to_string())),
        ("ipv6", end.ipv6.map(|a| a.to_string())),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            out += &format!(", {key}: \"{value}\"");
        }
    }
    out + "}"
}
