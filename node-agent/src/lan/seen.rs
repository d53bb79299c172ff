//! What a host behind switches is like: read back as a whole, since it is small.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::Mac;

use super::table::{Rule, Way};
use crate::dev::{Dev, Role};
use crate::model::{Child, IfAddr};
use crate::observed::{Inside, Link, Observed, PortFlags};
use crate::op::At;

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A bridge.
    Bridge {
        /// Tells VLANs apart.
        aware: bool,
    },
    /// 802.1Q on another link.
    Vlan {
        /// VLAN id.
        id: u16,
        /// The link.
        parent: Option<Dev>,
    },
    /// A macvlan or ipvlan in the host's own namespace.
    Child {
        /// Which.
        child: Child,
        /// On which link.
        parent: Option<Dev>,
    },
    /// A VXLAN device.
    Vxlan,
    /// One end of a pair.
    Veth,
    /// A tap.
    Tap,
    /// Anything else.
    Other,
}

/// Any link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenLink {
    /// What it is.
    pub kind: Kind,
    /// What all links have.
    pub link: Link,
    /// Its address.
    pub mac: Option<Mac>,
    /// The wire is there.
    pub carrier: bool,
    /// Listens to router advertisements.
    pub accept_ra: bool,
    /// As bridge port.
    pub flags: PortFlags,
}

impl SeenLink {
    /// A link that was just made: down and without a wire.
    pub(crate) fn made(kind: Kind, mtu: u32) -> Self {
        SeenLink {
            kind,
            link: Link { mtu, grouped: true, ..Link::default() },
            mac: None,
            carrier: true,
            accept_ra: true,
            flags: PortFlags::default(),
        }
    }

    /// Made by the agent.
    pub fn is_ours(&self) -> bool {
        self.link.grouped
    }

    /// The link that it is on.
    pub fn parent(&self) -> Option<&Dev> {
        match &self.kind {
            Kind::Vlan { parent, .. } | Kind::Child { parent, .. } => parent.as_ref(),
            _ => None,
        }
    }
}

/// What is known of an address of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddr {
    /// Set by the agent.
    pub ours: bool,
    /// Given for a time, by DHCP or router advertisement.
    pub leased: bool,
}

/// A route of ours in the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub to: IfAddr,
    /// Through which interface.
    pub dev: Dev,
    /// With which address of the host as source.
    pub source: Option<IpAddr>,
}

/// A setting below /proc/sys/net of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Switch {
    /// Answer ARP for addresses elsewhere (`ipv4/conf/…/proxy_arp` = 1).
    ProxyArp,
    /// Answer ND for addresses with a proxy entry (`ipv6/conf/…/proxy_ndp` = 1).
    ProxyNd,
    /// Answer ARP only for addresses of this interface (`ipv4/conf/…/arp_ignore` = 1).
    ArpIgnore,
    /// Answer ARP for others at once (`ipv4/neigh/…/proxy_delay` = 0).
    ArpNow,
    /// Answer ND for others at once (`ipv6/neigh/…/proxy_delay` = 0).
    NdNow,
    /// Ignore router advertisements (`ipv6/conf/…/accept_ra` = 0).
    NoRa,
    /// No IPv6 of the host on this link (`ipv6/conf/…/disable_ipv6` = 1): the kernel would tell of the multicast groups that
    /// it listens to, with the link's MAC.
    NoIpv6,
}

impl Switch {
    /// Name with the interface in it, and value.
    pub fn setting(self, dev: &Dev) -> (String, &'static str) {
        let (of, name, value) = match self {
            Switch::ProxyArp => ("ipv4/conf", "proxy_arp", "1"),
            Switch::ProxyNd => ("ipv6/conf", "proxy_ndp", "1"),
            Switch::ArpIgnore => ("ipv4/conf", "arp_ignore", "1"),
            Switch::ArpNow => ("ipv4/neigh", "proxy_delay", "0"),
            Switch::NdNow => ("ipv6/neigh", "proxy_delay", "0"),
            Switch::NoRa => ("ipv6/conf", "accept_ra", "0"),
            Switch::NoIpv6 => ("ipv6/conf", "disable_ipv6", "1"),
        };
        (format!("net/{of}/{dev}/{name}"), value)
    }
}

/// How far the move of the host's own addresses is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// Moved, and not yet confirmed.
    Pending {
        /// From where.
        uplink: Dev,
        /// To where.
        bridge: Dev,
    },
    /// Moved back.
    Failed {
        /// From where.
        uplink: Dev,
        /// Why.
        why: String,
    },
}

/// The host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// All links, others' too.
    pub links: BTreeMap<Dev, SeenLink>,
    /// Addresses of all links.
    pub addresses: BTreeMap<Dev, BTreeMap<IfAddr, HostAddr>>,
    /// Routes of ours in the main table.
    pub routes: BTreeSet<Route>,
    /// Rules of ours.
    pub rules: BTreeSet<Rule>,
    /// Routes of ours in tables of networks.
    pub ways: BTreeSet<Way>,
    /// Links with routes from router advertisements.
    pub advertised: BTreeSet<Dev>,
    /// Neighbours of ours.
    pub neighbours: BTreeMap<(Dev, IpAddr), Mac>,
    /// Addresses of others that we answer for.
    pub proxies: BTreeSet<(Dev, IpAddr)>,
    /// MACs that a bridge takes for its own by an entry without a port.
    pub own_macs: BTreeSet<(Dev, Mac)>,
    /// VLANs of the ports of a VLAN-aware bridge, and of the bridge itself; true: untagged.
    pub vlans: BTreeMap<Dev, BTreeMap<u16, bool>>,
    /// Where the VLAN-aware bridge has MACs by entries that nobody learned: port, and whether it can only be moved by
    /// writing another (static and sticky).
    pub seats: BTreeMap<(u16, Mac), (Dev, bool)>,
    /// Settings that are on.
    pub switches: BTreeSet<(Dev, Switch)>,
    /// The host routes IPv4, and IPv6.
    pub forwards: (bool, bool),
    /// macvlans and ipvlans of ours in namespaces where none shall be.
    pub strays: BTreeSet<At>,
    /// The move of the host's own addresses, if one is on its way or failed.
    pub trial: Option<Trial>,
}

impl Seen {
    /// Addresses of the host itself on a link: neither ours nor link-local.
    pub fn host_addresses(&self, dev: &Dev) -> impl Iterator<Item = (&IfAddr, &HostAddr)> {
        let all = self.addresses.get(dev).into_iter().flatten();
        all.filter(|(address, facts)| !facts.ours && !is_link_local(address.ip))
    }

    /// Its MTU, if there is such a link.
    pub fn mtu(&self, dev: &Dev) -> Option<u32> {
        self.links.get(dev).map(|l| l.link.mtu)
    }

    /// Ports of a bridge.
    pub fn members<'a>(&'a self, bridge: &'a Dev) -> impl Iterator<Item = (&'a Dev, &'a SeenLink)> {
        self.links.iter().filter(move |(_, l)| l.link.master.as_ref() == Some(bridge))
    }
}

/// 169.254.0.0/16 and fe80::/10.
pub fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// True if `ip` is in the prefix of `of`.
pub fn is_within(ip: IpAddr, of: IfAddr) -> bool {
    match (ip, of.ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let shift = 32 - u32::from(of.length.min(32));
            (u64::from(u32::from(a)) ^ u64::from(u32::from(b))) >> shift == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let differ = u128::from(a) ^ u128::from(b);
            of.length == 0 || differ >> (128 - u32::from(of.length.min(128))) == 0
        }
        _ => false,
    }
}

impl Observed {
    /// Forgets a link and what the kernel deletes with it.
    pub(crate) fn forget_lan_link(&mut self, dev: &Dev) {
        match dev.role() {
            Some(Role::Bridge(vni)) => self.forget_bridge(vni),
            Some(Role::Vxlan(vni)) => self.forget_vxlan(vni),
            _ => self.forget_port(dev),
        }
        if let Some(gone) = self.diverted.remove(dev) {
            // What leads there leads nowhere now.
            self.astray.extend(gone.leads.into_iter().map(|lead| lead.link));
        }
        self.astray.remove(dev);
        for diverted in self.diverted.values_mut() {
            diverted.leads.retain(|lead| lead.link != *dev);
        }
        let seen = &mut self.lan;
        seen.links.remove(dev);
        self.guards.forget_link(dev);
        seen.addresses.remove(dev);
        seen.routes.retain(|route| route.dev != *dev);
        seen.ways.retain(|way| way.dev() != Some(dev));
        seen.advertised.remove(dev);
        seen.neighbours.retain(|(d, _), _| d != dev);
        seen.proxies.retain(|(d, _)| d != dev);
        seen.own_macs.retain(|(d, _)| d != dev);
        seen.switches.retain(|(d, _)| d != dev);
        seen.vlans.remove(dev);
        seen.seats.retain(|_, (port, _)| port != dev && *dev != Dev::trunk());
        for link in seen.links.values_mut().filter(|l| l.link.master.as_ref() == Some(dev)) {
            link.link.master = None;
        }
        for inside in self.insides.values_mut() {
            let on = |parent: &Option<Dev>| parent.as_ref() == Some(dev);
            if matches!(inside, Inside::Present(peer) if peer.child.as_ref().is_some_and(|c| on(&c.parent))) {
                *inside = Inside::Absent;
            }
        }
        let seen = &self.lan;
        let orphans: Vec<Dev> =
            seen.links.iter().filter(|(_, l)| l.parent() == Some(dev)).map(|(d, _)| d.clone()).collect();
        for orphan in orphans {
            self.forget_lan_link(&orphan);
        }
    }
}
