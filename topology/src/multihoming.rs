//! Machines with links to two leaves: an Ethernet segment (RFC 7432 section 5), or two leaves with one anycast VTEP.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::derive::Builder;
use crate::diagnostic::Place;
use crate::lab::{Mode, Node, Role};
use crate::plan::{Interface, InterfaceUse, NodePlan, Plan};

/// An Ethernet segment identifier: ten bytes, in text hexadecimal with colons. All zero and all ones are no identifiers
/// of a segment (RFC 7432 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Esi([u8; 10]);

impl Esi {
    /// How FRR is told of it: by the parts of type 3, a MAC and a number (RFC 7432 section 5), or whole for type 0.
    /// `None`: FRR cannot be given one of another type.
    pub(crate) fn frr(self) -> Option<String> {
        let [kind, a, b, c, d, e, f, high, middle, low] = self.0;
        let number = u32::from_be_bytes([0, high, middle, low]);
        match kind {
            3 if number > 0 => Some(format!(
                " evpn mh es-id {number}\n evpn mh es-sys-mac {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\n"
            )),
            0 => Some(format!(" evpn mh es-id {self}\n")),
            _ => None,
        }
    }
}

impl fmt::Display for Esi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl FromStr for Esi {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "an ESI is ten bytes in hex with colons, for example 03:44:38:39:ff:ff:01:00:00:01";
        let byte = |part: &str| {
            let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(part, 16).ok().filter(|_| hex).ok_or(FORM)
        };
        let bytes: Vec<u8> = text.split(':').map(byte).collect::<Result<_, _>>()?;
        let bytes: [u8; 10] = bytes.try_into().map_err(|_| FORM)?;
        if bytes == [0; 10] || bytes == [0xff; 10] {
            return Err("all zeros and all ones are reserved (RFC 7432 section 5)");
        }
        Ok(Esi(bytes))
    }
}

/// How two links of a machine to two leaves are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multihoming {
    /// As an Ethernet segment: the machine's routes carry it. Types 1 and 4 are the affair of leaves that know segments.
    Segment(Esi),
    /// Behind an anycast VTEP of both leaves: it is the next hop of the machine's routes.
    Anycast(IpAddr),
}

/// A leaf's port to a machine on a segment. FRR knows segments of bonds only, so the port becomes the only link of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentPort<'a> {
    /// The port.
    pub(crate) port: &'a Interface,
    /// Name of its bond.
    pub(crate) bond: String,
    /// The segment, as FRR is told of it.
    pub(crate) frr: String,
}

/// The ports of a leaf that are on segments, in the order of its interfaces. Only a leaf with EVPN of its own has any: it
/// is the leaf that speaks for a segment.
pub(crate) fn segment_ports<'a>(plan: &Plan, own: &'a NodePlan) -> Vec<SegmentPort<'a>> {
    let carries = |port: &&Interface| matches!(port.usage, InterfaceUse::Access(_) | InterfaceUse::Trunk);
    let speaks = own.mode == Some(Mode::TorEvpn) && own.role != Role::Host;
    let ports = own.interfaces.iter().filter(|port| speaks && carries(port));
    let segments = ports.filter_map(|port| {
        let machine = plan.nodes.get(&port.peer.as_ref()?.0)?;
        let Some(Multihoming::Segment(esi)) = machine.multihoming else { return None };
        Some((port, esi.frr()?))
    });
    let numbered = segments.zip(1..);
    numbered.map(|((port, frr), n)| SegmentPort { port, bond: format!("bond{n}"), frr }).collect()
}

/// A link of a machine to a leaf that carries networks.
struct Port {
    link: usize,
    place: Place,
    leaf: String,
    own: Interface,
}

/// Checks pairs of leaves and segments, and tells machines which they have.
pub(crate) fn derive(builder: &mut Builder<'_>) {
    pairs(builder);
    let lab = builder.lab;
    let mut owners: BTreeMap<Esi, &str> = BTreeMap::new();
    for link in &lab.links {
        if link.causeway.esi.is_some()
            && !is_port(builder, link.a.node.as_str(), link.b.as_ref().map(|b| b.node.as_str()))
        {
            let message =
                "causeway.esi belongs to a link that carries networks between a leaf and a host or server";
            builder.errors.push(lab.source.error(link.place, message));
        }
    }
    for node in lab.nodes_in_order() {
        if !matches!(node.role, Role::Host | Role::Server) {
            continue;
        }
        let ports = ports(builder, node);
        let said = segment(builder, node, &ports, &mut owners);
        let found = said.map(Multihoming::Segment).or_else(|| behind_pair(builder, node, &ports));
        if let Some(plan) = builder.nodes.get_mut(&node.name) {
            plan.multihoming = found;
        }
    }
}

fn is_leaf(role: Role) -> bool {
    matches!(role, Role::Leaf | Role::Border)
}

/// True for a link between a leaf and a host or server; that it carries networks is said by its interfaces.
fn is_port(builder: &Builder<'_>, a: &str, b: Option<&str>) -> bool {
    let role = |name: &str| builder.nodes.get(name).map(|p| (p.role, p.mode));
    let leaf = |r: (Role, Option<Mode>)| is_leaf(r.0);
    let machine = |(role, mode): (Role, Option<Mode>)| {
        matches!(role, Role::Host | Role::Server) && mode != Some(Mode::HostVtep)
    };
    let (Some(a), Some(b)) = (role(a), b.and_then(role)) else { return false };
    (leaf(a) && machine(b)) || (machine(a) && leaf(b))
}

fn ports(builder: &Builder<'_>, node: &Node) -> Vec<Port> {
    let Some(plan) = builder.nodes.get(&node.name) else { return Vec::new() };
    let port = |own: &Interface| {
        let (peer, _) = own.peer.as_ref()?;
        let carries = own.untagged.is_some() || !own.tagged.is_empty();
        let leaf = builder.nodes.get(peer).is_some_and(|p| is_leaf(p.role));
        let place = builder.lab.links.get(own.link)?.place;
        (carries && leaf).then(|| Port { link: own.link, place, leaf: peer.clone(), own: own.clone() })
    };
    plan.interfaces.iter().filter_map(port).collect()
}

/// An anycast VTEP is of two leaves of one mode, and beside the VTEP of each.
fn pairs(builder: &mut Builder<'_>) {
    let lab = builder.lab;
    let mut groups: BTreeMap<IpAddr, Vec<&Node>> = BTreeMap::new();
    for node in lab.nodes_in_order() {
        let Some(anycast) = node.causeway.anycast_vtep else { continue };
        let Some(plan) = builder.nodes.get(&node.name) else { continue };
        let message = match plan.vtep.filter(|_| is_leaf(node.role)) {
            None => {
                format!("causeway.anycast-vtep belongs to a leaf, not to the {} '{}'", node.role, node.name)
            }
            Some(own) if own == anycast || own.is_ipv4() != anycast.is_ipv4() => format!(
                "the anycast VTEP {anycast} of '{}' must be of the family of its VTEP {own}, and another address",
                node.name
            ),
            Some(_) => {
                groups.entry(anycast).or_default().push(node);
                continue;
            }
        };
        builder.error(node, message);
    }
    for (anycast, leaves) in groups {
        let mode = |n: &Node| builder.nodes.get(&n.name).and_then(|p| p.mode);
        let (node, message) = match leaves.as_slice() {
            [one] => (
                *one,
                format!(
                    "the anycast VTEP {anycast} of '{}' is of no other leaf: its partner needs it too",
                    one.name
                ),
            ),
            [a, b] if mode(a) != mode(b) => (
                *b,
                format!(
                    "'{}' and '{}' share the anycast VTEP {anycast} and need one causeway.mode",
                    a.name, b.name
                ),
            ),
            [_, _] => continue,
            [first, second, third, ..] => (
                *third,
                format!(
                    "the anycast VTEP {anycast} is of '{}', '{}' and '{}': a pair has two leaves",
                    first.name, second.name, third.name
                ),
            ),
            [] => continue,
        };
        builder.error(node, message);
    }
}

/// The segment that a machine's links name, if they are right.
fn segment<'a>(
    builder: &mut Builder<'a>,
    node: &'a Node,
    ports: &[Port],
    owners: &mut BTreeMap<Esi, &'a str>,
) -> Option<Esi> {
    let lab = builder.lab;
    let esi_of = |port: &Port| lab.links.get(port.link).and_then(|l| l.causeway.esi);
    let members: Vec<(&Port, Esi)> = ports.iter().filter_map(|p| Some((p, esi_of(p)?))).collect();
    let (first, esi) = members.first()?;
    let mut fail = |place: Place, message: String| {
        builder.errors.push(lab.source.error(place, message));
        None
    };
    if let Some(other) = owners.insert(*esi, &node.name) {
        return fail(first.place, format!("ESI {esi} is given twice: to '{other}' and to '{}'", node.name));
    }
    if let Some((port, other)) = members.iter().find(|(_, other)| other != esi) {
        let message =
            format!("'{}' has the ESI {esi} at one link and {other} at this: both links need one", node.name);
        return fail(port.place, message);
    }
    let second = match members.as_slice() {
        [_, (second, _)] => *second,
        [_] => {
            let message = format!(
                "ESI {esi} of '{}' is at this link only: its link to another leaf needs it too",
                node.name
            );
            return fail(first.place, message);
        }
        [_, _, (third, _), ..] => {
            return fail(
                third.place,
                format!("'{}' has {} links with ESI {esi}: two are known", node.name, members.len()),
            );
        }
        [] => return None,
    };
    if first.leaf == second.leaf {
        let message = format!(
            "both links of '{}' with ESI {esi} lead to '{}': they need two leaves",
            node.name, second.leaf
        );
        return fail(second.place, message);
    }
    if let Some(anycast) = shared(&builder.nodes, first, second) {
        let message = format!(
            "'{}' has an ESI and hangs on '{}' and '{}', which share the anycast VTEP {anycast}: choose one",
            node.name, first.leaf, second.leaf
        );
        return fail(second.place, message);
    }
    same_networks(builder, node, first, second).then_some(*esi)
}

/// The anycast VTEP of both leaves.
fn shared(nodes: &BTreeMap<String, NodePlan>, a: &Port, b: &Port) -> Option<IpAddr> {
    let of = |port: &Port| nodes.get(&port.leaf).and_then(|p| p.anycast_vtep);
    of(a).filter(|vtep| a.leaf != b.leaf && of(b) == Some(*vtep))
}

/// The pair that a machine hangs on with exactly two links.
fn behind_pair(builder: &mut Builder<'_>, node: &Node, ports: &[Port]) -> Option<Multihoming> {
    let [a, b] = ports else { return None };
    let anycast = shared(&builder.nodes, a, b)?;
    same_networks(builder, node, a, b).then_some(Multihoming::Anycast(anycast))
}

/// What comes in by one link may go out by the other.
fn same_networks(builder: &mut Builder<'_>, node: &Node, a: &Port, b: &Port) -> bool {
    let same = (a.own.untagged, &a.own.tagged) == (b.own.untagged, &b.own.tagged);
    if !same {
        let message = format!(
            "the two links of '{}' are one, and carry different networks to '{}' and to '{}': give both the same untagged and tagged ones",
            node.name, a.leaf, b.leaf
        );
        builder.errors.push(builder.lab.source.error(b.place, message));
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_ten_bytes() {
        let good = "03:44:38:39:ff:ff:01:00:00:01";
        assert_eq!(good.parse::<Esi>().map(|e| e.to_string()), Ok(good.to_owned()));
        for bad in [
            "",
            "03:44:38:39:ff:ff:01:00:00",
            "03:44:38:39:ff:ff:01:00:00:01:02",
            "3:44:38:39:ff:ff:01:00:00:01",
            "+3:44:38:39:ff:ff:01:00:00:01",
            "00:00:00:00:00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff:ff:ff:ff:ff",
        ] {
            assert!(bad.parse::<Esi>().is_err(), "{bad}");
        }
    }
}
