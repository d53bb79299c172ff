//! The ways to attach a workload, and the records of a pair of hosts for each.

use std::net::Ipv4Addr;

use anyhow::Result;
use causeway_proto::v1;

/// Underlay of the switch behind which all hosts of mode HOST are said to be: room for VXLAN around 1500 bytes.
const SWITCH_MTU: u32 = 1600;
const SWITCH: &str = "switch";

/// A way to attach a workload.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(super) attachment: v1::Attachment,
    in_vlan: bool,
    bridge: v1::HostBridge,
    pub(super) guard: v1::Guard,
    /// What not every kernel has, named as in [`causeway_labs::missing_features`].
    needs: &'static [&'static str],
    /// What a packet passes more than between bare hosts.
    pub(crate) passes: &'static str,
}

const PLAIN: Way = Way {
    name: "",
    attachment: v1::Attachment::Bridge,
    in_vlan: false,
    bridge: v1::HostBridge::PerNetwork,
    guard: v1::Guard::Unspecified,
    needs: &[],
    passes: "",
};

/// All ways; guarded, as ports are unless told otherwise.
pub(crate) const WAYS: [Way; 9] = [
    Way { name: "bridge", passes: "a veth pair, a bridge and the guard's rules on each host", ..PLAIN },
    Way {
        name: "bridge, guard off",
        guard: v1::Guard::Off,
        passes: "a veth pair and a bridge on each host",
        ..PLAIN
    },
    Way {
        name: "bridge on a VLAN",
        in_vlan: true,
        needs: &["vlan"],
        passes: "a veth pair, a bridge, the guard's rules and a VLAN device on each host",
        ..PLAIN
    },
    Way {
        name: "VLAN-aware bridge",
        in_vlan: true,
        bridge: v1::HostBridge::VlanAware,
        needs: &["vlan_filtering"],
        passes: "a veth pair, a bridge with VLANs and the guard's rules on each host",
        ..PLAIN
    },
    Way {
        name: "macvlan",
        attachment: v1::Attachment::Macvlan,
        passes: "a macvlan device on each host",
        ..PLAIN
    },
    Way {
        name: "macvlan on a VLAN",
        attachment: v1::Attachment::Macvlan,
        in_vlan: true,
        needs: &["vlan"],
        passes: "a macvlan and a VLAN device on each host",
        ..PLAIN
    },
    Way {
        name: "ipvlan",
        attachment: v1::Attachment::Ipvlan,
        needs: &["ipvlan"],
        passes: "an ipvlan device on each host",
        ..PLAIN
    },
    Way {
        name: "routed",
        attachment: v1::Attachment::Routed,
        passes: "a veth pair and the host's routing on each host",
        ..PLAIN
    },
    Way {
        name: "vxlan-bridge",
        attachment: v1::Attachment::VxlanBridge,
        passes: "a veth pair, a bridge, the guard's rules and VXLAN on each host",
        ..PLAIN
    },
];

impl Way {
    /// The features that this kernel lacks for it.
    pub(crate) fn missing(&self) -> Result<Vec<String>> {
        Ok(causeway_labs::missing_features(self.needs)?)
    }

    pub(crate) fn has_vxlan(&self) -> bool {
        self.attachment == v1::Attachment::VxlanBridge
    }

    fn node(&self, n: u8, side: u8) -> v1::Node {
        if self.has_vxlan() {
            return v1::Node {
                name: node_name(n, side),
                mode: v1::NodeMode::HostVtep.into(),
                vtep: host_address(n, side).to_string(),
                ..Default::default()
            };
        }
        let uplink = v1::Uplink { interface: "eth0".into(), switch: SWITCH.into(), ..Default::default() };
        v1::Node {
            name: node_name(n, side),
            mode: v1::NodeMode::Host.into(),
            uplinks: vec![uplink],
            host_bridge: self.bridge.into(),
            ..Default::default()
        }
    }

    /// The records of pair `n`: a network with a subnet, and two nodes.
    pub(super) fn records(&self, n: u8) -> Vec<v1::resource::Spec> {
        let network = v1::Network {
            name: network_name(n),
            vni: 100 + u32::from(n),
            vlan: if self.in_vlan { 100 + u32::from(n) } else { 0 },
            mtu: if self.has_vxlan() { 1450 } else { 1500 },
            ..Default::default()
        };
        let subnet = v1::Subnet {
            network: network_name(n),
            prefix: format!("{}/24", workload_network(n)),
            ..Default::default()
        };
        vec![
            v1::resource::Spec::Network(network),
            v1::resource::Spec::Subnet(subnet),
            v1::resource::Spec::Node(self.node(n, 1)),
            v1::resource::Spec::Node(self.node(n, 2)),
        ]
    }
}

pub(super) fn node_name(n: u8, side: u8) -> String {
    format!("pair{n}-{side}")
}

pub(super) fn network_name(n: u8) -> String {
    format!("pair{n}")
}

fn workload_network(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, n, 0)
}

pub(super) fn workload_address(n: u8, side: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, n, 10 + side)
}

pub(super) fn host_address(n: u8, side: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, n, side)
}

/// The record of the switch behind which hosts without a VTEP are.
pub(super) fn switch() -> v1::resource::Spec {
    v1::resource::Spec::Node(v1::Node {
        name: SWITCH.into(),
        mode: v1::NodeMode::TorEvpn.into(),
        vtep: "192.0.2.1".into(),
        underlay_mtu: SWITCH_MTU,
        ..Default::default()
    })
}
