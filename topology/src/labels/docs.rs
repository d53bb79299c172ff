//! What labels there are.

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

/// Every label there is. `NAME` at the end stands for any name.
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
        "causeway.anycast-vtep",
        "node",
        "IP address",
        "VTEP that a leaf shares with its MLAG partner, which has the same label: it is on lo and announced by both, and the controller announces it as next hop of machines with a link to each. Default: none.",
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
        "causeway.mode",
        "node",
        "tor-evpn, tor-agent or tor-static; at a host host-vtep or host",
        "How a leaf takes part in the overlay, and whether a host is a VTEP. Default: tor-evpn; a host with a link that carries networks is a host, else a host-vtep.",
    ),
    doc(
        "causeway.vrf.NAME",
        "node",
        "words l3vni=VNI import=RT,… export=RT,… routes=PREFIX@NODE,…",
        "Declares a routing domain; put it into defaults. A route target is ASN:NUMBER; default: AS and L3 VNI. To import what another VRF exports leaks its routes, but for prefixes that this one has itself. `routes` are announced by the controller behind the VTEP of a node.",
    ),
    doc(
        "causeway.network.NAME",
        "node",
        "words vni=VNI vlan=ID vrf=NAME mtu=BYTES gateway=ADDRESS/LENGTH,… subnet=PREFIX,… exclude=RANGE,… mac=MAC irb=none, symmetric or asymmetric, import=RT,… export=RT,…",
        "Declares a network; put it into defaults. Only `vni` is required. Every switch with the network answers for the gateways with the same MAC, by default 00:00:5e:00:01:01. The MTU is 1280 to 9216, by default 1450. Without `vlan` it is only ever untagged.",
    ),
    doc(
        "causeway.networks",
        "node",
        "names of networks, separated by commas",
        "Networks that a leaf bridges and routes, beside those of its ports. Default: none.",
    ),
    doc(
        "causeway.router-mac",
        "node",
        "MAC",
        "MAC of a leaf as router of the L3 VNIs. Default: 02:02 and the four bytes of its VTEP.",
    ),
    doc(
        "causeway.prefixes",
        "node",
        "prefixes, separated by commas",
        "What lies behind a machine on a routed port (causeway.vrf at the link): the leaf has routes to it and announces them as type 5; the machine itself has the first address of each. Default: nothing.",
    ),
    doc(
        "causeway.bridge",
        "node",
        "per-network or vlan-aware",
        "How the bridges of a host are built. Default: per-network.",
    ),
    doc(
        "causeway.peers",
        "node",
        "links or leaves",
        "With whom a controller speaks BGP: with the switches that it has links to, or with every leaf of its AS as well, loopback to loopback. Route reflectors of FRR pass a route on after 50 ms; leaves that have it from the controller itself do not wait for that. Default: links.",
    ),
    doc(
        "causeway.move-addresses",
        "node",
        "true or false",
        "Whether the agent of a host may move its own addresses from an uplink to a bridge. Default: false.",
    ),
    doc(
        "causeway.vni",
        "link",
        "VNI",
        "The link is an access port of this network: the switch at one end bridges its untagged frames into VXLAN. As causeway.untagged, for a network that is not declared. Default: no access port.",
    ),
    doc(
        "causeway.untagged",
        "link",
        "name or VLAN of a network",
        "Untagged frames on this link between a leaf and a host or server belong to this network. Default: they are dropped.",
    ),
    doc(
        "causeway.tagged",
        "link",
        "names or VLANs of networks, separated by commas; or all",
        "802.1Q frames of these networks pass this link; all: of every network with a VLAN. Default: none.",
    ),
    doc(
        "causeway.vrf",
        "link",
        "name of a VRF",
        "The link is a routed port of a leaf in this VRF, towards a machine that is no part of the fabric. Both ends need addresses (ipv4, ipv6). Default: none.",
    ),
    doc(
        "causeway.esi",
        "link",
        "ten bytes in hex with colons",
        "Ethernet segment of a host or server with links to two leaves: the same at both links, which carry the same networks. The controller puts it into the routes of the machine (type 2); leaves of mode `tor-evpn` are configured with it (types 0 and 3). Default: none.",
    ),
    doc(
        "causeway.underlay",
        "link",
        "true or false",
        "Whether the link belongs to the underlay. Default: yes, if both ends are of the fabric and it carries no network.",
    ),
];

/// The label of this name, or of its family, that may stand at a node or at a link.
pub(crate) fn find(name: &str, on_node: bool) -> Option<&'static LabelDoc> {
    let here = |l: &&LabelDoc| if on_node { l.node } else { l.link };
    let is = |l: &&LabelDoc| match l.name.strip_suffix("NAME") {
        Some(family) => name.starts_with(family),
        None => l.name == name,
    };
    LABELS.iter().filter(here).find(is)
}
