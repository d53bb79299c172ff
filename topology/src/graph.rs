//! Pictures of a lab: SVG, Mermaid, Graphviz.

mod place;
mod svg;

use std::fmt::Write;

use crate::lab::{Lab, Link, LinkKind, Node, Role};

pub use svg::svg;

/// A Mermaid flow chart (`graph TD`): switches above, what hangs on them below.
pub fn mermaid(lab: &Lab) -> String {
    let mut out = format!("---\ntitle: {}\n---\ngraph TD\n", quoted(&lab.name));
    for node in by_role(lab) {
        let _ = writeln!(
            out,
            "  n{}[\"{}\"]",
            node.index,
            label(node).iter().map(|l| entities(l)).collect::<Vec<_>>().join("<br/>")
        );
    }
    for link in &lab.links {
        let (a, b) = ends(lab, link);
        let _ = writeln!(out, "  {} ---|\"{}\"| {}", a.0, entities(&caption(link, &a.1, &b.1)), b.0);
    }
    out
}

/// A Graphviz graph.
pub fn dot(lab: &Lab) -> String {
    let mut out = format!("graph {} {{\n  node [shape=box];\n", quoted(&lab.name));
    for role in Role::ALL {
        let nodes: Vec<_> = by_role(lab).into_iter().filter(|n| n.role == role).collect();
        for node in &nodes {
            let _ = writeln!(out, "  n{} [label={}];", node.index, quoted(&label(node).join("\n")));
        }
        if nodes.len() > 1 {
            let ids: Vec<String> = nodes.iter().map(|n| format!("n{}", n.index)).collect();
            let _ = writeln!(out, "  {{ rank=same; {} }}", ids.join("; "));
        }
    }
    for link in &lab.links {
        let (a, b) = ends(lab, link);
        let segment = link.causeway.esi.map(|esi| format!(", label={}", quoted(&format!("ESI {esi}"))));
        let ends = format!("taillabel={}, headlabel={}", quoted(&a.1), quoted(&b.1));
        let _ = writeln!(out, "  {} -- {} [{ends}{}];", a.0, b.0, segment.unwrap_or_default());
    }
    out.push_str("}\n");
    out
}

fn by_role(lab: &Lab) -> Vec<&Node> {
    let mut nodes = lab.nodes_in_order();
    nodes.sort_by_key(|n| (n.role, n.index));
    nodes
}

/// The lines in a node's box.
fn label(node: &Node) -> Vec<String> {
    let role = (node.role != Role::Other).then(|| node.role.to_string());
    let pair = node.causeway.anycast_vtep.map(|vtep| format!("anycast VTEP {vtep}"));
    [Some(node.name.clone()), role, pair].into_iter().flatten().collect()
}

/// Identifier and interface of both ends; what is on the machine becomes a node of its own by being named.
fn ends(lab: &Lab, link: &Link) -> ((String, String), (String, String)) {
    let id =
        |name: &str| lab.nodes.get(name).map_or_else(|| "unknown".to_owned(), |n| format!("n{}", n.index));
    let a = (id(&link.a.node), link.a.interface.clone());
    let b = match (&link.b, &link.kind) {
        (Some(b), _) => (id(&b.node), b.interface.clone()),
        (None, LinkKind::Host { interface }) => ("machine".to_owned(), interface.clone()),
        (None, LinkKind::MgmtNet { interface }) => ("mgmt".to_owned(), interface.clone()),
        (None, LinkKind::Macvlan { parent, .. }) => ("machine".to_owned(), parent.clone()),
        (None, LinkKind::Vxlan { remote, vni, .. }) => ("vxlan".to_owned(), format!("{remote} vni {vni}")),
        (None, LinkKind::Dummy | LinkKind::Veth) => ("nothing".to_owned(), String::new()),
    };
    (a, b)
}

fn caption(link: &Link, a: &str, b: &str) -> String {
    let ends = if b.is_empty() { a.to_owned() } else { format!("{a} - {b}") };
    link.causeway.esi.map_or_else(|| ends.clone(), |esi| format!("{ends}, ESI {esi}"))
}

/// Text inside of quotes: what ends them or means something to Mermaid is written by its entity codes, which begin with
/// '#' and not with '&'.
fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '#' | '`' | '|' | '<' | '>' | '&' | ';' | '\\' => {
                let _ = write!(out, "#{};", u32::from(c));
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
