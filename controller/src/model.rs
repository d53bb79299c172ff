//! The records of the store: intent that users declared, bindings, and the keys under which they lie.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use causeway_bgp::{Esi, RouteTarget};
use causeway_proto::{AddressRange, Mac, Name, NetworkKey, PortKey, Prefix, VlanId, Vni};
use serde::{Deserialize, Serialize};

mod fabric;
mod moves;
mod text;

pub use fabric::{
    AddressCheck, Attachment, GATEWAY_MAC, Guard, HostBridge, Irb, MacvlanMode, NodeMode, RateLimit, Uplink,
    VrfRoute, WorkloadKind,
};
pub use moves::{Fence, Move, MoveCost, MovePhase, MoveProbe};
pub use text::{EsiError, parse_esi};
use text::{esi, targets};

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
    /// Prefixes advertised beside the connected subnets; unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<VrfRoute>,
    /// The connected subnets are not advertised.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_connected: bool,
    /// Number of its route distinguisher and of its kernel table (1000 above), the same everywhere; given once, never
    /// changed. 0: it has none, as nobody declared it since controllers route.
    #[serde(default, skip_serializing_if = "is_zero16")]
    pub rd_number: u16,
    /// Numbers of further distinguishers: a connected subnet has a route at each of its VTEPs, and distinguisher and
    /// prefix are a route's whole identity. Given once, never changed; fewer than [`CONNECTED_WAYS`] less one if no
    /// more were free, or if nobody declared the VRF since there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connected_rds: Vec<u16>,
}

/// VTEPs at most by way of which a connected subnet is announced. Hosts have routes of their own: what nobody knows is
/// spread over these.
pub const CONNECTED_WAYS: usize = 8;

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
    /// Seconds for which an address that goes back to the pool is given to nobody else, as declared; `None`:
    /// [`QUARANTINE_SECONDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_seconds: Option<u64>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Number of the network's route distinguisher, the same on every controller; given once, never changed.
    pub rd_number: u16,
    /// How it is routed, as declared; `None`: symmetric if its VRF has an L3 VNI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irb: Option<Irb>,
    /// MAC of the anycast gateway as declared; `None`: [`GATEWAY_MAC`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_mac: Option<Mac>,
    /// Ways in which ports may be attached; empty: all that their nodes allow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// Ports are not guarded unless they ask for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_guard: bool,
    /// Milliseconds for which a port's addresses are asked for before their first use at a node, as declared; `None`:
    /// [`ADDRESS_CHECK_MS`], 0: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_check_ms: Option<u32>,
}

/// Milliseconds for which addresses are asked for where a network says nothing: three requests, and time for an answer
/// from a machine that is busy. RFC 5227 waits for seconds, which is long for a container.
pub const ADDRESS_CHECK_MS: u32 = 200;

/// Seconds of quarantine where a network says nothing: longer than neighbours and most connections are remembered.
pub const QUARANTINE_SECONDS: u64 = 300;

impl Network {
    /// Seconds for which an address that goes back to the pool is given to nobody else; 0: none.
    pub fn quarantine_seconds(&self) -> u64 {
        self.quarantine_seconds.unwrap_or(QUARANTINE_SECONDS)
    }

    /// Milliseconds for which a port's addresses are asked for before their first use at a node; 0: not at all.
    pub fn address_check_ms(&self) -> u32 {
        self.address_check_ms.unwrap_or(ADDRESS_CHECK_MS)
    }

    /// MAC of the anycast gateway.
    pub fn gateway_mac(&self) -> Mac {
        self.gateway_mac.unwrap_or(GATEWAY_MAC)
    }
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

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// What it does.
    pub mode: NodeMode,
    /// Its tunnel end point; a host has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<IpAddr>,
    /// MTU of the underlay in bytes; of a host's links.
    pub underlay_mtu: u32,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A host's links to switches, one or two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<Uplink>,
    /// VTEP that a switch shares with its partner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anycast_vtep: Option<IpAddr>,
    /// Router MAC as declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_mac: Option<Mac>,
    /// Ethernet segment of a host with two uplinks.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "esi")]
    pub esi: Option<Esi>,
    /// Networks that a switch bridges whatever is behind it; ordered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkKey>,
    /// How a host's bridges are built.
    #[serde(default)]
    pub host_bridge: HostBridge,
    /// The agent may move a host's own addresses to a bridge.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub move_addresses: bool,
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
    /// While a move changes its MAC: the other one of the two, which it has where it does not answer. Claimed like its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_mac: Option<Mac>,
    /// How often the derivation of the MAC from an IPv6 address met a taken one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mac_collisions: u32,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Unix time in milliseconds of its creation.
    pub created_ms: i64,
    /// Unix time in milliseconds of the last event of the port that wrote this record: where its history begins, read
    /// backwards. 0: that of its creation.
    #[serde(default, skip_serializing_if = "is_zero64")]
    pub changed_ms: i64,
    /// Unix time in milliseconds of its release; `None`: in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_ms: Option<i64>,
    /// Unix time in milliseconds when its addresses were given up: the record stays until the quarantine is over, and with
    /// it all its claims. `None`: they are not. One that is quarantined is released too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined_ms: Option<i64>,
    /// How fast it may be.
    #[serde(default, skip_serializing_if = "RateLimit::is_none")]
    pub rate: RateLimit,
    /// Whether it is guarded; `None`: as its network says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Whether its addresses are asked for before their first use at a node; `None`: as its network says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_check: Option<AddressCheck>,
    /// Who else has one of its addresses, as the node found that was about to use it: while this speaks of the binding as
    /// it is, nobody is told that the port is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Duplicate>,
    /// Labels by which its network was chosen; empty: the network was named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub select: BTreeMap<String, String>,
    /// For a VIP: who answers for it; `None`: it is a workload's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<Box<Vip>>,
    /// VIPs whose addresses it answers for. Each of them names it as its holder: both are written together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Held>,
}

/// What a VIP is beside a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// The port that answers for its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<PortKey>,
    /// The highest generation of a binding with which its addresses were announced: who holds it next is announced with
    /// a higher one, as receivers follow the higher sequence of two MACs that say one address.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub floor: u64,
}

/// A VIP that a port holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The VIP.
    pub vip: PortKey,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Somebody answered on the wire for an address that a port was about to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicate {
    /// Generation of the binding.
    pub generation: u64,
    /// The address.
    pub address: IpAddr,
    /// MAC that answered.
    pub mac: Mac,
    /// Interface of the node by which the answer came.
    pub interface: String,
    /// Unix time in milliseconds of the first answer, by the node's clock.
    pub seen_ms: i64,
}

impl Port {
    /// The port that answers for its addresses: itself, of a VIP the holder, if it has one.
    pub fn answerer(&self) -> Option<&PortKey> {
        match &self.vip {
            Some(vip) => vip.holder.as_ref(),
            None => Some(&self.key),
        }
    }

    /// The addresses that it answers for: its own first, then those of the VIPs that it holds.
    pub fn answers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().chain(self.held.iter().flat_map(|held| &held.addresses)).copied()
    }

    /// Its MAC, and the one that it has beside it while a move changes it.
    pub fn macs(&self) -> impl Iterator<Item = Mac> + use<> {
        std::iter::once(self.mac).chain(self.spare_mac)
    }

    /// Unix time in milliseconds of the last event that wrote this record.
    pub fn changed_ms(&self) -> i64 {
        if self.changed_ms == 0 { self.created_ms } else { self.changed_ms }
    }
}

/// Where a port lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The port.
    pub port: PortKey,
    /// The node.
    pub node: Name,
    /// What kind of workload.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// How it is attached; `None` for bare metal.
    #[serde(default = "vxlan_bridge")]
    pub attachment: Option<Attachment>,
    /// For macvlan.
    #[serde(default, skip_serializing_if = "MacvlanMode::is_bridge")]
    pub macvlan_mode: MacvlanMode,
    /// The workload's namespace: an absolute path on the node, or `pid:NUMBER`; empty for others than containers.
    pub netns: String,
    /// Interface name inside; of a tap its name on the node; of bare metal at a switch the switch's interface, else
    /// empty.
    pub interface: String,
    /// Grows with every new binding of the port; a lower one is refused everywhere. It outlives an unbind.
    pub generation: u64,
    /// False: unbound; the record stays for its generation.
    pub active: bool,
    /// Unix time in milliseconds of the last event of the port that wrote this record. 0: before there was a history.
    #[serde(default, skip_serializing_if = "is_zero64")]
    pub changed_ms: i64,
    /// Who bound it although the node before might still answer for it, and when; empty: nobody had to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub forced: String,
    /// The interface is others': its node looks at it and changes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// Of an adopted one: nobody reaches it through the fabric.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
    /// Pairs of queues of a tap that the agent makes; 0: one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub queues: u32,
    /// MTU asked for in bytes; 0: as the network and the node's links say.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}

fn is_zero64(n: &i64) -> bool {
    *n == 0
}

fn is_zero16(n: &u16) -> bool {
    *n == 0
}

/// What bindings were before there was a choice.
#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn vxlan_bridge() -> Option<Attachment> {
    Some(Attachment::VxlanBridge)
}
