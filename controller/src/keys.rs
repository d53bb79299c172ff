//! Where things lie in the store. Records are below `intent/` as JSON: what the snapshot watches. Keys below `index/`
//! make something unique: the transaction that claims it compares that its key is absent, and its value names the
//! owner. Keys below `guard/` are compared and rewritten by transactions that must not run at the same time.

use std::net::IpAddr;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, PortName, Prefix, VlanId, Vni};

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
    /// The last move of a port.
    Move(PortKey),
    /// That a node is kept out.
    Fence(Name),
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
            RecordKey::Move(key) => format!("intent/move/{key}"),
            RecordKey::Fence(name) => format!("intent/fence/{name}"),
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
            "move" => Some(RecordKey::Move(full_port(rest)?)),
            "fence" => Some(RecordKey::Fence(rest.parse().ok()?)),
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

/// Below it lie the events, in the order of time.
pub const LOG: &str = "history/log/";
/// Below it lie the ports that are gone, by their addresses.
const ADDRESS_HISTORY: &str = "history/address/";
/// Below it lie the ports that are gone, by their keys.
const PORT_HISTORY: &str = "history/port/";

/// The events of one transaction: by time (Unix milliseconds), and a number that no other transaction of that moment has.
pub fn events(at_ms: i64, number: u64) -> String {
    format!("{}{number:016x}", events_at(at_ms))
}

/// Below it lie the events of one millisecond.
pub fn events_at(at_ms: i64) -> String {
    format!("{LOG}{:013}/", at_ms.max(0))
}

/// The time of events at a path.
pub fn events_time(path: &str) -> Option<i64> {
    path.strip_prefix(LOG)?.split_once('/')?.0.parse().ok()
}

/// Below it lie the ends of all ports that had an address.
pub fn ends_of_address(vrf: &Name, address: IpAddr) -> String {
    format!("{ADDRESS_HISTORY}{vrf}/{address}/")
}

/// Says that a port gave up an address at a time (Unix milliseconds).
pub fn end_of_address(port: &PortKey, address: IpAddr, at_ms: i64) -> String {
    let network = &port.network;
    format!(
        "{}{:013}/{}/{}",
        ends_of_address(&network.vrf, address),
        at_ms.max(0),
        network.network,
        port.name
    )
}

/// The port and the time of such a path.
pub fn read_end_of_address(path: &str) -> Option<(PortKey, i64)> {
    let mut parts = path.strip_prefix(ADDRESS_HISTORY)?.splitn(5, '/');
    let (vrf, _address, at_ms) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    let network = NetworkKey { vrf: vrf.parse().ok()?, network: parts.next()?.parse().ok()? };
    Some((PortKey { network, name: parts.next()?.parse().ok()? }, at_ms))
}

/// Below it lie the ends of all ports of a key. A name may contain slashes: what follows is a number, or the end of
/// another port.
pub fn ends_of_port(port: &PortKey) -> String {
    format!("{PORT_HISTORY}{port}/")
}

/// Says that a port ended at a time (Unix milliseconds).
pub fn end_of_port(port: &PortKey, at_ms: i64) -> String {
    format!("{}{:013}", ends_of_port(port), at_ms.max(0))
}

/// The time of such a path; `None` if it is that of another port.
pub fn read_end_of_port(port: &PortKey, path: &str) -> Option<i64> {
    path.strip_prefix(&ends_of_port(port))?.parse().ok()
}

/// The first key after all keys with this prefix, which must end with a slash.
pub fn after(prefix: &str) -> String {
    // '0' follows '/'.
    format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix))
}

/// Claims an address of a VRF. The subnet is part of the key so that a subnet's deletion can compare that nothing is
/// claimed in it; as subnets of a VRF never overlap, an address has one key only.
pub fn address(vrf: &Name, subnet: Prefix, address: IpAddr) -> String {
    format!("{ADDRESS_CLAIMS}{vrf}/{subnet}/{address}")
}

/// Below it lie all claims on addresses.
pub const ADDRESS_CLAIMS: &str = "index/address/";
/// Below it lie all claims on MACs.
pub const MAC_CLAIMS: &str = "index/mac/";

/// The VRF, subnet and address of a claim's path.
pub fn read_address(path: &str) -> Option<(Name, Prefix, IpAddr)> {
    let (vrf, rest) = path.strip_prefix(ADDRESS_CLAIMS)?.split_once('/')?;
    let (subnet, address) = rest.rsplit_once('/')?;
    Some((vrf.parse().ok()?, subnet.parse().ok()?, address.parse().ok()?))
}

/// The network and MAC of a claim's path.
pub fn read_mac(path: &str) -> Option<(NetworkKey, Mac)> {
    let (network, mac) = split_network(path.strip_prefix(MAC_CLAIMS)?)?;
    Some((network, mac.parse().ok()?))
}

/// Below it lie the claimed addresses of a subnet.
pub fn addresses_of(vrf: &Name, subnet: Prefix) -> String {
    format!("{ADDRESS_CLAIMS}{vrf}/{subnet}/")
}

/// Claims a MAC of a network.
pub fn mac(network: &NetworkKey, mac: Mac) -> String {
    format!("{MAC_CLAIMS}{network}/{mac}")
}

/// Below it lie all claims on names.
pub const NAME_CLAIMS: &str = "index/selected/";

/// Claims a name of a VRF for a port whose network was chosen by labels: whoever asks for it again must find it.
pub fn selected(vrf: &Name, name: &PortName) -> String {
    format!("{NAME_CLAIMS}{vrf}/{name}")
}

/// The VRF and name of such a claim's path.
pub fn read_selected(path: &str) -> Option<(Name, PortName)> {
    let (vrf, name) = path.strip_prefix(NAME_CLAIMS)?.split_once('/')?;
    Some((vrf.parse().ok()?, name.parse().ok()?))
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
            RecordKey::Binding(port.clone()),
            RecordKey::Move(port),
            RecordKey::Fence("host1".parse().unwrap()),
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
    fn ends_round_trip_with_names_that_have_slashes() {
        let port: PortKey = "red/web/ns/pod-1".parse().unwrap();
        for address in ["10.0.0.1", "fd00::1"] {
            let path = end_of_address(&port, address.parse().unwrap(), 1_795_000_000_000);
            assert_eq!(read_end_of_address(&path), Some((port.clone(), 1_795_000_000_000)));
            assert!(path.starts_with(&ends_of_address(&port.network.vrf, address.parse().unwrap())));
        }
        let path = end_of_port(&port, 17);
        assert_eq!(read_end_of_port(&port, &path), Some(17));
        assert_eq!(read_end_of_port(&"red/web/ns".parse().unwrap(), &path), None);
        assert_eq!(events_time(&events(1_795_000_000_000, u64::MAX)), Some(1_795_000_000_000));
        for other in ["", "history/log/", "history/log/x/1", "intent/log/1/1"] {
            assert_eq!(events_time(other), None, "{other}");
        }
        assert!(after(LOG) > events(i64::MAX, u64::MAX) && after(LOG).as_str() < PORT_HISTORY);
    }

    #[test]
    fn claims_round_trip() {
        let vrf: Name = "red".parse().unwrap();
        for (subnet, ip) in [("10.0.0.0/8", "10.1.2.3"), ("fd00::/64", "fd00::1")] {
            let (subnet, ip): (Prefix, IpAddr) = (subnet.parse().unwrap(), ip.parse().unwrap());
            assert_eq!(read_address(&address(&vrf, subnet, ip)), Some((vrf.clone(), subnet, ip)));
        }
        let (network, of): (NetworkKey, Mac) =
            ("red/web".parse().unwrap(), "02:ca:0a:00:00:01".parse().unwrap());
        assert_eq!(read_mac(&mac(&network, of)), Some((network, of)));
        let name: PortName = "ns/pod-1".parse().unwrap();
        assert_eq!(read_selected(&selected(&vrf, &name)), Some((vrf, name)));
        for other in
            ["", ADDRESS_CLAIMS, "index/address/red/10.0.0.0/8", "index/mac/red/x", "index/mac/red/web/x"]
        {
            assert_eq!((read_address(other), read_mac(other)), (None, None), "{other}");
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
