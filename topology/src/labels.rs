//! The labels that only Causeway knows.

pub(crate) mod docs;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use causeway_proto::{Mac, Prefix, Vni};
use ipnetwork::IpNetwork;

use crate::context::{Context, Text, shorten};
use crate::diagnostic::Place;
use crate::inherit::Chain;
use crate::lab::{Mode, Role};
use crate::multihoming::Esi;
use crate::networks::{self, Network, Vrf};
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
    /// `causeway.mode`.
    pub mode: Option<Mode>,
    /// `causeway.network.NAME`, by name.
    pub networks: BTreeMap<String, Network>,
    /// `causeway.vrf.NAME`, by name.
    pub vrfs: BTreeMap<String, Vrf>,
    /// `causeway.networks`.
    pub bridged: Vec<Reference>,
    /// `causeway.router-mac`.
    pub router_mac: Option<Mac>,
    /// `causeway.prefixes`.
    pub prefixes: Vec<Prefix>,
    /// `causeway.bridge`: true for `vlan-aware`.
    pub vlan_aware: bool,
    /// `causeway.move-addresses`.
    pub move_addresses: bool,
    /// `causeway.anycast-vtep`.
    pub anycast_vtep: Option<IpAddr>,
    /// `causeway.peers`: true for `leaves`.
    pub peers_with_leaves: bool,
}

/// The `causeway.*` labels of a link, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkLabels {
    /// `causeway.vni`.
    pub vni: Option<Vni>,
    /// `causeway.untagged`: name or VLAN of a network.
    pub untagged: Option<Reference>,
    /// `causeway.tagged`: names or VLANs of networks, or the one word `all`.
    pub tagged: Vec<Reference>,
    /// `causeway.vrf`.
    pub vrf: Option<Reference>,
    /// `causeway.underlay`.
    pub underlay: Option<bool>,
    /// `causeway.esi`.
    pub esi: Option<Esi>,
}

/// A name that a label mentions, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The name.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

impl LinkLabels {
    /// True if the link carries networks between a leaf and a host or server.
    pub fn carries_networks(&self) -> bool {
        self.vni.is_some() || self.untagged.is_some() || !self.tagged.is_empty()
    }

    /// True if the link may belong to the underlay: nothing else is said.
    pub fn may_be_underlay(&self) -> bool {
        self.underlay != Some(false) && !self.carries_networks() && self.vrf.is_none()
    }
}

use docs::find;
pub use docs::{LABELS, LabelDoc};

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
        "causeway.anycast-vtep" => labels.anycast_vtep = cx.parse_text(name, value),
        "causeway.link-pool" => labels.link_pool = pool(cx, name, value),
        "causeway.loopback-pool" => labels.loopback_pool = pool(cx, name, value),
        "causeway.vni" => {
            labels.vnis = parts(value).filter_map(|part| vni(cx, name, &part)).collect();
            labels.vnis.sort_unstable();
            labels.vnis.dedup();
        }
        "causeway.mode" => labels.mode = mode(cx, value),
        "causeway.networks" => labels.bridged = references(cx, value),
        "causeway.router-mac" => labels.router_mac = unicast(cx, name, value),
        "causeway.prefixes" => {
            labels.prefixes = parts(value).filter_map(|part| cx.parse_text(name, &part)).collect();
        }
        "causeway.bridge" => labels.vlan_aware = is_second(cx, name, value, ["per-network", "vlan-aware"]),
        "causeway.move-addresses" => labels.move_addresses = cx.boolean(name, value).unwrap_or_default(),
        "causeway.peers" => labels.peers_with_leaves = is_second(cx, name, value, ["links", "leaves"]),
        "causeway.address" => {
            labels.addresses = parts(value).filter_map(|part| address(cx, name, &part)).collect()
        }
        _ => declaration(cx, name, value, labels),
    }
}

/// A network or a VRF.
fn declaration(cx: &mut Context<'_>, name: &str, value: &Text, labels: &mut NodeLabels) {
    if let Some(own) = name.strip_prefix("causeway.network.") {
        let network = networks::network(cx, name, own, value);
        labels.networks.extend(network.map(|n| (n.name.clone(), n)));
    } else if let Some(own) = name.strip_prefix("causeway.vrf.") {
        let vrf = networks::vrf(cx, name, own, value);
        labels.vrfs.extend(vrf.map(|v| (v.name.clone(), v)));
    }
}

/// A link's labels: all as text, and ours read.
pub(crate) fn link(cx: &mut Context<'_>, value: &Value) -> (BTreeMap<String, String>, LinkLabels) {
    let (mut all, mut labels) = (BTreeMap::new(), LinkLabels::default());
    for (key, value) in cx.map("labels of a link", value) {
        let Some(text) = cx.text(&format!("label '{}'", shorten(&key.text)), value) else { continue };
        if is_known(cx, &key.text, key.span, false) {
            match key.text.as_str() {
                "causeway.vni" => labels.vni = vni(cx, &key.text, &text),
                "causeway.untagged" => labels.untagged = reference(cx, &key.text, &text),
                "causeway.tagged" => labels.tagged = references(cx, &text),
                "causeway.vrf" => labels.vrf = reference(cx, &key.text, &text),
                "causeway.underlay" => labels.underlay = cx.boolean(&key.text, &text),
                "causeway.esi" => labels.esi = cx.parse_text(&key.text, &text),
                _ => {}
            }
        }
        all.insert(key.text.clone(), text.text);
    }
    let kinds = [labels.carries_networks(), labels.vrf.is_some(), labels.underlay == Some(true)];
    if kinds.iter().filter(|k| **k).count() > 1 {
        cx.error(
            value.span,
            "a link is an access port (causeway.vni, untagged, tagged), a routed port (causeway.vrf) or causeway.underlay, not two of them",
        );
    }
    if labels.esi.is_some() && !labels.carries_networks() {
        cx.error(value.span, "causeway.esi needs networks on the link: causeway.untagged or causeway.tagged");
    }
    if labels.vni.is_some() && labels.untagged.is_some() {
        cx.error(value.span, "causeway.vni and causeway.untagged mean the same: keep one");
    }
    (all, labels)
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
    if find(name, on_node).is_some() {
        return true;
    }
    if find(name, !on_node).is_some() {
        let (here, there) = if on_node { ("node", "link") } else { ("link", "node") };
        cx.error(span, format!("label '{name}' belongs to a {there}, not to a {here}"));
        return false;
    }
    let here = |l: &&LabelDoc| if on_node { l.node } else { l.link };
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

fn mode(cx: &mut Context<'_>, value: &Text) -> Option<Mode> {
    let found = Mode::ALL.into_iter().find(|m| m.word() == value.text);
    if found.is_none() {
        let words = Mode::ALL.map(Mode::word);
        let hint = did_you_mean(&value.text, words);
        let shown = shorten(&value.text);
        cx.error(value.span, format!("causeway.mode '{shown}' is none of {}{hint}", words.join(", ")));
    }
    found
}

fn reference(cx: &mut Context<'_>, name: &str, value: &Text) -> Option<Reference> {
    if value.text.trim().is_empty() {
        cx.error(value.span, format!("{name} is empty"));
        return None;
    }
    Some(Reference { name: value.text.trim().to_owned(), place: cx.place(value.span) })
}

/// Names separated by commas, each with its place.
fn references(cx: &mut Context<'_>, value: &Text) -> Vec<Reference> {
    let place = |part: &Text| cx.place(networks::within(cx, value.span, &part.text));
    parts(value)
        .filter(|p| !p.text.is_empty())
        .map(|p| Reference { place: place(&p), name: p.text })
        .collect()
}

fn unicast(cx: &mut Context<'_>, name: &str, value: &Text) -> Option<Mac> {
    let mac: Mac = cx.parse_text(name, value)?;
    if !mac.is_unicast() {
        cx.error(
            value.span,
            format!("{name} '{mac}' is no address of one interface: it is zero or of a group"),
        );
    }
    Some(mac)
}

/// Whether it is the second of two words, the first of which is the default.
fn is_second(cx: &mut Context<'_>, name: &str, value: &Text, [first, second]: [&str; 2]) -> bool {
    if value.text != first && value.text != second {
        let shown = shorten(&value.text);
        cx.error(value.span, format!("{name} '{shown}' is neither {first} nor {second}"));
    }
    value.text == second
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
