//! What boxes and lines look like: colours, dashes, words.

use std::fmt::Write;

use crate::graph::place::{Place, to_i32};
use crate::lab::{Node, Role};
use crate::multihoming::Multihoming;
use crate::plan::Plan;

/// Fill and text of a role: colours that differ for every kind of colour vision and in grey (after Okabe and Ito).
pub(super) fn colours(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Spine => ("#004d80", "#ffffff"),
        Role::Leaf => ("#8fd0f5", "#000000"),
        Role::Border => ("#e69f00", "#000000"),
        Role::Host => ("#00805c", "#ffffff"),
        Role::Server => ("#d9d9d9", "#000000"),
        Role::Controller => ("#f0c6dc", "#000000"),
        Role::Other => ("#ffffff", "#000000"),
    }
}

/// How a link is drawn: words of the legend and a dash pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    Underlay,
    Access,
    Other,
}

impl Line {
    pub(super) fn look(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Line::Underlay => ("underlay", "#333333", ""),
            Line::Access => ("access", "#a04000", "6 3"),
            Line::Other => ("other link", "#777777", "2 3"),
        }
    }
}

/// The lines of text in a node's box.
pub(super) fn describe(node: &Node, plan: Option<&Plan>) -> Vec<String> {
    let own = plan.and_then(|p| p.nodes.get(&node.name));
    let mut first = node.role.to_string();
    if node.role == Role::Other {
        first.clone_from(&node.kind);
    }
    if let Some(asn) = own.and_then(|p| p.asn) {
        let _ = write!(first, " · AS {asn}");
    }
    let address = own.and_then(|p| match (p.vtep, p.loopback) {
        (Some(vtep), _) => {
            let pair = p.anycast_vtep.map_or_else(String::new, |a| format!(" + anycast {a}"));
            Some(format!("VTEP {vtep}{pair}"))
        }
        (None, Some(loopback)) => Some(loopback.to_string()),
        (None, None) => node.causeway.addresses.first().map(ToString::to_string),
    });
    let cut = |text: &str| -> String {
        if text.chars().count() <= 30 {
            text.to_owned()
        } else {
            text.chars().take(29).chain(['…']).collect()
        }
    };
    let mut lines = vec![cut(&node.name)];
    match address {
        Some(address) if node.role.is_switch() || node.role == Role::Controller => {
            lines.extend([first, address])
        }
        Some(address) => lines.push(format!("{first} · {address}")),
        None => lines.push(cut(&first)),
    }
    if let (Some(Multihoming::Segment(esi)), Some(last)) = (own.and_then(|p| p.multihoming), lines.last_mut())
    {
        let _ = write!(last, " · ESI {esi}");
    }
    lines
}

pub(super) fn write_box(out: &mut String, place: &Place<'_>) {
    let (fill, ink) = colours(place.node.role);
    let Place { x, y, w, h, lines, .. } = place;
    let dash = if place.node.role == Role::Other { " stroke-dasharray=\"4 2\"" } else { "" };
    let _ = writeln!(
        out,
        "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"5\" fill=\"{fill}\" stroke=\"#333333\"{dash}/>",
        escape(&place.node.name)
    );
    let mut base = y + (h - (16 + 12 * (to_i32(lines.len()) - 1))) / 2 + 12;
    for (n, line) in lines.iter().enumerate() {
        let class = if n == 0 { " class=\"n\"" } else { "" };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{base}\" fill=\"{ink}\"{class}>{}</text>",
            place.middle(),
            escape(line)
        );
        base += if n == 0 { 14 } else { 12 };
    }
    out.push_str("</g>\n");
}

/// Text for XML; characters that XML has none for become blanks.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
