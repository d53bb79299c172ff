//! Where a probe's frames enter the network, and the socket they go through.
//!
//! Best is a workload of the network on this node: its frames take the way that workloads' frames take, with its guard,
//! and whoever it asks can answer its address. Without one, the node's own device in the network serves for IPv4: an ARP
//! request needs no address.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_proto::{Mac, Vni};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use nix::sys::time::TimeSpec;
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use super::{frame, socket};
use crate::dev::Dev;
use crate::local::{Local, LocalPort};
use crate::model::{Attach, Child, IfAddr, NetnsRef};
use crate::netns::{Netns, NetnsError, NetnsId, identify};

/// Answers that wait while the probe's thread has other work.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// Why this node cannot probe.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(
        "this node has no network with VNI {0}: it cannot probe into it; choose a node that has a port of it"
    )]
    NoNetwork(Vni),
    #[error("{0} lives on this node: a probe from here would cross nothing")]
    Here(IpAddr),
    #[error(
        "no workload of network {network} on this node can probe {target}: {why}; bind a port of this network to the \
         node, or probe from another one"
    )]
    NoSource { network: String, target: IpAddr, why: String },
    #[error("{from}: {error}")]
    Open { from: String, error: io::Error },
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// A place that frames can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// In words.
    pub(super) name: String,
    netns: NetnsRef,
    interface: Dev,
    /// MAC that frames carry; `None`: that of the interface.
    mac: Option<Mac>,
    /// Address that an echo can come from.
    pub(super) address: Option<IpAddr>,
    /// Takes up frames to MACs that are not the interface's.
    promiscuous: bool,
}

/// An open socket at a place.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) place: Place,
    /// MAC that frames carry.
    pub(super) mac: Mac,
    pub(super) socket: Socket,
    /// Where it was opened; the socket keeps it alive, so it must not outlast its name. `None`: the agent's own.
    netns: Option<NetnsId>,
}

/// Places from which `target` can be probed, the best first.
pub(super) fn places(local: &Local, vni: Vni, target: IpAddr) -> Result<Vec<Place>, SourceError> {
    let Some(network) = local.networks.get(&vni) else { return Err(SourceError::NoNetwork(vni)) };
    let of_network = || local.ports.iter().filter(|(_, port)| port.vni == vni);
    if of_network().any(|(_, port)| port.has(target)) {
        return Err(SourceError::Here(target));
    }
    let mut places: Vec<Place> = of_network()
        .filter(|(_, port)| port.problem.is_none() && sends_frames(port))
        .map(|(id, port)| Place {
            name: format!("port {id}"),
            netns: port.netns.clone(),
            interface: port.interface.clone(),
            // An ipvlan's frames carry its parent's.
            mac: (port.attach != Attach::Child(Child::Ipvlan)).then_some(port.mac),
            address: address_for(&port.addresses, target),
            promiscuous: false,
        })
        .collect();
    // An echo says most.
    places.sort_by_key(|place| place.address.is_none());
    if let Some(device) = &network.device {
        places.push(Place {
            name: format!("interface {device}"),
            netns: NetnsRef::Node,
            interface: device.clone(),
            mac: Some(network.mac),
            address: None,
            promiscuous: network.is_foreign,
        });
    }
    if target.is_ipv6() {
        places.retain(|place| place.address.is_some());
    }
    if places.is_empty() {
        let why = match of_network().next() {
            None => "there is none, and the node has no device of its own in the network".into(),
            Some(_) if target.is_ipv6() => "none has an IPv6 address of the same subnet".to_owned(),
            Some(_) => "all are routed, are machines of their own, or are not programmed".to_owned(),
        };
        return Err(SourceError::NoSource { network: network.name.to_string(), target, why });
    }
    Ok(places)
}

/// True for what has an end on the network's own segment that can be entered.
fn sends_frames(port: &LocalPort) -> bool {
    port.attach.has_inside() && !matches!(port.attach, Attach::Routed | Attach::Adopted)
}

/// The address that shares a subnet with the target: whoever has the target answers it directly.
fn address_for(addresses: &BTreeSet<IfAddr>, target: IpAddr) -> Option<IpAddr> {
    let shares = |own: &&IfAddr| match (own.ip, target) {
        (IpAddr::V4(ip), IpAddr::V4(to)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(own.length.min(32))).unwrap_or(0);
            (ip.to_bits() ^ to.to_bits()) & mask == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(to)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(own.length.min(128))).unwrap_or(0);
            (ip.to_bits() ^ to.to_bits()) & mask == 0
        }
        _ => false,
    };
    addresses.iter().find(shares).map(|own| own.ip)
}

impl Source {
    /// Opens the place for answers of `target`.
    pub(super) fn open(place: Place, target: IpAddr) -> Result<Source, SourceError> {
        let (opened, netns) = match place.netns {
            // The thread that probes is in the agent's own namespace.
            NetnsRef::Node => (open(&place, target), None),
            _ => {
                let netns = Netns::open(&place.netns)?;
                (netns.run(|| open(&place, target))?, Some(netns.id()))
            }
        };
        let (socket, found) =
            opened.map_err(|error| SourceError::Open { from: place.name.clone(), error })?;
        let mac = place.mac.unwrap_or(found);
        Ok(Source { place, mac, socket, netns })
    }

    /// Registers the socket with this thread's event loop.
    pub(super) fn watch(&self) -> io::Result<AsyncFd<Socket>> {
        socket::watch(self.socket.try_clone()?)
    }

    /// True if the namespace that it was opened in still goes by its name.
    pub(super) fn is_there(&self) -> bool {
        self.netns.is_none() || identify(&self.place.netns) == self.netns
    }

    /// Takes the answers that are there: each with its age.
    pub(super) fn receive(&self, mut each: impl FnMut(&[u8], Duration)) -> io::Result<()> {
        let mut bytes = [0_u8; 2048];
        let mut control = nix::cmsg_space!(TimeSpec);
        loop {
            let mut parts = [io::IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let (length, stamp) = match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags)
            {
                Ok(message) => (message.bytes, stamp(message.cmsgs()?)),
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            each(bytes.get(..length).unwrap_or_default(), stamp.unwrap_or_default());
        }
    }
}

/// How long ago the kernel took the frame in. A clock that was set in between makes it none.
fn stamp(messages: impl Iterator<Item = ControlMessageOwned>) -> Option<Duration> {
    let stamp = messages.into_iter().find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
        _ => None,
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    now.checked_sub(stamp).filter(|age| *age < Duration::from_secs(1))
}

/// In the place's namespace: a socket that takes answers of the target only, and the interface's MAC.
fn open(place: &Place, target: IpAddr) -> io::Result<(Socket, Mac)> {
    let (socket, mac) = socket::open(&place.interface, &frame::filter(target), place.promiscuous)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimestampns, &true)?;
    Ok((socket, mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::LocalNetwork;

    fn port(addresses: &[&str], attach: Attach) -> LocalPort {
        let address = |text: &&str| {
            let (ip, length) = text.split_once('/').unwrap();
            IfAddr { ip: ip.parse().unwrap(), length: length.parse().unwrap() }
        };
        LocalPort {
            vni: Vni::try_from(100).unwrap(),
            mac: Mac::new([2, 0, 0, 0, 0, 9]),
            addresses: addresses.iter().map(address).collect(),
            netns: NetnsRef::Pid(1),
            interface: Dev::new("eth0"),
            attach,
            generation: 1,
            problem: None,
        }
    }

    fn local(ports: Vec<(&str, LocalPort)>) -> Local {
        let vni = Vni::try_from(100).unwrap();
        let network = LocalNetwork {
            name: "default/web".parse().unwrap(),
            device: Some(Dev::bridge(vni)),
            mac: Mac::new([10, 0, 0, 0, 0, 1]),
            is_foreign: false,
        };
        Local {
            node: "h1".into(),
            networks: [(vni, network)].into(),
            ports: ports.into_iter().map(|(id, port)| (id.parse().unwrap(), port)).collect(),
            ..Local::default()
        }
    }

    fn names(local: &Local, target: &str) -> Vec<String> {
        let places = places(local, Vni::try_from(100).unwrap(), target.parse().unwrap());
        places.unwrap().into_iter().map(|place| place.name).collect()
    }

    #[test]
    fn a_workload_that_can_send_an_echo_comes_first() {
        let far = port(&["10.9.0.1/24"], Attach::VxlanBridge);
        let near = port(&["10.8.0.9/24", "fd00:8::9/64"], Attach::VxlanBridge);
        let tap = port(&["10.8.0.10/24"], Attach::Tap);
        let routed = port(&["10.8.0.11/32"], Attach::Routed);
        let failed = LocalPort { problem: Some("no".into()), ..near.clone() };
        let ports =
            vec![("web/a", failed), ("web/b", tap), ("web/c", routed), ("web/d", far), ("web/e", near)];
        let local = local(ports);
        assert_eq!(
            names(&local, "10.8.0.5"),
            ["port default/web/e", "port default/web/d", "interface cwb100"]
        );
        assert_eq!(names(&local, "fd00:8::5"), ["port default/web/e"]);
    }

    #[test]
    fn a_node_that_cannot_probe_says_why() {
        let vni = Vni::try_from(100).unwrap();
        let say = |local: &Local, target: &str| {
            places(local, vni, target.parse().unwrap()).unwrap_err().to_string()
        };
        let one = local(vec![("web/a", port(&["10.8.0.5/24"], Attach::VxlanBridge))]);
        assert!(say(&one, "10.8.0.5").contains("lives on this node"));
        assert!(say(&one, "fd00::1").contains("none has an IPv6 address"));
        assert!(say(&Local::default(), "10.8.0.5").contains("no network with VNI 100"));
        let mut bare = local(vec![("web/a", port(&["10.8.0.9/24"], Attach::BareMetal))]);
        bare.networks.get_mut(&vni).unwrap().device = None;
        assert!(say(&bare, "10.8.0.5").contains("machines of their own"));
    }
}
