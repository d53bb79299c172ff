//! The labels that only Causeway knows.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use causeway_proto::{Prefix, Vni};
use ipnetwork::IpNetwork;

use crate::context::{Context, Text, shorten};
use crate::inherit::Chain;
use crate::lab::Role;
use crate::suggest::{did_you_mean, nearest};
use crate::value::{Span, Value};

/// The `causeway.*` labels of a node, read. `None`: the label is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLabels {
    /// `causeway.role`.
    pub role: Option<Role>,
    /// `causeway.asn`.
    pub asn: Option<u32>,
    /// `causeway.router-id`.
    pub router_id: Option<Ipv4Addr>,
    /// `causeway.loopback`.
    pub loopback: Option<IpAddr>,
    /// `causeway.vtep`.
    pub vtep: Option<IpAddr>,
    /// `causeway.rr`.
    pub route_reflector: Option<bool>,
    /// `causeway.address`: addresses of a server in its access network, with prefix length.
    pub addresses: Vec<IpNetwork>,
    /// `causeway.vni`: networks of a switch, beside those of its access ports.
    pub vnis: Vec<Vni>,
    /// `causeway.link-pool`.
    pub link_pool: Option<Prefix>,
    /// `causeway.loopback-pool`.
    pub loopback_pool: Option<Prefix>,
}

/// What a label means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelDoc {
    /// The label.
    pub name: &'static str,
    /// True if it may stand at a node (or group, kind, defaults).
    pub node: bool,
    /// True if it may stand at a link.
    pub link: bool,
    /// Form of the value.
    pub value: &'static str,
    /// What it does, and the default.
    pub text: &'static str,
}

const fn doc(name: &'static str, place: &str, value: &'static str, text: &'static str) -> LabelDoc {
    let place = place.as_bytes();
    LabelDoc { name, node: place[0] == b'n', link: place[0] == b'l', value, text }
}

/// Every label there is.
pub const LABELS: &[LabelDoc] = &[
    doc(
        "causeway.role",
        "node",
        "spine, leaf, border, host, server, controller or other",
        "What the node does in the fabric. Default: guessed from its group, else from its name.",
    ),
    doc("causeway.asn", "node", "1 to 4294967294", "AS number of a BGP speaker. Default: 65000."),
    doc(
        "causeway.router-id",
        "node",
        "IPv4 address",
        "BGP identifier. Default: the loopback, else the first address.",
    ),
    doc(
        "causeway.rr",
        "node",
        "true or false",
        "Whether a switch is a route reflector for its neighbours of the same AS. Default: spines are.",
    ),
    doc(
        "causeway.loopback",
        "node",
        "IP address",
        "Address on lo. Default for switches and hosts: from causeway.loopback-pool, by place in the file.",
    ),
    doc(
        "causeway.vtep",
        "node",
        "IP address",
        "Where VXLAN tunnels end. Default for leaves, borders and hosts: the loopback.",
    ),
    doc(
        "causeway.vni",
        "node",
        "VNIs, separated by commas",
        "Networks that a leaf bridges, beside those of its access ports. Default: none.",
    ),
    doc(
        "causeway.address",
        "node",
        "addresses with prefix length, separated by commas",
        "Addresses of a server in its access network. Default: none.",
    ),
    doc(
        "causeway.link-pool",
        "node",
        "IPv4 prefix",
        "From here the underlay links get their /31, in the order of the file. Put it into defaults. Default: 10.254.0.0/16.",
    ),
    doc(
        "causeway.loopback-pool",
        "node",
        "IPv4 prefix",
        "From here loopbacks come. Put it into defaults. Default: 10.255.0.0/16.",
    ),
    doc(
        "causeway.vni",
        "link",
        "VNI",
        "The link is an access port of this network: the switch at one end bridges it into VXLAN. Default: no access port.",
    ),
    doc(
        "causeway.underlay",
        "link",
        "true or false",
        "Whether the link belongs to the underlay. Default: yes, if both ends are of the fabric and it has no causeway.vni.",
    ),
];

/// What all our labels begin with.
const PREFIX: &str = "causeway.";

/// A node's labels after inheritance: all as text, ours read.
pub(crate) fn node(cx: &mut Context<'_>, chain: &Chain<'_, '_>) -> (BTreeMap<String, String>, NodeLabels) {
    let mut labels = NodeLabels::default();
    let mut all = BTreeMap::new();
    for (name, (value, key)) in chain.map(cx, "labels") {
        if is_known(cx, &name, key.span, true) {
            read_node_label(cx, &name, &value, &mut labels);
        }
        all.insert(name, value.text);
    }
    (all, labels)
}

fn read_node_label(cx: &mut Context<'_>, name: &str, value: &Text, labels: &mut NodeLabels) {
    match name {
        "causeway.role" => labels.role = role(cx, value),
        "causeway.asn" => labels.asn = cx.number(name, value, 1, u32::MAX - 1),
        "causeway.router-id" => labels.router_id = cx.parse_text(name, value),
        "causeway.rr" => labels.route_reflector = cx.boolean(name, value),
        "causeway.loopback" => labels.loopback = cx.parse_text(name, value),
        "causeway.vtep" => labels.vtep = cx.parse_text(name, value),
        "causeway.link-pool" => labels.link_pool = pool(cx, name, value),
        "causeway.loopback-pool" => labels.loopback_pool = pool(cx, name, value),
        "causeway.vni" => {
            labels.vnis = parts(value).filter_map(|part| vni(cx, name, &part)).collect();
            labels.vnis.sort_unstable();
            labels.vnis.dedup();
        }
        "causeway.address" => {
            labels.addresses = parts(value).filter_map(|part| address(cx, name, &part)).collect()
        }
        _ => {}
    }
}

/// A link's labels: all as text, its VNI, and whether it is kept out of the underlay.
pub(crate) fn link(cx: &mut Context<'_>, value: &Value) -> (BTreeMap<String, String>, Option<Vni>, bool) {
    let (mut all, mut network, mut underlay) = (BTreeMap::new(), None, None);
    for (key, value) in cx.map("labels of a link", value) {
        let Some(text) = cx.text(&format!("label '{}'", shorten(&key.text)), value) else { continue };
        if is_known(cx, &key.text, key.span, false) {
            match key.text.as_str() {
                "causeway.vni" => network = vni(cx, &key.text, &text),
                "causeway.underlay" => underlay = cx.boolean(&key.text, &text),
                _ => {}
            }
        }
        all.insert(key.text.clone(), text.text);
    }
    if network.is_some() && underlay == Some(true) {
        cx.error(
            value.span,
            "a link with causeway.vni is an access port: it cannot be causeway.underlay too",
        );
    }
    (all, network, network.is_none() && underlay != Some(false))
}

/// True for a label of ours that may stand here. One of ours that does not exist, or not here, is an error; one that
/// looks like a misspelt prefix is a warning.
fn is_known(cx: &mut Context<'_>, name: &str, span: Span, on_node: bool) -> bool {
    let Some(_) = name.strip_prefix(PREFIX) else {
        if let Some((first, _)) = name.split_once('.')
            && nearest(first, ["causeway"]).is_some()
        {
            let hint = did_you_mean(name, LABELS.iter().map(|l| l.name));
            cx.warn(span, format!("label '{}' means nothing to Causeway{hint}", shorten(name)));
        }
        return false;
    };
    let here = |l: &&LabelDoc| if on_node { l.node } else { l.link };
    if LABELS.iter().filter(here).any(|l| l.name == name) {
        return true;
    }
    if LABELS.iter().any(|l| l.name == name) {
        let (here, there) = if on_node { ("node", "link") } else { ("link", "node") };
        cx.error(span, format!("label '{name}' belongs to a {there}, not to a {here}"));
        return false;
    }
    let hint = did_you_mean(name, LABELS.iter().filter(here).map(|l| l.name));
    cx.error(span, format!("there is no label '{}'{hint}", shorten(name)));
    false
}

/// The parts of a list separated by commas.
fn parts(value: &Text) -> impl Iterator<Item = Text> + use<> {
    let span = value.span;
    let parts: Vec<String> = value.text.split(',').map(|p| p.trim().to_owned()).collect();
    parts.into_iter().map(move |text| Text { text, span })
}

fn role(cx: &mut Context<'_>, value: &Text) -> Option<Role> {
    let found = Role::ALL.into_iter().find(|r| r.word() == value.text);
    if found.is_none() {
        let words = Role::ALL.map(Role::word);
        let hint = did_you_mean(&value.text, words);
        cx.error(
            value.span,
            format!("causeway.role '{}' is none of {}{hint}", shorten(&value.text), words.join(", ")),
        );
    }
    found
}

fn vni(cx: &mut Context<'_>, name: &str, value: &Text) -> Option<Vni> {
    let number = cx.number(name, value, 1, (1 << 24) - 1)?;
    Vni::try_from(number).ok()
}

/// An address with its prefix length.
fn address(cx: &mut Context<'_>, name: &str, value: &Text) -> Option<IpNetwork> {
    if !value.text.contains('/') {
        cx.error(
            value.span,
            format!("{name} '{}' needs a prefix length, for example 10.0.0.5/24", shorten(&value.text)),
        );
        return None;
    }
    cx.parse_text(name, value)
}

fn pool(cx: &mut Context<'_>, name: &str, value: &Text) -> Option<Prefix> {
    let pool: Prefix = cx.parse_text(name, value)?;
    if !pool.is_ipv4() {
        cx.error(value.span, format!("{name} '{pool}' must be an IPv4 prefix"));
        return None;
    }
    Some(pool)
}
