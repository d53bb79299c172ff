//! The labels that only Causeway knows.

use std::net::{IpAddr, Ipv4Addr};

use causeway_proto::{Mac, Prefix, Vni};
use ipnetwork::IpNetwork;

use crate::lab::Role;

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
    /// `causeway.mac`: MAC of a server's interface.
    pub mac: Option<Mac>,
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
    doc("causeway.router-id", "node", "IPv4 address", "BGP identifier. Default: the loopback, else the first address."),
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
    doc("causeway.mac", "node", "MAC", "MAC of a server's interface in the access network. Default: any."),
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
