//! The steps of a host behind switches.

mod effect;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use causeway_proto::Mac;

use super::seen::{Route, Switch};
use super::table::{Rule, Way};
use crate::dev::{Dev, LINK_GROUP, PROTOCOL};
use crate::model::{Child, IfAddr, Key, MacvlanMode};
use crate::op::{At, FlagChange, IpIn, LinkChange, netns_argument, on};

/// A step and what it was planned for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanOp {
    /// What it was planned for.
    pub key: Key,
    /// If this failed, the step is pointless.
    pub after: Option<Key>,
    /// The step.
    pub step: Step,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Delete a link of ours.
    LinkDel { dev: Dev },
    /// Make a bridge, down.
    BridgeAdd { dev: Dev, mac: Mac, mtu: u32, aware: bool },
    /// Make a VLAN of a link, down.
    VlanAdd { dev: Dev, parent: Dev, id: u16, mtu: u32 },
    /// Make the host's own macvlan, down.
    ShimAdd { dev: Dev, parent: Dev, mac: Mac, mtu: u32 },
    /// Make a pair whose other end is in the workload's namespace, down.
    VethAdd { at: At, bridge: Option<Dev>, mac: Mac, mtu: u32 },
    /// Make a macvlan or ipvlan in the workload's namespace, down.
    ChildAdd { at: At, parent: Dev, child: Child, mac: Mac, mtu: u32 },
    /// Delete a macvlan or ipvlan of ours.
    ChildDel { at: At },
    /// Say inside that the generation has been announced.
    ChildAlias { at: At, alias: String },
    /// Make a tap that lasts, down.
    TapAdd { dev: Dev, mtu: u32, queues: u32 },
    /// Change a link.
    Set { dev: Dev, change: LinkChange },
    /// Take a link out of its bridge.
    Release { dev: Dev },
    /// Take our mark from a tap that somebody else made.
    Unmark { dev: Dev },
    /// Change flags of a bridge port.
    Flags { dev: Dev, flags: FlagChange },
    /// Switch a setting on.
    Sysctl { dev: Dev, switch: Switch },
    /// Add an address to a link of ours.
    AddrAdd { dev: Dev, address: IfAddr },
    /// Delete an address of ours.
    AddrDel { dev: Dev, address: IfAddr },
    /// Set a route of ours.
    RouteSet { route: Route },
    /// Delete a route of ours.
    RouteDel { route: Route },
    /// Have what comes from a port looked up in its network's table.
    RuleAdd { rule: Rule },
    /// No longer.
    RuleDel { rule: Rule },
    /// Set a route of ours in a network's table.
    WaySet { way: Way },
    /// Delete a route of ours in a network's table.
    WayDel { way: Way },
    /// Set a neighbour.
    NeighSet { dev: Dev, ip: IpAddr, mac: Mac },
    /// Delete a neighbour of ours.
    NeighDel { dev: Dev, ip: IpAddr },
    /// Set a neighbour inside.
    PeerNeighSet { at: At, ip: IpAddr, mac: Mac },
    /// Delete a neighbour of ours inside.
    PeerNeighDel { at: At, ip: IpAddr },
    /// Answer for an address of a workload.
    ProxyAdd { dev: Dev, ip: IpAddr },
    /// Answer no longer.
    ProxyDel { dev: Dev, ip: IpAddr },
    /// Send frames to a macvlan on a bridge to the bridge itself, and not to all ports.
    OwnMac { dev: Dev, mac: Mac },
    /// Forget that.
    OwnMacDel { dev: Dev, mac: Mac },
    /// Let a VLAN pass a port of a VLAN-aware bridge, or reach the bridge itself.
    VlanSet { dev: Dev, id: u16, untagged: bool, itself: bool },
    /// Let it pass no longer.
    VlanDel { dev: Dev, id: u16, itself: bool },
    /// Fix a MAC at a port of a VLAN-aware bridge.
    SeatSet { dev: Dev, id: u16, mac: Mac },
    /// Forget that.
    SeatDel { dev: Dev, id: u16, mac: Mac },
    /// Move the host's own addresses and routes, as one: to a bridge that takes the uplink as a port, or back.
    Move { uplink: Dev, bridge: Dev, back: bool },
    /// Tell the neighbourhood from a link of the host where addresses live now. `mac`: the link's own if `None`.
    Announce { dev: Dev, mac: Option<Mac>, vlan: Option<u16>, addresses: BTreeSet<IpAddr>, of: Dev },
}

impl LanOp {
    /// The workload's interface, for a step inside a namespace that has it.
    pub fn inside(&self) -> Option<&At> {
        match &self.step {
            Step::ChildDel { at }
            | Step::ChildAlias { at, .. }
            | Step::PeerNeighSet { at, .. }
            | Step::PeerNeighDel { at, .. } => Some(at),
            _ => None,
        }
    }
}

/// As `ip` says it.
pub(crate) fn mode_name(mode: MacvlanMode) -> &'static str {
    match mode {
        MacvlanMode::Bridge => "bridge",
        MacvlanMode::Private => "private",
        MacvlanMode::Vepa => "vepa",
        MacvlanMode::Passthru => "passthru",
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "-6 " } else { "" }
}

impl fmt::Display for LanOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::ChildDel { at } | Step::ChildAlias { at, .. } => self.fmt_inside(at, f),
            Step::PeerNeighSet { at, .. } | Step::PeerNeighDel { at, .. } => self.fmt_inside(at, f),
            Step::Set { .. } | Step::Release { .. } | Step::Unmark { .. } | Step::Flags { .. } => {
                self.fmt_set(f)
            }
            Step::LinkDel { .. }
            | Step::BridgeAdd { .. }
            | Step::VlanAdd { .. }
            | Step::ShimAdd { .. }
            | Step::VethAdd { .. }
            | Step::ChildAdd { .. }
            | Step::TapAdd { .. } => self.fmt_link(f),
            _ => self.fmt_entry(f),
        }
    }
}

impl LanOp {
    fn fmt_link(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::LinkDel { dev } => write!(f, "ip link del dev {dev}"),
            Step::BridgeAdd { dev, mac, mtu, aware } => {
                write!(f, "ip link add name {dev} address {mac} mtu {mtu} group {LINK_GROUP} type bridge ")?;
                write!(f, "stp_state 0 mcast_snooping 0")?;
                if *aware { f.write_str(" vlan_filtering 1 vlan_default_pvid 0") } else { Ok(()) }
            }
            Step::VlanAdd { dev, parent, id, mtu } => {
                write!(
                    f,
                    "ip link add link {parent} name {dev} mtu {mtu} group {LINK_GROUP} type vlan id {id}"
                )
            }
            Step::ShimAdd { dev, parent, mac, mtu } => write!(
                f,
                "ip link add link {parent} name {dev} address {mac} mtu {mtu} group {LINK_GROUP} type macvlan mode bridge"
            ),
            Step::VethAdd { at, bridge, mac, mtu } => {
                let At { dev, netns, interface } = at;
                write!(f, "ip link add name {dev} mtu {mtu} group {LINK_GROUP} ")?;
                if let Some(bridge) = bridge {
                    write!(f, "master {bridge} ")?;
                }
                write!(f, "type veth peer name {interface} address {mac} mtu {mtu} group {LINK_GROUP} ")?;
                write!(f, "netns {}", netns_argument(netns))
            }
            Step::ChildAdd { at, parent, child, mac, mtu } => {
                let At { netns, interface, .. } = at;
                write!(f, "ip link add link {parent} name {interface} netns {} ", netns_argument(netns))?;
                match child {
                    Child::Macvlan(mode) => write!(
                        f,
                        "address {mac} mtu {mtu} group {LINK_GROUP} type macvlan mode {}",
                        mode_name(*mode)
                    ),
                    Child::Ipvlan => write!(f, "mtu {mtu} group {LINK_GROUP} type ipvlan mode l2"),
                }
            }
            Step::TapAdd { dev, mtu, queues } => {
                let many = if *queues > 1 { " multi_queue" } else { "" };
                write!(f, "ip tuntap add dev {dev} mode tap{many} ; ")?;
                write!(f, "ip link set dev {dev} mtu {mtu} group {LINK_GROUP}")
            }
            _ => Ok(()),
        }
    }

    fn fmt_set(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::Set { dev, change } => write!(f, "ip link set dev {dev}{change}"),
            Step::Release { dev } => write!(f, "ip link set dev {dev} nomaster"),
            Step::Unmark { dev } => write!(f, "ip link set dev {dev} alias ''"),
            Step::Flags { dev, flags } => {
                write!(f, "ip link set dev {dev} type bridge_slave learning {}", on(flags.learning))?;
                write!(f, " neigh_suppress {}", on(flags.neigh_suppress))?;
                flags.locked.map_or(Ok(()), |locked| write!(f, " locked {}", on(locked)))
            }
            _ => Ok(()),
        }
    }

    fn fmt_inside(&self, at: &At, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let At { netns, interface, .. } = at;
        let ip = IpIn(netns);
        match &self.step {
            Step::ChildDel { .. } => write!(f, "{ip} link del dev {interface}"),
            Step::ChildAlias { alias, .. } => write!(f, "{ip} link set dev {interface} alias '{alias}'"),
            Step::PeerNeighSet { ip: to, mac, .. } => {
                write!(
                    f,
                    "{ip} neigh replace {to} lladdr {mac} dev {interface} nud permanent protocol {PROTOCOL}"
                )
            }
            Step::PeerNeighDel { ip: to, .. } => write!(f, "{ip} neigh del {to} dev {interface}"),
            _ => Ok(()),
        }
    }

    fn fmt_entry(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::Sysctl { dev, switch } => {
                let (name, value) = switch.setting(dev);
                write!(f, "sysctl -w {name}={value}")
            }
            Step::AddrAdd { dev, address } => {
                let nodad = if address.ip.is_ipv6() { " nodad" } else { "" };
                write!(f, "ip address add {address} dev {dev} scope link proto {PROTOCOL}{nodad}")
            }
            Step::AddrDel { dev, address } => write!(f, "ip address del {address} dev {dev}"),
            Step::RuleAdd { rule } => rule.write("add", f),
            Step::RuleDel { rule } => rule.write("del", f),
            Step::WaySet { way } => way.write("replace", f),
            Step::WayDel { way } => way.write("del", f),
            Step::RouteSet { route } | Step::RouteDel { route } => {
                let verb = if matches!(self.step, Step::RouteSet { .. }) { "replace" } else { "del" };
                let Route { to, dev, source } = route;
                write!(f, "ip {}route {verb} {to} dev {dev} proto {PROTOCOL}", family(to.ip))?;
                if let Some(source) = source {
                    write!(f, " src {source}")?;
                }
                Ok(())
            }
            Step::NeighSet { dev, ip, mac } => {
                write!(f, "ip neigh replace {ip} lladdr {mac} dev {dev} nud permanent protocol {PROTOCOL}")
            }
            Step::NeighDel { dev, ip } => write!(f, "ip neigh del {ip} dev {dev}"),
            Step::ProxyAdd { dev, ip } => {
                write!(f, "ip neigh replace proxy {ip} dev {dev} protocol {PROTOCOL}")
            }
            Step::ProxyDel { dev, ip } => write!(f, "ip neigh del proxy {ip} dev {dev}"),
            Step::OwnMac { dev, mac } => write!(f, "bridge fdb replace {mac} dev {dev} self permanent"),
            Step::OwnMacDel { dev, mac } => write!(f, "bridge fdb del {mac} dev {dev} self"),
            Step::VlanSet { dev, id, untagged, itself } => {
                write!(f, "bridge vlan add dev {dev} vid {id}")?;
                let tail = if *untagged { " pvid untagged" } else { "" };
                write!(f, "{tail}{}", if *itself { " self" } else { "" })
            }
            Step::VlanDel { dev, id, itself } => {
                write!(f, "bridge vlan del dev {dev} vid {id}{}", if *itself { " self" } else { "" })
            }
            Step::SeatSet { dev, id, mac } => {
                write!(f, "bridge fdb replace {mac} dev {dev} master static sticky vlan {id}")
            }
            Step::SeatDel { dev, id, mac } => write!(f, "bridge fdb del {mac} dev {dev} master vlan {id}"),
            Step::Move { uplink, bridge, back: false } => write!(
                f,
                "ip link set dev {uplink} master {bridge}    # and its addresses and routes, undone unless a controller answers within 10 s"
            ),
            Step::Move { uplink, bridge, back: true } => write!(
                f,
                "ip link set dev {uplink} nomaster    # and the addresses and routes of {bridge} go back to it"
            ),
            Step::Announce { dev, mac, vlan, addresses, .. } => {
                let from = mac.map_or(String::new(), |mac| format!(" as {mac}"));
                let tag = vlan.map_or(String::new(), |id| format!(" in VLAN {id}"));
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "# announce {} on {dev}{from}{tag}", addresses.join(", "))
            }
            _ => Ok(()),
        }
    }
}
