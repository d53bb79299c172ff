//! What can be claimed: an address of a VRF, a MAC of a network, a name of a VRF.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, PortName};

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
    /// A name of a VRF, of a port whose network was chosen by labels.
    Selected(Name, PortName),
}

impl Thing {
    /// What a claim at a path is on.
    pub(super) fn at(path: &str) -> Option<Thing> {
        let address = keys::read_address(path).map(|(vrf, _, address)| Thing::Address(vrf, address));
        let mac = || keys::read_mac(path).map(|(network, mac)| Thing::Mac(network, mac));
        let name = || keys::read_selected(path).map(|(vrf, name)| Thing::Selected(vrf, name));
        address.or_else(mac).or_else(name)
    }

    /// All that a port has.
    pub(super) fn of(port: &Port) -> impl Iterator<Item = Thing> + '_ {
        let network = &port.key.network;
        let addresses = port.addresses.iter().map(|address| Thing::Address(network.vrf.clone(), *address));
        let selected =
            (!port.select.is_empty()).then(|| Thing::Selected(network.vrf.clone(), port.key.name.clone()));
        let macs = port.macs().map(|mac| Thing::Mac(network.clone(), mac));
        addresses.chain(macs).chain(selected)
    }

    /// Where its claim lies; `None`: the address is in no subnet.
    pub(super) fn path(&self, snapshot: &Snapshot) -> Option<String> {
        match self {
            Thing::Address(vrf, address) => {
                let subnet = snapshot.subnet_at(vrf, *address)?;
                Some(keys::address(vrf, subnet.value.prefix, *address))
            }
            Thing::Mac(network, mac) => Some(keys::mac(network, *mac)),
            Thing::Selected(vrf, name) => Some(keys::selected(vrf, name)),
        }
    }

    /// A port that has it, if any has.
    pub(super) fn holder<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<Record<Port>>> {
        match self {
            Thing::Address(vrf, address) => snapshot.by_address.get(&(vrf.clone(), *address)),
            Thing::Mac(network, mac) => snapshot.mac_holder(&(network.clone(), *mac)),
            Thing::Selected(vrf, name) => snapshot.selected(vrf, name),
        }
    }

    /// The port of this key, if it has it.
    pub(super) fn held_by<'a>(&self, snapshot: &'a Snapshot, key: &PortKey) -> Option<&'a Arc<Record<Port>>> {
        let port = snapshot.ports.get(key)?;
        let has = match self {
            Thing::Address(vrf, address) => key.network.vrf == *vrf && port.value.addresses.contains(address),
            Thing::Mac(network, mac) => key.network == *network && port.value.macs().any(|has| has == *mac),
            Thing::Selected(vrf, name) => {
                key.network.vrf == *vrf && key.name == *name && !port.value.select.is_empty()
            }
        };
        has.then_some(port)
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Address(vrf, address) => write!(f, "address {address} of VRF {vrf}"),
            Thing::Mac(network, mac) => write!(f, "MAC {mac} of network {network}"),
            Thing::Selected(vrf, name) => write!(f, "name {name} of VRF {vrf}"),
        }
    }
}
