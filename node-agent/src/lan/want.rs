//! Which links a host needs for its ports, and which ports cannot be had. Pure; looks at what is there only to keep to
//! it where there is a choice: the uplink in use, the parent that workloads already hang on.

use std::collections::{BTreeMap, BTreeSet};

use causeway_proto::{PortKey, VlanId, Vni};

use super::seen::{Kind, Seen, Trial, is_within};
use crate::dev::{Dev, Role};
use crate::model::{Attach, Child, Desired, Key, Lan, MacvlanMode, Network, Port};
use crate::observed::{ChildOf, Inside, Observed};

/// VLAN in which a VLAN-aware bridge keeps untagged frames to itself.
pub(crate) const UNTAGGED: u16 = 4094;

/// A VLAN of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vlan {
    pub(crate) dev: Dev,
    pub(crate) parent: Dev,
    pub(crate) id: u16,
}

/// A network's links on this host.
#[derive(Debug, Clone)]
pub(crate) struct Net {
    pub(crate) mtu: u32,
    pub(crate) id: Option<u16>,
    /// In which its veths and taps are.
    pub(crate) bridge: Option<Dev>,
    /// The bridge's port to the wire.
    pub(crate) wire: Dev,
    /// A VLAN device that must be there.
    pub(crate) vlan: Option<Vlan>,
    /// What macvlans and ipvlans hang on.
    pub(crate) parent: Dev,
    /// The host reaches its macvlans through a macvlan of its own, if the parent has addresses of the host.
    pub(crate) shim: bool,
    /// The bridge to which the host's own addresses must go first.
    pub(crate) moves: Option<Dev>,
}

/// All that a host needs.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) uplink: Option<Dev>,
    pub(crate) nets: BTreeMap<Vni, Net>,
    /// What they have is left as it is.
    pub(crate) blocked: BTreeSet<Vni>,
    /// Ports that cannot be had, and why.
    pub(crate) refused: BTreeMap<PortKey, String>,
    pub(crate) problems: BTreeMap<Key, String>,
}

/// The uplink to use: what is in use and has a wire, what has one, what is in use, what there is.
fn choose_uplink(lan: &Lan, seen: &Seen) -> Option<Dev> {
    let used = |dev: &Dev| {
        let ours = |d: &Dev| matches!(d.role(), Some(Role::Bridge(_) | Role::Trunk));
        let in_bridge = seen.links.get(dev).and_then(|l| l.link.master.as_ref()).is_some_and(ours);
        in_bridge || seen.links.values().any(|l| l.is_ours() && l.parent() == Some(dev))
    };
    let wired = |dev: &Dev| seen.links.get(dev).is_some_and(|l| l.carrier);
    let there = || lan.uplinks.iter().filter(|dev| seen.links.contains_key(*dev));
    let chosen = there().find(|d| used(d) && wired(d)).or_else(|| there().find(|d| wired(d)));
    chosen.or_else(|| there().find(|d| used(d))).or_else(|| there().next()).cloned()
}

/// The child that a port has now, if any.
pub(crate) fn present<'a>(observed: &'a Observed, port: &Port) -> Option<&'a ChildOf> {
    match observed.insides.get(&Dev::port(&port.id)) {
        Some(Inside::Present(peer)) => peer.child.as_ref(),
        _ => None,
    }
}

/// Ports of one network, by how they hang.
struct Group<'a> {
    vni: Vni,
    network: &'a Network,
    bridged: Vec<&'a Port>,
    children: Vec<&'a Port>,
    /// For which the host stands on a bridge, as it has no address of their subnets.
    routed: Vec<&'a Port>,
}

impl<'a> Group<'a> {
    fn ports(&self) -> impl Iterator<Item = &'a Port> {
        self.bridged.iter().chain(&self.children).chain(&self.routed).copied()
    }
}

struct Wanting<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    seen: &'a Seen,
    lan: &'a Lan,
    out: Wanted,
    /// Networks by the VLAN (or none) of the uplink that they have.
    taken: BTreeMap<Option<u16>, Vni>,
}

/// What `desired` needs.
pub(crate) fn wanted(desired: &Desired, observed: &Observed, lan: &Lan) -> Wanted {
    let uplink = choose_uplink(lan, &observed.lan);
    let out = Wanted { uplink, ..Wanted::default() };
    let mut wanting = Wanting { desired, observed, seen: &observed.lan, lan, out, taken: BTreeMap::new() };
    let groups = wanting.groups();
    let trunk = lan.aware && wanting.wants_trunk(&groups);
    for group in groups {
        wanting.group(group, trunk);
    }
    wanting.out
}

impl<'a> Wanting<'a> {
    fn groups(&mut self) -> Vec<Group<'a>> {
        let mut groups: BTreeMap<Vni, Group<'a>> = BTreeMap::new();
        let mut taps: BTreeMap<&Dev, &PortKey> = BTreeMap::new();
        for port in self.desired.ports().values() {
            if let Some((what, owner)) = self.desired.conflict(port) {
                let why = format!("its {what} belongs to port {owner} on this node");
                self.out.refused.insert(port.id.clone(), why);
                continue;
            }
            if port.attach == Attach::Tap
                && let Some(owner) = taps.insert(&port.interface, &port.id)
            {
                taps.insert(&port.interface, owner);
                let why = format!("its tap {} belongs to port {owner} on this node", port.interface);
                self.out.refused.insert(port.id.clone(), why);
                continue;
            }
            let Some(network) = self.desired.networks().get(&port.vni) else {
                let why = format!("its network (VNI {}) is not on this node", port.vni);
                self.out.refused.insert(port.id.clone(), why);
                continue;
            };
            let (bridged, children, routed) = (Vec::new(), Vec::new(), Vec::new());
            let new = Group { vni: port.vni, network, bridged, children, routed };
            let group = groups.entry(port.vni).or_insert(new);
            match port.attach {
                Attach::Bridge | Attach::Tap => group.bridged.push(port),
                Attach::Child(_) => group.children.push(port),
                Attach::Routed if self.has_subnets_of(port, network) => {}
                Attach::Routed if self.lan.aware => {
                    let why = format!(
                        "on a VLAN-aware bridge the host needs an address in the network of a routed port: give it one \
                         on the VLAN of {}, or build a bridge per network",
                        network.name
                    );
                    self.out.refused.insert(port.id.clone(), why);
                }
                Attach::Routed => group.routed.push(port),
                Attach::BareMetal | Attach::VxlanBridge | Attach::Adopted => {}
            }
        }
        groups.into_values().filter(|group| group.ports().next().is_some()).collect()
    }

    /// True if the host has addresses of its own on the network's wire, in the subnets of all addresses of a port: then it
    /// answers there, with the MAC of that link.
    fn has_subnets_of(&self, port: &Port, network: &Network) -> bool {
        let id = network.vlan.map(VlanId::get);
        let own = Dev::vlan(port.vni);
        let of_wire = |dev: &Dev, link: &super::seen::SeenLink| match (&link.kind, id) {
            (Kind::Vlan { id: found, parent: Some(parent) }, Some(id)) => {
                *dev == own || *found == id && self.lan.uplinks.contains(parent)
            }
            (_, None) => self.lan.uplinks.contains(dev),
            _ => false,
        };
        let wires: BTreeSet<&Dev> =
            self.seen.links.iter().filter(|(dev, link)| of_wire(dev, link)).map(|(dev, _)| dev).collect();
        let bridges = wires.iter().filter_map(|dev| self.seen.links.get(*dev)?.link.master.as_ref());
        // What its own bridge has stays there, unless that goes and gives it back.
        let goes = self.lan.aware && id.is_none();
        let bridges = bridges.filter(|dev| goes || **dev != Dev::bridge(port.vni));
        let places: Vec<&Dev> = wires.iter().copied().chain(bridges).collect();
        port.addresses.iter().all(|address| {
            let mut all = places.iter().flat_map(|dev| self.seen.host_addresses(dev));
            all.any(|(a, _)| is_within(address.ip, *a) && a.length < if a.ip.is_ipv4() { 32 } else { 128 })
        })
    }

    /// Children that hang on a link stay there: another parent means a new child.
    fn hang_on(&self, group: &Group<'_>, dev: &Dev) -> bool {
        let on = |port: &&&Port| present(self.observed, port).is_some_and(|c| c.parent.as_ref() == Some(dev));
        group.children.iter().any(|port| on(&port))
    }

    fn wants_trunk(&self, groups: &[Group<'_>]) -> bool {
        let trunk = Dev::trunk();
        groups.iter().any(|group| {
            let vlan = self.seen.links.get(&Dev::vlan(group.vni));
            let above = vlan.is_some_and(|l| l.parent() == Some(&trunk)) && !group.children.is_empty();
            !group.bridged.is_empty() || above || self.hang_on(group, &trunk)
        })
    }

    fn block(&mut self, group: &Group<'_>, why: &str) {
        self.out.blocked.insert(group.vni);
        self.out.problems.insert(Key::Network(group.vni), why.to_owned());
        for port in group.ports() {
            self.out.refused.insert(port.id.clone(), why.to_owned());
        }
    }

    fn group(&mut self, mut group: Group<'a>, trunk: bool) {
        let Some(uplink) = self.out.uplink.clone() else {
            let names: Vec<&str> = self.lan.uplinks.iter().map(Dev::as_str).collect();
            let why = match names.as_slice() {
                [] => "the node has no uplink: declare one at the controller".to_owned(),
                _ => format!("uplink {} does not exist on this host", names.join(" or ")),
            };
            return self.block(&group, &why);
        };
        let net = self.links(&group, &uplink, trunk);
        if let Some(why) = self.obstacle(&group, &net, &uplink) {
            if group.routed.is_empty() || group.children.is_empty() || !group.bridged.is_empty() {
                return self.block(&group, &why);
            }
            // The others may do without a bridge.
            let routed = std::mem::take(&mut group.routed);
            self.out.refused.extend(routed.into_iter().map(|port| (port.id.clone(), why.clone())));
            return self.group(group, trunk);
        }
        self.taken.insert(net.id, group.vni);
        self.refuse_children(&mut group, &net);
        let bridge_mode = Attach::Child(Child::Macvlan(MacvlanMode::Bridge));
        let shim = group.children.iter().any(|p| p.attach == bridge_mode);
        let moves = net.moves.is_some();
        self.out.nets.insert(group.vni, Net { shim, ..net });
        if moves && let Some(Trial::Failed { why, .. }) = self.failed(&uplink) {
            let why = why.clone();
            self.out.nets.remove(&group.vni);
            self.block(&group, &why);
        }
    }

    fn failed(&self, uplink: &Dev) -> Option<&Trial> {
        self.seen.trial.as_ref().filter(|t| matches!(t, Trial::Failed { uplink: u, .. } if u == uplink))
    }

    fn links(&self, group: &Group<'_>, uplink: &Dev, trunk: bool) -> Net {
        let id = group.network.vlan.map(VlanId::get);
        let own = Dev::vlan(group.vni);
        let on_trunk = self.seen.links.get(&own).is_some_and(|l| l.parent() == Some(&Dev::trunk()));
        let bridge = match trunk {
            true => Some(Dev::trunk()).filter(|_| !group.bridged.is_empty()),
            false => {
                let bridge = Dev::bridge(group.vni);
                let wanted = !group.bridged.is_empty() || !group.routed.is_empty();
                let wanted = wanted || self.hang_on(group, &bridge);
                Some(bridge).filter(|_| wanted && !self.lan.aware)
            }
        };
        let above = trunk && (!group.bridged.is_empty() || on_trunk || id.is_none());
        let vlan = id.filter(|_| !above || !group.children.is_empty()).map(|id| Vlan {
            dev: own.clone(),
            parent: if above { Dev::trunk() } else { uplink.clone() },
            id,
        });
        let lower = if id.is_some() { own } else { uplink.clone() };
        let wire = if trunk { uplink.clone() } else { lower.clone() };
        let parent = match &bridge {
            _ if above && id.is_none() => Dev::trunk(),
            Some(bridge) if !trunk => bridge.clone(),
            _ => lower,
        };
        // What hangs on the trunk needs the uplink in it as much as what is a port of it.
        let taker = bridge.clone().or(above.then(Dev::trunk)).filter(|_| wire == *uplink);
        let master = self.seen.links.get(uplink).and_then(|l| l.link.master.as_ref());
        let addresses = self.seen.host_addresses(uplink).next().is_some();
        let moves = taker.filter(|taker| addresses && master != Some(taker));
        Net { mtu: group.network.mtu, id, bridge, wire, vlan, parent, shim: false, moves }
    }

    fn obstacle(&self, group: &Group<'_>, net: &Net, uplink: &Dev) -> Option<String> {
        let vni = group.vni;
        for dev in [Dev::bridge(vni), Dev::vlan(vni), Dev::shim(vni), Dev::trunk()] {
            if self.seen.links.get(&dev).is_some_and(|l| !l.is_ours()) {
                return Some(format!("interface {dev} exists and is not Causeway's; rename or delete it"));
            }
        }
        let master = self.seen.links.get(uplink).and_then(|l| l.link.master.as_ref());
        let ours = |d: &Dev| self.seen.links.get(d).is_some_and(|l| l.is_ours() && d.role().is_some());
        if let Some(master) = master.filter(|m| !ours(m)) {
            return Some(format!(
                "uplink {uplink} is a port of {master}, which is not Causeway's; take it out, or give the node another uplink"
            ));
        }
        if let Some(other) = self.taken.get(&net.id).and_then(|vni| self.desired.networks().get(vni)) {
            let what = net.id.map_or("untagged traffic".to_owned(), |id| format!("VLAN {id}"));
            return Some(format!(
                "{what} of {uplink} belongs to network {} already; give it a VLAN of its own",
                other.name
            ));
        }
        let stranger = self.seen.links.iter().find(|(_, l)| {
            let same = matches!(&l.kind, Kind::Vlan { id, parent } if Some(*id) == net.id && parent.as_ref() == Some(uplink));
            same && !l.is_ours()
        });
        if let Some((stranger, _)) = stranger {
            let id = net.id.unwrap_or_default();
            return Some(format!(
                "VLAN {id} of {uplink} is {stranger}, which is not Causeway's; delete it, or change the network's VLAN"
            ));
        }
        if self.lan.aware && net.id == Some(UNTAGGED) {
            return Some(format!(
                "VLAN {UNTAGGED} is what a VLAN-aware bridge keeps untagged frames in; choose another"
            ));
        }
        let have = self.seen.mtu(uplink).unwrap_or_default();
        if have < net.mtu {
            let (name, need) = (&group.network.name, net.mtu);
            return Some(format!(
                "uplink {uplink} has MTU {have}, network {name} needs {need}: raise the one or lower the other"
            ));
        }
        self.address_obstacle(net, uplink)
    }

    fn address_obstacle(&self, net: &Net, uplink: &Dev) -> Option<String> {
        let bridge = net.moves.as_ref()?;
        let (first, _) = self.seen.host_addresses(uplink).next()?;
        if !self.lan.move_addresses {
            return Some(format!(
                "uplink {uplink} has the host's own address {first}, which would be cut off as a port of {bridge}: \
                 set move_addresses on the node, or use macvlan, a VLAN or another uplink"
            ));
        }
        if let Some((leased, _)) = self.seen.host_addresses(uplink).find(|(_, facts)| facts.leased) {
            return Some(format!(
                "address {leased} of {uplink} was given for a time, by DHCP or router advertisement, and cannot be moved to \
                 {bridge}: configure it statically"
            ));
        }
        self.seen.advertised.contains(uplink).then(|| {
            format!(
                "{uplink} has routes from router advertisements, which cannot be moved to {bridge}: configure them statically"
            )
        })
    }

    /// A link carries macvlans or ipvlans, and a passthru macvlan alone.
    fn refuse_children(&mut self, group: &mut Group<'a>, net: &Net) {
        let is_ipvlan = |child: Child| child == Child::Ipvlan;
        let child_of = |port: &Port| if let Attach::Child(child) = port.attach { Some(child) } else { None };
        // One that stays what and where it is decides; one that changes does not stand in its own way.
        let here = |c: &&ChildOf| c.parent.as_ref() == Some(&net.parent);
        let stays = |p: &&Port| {
            let child = present(self.observed, p).filter(here).map(|c| c.child);
            child.filter(|c| child_of(p) == Some(*c))
        };
        let existing = group.children.iter().find_map(stays).map(is_ipvlan);
        let Some(first) = group.children.first().and_then(|p| child_of(p)) else { return };
        let ipvlan = existing.unwrap_or(is_ipvlan(first));
        let passthru = Child::Macvlan(MacvlanMode::Passthru);
        let held = |p: &&&Port| present(self.observed, p).filter(here).is_some_and(|c| c.child == passthru);
        let wants = |p: &Port| child_of(p) == Some(passthru);
        let alone = group.children.len() == 1 && net.bridge.is_none();
        let holder = group.children.iter().find(|p| held(p) && wants(p)).map(|p| p.id.clone());
        let holder =
            holder.or_else(|| group.children.first().filter(|p| alone && wants(p)).map(|p| p.id.clone()));
        let host = self.seen.host_addresses(&net.parent).next().is_some();
        let mut refused = BTreeMap::new();
        for port in &group.children {
            let Some(child) = child_of(port) else { continue };
            let why = match (is_ipvlan(child) == ipvlan, wants(port), &holder) {
                (false, ..) => format!(
                    "{} has {}s of other ports, and carries only one kind",
                    net.parent,
                    if ipvlan { "ipvlan" } else { "macvlan" }
                ),
                (_, true, _) if host => format!(
                    "passthru takes over {} with its MAC, which has the host's own addresses; use another mode or a VLAN",
                    net.parent
                ),
                (_, true, holder) if holder.as_ref() != Some(&port.id) => {
                    format!("passthru needs {} for itself, and other ports of the network use it", net.parent)
                }
                (_, false, Some(holder)) => {
                    format!("port {holder} has {} for itself by passthru", net.parent)
                }
                _ => continue,
            };
            refused.insert(port.id.clone(), why);
        }
        group.children.retain(|p| !refused.contains_key(&p.id));
        self.out.refused.extend(refused);
    }
}
