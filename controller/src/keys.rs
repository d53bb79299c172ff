//! Where things lie in the store. Records are below `intent/` as JSON: what the snapshot watches. Keys below `index/`
//! make something unique: the transaction that claims it compares that its key is absent, and its value names the
//! owner. Keys below `guard/` are compared and rewritten by transactions that must not run at the same time.

use std::net::IpAddr;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix, VlanId, Vni};

/// Below it lie all records.
pub const INTENT: &str = "intent/";

/// Which record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// A routing domain.
    Vrf(Name),
    /// A segment.
    Network(NetworkKey),
    /// A subnet: its network and prefix.
    Subnet(NetworkKey, Prefix),
    /// A machine.
    Node(Name),
    /// A BGP neighbour.
    Peer(IpAddr),
    /// A port.
    Port(PortKey),
    /// The binding of a port.
    Binding(PortKey),
    /// The highest generation that a MAC of a network had with ports that are gone.
    Ledger(NetworkKey, Mac),
}

impl RecordKey {
    /// Its key in the store.
    pub fn path(&self) -> String {
        match self {
            RecordKey::Vrf(name) => format!("intent/vrf/{name}"),
            RecordKey::Network(key) => format!("intent/network/{key}"),
            RecordKey::Subnet(network, prefix) => format!("intent/subnet/{network}/{prefix}"),
            RecordKey::Node(name) => format!("intent/node/{name}"),
            RecordKey::Peer(address) => format!("intent/peer/{address}"),
            RecordKey::Port(key) => format!("intent/port/{key}"),
            RecordKey::Binding(key) => format!("intent/binding/{key}"),
            RecordKey::Ledger(network, mac) => format!("intent/ledger/{network}/{mac}"),
        }
    }

    /// The record that lies at `path`; `None` if it is not the path of a record.
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix(INTENT)?.split_once('/')?;
        match kind {
            "vrf" => Some(RecordKey::Vrf(rest.parse().ok()?)),
            "network" => Some(RecordKey::Network(full_network(rest)?)),
            "subnet" => {
                let (network, prefix) = split_network(rest)?;
                Some(RecordKey::Subnet(network, prefix.parse().ok()?))
            }
            "node" => Some(RecordKey::Node(rest.parse().ok()?)),
            "peer" => Some(RecordKey::Peer(rest.parse().ok()?)),
            "port" => Some(RecordKey::Port(full_port(rest)?)),
            "binding" => Some(RecordKey::Binding(full_port(rest)?)),
            "ledger" => {
                let (network, mac) = split_network(rest)?;
                Some(RecordKey::Ledger(network, mac.parse().ok()?))
            }
            _ => None,
        }
    }
}

/// `VRF/NETWORK`, both given: the short form of users is not a path.
fn full_network(text: &str) -> Option<NetworkKey> {
    let (vrf, network) = text.split_once('/')?;
    Some(NetworkKey { vrf: vrf.parse().ok()?, network: network.parse().ok()? })
}

fn full_port(text: &str) -> Option<PortKey> {
    let (network, name) = split_network(text)?;
    Some(PortKey { network, name: name.parse().ok()? })
}

fn split_network(text: &str) -> Option<(NetworkKey, &str)> {
    let (vrf, rest) = text.split_once('/')?;
    let (network, rest) = rest.split_once('/')?;
    Some((NetworkKey { vrf: vrf.parse().ok()?, network: network.parse().ok()? }, rest))
}

/// Below it lie the networks of a VRF.
pub fn networks_of(vrf: &Name) -> String {
    format!("intent/network/{vrf}/")
}

/// Below it lie the subnets of a network.
pub fn subnets_of(network: &NetworkKey) -> String {
    format!("intent/subnet/{network}/")
}

/// Below it lie the ports of a network.
pub fn ports_of(network: &NetworkKey) -> String {
    format!("intent/port/{network}/")
}

/// Claims an address of a VRF. The subnet is part of the key so that a subnet's deletion can compare that nothing is
/// claimed in it; as subnets of a VRF never overlap, an address has one key only.
pub fn address(vrf: &Name, subnet: Prefix, address: IpAddr) -> String {
    format!("index/address/{vrf}/{subnet}/{address}")
}

/// Below it lie the claimed addresses of a subnet.
pub fn addresses_of(vrf: &Name, subnet: Prefix) -> String {
    format!("index/address/{vrf}/{subnet}/")
}

/// Claims a MAC of a network.
pub fn mac(network: &NetworkKey, mac: Mac) -> String {
    format!("index/mac/{network}/{mac}")
}

/// Claims a VNI, for a network or for a VRF's routed traffic.
pub fn vni(vni: Vni) -> String {
    format!("index/vni/{vni}")
}

/// Claims a VLAN id.
pub fn vlan(vlan: VlanId) -> String {
    format!("index/vlan/{vlan}")
}

/// Claims a tunnel end point.
pub fn vtep(vtep: IpAddr) -> String {
    format!("index/vtep/{vtep}")
}

/// Claims a VTEP that two switches share, for one of them.
pub fn anycast_vtep(vtep: IpAddr, node: &Name) -> String {
    format!("index/anycast/{vtep}/{node}")
}

/// Below it lie the switches that share a VTEP.
pub fn sharers_of(vtep: IpAddr) -> String {
    format!("index/anycast/{vtep}/")
}

/// Claims a router MAC.
pub fn router_mac(mac: Mac) -> String {
    format!("index/router-mac/{mac}")
}

/// Claims a route distinguisher's number.
pub fn rd(number: u16) -> String {
    format!("index/rd/{number}")
}

/// Held by whoever adds a subnet to a VRF: overlap cannot be told from one key.
pub fn subnets_guard(vrf: &Name) -> String {
    format!("guard/subnets/{vrf}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> Vec<RecordKey> {
        let network: NetworkKey = "red/web".parse().unwrap();
        let port: PortKey = "red/web/ns/pod-1".parse().unwrap();
        vec![
            RecordKey::Vrf("red".parse().unwrap()),
            RecordKey::Network(network.clone()),
            RecordKey::Subnet(network.clone(), "10.0.0.0/8".parse().unwrap()),
            RecordKey::Subnet(network.clone(), "fd00::/64".parse().unwrap()),
            RecordKey::Node("host1".parse().unwrap()),
            RecordKey::Peer("10.0.0.1".parse().unwrap()),
            RecordKey::Port(port.clone()),
            RecordKey::Binding(port),
            RecordKey::Ledger(network, "02:ca:0a:00:00:01".parse().unwrap()),
        ]
    }

    #[test]
    fn paths_round_trip() {
        for key in samples() {
            assert_eq!(RecordKey::parse(&key.path()), Some(key));
        }
    }

    #[test]
    fn other_paths_are_no_records() {
        for path in [
            "",
            "intent/",
            "intent/vrf/",
            "intent/port/web/a",
            "intent/thing/a",
            "index/vni/1",
            "intent/network/web",
        ] {
            assert_eq!(RecordKey::parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_answered(path in "(intent/)?(vrf|port|subnet|peer|ledger)?/?.{0,40}") {
            if let Some(key) = RecordKey::parse(&path) {
                prop_assert_eq!(RecordKey::parse(&key.path()), Some(key));
            }
        }
    }
}
