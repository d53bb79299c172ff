//! The records of the store: intent that users declared, bindings, and the keys under which they lie.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use causeway_bgp::RouteTarget;
use causeway_proto::{AddressRange, Mac, Name, NetworkKey, PortKey, Prefix, VlanId, Vni};
use serde::{Deserialize, Serialize};

/// A routing domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vrf {
    /// Its name.
    pub name: Name,
    /// VNI of routed traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l3_vni: Option<Vni>,
    /// Exported route targets as declared; empty: the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "targets")]
    pub export_targets: Vec<RouteTarget>,
    /// Imported route targets as declared; empty: the exported ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "targets")]
    pub import_targets: Vec<RouteTarget>,
}

/// A layer 2 segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its identity.
    pub key: NetworkKey,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// 802.1Q id on host links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
    /// MTU of workloads' interfaces in bytes.
    pub mtu: u32,
    /// Exported route targets as declared; empty: the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "targets")]
    pub export_targets: Vec<RouteTarget>,
    /// Imported route targets as declared; empty: the exported ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "targets")]
    pub import_targets: Vec<RouteTarget>,
    /// Seconds for which a released port's addresses stay reserved; 0: for ever.
    #[serde(default)]
    pub sticky_seconds: u64,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Number of the network's route distinguisher, the same on every controller; given once, never changed.
    pub rd_number: u16,
}

/// A prefix of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network.
    pub network: NetworkKey,
    /// The prefix; the subnet's name.
    pub prefix: Prefix,
    /// The gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Where addresses are chosen from; empty: the whole prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<AddressRange>,
    /// Never given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclusions: Vec<AddressRange>,
    /// Given only when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<AddressRange>,
}

/// What a node does for the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeMode {
    /// The host itself encapsulates.
    HostVtep,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// What it does.
    pub mode: NodeMode,
    /// Its tunnel end point.
    pub vtep: IpAddr,
    /// MTU of the underlay in bytes.
    pub underlay_mtu: u32,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A BGP neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address; the peer's name.
    pub address: IpAddr,
    /// Its AS number.
    pub asn: u32,
    /// TCP port.
    pub port: u16,
    /// Local address to bind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
    /// Wait for it to connect.
    #[serde(default)]
    pub passive: bool,
    /// File with the MD5 key on each controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5_key_file: Option<PathBuf>,
    /// GTSM hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtsm_hops: Option<u8>,
    /// Hold time in seconds.
    pub hold_seconds: u16,
    /// Seconds for which the peer shall keep our routes over a restart; `None`: not offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_seconds: Option<u16>,
}

/// A workload's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its identity.
    pub key: PortKey,
    /// Its addresses, IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// Its MAC.
    pub mac: Mac,
    /// How often the derivation of the MAC from an IPv6 address met a taken one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mac_collisions: u32,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Unix time in milliseconds of its creation.
    pub created_ms: i64,
    /// Unix time in milliseconds of its release; `None`: in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_ms: Option<i64>,
}

/// Where a port lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The port.
    pub port: PortKey,
    /// The node.
    pub node: Name,
    /// The workload's namespace: an absolute path on the node, or `pid:NUMBER`.
    pub netns: String,
    /// Interface name inside.
    pub interface: String,
    /// Grows with every new binding of the port; a lower one is refused everywhere. It outlives an unbind.
    pub generation: u64,
    /// False: unbound; the record stays for its generation.
    pub active: bool,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Route targets as text.
mod targets {
    use causeway_bgp::RouteTarget;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(targets: &[RouteTarget], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(targets.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<RouteTarget>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|t| t.parse().map_err(D::Error::custom)).collect()
    }
}
