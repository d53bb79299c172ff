//! Links of a file, in brief and extended form.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_proto::Mac;
use ipnetwork::{Ipv4Network, Ipv6Network};

use crate::context::{Context, Text, shorten};
use crate::keys::{self, Use};
use crate::lab::{Endpoint, Link, LinkKind, Node};
use crate::labels;
use crate::suggest::did_you_mean;
use crate::value::{Data, Key, Span, Value};

/// containerlab's default, larger than any tunnel needs.
const DEFAULT_MTU: u32 = 9500;
/// The kernel's limits for a veth.
const MTU: (u32, u32) = (68, 65_535);
/// The kernel's limit, the terminating NUL not counted.
const MAX_INTERFACE: usize = 15;

/// A link as read, with what the checks need to point at.
pub(crate) struct Read {
    pub(crate) link: Link,
    spans: Vec<Span>,
}

type Fields<'v> = Vec<(&'v Key, &'v Value)>;

/// Reads a link. `None` if it is too wrong to go on with; the errors are said.
pub(crate) fn read(cx: &mut Context<'_>, value: &Value) -> Option<Read> {
    if !matches!(value.data, Data::Map(_)) {
        cx.error(
            value.span,
            format!("a link must be a mapping (endpoints: …), this is {}", value.describe()),
        );
        return None;
    }
    let Some(kind) = value.get("type") else { return brief(cx, value) };
    let kind = cx.word("type of a link", kind)?;
    if kind.text == "brief" {
        cx.error(kind.span, "a link in brief form has no 'type': take the line away");
        return None;
    }
    let Some((name, own, required)) = keys::TYPED_LINKS.iter().find(|(name, ..)| *name == kind.text) else {
        let hint = did_you_mean(&kind.text, keys::TYPED_LINKS.iter().map(|(name, ..)| *name));
        cx.error(kind.span, format!("there is no link type '{}'{hint}", shorten(&kind.text)));
        return None;
    };
    let mut known = vec![("type", Use::Used)];
    known.extend(keys::LINK);
    known.extend(own.iter().map(|key| (*key, Use::Used)));
    let what = format!("a link of type {name}");
    let fields = cx.fields(&what, value, &known);
    for key in required.iter().filter(|key| value.get(key).is_none()) {
        cx.error(value.span, format!("{what} needs '{key}'"));
    }
    typed(cx, name, value, &fields)
}

fn field<'v>(fields: &Fields<'v>, name: &str) -> Option<&'v Value> {
    fields.iter().find(|(k, _)| k.text == name).map(|(_, v)| *v)
}

fn typed(cx: &mut Context<'_>, kind: &str, value: &Value, fields: &Fields<'_>) -> Option<Read> {
    if let Some(endpoints) = field(fields, "endpoints") {
        let items: Vec<&Value> = cx.list("endpoints of a link", endpoints).iter().collect();
        let [a, b] = items.as_slice() else {
            cx.error(endpoints.span, format!("a link has two endpoints, not {}", items.len()));
            return None;
        };
        let (a, b) = (endpoint(cx, a)?, endpoint(cx, b)?);
        return Some(finish(cx, LinkKind::Veth, a, Some(b), value, fields));
    }
    let endpoint = endpoint(cx, field(fields, "endpoint")?)?;
    let interface = match field(fields, "host-interface") {
        Some(value) => Some(cx.word("host-interface", value)?),
        None => None,
    };
    if let Some(interface) = &interface {
        host_interface(cx, interface);
    }
    let on_machine = || interface.clone().map(|t| t.text);
    let kind = match kind {
        "host" => LinkKind::Host { interface: on_machine()? },
        "mgmt-net" => LinkKind::MgmtNet { interface: on_machine()? },
        "macvlan" => LinkKind::Macvlan { parent: on_machine()?, mode: macvlan_mode(cx, fields)? },
        "dummy" => LinkKind::Dummy,
        _ => vxlan(cx, kind == "vxlan-stitch", fields)?,
    };
    Some(finish(cx, kind, endpoint, None, value, fields))
}

fn macvlan_mode(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<String> {
    const MODES: [&str; 5] = ["bridge", "vepa", "private", "passthru", "source"];
    let Some(value) = field(fields, "mode") else { return Some("bridge".to_owned()) };
    let mode = cx.word("mode", value)?;
    if !MODES.contains(&mode.text.as_str()) {
        let hint = did_you_mean(&mode.text, MODES);
        cx.error(mode.span, format!("macvlan has no mode '{}'{hint}", shorten(&mode.text)));
        return None;
    }
    Some(mode.text)
}

fn vxlan(cx: &mut Context<'_>, stitch: bool, fields: &Fields<'_>) -> Option<LinkKind> {
    let number = |cx: &mut Context<'_>, name: &str, low, high| {
        let text = cx.word(name, field(fields, name)?)?;
        cx.number(name, &text, low, high)
    };
    let remote = cx.parse::<IpAddr>("remote", field(fields, "remote")?)?;
    let vni = number(cx, "vni", 1, (1 << 24) - 1)?;
    let dst_port = number(cx, "dst-port", 1, 65_535).and_then(|n| u16::try_from(n).ok())?;
    let src_port = number(cx, "src-port", 1, 65_535).and_then(|n| u16::try_from(n).ok());
    Some(LinkKind::Vxlan { remote, vni, dst_port, src_port, stitch })
}

/// An end in extended form.
fn endpoint(cx: &mut Context<'_>, value: &Value) -> Option<(Endpoint, Span)> {
    if let Data::Scalar(text) = &value.data {
        let shown = shorten(text);
        cx.error(
            value.span,
            format!("the endpoint of a typed link is a mapping {{node: …, interface: …}}, not '{shown}'"),
        );
        return None;
    }
    let (mut node, mut interface, mut mac, mut ipv4, mut ipv6) = (None, None, None, None, None);
    for (key, value) in cx.fields("an endpoint", value, keys::ENDPOINT) {
        match key.text.as_str() {
            "node" => node = cx.word("node", value),
            "interface" => interface = cx.word("interface", value),
            "mac" => mac = unicast(cx, value),
            "ipv4" => ipv4 = cx.parse::<Ipv4Network>("ipv4", value),
            _ => ipv6 = cx.parse::<Ipv6Network>("ipv6", value),
        }
    }
    if node.is_none() || interface.is_none() {
        cx.error(value.span, "an endpoint needs a node and an interface");
    }
    let (node, interface) = (node?, interface?);
    let place = cx.place(node.span);
    Some((Endpoint { node: node.text, interface: interface.text, mac, ipv4, ipv6, place }, node.span))
}

fn unicast(cx: &mut Context<'_>, value: &Value) -> Option<Mac> {
    let mac: Mac = cx.parse("mac", value)?;
    if !mac.is_unicast() {
        cx.error(value.span, format!("mac '{mac}' is no address of one interface: it is zero or of a group"));
        return None;
    }
    Some(mac)
}

/// `endpoints: ["n1:eth1", "n2:eth1"]`.
fn brief(cx: &mut Context<'_>, value: &Value) -> Option<Read> {
    let mut known = vec![("endpoints", Use::Used)];
    known.extend(keys::LINK);
    let fields = cx.fields("a link", value, &known);
    let Some(endpoints) = field(&fields, "endpoints") else {
        cx.error(value.span, "a link needs 'endpoints', for example [\"leaf1:eth1\", \"spine1:eth1\"]");
        return None;
    };
    let texts = cx.texts("endpoints of a link", endpoints);
    let [first, second] = texts.as_slice() else {
        cx.error(endpoints.span, format!("a link has two endpoints, not {}", texts.len()));
        return None;
    };
    let (a, b) = (end(cx, first), end(cx, second));
    let (a, b) = (a?, b?);
    let special = |(node, _): &(Text, Text)| matches!(node.text.as_str(), "host" | "mgmt-net" | "macvlan");
    let (node, other) = match (special(&a), special(&b)) {
        (false, false) => {
            let ends = [into_endpoint(cx, a), into_endpoint(cx, b)];
            let [a, b] = ends;
            return Some(finish(cx, LinkKind::Veth, a, Some(b), value, &fields));
        }
        (false, true) => (a, b),
        (true, false) => (b, a),
        (true, true) => {
            cx.error(endpoints.span, "a link needs at least one end in a node");
            return None;
        }
    };
    host_interface(cx, &other.1);
    let kind = match other.0.text.as_str() {
        "host" => LinkKind::Host { interface: other.1.text },
        "mgmt-net" => LinkKind::MgmtNet { interface: other.1.text },
        _ => LinkKind::Macvlan { parent: other.1.text, mode: "bridge".to_owned() },
    };
    let node = into_endpoint(cx, node);
    Some(finish(cx, kind, node, None, value, &fields))
}

/// `node:interface`.
fn end(cx: &mut Context<'_>, text: &Text) -> Option<(Text, Text)> {
    let parts: Vec<&str> = text.text.split(':').collect();
    let [node, interface] = parts.as_slice() else {
        cx.error(text.span, format!("endpoint '{}' is not NODE:INTERFACE", shorten(&text.text)));
        return None;
    };
    if node.is_empty() || interface.is_empty() {
        cx.error(text.span, format!("endpoint '{}' is not NODE:INTERFACE", shorten(&text.text)));
        return None;
    }
    let part = |p: &str| Text { text: p.to_owned(), span: text.span };
    Some((part(node), part(interface)))
}

fn into_endpoint(cx: &Context<'_>, (node, interface): (Text, Text)) -> (Endpoint, Span) {
    let place = cx.place(node.span);
    let end =
        Endpoint { node: node.text, interface: interface.text, mac: None, ipv4: None, ipv6: None, place };
    (end, node.span)
}

fn finish(
    cx: &mut Context<'_>,
    kind: LinkKind,
    a: (Endpoint, Span),
    b: Option<(Endpoint, Span)>,
    value: &Value,
    fields: &Fields<'_>,
) -> Read {
    let mtu = field(fields, "mtu").and_then(|value| {
        let text = cx.word("mtu", value)?;
        cx.number("mtu", &text, MTU.0, MTU.1)
    });
    let (labels, causeway) = field(fields, "labels").map(|value| labels::link(cx, value)).unwrap_or_default();
    let mut spans = vec![a.1];
    spans.extend(b.as_ref().map(|b| b.1));
    let mut link = Link {
        kind,
        a: a.0,
        b: b.map(|b| b.0),
        mtu: mtu.unwrap_or(DEFAULT_MTU),
        labels,
        causeway,
        place: cx.place(value.span),
    };
    let ends = if link.b.is_some() { 2 } else { 1 };
    for (position, address) in addresses::<Ipv4Network>(cx, fields, "ipv4", ends) {
        if let Some(end) = end_at(&mut link, position) {
            end.ipv4 = Some(address);
        }
    }
    for (position, address) in addresses::<Ipv6Network>(cx, fields, "ipv6", ends) {
        if let Some(end) = end_at(&mut link, position) {
            end.ipv6 = Some(address);
        }
    }
    Read { link, spans }
}

fn end_at(link: &mut Link, position: usize) -> Option<&mut Endpoint> {
    if position == 0 { Some(&mut link.a) } else { link.b.as_mut() }
}

/// `ipv4:` or `ipv6:` of a link: prefixes in the order of the endpoints, `""` skips one.
fn addresses<T>(cx: &mut Context<'_>, fields: &Fields<'_>, key: &str, ends: usize) -> Vec<(usize, T)>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let Some(value) = field(fields, key) else { return Vec::new() };
    let texts = cx.texts(key, value);
    if texts.len() > ends {
        cx.error(value.span, format!("{key} has {} entries for {ends} endpoints", texts.len()));
        return Vec::new();
    }
    let mut all = Vec::new();
    for (position, text) in texts.iter().enumerate().filter(|(_, t)| !t.text.is_empty()) {
        if !text.text.contains('/') {
            cx.error(
                text.span,
                format!("{key} '{}' needs a prefix length, for example /31", shorten(&text.text)),
            );
        } else if let Some(address) = cx.parse_text(key, text) {
            all.push((position, address));
        }
    }
    all
}

/// Interfaces on the machine itself must have a name that the kernel takes.
fn host_interface(cx: &mut Context<'_>, text: &Text) {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    let name = text.text.as_str();
    if name.len() > MAX_INTERFACE || name.contains(bad) || name == "." || name == ".." {
        cx.error(
            text.span,
            format!(
                "interface name '{}' on the machine must have at most 15 bytes, without '/', ':' and blanks",
                shorten(name)
            ),
        );
    }
}

/// Checks of all links together: unknown nodes, interfaces used twice, names.
pub(crate) fn check(cx: &mut Context<'_>, nodes: &BTreeMap<String, Node>, reads: &[Read]) {
    let mut used: BTreeMap<(String, String), Span> = BTreeMap::new();
    for Read { link, spans } in reads {
        let ends = [Some(&link.a), link.b.as_ref()].into_iter().flatten();
        for (end, span) in ends.zip(spans) {
            check_end(cx, nodes, end, *span, &mut used);
        }
        let machine = match &link.kind {
            LinkKind::Host { interface } | LinkKind::MgmtNet { interface } => Some(interface),
            _ => None,
        };
        if let (Some(interface), Some(span)) = (machine, spans.first()) {
            claim(cx, &mut used, "", interface, *span);
        }
        if let (Some(b), Some(span)) = (&link.b, spans.first())
            && b.node == link.a.node
            && nodes.get(&b.node).is_some_and(|n| n.kind == "linux")
        {
            cx.warn(*span, format!("this link joins node '{}' to itself", b.node));
        }
    }
}

fn check_end(
    cx: &mut Context<'_>,
    nodes: &BTreeMap<String, Node>,
    end: &Endpoint,
    span: Span,
    used: &mut BTreeMap<(String, String), Span>,
) {
    let Some(node) = nodes.get(&end.node) else {
        let hint = did_you_mean(&end.node, nodes.keys().map(String::as_str));
        cx.error(span, format!("there is no node '{}'{hint}", shorten(&end.node)));
        return;
    };
    let interface = Text { text: end.interface.clone(), span };
    let on_machine =
        matches!(node.kind.as_str(), "bridge" | "ovs-bridge" | "host") && node.network_mode.is_none();
    if on_machine {
        host_interface(cx, &interface);
    } else {
        let name = end.interface.as_str();
        if name == "." || name == ".." || name == "lo" || name.contains(char::is_control) {
            cx.error(span, format!("'{}' cannot be the name of a link's interface", shorten(name)));
        } else if name.len() > MAX_INTERFACE || name.contains(|c: char| c == '/' || c.is_whitespace()) {
            cx.warn(
                span,
                format!("the kernel takes no interface name '{}' (15 bytes, no '/', no blanks): it becomes an alternative name", shorten(name)),
            );
        }
        if name == "eth0" && node.kind == "linux" && node.network_mode.as_deref() != Some("none") {
            cx.error(span, format!("eth0 of node '{}' belongs to the management network: take another name, or set network-mode: none", node.name));
        }
    }
    claim(cx, used, if on_machine { "" } else { &end.node }, &end.interface, span);
}

/// Remembers that an interface of a node (of the machine: the empty name) is used, and says if it was before.
fn claim(
    cx: &mut Context<'_>,
    used: &mut BTreeMap<(String, String), Span>,
    node: &str,
    interface: &str,
    span: Span,
) {
    let key = (node.to_owned(), interface.to_owned());
    let Some(before) = used.insert(key, span) else { return };
    let line = cx.place(before).line;
    let whose = if node.is_empty() { "on the machine".to_owned() } else { format!("of node '{node}'") };
    cx.error(span, format!("interface '{}' {whose} is used twice: first in line {line}", shorten(interface)));
}
