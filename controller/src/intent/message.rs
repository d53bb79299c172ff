//! Between messages and records. Messages are read field by field with all that is wrong with them; what only other
//! records can tell is checked later.

mod read;
pub(crate) mod words;

use causeway_proto::{Name, NetworkKey, Prefix, Revision, v1};

use super::Violation;
use crate::keys::RecordKey;
use crate::model::{Network, Node, NodeMode, Peer, Subnet, Uplink, Vrf};
use crate::snapshot::Snapshot;

pub use read::parse;

/// A declared record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declared {
    /// A routing domain.
    Vrf(Vrf),
    /// A segment; `rd_number` is 0 until one is chosen.
    Network(Network),
    /// A subnet.
    Subnet(Subnet),
    /// A machine.
    Node(Node),
    /// A BGP neighbour.
    Peer(Peer),
}

impl Declared {
    /// Where it lies.
    pub fn key(&self) -> RecordKey {
        match self {
            Declared::Vrf(vrf) => RecordKey::Vrf(vrf.name.clone()),
            Declared::Network(network) => RecordKey::Network(network.key.clone()),
            Declared::Subnet(subnet) => RecordKey::Subnet(subnet.network.clone(), subnet.prefix),
            Declared::Node(node) => RecordKey::Node(node.name.clone()),
            Declared::Peer(peer) => RecordKey::Peer(peer.address),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> v1::Kind {
        match self {
            Declared::Vrf(_) => v1::Kind::Vrf,
            Declared::Network(_) => v1::Kind::Network,
            Declared::Subnet(_) => v1::Kind::Subnet,
            Declared::Node(_) => v1::Kind::Node,
            Declared::Peer(_) => v1::Kind::Peer,
        }
    }

    /// Its name, in the form of `ApplyResult.name`.
    pub fn name(&self) -> String {
        match self {
            Declared::Vrf(vrf) => vrf.name.to_string(),
            Declared::Network(network) => network.key.to_string(),
            Declared::Subnet(subnet) => format!("{}/{}", subnet.network.vrf, subnet.prefix),
            Declared::Node(node) => node.name.to_string(),
            Declared::Peer(peer) => peer.address.to_string(),
        }
    }

    /// The record as JSON, as the store holds it.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Declared::Vrf(vrf) => serde_json::to_vec(vrf),
            Declared::Network(network) => serde_json::to_vec(network),
            Declared::Subnet(subnet) => serde_json::to_vec(subnet),
            Declared::Node(node) => serde_json::to_vec(node),
            Declared::Peer(peer) => serde_json::to_vec(peer),
        }
    }

    /// The record as a message, with defaults filled in.
    pub fn to_resource(&self) -> v1::Resource {
        use v1::resource::Spec;
        let spec = match self {
            Declared::Vrf(vrf) => Spec::Vrf(write_vrf(vrf)),
            Declared::Network(network) => Spec::Network(write_network(network)),
            Declared::Subnet(subnet) => Spec::Subnet(write_subnet(subnet)),
            Declared::Node(node) => Spec::Node(write_node(node)),
            Declared::Peer(peer) => Spec::Peer(write_peer(peer)),
        };
        v1::Resource { spec: Some(spec) }
    }

    /// The record of the snapshot with this identity, with its revision.
    pub(super) fn stored(&self, snapshot: &Snapshot) -> Option<(Declared, Revision)> {
        match self {
            Declared::Subnet(subnet) => {
                by_name(snapshot, &RecordName::Subnet(subnet.network.vrf.clone(), subnet.prefix))
            }
            Declared::Vrf(vrf) => by_name(snapshot, &RecordName::Vrf(vrf.name.clone())),
            Declared::Network(network) => by_name(snapshot, &RecordName::Network(network.key.clone())),
            Declared::Node(node) => by_name(snapshot, &RecordName::Node(node.name.clone())),
            Declared::Peer(peer) => by_name(snapshot, &RecordName::Peer(peer.address)),
        }
    }
}

/// The name of a declared record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordName {
    /// `NAME`.
    Vrf(Name),
    /// `VRF/NAME`.
    Network(NetworkKey),
    /// `VRF/PREFIX`.
    Subnet(Name, Prefix),
    /// `NAME`.
    Node(Name),
    /// The address.
    Peer(std::net::IpAddr),
}

/// Reads a name in the form of `ApplyResult.name`; what has no VRF is in `default`.
pub fn parse_name(kind: v1::Kind, name: &str) -> Result<RecordName, Violation> {
    let wrong = |reason: String| Violation { field: "name".to_owned(), reason };
    match kind {
        v1::Kind::Unspecified => {
            Err(Violation { field: "kind".to_owned(), reason: "is required".to_owned() })
        }
        v1::Kind::Vrf => name.parse().map(RecordName::Vrf).map_err(|e| wrong(e.to_string())),
        v1::Kind::Network => name.parse().map(RecordName::Network).map_err(|e| wrong(e.to_string())),
        v1::Kind::Node => name.parse().map(RecordName::Node).map_err(|e| wrong(e.to_string())),
        v1::Kind::Peer => {
            let reason = || wrong(format!("'{}' is not an IP address", short(name)));
            name.parse().map(RecordName::Peer).map_err(|_| reason())
        }
        v1::Kind::Subnet => {
            if let Ok(prefix) = name.parse() {
                return Ok(RecordName::Subnet(Name::default_vrf(), prefix));
            }
            let (vrf, prefix) =
                name.split_once('/').ok_or_else(|| wrong("is not of the form VRF/PREFIX".to_owned()))?;
            let prefix = prefix.parse().map_err(|e| wrong(format!("{e}")))?;
            Ok(RecordName::Subnet(vrf.parse().map_err(|e| wrong(format!("VRF {e}")))?, prefix))
        }
    }
}

/// At most so much of a user's text goes into an error.
fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

/// A record of the snapshot.
pub fn by_name(snapshot: &Snapshot, name: &RecordName) -> Option<(Declared, Revision)> {
    match name {
        RecordName::Vrf(name) => {
            snapshot.vrfs.get(name).map(|r| (Declared::Vrf(r.value.clone()), r.revision))
        }
        RecordName::Network(key) => {
            snapshot.networks.get(key).map(|r| (Declared::Network(r.value.clone()), r.revision))
        }
        RecordName::Subnet(vrf, prefix) => {
            let found = snapshot.subnets.get(&(vrf.clone(), *prefix));
            found.map(|r| (Declared::Subnet(r.value.clone()), r.revision))
        }
        RecordName::Node(name) => {
            snapshot.nodes.get(name).map(|r| (Declared::Node(r.value.clone()), r.revision))
        }
        RecordName::Peer(address) => {
            snapshot.peers.get(address).map(|r| (Declared::Peer(r.value.clone()), r.revision))
        }
    }
}

/// All records of a kind, by name.
pub fn list(snapshot: &Snapshot, kind: v1::Kind) -> Vec<Declared> {
    match kind {
        v1::Kind::Unspecified => Vec::new(),
        v1::Kind::Vrf => snapshot.vrfs.values().map(|r| Declared::Vrf(r.value.clone())).collect(),
        v1::Kind::Network => snapshot.networks.values().map(|r| Declared::Network(r.value.clone())).collect(),
        v1::Kind::Subnet => snapshot.subnets.values().map(|r| Declared::Subnet(r.value.clone())).collect(),
        v1::Kind::Node => snapshot.nodes.values().map(|r| Declared::Node(r.value.clone())).collect(),
        v1::Kind::Peer => snapshot.peers.values().map(|r| Declared::Peer(r.value.clone())).collect(),
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn write_vrf(vrf: &Vrf) -> v1::Vrf {
    v1::Vrf {
        name: vrf.name.to_string(),
        l3_vni: vrf.l3_vni.map_or(0, |vni| vni.get()),
        export_targets: texts(&vrf.export_targets),
        import_targets: texts(&vrf.import_targets),
        routes: vrf
            .routes
            .iter()
            .map(|r| v1::VrfRoute { prefix: r.prefix.to_string(), node: r.node.to_string() })
            .collect(),
        no_connected: vrf.no_connected,
    }
}

fn write_network(network: &Network) -> v1::Network {
    v1::Network {
        vrf: network.key.vrf.to_string(),
        name: network.key.network.to_string(),
        vni: network.vni.get(),
        vlan: network.vlan.map_or(0, u32::from),
        mtu: network.mtu,
        export_targets: texts(&network.export_targets),
        import_targets: texts(&network.import_targets),
        sticky_seconds: i64::try_from(network.sticky_seconds).unwrap_or(i64::MAX),
        quarantine_seconds: Some(i64::try_from(network.quarantine_seconds()).unwrap_or(i64::MAX)),
        labels: network.labels.clone(),
        irb: words::irb(network.irb).into(),
        gateway_mac: network.gateway_mac.map_or_else(String::new, |mac| mac.to_string()),
        attachments: network.attachments.iter().map(|a| words::attachment(*a).into()).collect(),
        no_guard: network.no_guard,
        address_check_ms: Some(network.address_check_ms()),
    }
}

fn write_subnet(subnet: &Subnet) -> v1::Subnet {
    v1::Subnet {
        vrf: subnet.network.vrf.to_string(),
        network: subnet.network.network.to_string(),
        prefix: subnet.prefix.to_string(),
        gateway: subnet.gateway.map_or_else(String::new, |g| g.to_string()),
        ranges: texts(&subnet.ranges),
        exclusions: texts(&subnet.exclusions),
        reservations: texts(&subnet.reservations),
    }
}

fn write_node(node: &Node) -> v1::Node {
    let text = |value: Option<std::net::IpAddr>| value.map_or_else(String::new, |v| v.to_string());
    let uplink = |uplink: &Uplink| v1::Uplink {
        interface: uplink.interface.clone(),
        switch: uplink.switch.to_string(),
        switch_interface: uplink.switch_interface.clone(),
    };
    v1::Node {
        name: node.name.to_string(),
        mode: words::mode(node.mode).into(),
        vtep: text(node.vtep),
        underlay_mtu: node.underlay_mtu,
        site: node.site.clone(),
        labels: node.labels.clone(),
        uplinks: node.uplinks.iter().map(uplink).collect(),
        anycast_vtep: text(node.anycast_vtep),
        router_mac: node.router_mac.map_or_else(String::new, |mac| mac.to_string()),
        esi: node.esi.map_or_else(String::new, |esi| esi.to_string()),
        networks: texts(&node.networks),
        host_bridge: match node.mode {
            NodeMode::Host => words::host_bridge(node.host_bridge).into(),
            _ => v1::HostBridge::Unspecified.into(),
        },
        move_addresses: node.move_addresses,
    }
}

fn write_peer(peer: &Peer) -> v1::Peer {
    v1::Peer {
        address: peer.address.to_string(),
        asn: peer.asn,
        port: peer.port.into(),
        local_address: peer.local_address.map_or_else(String::new, |a| a.to_string()),
        passive: peer.passive,
        md5_key_file: peer.md5_key_file.as_ref().map_or_else(String::new, |p| p.display().to_string()),
        gtsm_hops: peer.gtsm_hops.map_or(0, u32::from),
        hold_seconds: peer.hold_seconds.into(),
        restart_seconds: peer.restart_seconds.map_or(0, u32::from),
        no_graceful_restart: peer.restart_seconds.is_none(),
    }
}
