//! Words of the fabric: how nodes, networks and ports hang together.

use std::fmt;

use causeway_proto::{Mac, Name, Prefix};
use serde::{Deserialize, Serialize};

/// MAC of anycast gateways when none is declared: the VRRP block (RFC 9568 §7.3), as labs and vendors use it.
pub const GATEWAY_MAC: Mac = Mac::new([0x00, 0x00, 0x5e, 0x00, 0x01, 0x01]);

/// What a node does for the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeMode {
    /// The host itself encapsulates.
    HostVtep,
    /// A switch that speaks EVPN itself.
    TorEvpn,
    /// A Linux switch with our agent.
    TorAgent,
    /// A switch configured from rendered text.
    TorStatic,
    /// A host behind a switch.
    Host,
}

impl NodeMode {
    /// True for switches.
    pub fn is_switch(self) -> bool {
        matches!(self, NodeMode::TorEvpn | NodeMode::TorAgent | NodeMode::TorStatic)
    }

    /// True if the node speaks no EVPN and the controller does on its behalf.
    pub fn is_spoken_for(self) -> bool {
        matches!(self, NodeMode::HostVtep | NodeMode::TorAgent | NodeMode::TorStatic)
    }

    /// True if an agent of ours can run there.
    pub fn has_agent(self) -> bool {
        matches!(self, NodeMode::HostVtep | NodeMode::TorAgent | NodeMode::Host)
    }

    /// True for switches on which we or our text map VLANs to VNIs: each network there needs a VLAN id.
    pub fn needs_vlan(self) -> bool {
        matches!(self, NodeMode::TorAgent | NodeMode::TorStatic)
    }
}

impl fmt::Display for NodeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NodeMode::HostVtep => "host-vtep",
            NodeMode::TorEvpn => "tor-evpn",
            NodeMode::TorAgent => "tor-agent",
            NodeMode::TorStatic => "tor-static",
            NodeMode::Host => "host",
        })
    }
}

/// A host's link to a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Interface of the host.
    pub interface: String,
    /// The switch.
    pub switch: Name,
    /// Interface of the switch; may be empty where nobody programs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub switch_interface: String,
}

/// How a host's bridges are built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostBridge {
    /// One a network.
    #[default]
    PerNetwork,
    /// One VLAN-aware bridge.
    VlanAware,
}

/// A prefix that is reached through a VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrfRoute {
    /// The prefix.
    pub prefix: Prefix,
    /// The node behind whose VTEP it lies.
    pub node: Name,
}

/// How a network is routed (RFC 9135).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Irb {
    /// The fabric does not route for it.
    None,
    /// Routed into the L3 VNI.
    Symmetric,
    /// Routed into the destination's L2 VNI.
    Asymmetric,
}

/// What kind of workload a port is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    /// A network namespace.
    #[default]
    Container,
    /// A virtual machine with a tap.
    Vm,
    /// A machine of its own.
    BareMetal,
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkloadKind::Container => "container",
            WorkloadKind::Vm => "vm",
            WorkloadKind::BareMetal => "bare-metal",
        })
    }
}

/// How a port hangs on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// A veth into a bridge with a VXLAN port.
    VxlanBridge,
    /// A veth into a bridge with the uplink.
    Bridge,
    /// A macvlan on the uplink.
    Macvlan,
    /// An ipvlan on the uplink: frames carry the host's own MAC.
    Ipvlan,
    /// A veth with a host address; the node routes, and frames carry the node's MAC.
    Routed,
    /// A tap in the bridge.
    Tap,
}

impl Attachment {
    /// True if frames carry the node's MAC and not the port's.
    pub fn hides_mac(self) -> bool {
        matches!(self, Attachment::Ipvlan | Attachment::Routed)
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Attachment::VxlanBridge => "vxlan-bridge",
            Attachment::Bridge => "bridge",
            Attachment::Macvlan => "macvlan",
            Attachment::Ipvlan => "ipvlan",
            Attachment::Routed => "routed",
            Attachment::Tap => "tap",
        })
    }
}

/// How macvlans on one parent reach each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MacvlanMode {
    /// Directly.
    #[default]
    Bridge,
    /// Never.
    Private,
    /// Through the switch.
    Vepa,
    /// There is only one.
    Passthru,
}

impl MacvlanMode {
    /// True for the default.
    pub fn is_bridge(&self) -> bool {
        *self == MacvlanMode::Bridge
    }
}

/// How fast a port may be in kbit/s; 0: as fast as it can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Towards the workload.
    #[serde(default)]
    pub in_kbit: u64,
    /// From the workload.
    #[serde(default)]
    pub out_kbit: u64,
}

impl RateLimit {
    /// True without any limit.
    pub fn is_none(&self) -> bool {
        *self == RateLimit::default()
    }
}

/// Whether a port may send only what is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// Only its own.
    On,
    /// Anything.
    Off,
}

/// Whether a port's addresses are asked for on the wire before their first use at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressCheck {
    /// As long as the network says, or the default if that says never.
    On,
    /// Never.
    Off,
}
