//! What lives on this node, as the reconciler last saw it: published for those who serve workloads (the readiness socket)
//! or look at others from here (probes), without asking the reconciler.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, NetworkKey, PortKey, Vni};

use crate::dev::Dev;
use crate::model::{Attach, Desired, IfAddr, Mode, NetnsRef};

/// Networks and ports of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// The node's name; empty before the first complete state.
    pub node: String,
    /// Networks by VNI.
    pub networks: BTreeMap<Vni, LocalNetwork>,
    /// Ports by id.
    pub ports: BTreeMap<PortKey, LocalPort>,
    /// Ports that the controller sent but that could not be read: generation and reason.
    pub rejected: BTreeMap<PortKey, (u64, String)>,
}

/// A network on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNetwork {
    /// Its name.
    pub name: NetworkKey,
    /// The device that frames of the node itself enter it by; it need not exist. `None`: there is none of ours.
    pub device: Option<Dev>,
    /// MAC of this node in the network, which no other node has.
    pub mac: Mac,
    /// True if that device has another MAC: that of the anycast gateway, or of the bridge it is a VLAN of.
    pub is_foreign: bool,
}

/// A port on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPort {
    /// Its network.
    pub vni: Vni,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: BTreeSet<IfAddr>,
    /// Where its workload lives.
    pub netns: NetnsRef,
    /// The interface there.
    pub interface: Dev,
    /// How it is attached.
    pub attach: Attach,
    /// Generation of the binding.
    pub generation: u64,
    /// Why it is not programmed; `None`: it is, and has been read back.
    pub problem: Option<String>,
}

impl LocalPort {
    /// True if it has the address.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.ip == ip)
    }
}

impl LocalNetwork {
    /// Networks of a desired state.
    pub(crate) fn all(desired: &Desired) -> BTreeMap<Vni, LocalNetwork> {
        let mode = desired.fabric().mode();
        // With one bridge for all networks there is no device for one of them, and on a switch with EVPN of its own
        // there is none of ours at all.
        let none = mode == Mode::TorEvpn || desired.lan().is_some_and(|lan| lan.aware);
        let networks = desired.networks().iter().map(|(&vni, network)| {
            let device = if mode.is_switch() { Dev::svi(vni) } else { Dev::bridge(vni) };
            let local = LocalNetwork {
                name: network.name.clone(),
                device: (!none).then_some(device),
                mac: network.bridge_mac,
                is_foreign: mode.is_switch() || network.gateway_mac.is_some(),
            };
            (vni, local)
        });
        networks.collect()
    }
}
