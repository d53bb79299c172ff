//! What can be claimed: an address of a VRF, a MAC of a network.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Name, NetworkKey, PortKey};

use crate::keys;
use crate::model::Port;
use crate::snapshot::{Record, Snapshot};

/// Something that one port at most may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    /// An address of a VRF.
    Address(Name, IpAddr),
    /// A MAC of a network.
    Mac(NetworkKey, Mac),
}

impl Thing {
    /// What a claim at a path is on.
    pub(super) fn at(path: &str) -> Option<Thing> {
        let address = keys::read_address(path).map(|(vrf, _, address)| Thing::Address(vrf, address));
        address.or_else(|| keys::read_mac(path).map(|(network, mac)| Thing::Mac(network, mac)))
    }

    /// All that a port has.
    pub(super) fn of(port: &Port) -> impl Iterator<Item = Thing> + '_ {
        let network = &port.key.network;
        let addresses = port.addresses.iter().map(|address| Thing::Address(network.vrf.clone(), *address));
        addresses.chain([Thing::Mac(network.clone(), port.mac)])
    }

    /// Where its claim lies; `None`: the address is in no subnet.
    pub(super) fn path(&self, snapshot: &Snapshot) -> Option<String> {
        match self {
            Thing::Address(vrf, address) => {
                let subnet = snapshot.subnet_at(vrf, *address)?;
                Some(keys::address(vrf, subnet.value.prefix, *address))
            }
            Thing::Mac(network, mac) => Some(keys::mac(network, *mac)),
        }
    }

    /// A port that has it, if any has.
    pub(super) fn holder<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<Record<Port>>> {
        match self {
            Thing::Address(vrf, address) => snapshot.by_address.get(&(vrf.clone(), *address)),
            Thing::Mac(network, mac) => snapshot.by_mac.get(&(network.clone(), *mac)),
        }
    }

    /// The port of this key, if it has it.
    pub(super) fn held_by<'a>(&self, snapshot: &'a Snapshot, key: &PortKey) -> Option<&'a Arc<Record<Port>>> {
        let port = snapshot.ports.get(key)?;
        let has = match self {
            Thing::Address(vrf, address) => key.network.vrf == *vrf && port.value.addresses.contains(address),
            Thing::Mac(network, mac) => key.network == *network && port.value.mac == *mac,
        };
        has.then_some(port)
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Address(vrf, address) => write!(f, "address {address} of VRF {vrf}"),
            Thing::Mac(network, mac) => write!(f, "MAC {mac} of network {network}"),
        }
    }
}
