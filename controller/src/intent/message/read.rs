//! From messages to records, with the path of each wrong field.

mod node;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use causeway_bgp::RouteTarget;
use causeway_proto::{AddressRange, Mac, Name, NetworkKey, Prefix, VlanId, Vni, v1};

use super::{Declared, Violation, short, words};
use crate::alloc;
use crate::model::{ADDRESS_CHECK_MS, Network, Peer, QUARANTINE_SECONDS, Subnet, Vrf, VrfRoute};
use crate::ports::plan::check_labels;

/// MTU of a network in bytes when none is given: a 1500-byte underlay less VXLAN's 50.
const MTU: u32 = 1450;
/// MTUs of networks: RFC 8200 §5 asks for 1280 at least.
const MTUS: std::ops::RangeInclusive<u32> = 1280..=9216;
/// MTU of an underlay in bytes when none is given.
const UNDERLAY_MTU: u32 = 1500;
/// MTUs of underlays: the smallest network's with VXLAN over IPv4, up to what Linux takes.
const UNDERLAY_MTUS: std::ops::RangeInclusive<u32> = 1330..=65_535;
/// Route targets, ranges and the like of one record at most.
const MOST_ITEMS: usize = 1_000;
/// Longest text for a site in bytes.
const LONGEST_SITE: usize = 255;
/// BGP's port.
const BGP_PORT: u16 = 179;
/// Hold time in seconds when none is given.
const HOLD: u16 = 90;
/// Restart time in seconds when none is given, and the most that its 12 bits hold (RFC 4724 §3).
const RESTART: (u16, u32) = (120, 4095);

/// Reads one message. `at` is its path, for example `resources[2]`.
pub fn parse(resource: &v1::Resource, at: &str) -> Result<Declared, Vec<Violation>> {
    use v1::resource::Spec;
    let mut fields = Fields { at: at.to_owned(), wrong: Vec::new() };
    let read = match &resource.spec {
        None => {
            fields.add("", "one of vrf, network, subnet, node and peer is required");
            None
        }
        Some(Spec::Vrf(vrf)) => read_vrf(fields.below("vrf"), vrf).map(Declared::Vrf),
        Some(Spec::Network(network)) => read_network(fields.below("network"), network).map(Declared::Network),
        Some(Spec::Subnet(subnet)) => read_subnet(fields.below("subnet"), subnet).map(Declared::Subnet),
        Some(Spec::Node(node)) => node::read(fields.below("node"), node).map(Declared::Node),
        Some(Spec::Peer(peer)) => read_peer(fields.below("peer"), peer).map(Declared::Peer),
    };
    match read {
        Some(declared) if fields.wrong.is_empty() => Ok(declared),
        _ => Err(fields.wrong),
    }
}

/// Collects what is wrong, so that a user sees all of it at once.
struct Fields {
    at: String,
    wrong: Vec<Violation>,
}

impl Fields {
    fn below(&mut self, part: &str) -> &mut Self {
        self.at = format!("{}.{part}", self.at);
        self
    }

    fn add(&mut self, field: &str, reason: impl Into<String>) {
        let field = if field.is_empty() { self.at.clone() } else { format!("{}.{field}", self.at) };
        self.wrong.push(Violation { field, reason: reason.into() });
    }

    fn required<T: FromStr<Err: Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        if text.is_empty() {
            self.add(field, "is required");
            return None;
        }
        text.parse().map_err(|e: T::Err| self.add(field, e.to_string())).ok()
    }

    fn vrf(&mut self, text: &str) -> Option<Name> {
        if text.is_empty() { Some(Name::default_vrf()) } else { self.required("vrf", text) }
    }

    fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.add(field, format!("'{}' is not an IP address", short(text)));
        }
        address
    }

    fn optional_address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        if text.is_empty() { None } else { self.address(field, text) }
    }

    /// An address that a machine can have towards others.
    fn host_address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        if text.is_empty() {
            self.add(field, "is required");
            return None;
        }
        let address = self.address(field, text)?;
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast {
            self.add(field, format!("{address} is not the address of a machine"));
            return None;
        }
        Some(address)
    }

    fn list<T: FromStr<Err: Display> + PartialEq>(&mut self, field: &str, texts: &[String]) -> Vec<T> {
        if texts.len() > MOST_ITEMS {
            self.add(field, format!("has more than {MOST_ITEMS} entries"));
            return Vec::new();
        }
        let mut list = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            match text.parse::<T>() {
                Ok(value) if list.contains(&value) => {
                    self.add(&format!("{field}[{i}]"), format!("'{}' is there twice", short(text)));
                }
                Ok(value) => list.push(value),
                Err(error) => self.add(&format!("{field}[{i}]"), error.to_string()),
            }
        }
        list
    }

    fn number<T: TryFrom<u32, Error: Display>>(&mut self, field: &str, n: u32) -> Option<T> {
        T::try_from(n).map_err(|e| self.add(field, e.to_string())).ok()
    }

    /// 0 means none.
    fn optional<T: TryFrom<u32, Error: Display>>(&mut self, field: &str, n: u32) -> Option<T> {
        if n == 0 { None } else { self.number(field, n) }
    }

    fn within(&mut self, field: &str, n: u32, range: std::ops::RangeInclusive<u32>, default: u32) -> u32 {
        match n {
            0 => default,
            n if range.contains(&n) => n,
            n => {
                self.add(field, format!("{n} is not in {} to {}", range.start(), range.end()));
                default
            }
        }
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        if let Err(reason) = check_labels(labels) {
            self.add("labels", reason);
        }
        labels.clone()
    }
}

fn read_vrf(fields: &mut Fields, vrf: &v1::Vrf) -> Option<Vrf> {
    let name = fields.required("name", &vrf.name);
    let l3_vni: Option<Vni> = fields.optional("l3_vni", vrf.l3_vni);
    let export_targets: Vec<RouteTarget> = fields.list("export_targets", &vrf.export_targets);
    let import_targets = fields.list("import_targets", &vrf.import_targets);
    let routes = read_routes(fields, &vrf.routes);
    if !routes.is_empty() && l3_vni.is_none() {
        fields.add("routes", "need an l3_vni: prefixes are reached through it");
    }
    Some(Vrf {
        name: name?,
        l3_vni,
        export_targets,
        import_targets,
        routes,
        no_connected: vrf.no_connected,
        rd_number: 0,
        connected_rds: Vec::new(),
    })
}

fn read_routes(fields: &mut Fields, routes: &[v1::VrfRoute]) -> Vec<VrfRoute> {
    if routes.len() > MOST_ITEMS {
        fields.add("routes", format!("has more than {MOST_ITEMS} entries"));
        return Vec::new();
    }
    let mut read: Vec<VrfRoute> = Vec::with_capacity(routes.len());
    for (i, route) in routes.iter().enumerate() {
        let prefix: Option<Prefix> = fields.required(&format!("routes[{i}].prefix"), &route.prefix);
        let node: Option<Name> = fields.required(&format!("routes[{i}].node"), &route.node);
        let (Some(prefix), Some(node)) = (prefix, node) else { continue };
        if read.iter().any(|known| known.prefix == prefix) {
            fields.add(&format!("routes[{i}].prefix"), format!("{prefix} is there twice"));
        }
        if prefix.network().is_multicast() {
            fields.add(&format!("routes[{i}].prefix"), format!("{prefix} is a multicast prefix"));
        }
        read.push(VrfRoute { prefix, node });
    }
    read
}

fn read_mac(fields: &mut Fields, field: &str, text: &str) -> Option<Mac> {
    if text.is_empty() {
        return None;
    }
    let mac: Option<Mac> = fields.required(field, text);
    if let Some(mac) = mac.filter(|mac| !mac.is_unicast()) {
        fields.add(field, format!("{mac} is not a unicast address"));
    }
    mac
}

/// Longest quarantine in seconds: a year.
const LONGEST_QUARANTINE: u64 = 31_536_000;
/// Shortest and longest time for which addresses are asked for, in milliseconds.
const ADDRESS_CHECKS: std::ops::RangeInclusive<u32> = 20..=10_000;

fn read_network(fields: &mut Fields, network: &v1::Network) -> Option<Network> {
    let vrf = fields.vrf(&network.vrf);
    let name = fields.required("name", &network.name);
    let vni: Option<Vni> = fields.number("vni", network.vni);
    let vlan: Option<VlanId> = fields.optional("vlan", network.vlan);
    let mtu = fields.within("mtu", network.mtu, MTUS, MTU);
    let export_targets = fields.list("export_targets", &network.export_targets);
    let import_targets = fields.list("import_targets", &network.import_targets);
    let sticky_seconds = u64::try_from(network.sticky_seconds).unwrap_or_else(|_| {
        fields.add("sticky_seconds", format!("{} is negative", network.sticky_seconds));
        0
    });
    let quarantine_seconds = network.quarantine_seconds.and_then(|n| {
        let seconds = u64::try_from(n).ok().filter(|seconds| *seconds <= LONGEST_QUARANTINE);
        if seconds.is_none() {
            fields.add("quarantine_seconds", format!("{n} is not between 0 and {LONGEST_QUARANTINE}"));
        }
        seconds
    });
    let address_check_ms = network.address_check_ms.filter(|ms| {
        let known = *ms == 0 || ADDRESS_CHECKS.contains(ms);
        if !known {
            let (least, most) = ADDRESS_CHECKS.into_inner();
            fields.add("address_check_ms", format!("{ms} is neither 0 nor between {least} and {most}"));
        }
        known
    });
    let labels = fields.labels(&network.labels);
    let irb = words::read_irb(network.irb).unwrap_or_else(|| {
        fields.add("irb", format!("{} is not known", network.irb));
        None
    });
    let gateway_mac = read_mac(fields, "gateway_mac", &network.gateway_mac);
    let mut attachments = Vec::new();
    for (i, number) in network.attachments.iter().enumerate() {
        match words::read_attachment(*number).flatten() {
            Some(attachment) if attachments.contains(&attachment) => {
                fields.add(&format!("attachments[{i}]"), format!("{attachment} is there twice"));
            }
            Some(attachment) => attachments.push(attachment),
            None => fields.add(&format!("attachments[{i}]"), format!("{number} is not known")),
        }
    }
    attachments.sort_unstable();
    Some(Network {
        key: NetworkKey { vrf: vrf?, network: name? },
        vni: vni?,
        vlan,
        mtu,
        export_targets,
        import_targets,
        sticky_seconds,
        quarantine_seconds: quarantine_seconds.filter(|seconds| *seconds != QUARANTINE_SECONDS),
        labels,
        rd_number: 0,
        irb,
        gateway_mac,
        attachments,
        no_guard: network.no_guard,
        address_check_ms: address_check_ms.filter(|ms| *ms != ADDRESS_CHECK_MS),
    })
}

fn read_subnet(fields: &mut Fields, subnet: &v1::Subnet) -> Option<Subnet> {
    let vrf = fields.vrf(&subnet.vrf);
    let network = fields.required("network", &subnet.network);
    let prefix: Option<Prefix> = fields.required("prefix", &subnet.prefix);
    let gateway = fields.optional_address("gateway", &subnet.gateway);
    let ranges: Vec<AddressRange> = fields.list("ranges", &subnet.ranges);
    let exclusions: Vec<AddressRange> = fields.list("exclusions", &subnet.exclusions);
    let reservations: Vec<AddressRange> = fields.list("reservations", &subnet.reservations);
    let prefix = prefix?;
    for (field, list) in [("ranges", &ranges), ("exclusions", &exclusions), ("reservations", &reservations)] {
        for (i, range) in list.iter().enumerate() {
            if !(prefix.contains(range.first()) && prefix.contains(range.last())) {
                fields.add(&format!("{field}[{i}]"), format!("{range} is not inside {prefix}"));
            }
        }
    }
    let record = Subnet {
        network: NetworkKey { vrf: vrf?, network: network? },
        prefix,
        gateway: None,
        ranges,
        exclusions,
        reservations,
    };
    if let Some(gateway) = gateway {
        let plain = Subnet { exclusions: Vec::new(), ..record.clone() };
        if !prefix.contains(gateway) {
            fields.add("gateway", format!("{gateway} is not inside {prefix}"));
        } else if let Some(reason) = alloc::refusal(&plain, gateway) {
            fields.add("gateway", format!("{gateway} {reason}"));
        }
    }
    Some(Subnet { gateway, ..record })
}

fn read_peer(fields: &mut Fields, peer: &v1::Peer) -> Option<Peer> {
    let address = fields.host_address("address", &peer.address);
    if peer.asn == 0 || peer.asn == u32::MAX {
        fields.add("asn", format!("{} is not in 1 to 4294967294", peer.asn));
    }
    let port = fields.within("port", peer.port, 1..=65_535, BGP_PORT.into());
    let local_address = fields.optional_address("local_address", &peer.local_address);
    if let (Some(address), Some(local)) = (address, local_address)
        && (address.is_ipv4() != local.is_ipv4() || local == address)
    {
        fields.add("local_address", format!("{local} must be of the family of {address}, and another one"));
    }
    if peer.md5_key_file.contains('\0') {
        fields.add("md5_key_file", "has a zero byte");
    }
    let gtsm_hops = fields.within("gtsm_hops", peer.gtsm_hops, 1..=254, 0);
    let hold = fields.within("hold_seconds", peer.hold_seconds, 3..=65_535, HOLD.into());
    let restart = fields.within("restart_seconds", peer.restart_seconds, 1..=RESTART.1, RESTART.0.into());
    if peer.no_graceful_restart && peer.restart_seconds != 0 {
        fields.add("restart_seconds", "makes no sense with no_graceful_restart");
    }
    Some(Peer {
        address: address?,
        asn: peer.asn,
        port: u16::try_from(port).unwrap_or(BGP_PORT),
        local_address,
        passive: peer.passive,
        md5_key_file: Some(peer.md5_key_file.clone()).filter(|p| !p.is_empty()).map(PathBuf::from),
        gtsm_hops: u8::try_from(gtsm_hops).ok().filter(|hops| *hops > 0),
        hold_seconds: u16::try_from(hold).unwrap_or(HOLD),
        restart_seconds: u16::try_from(restart).ok().filter(|_| !peer.no_graceful_restart),
    })
}
