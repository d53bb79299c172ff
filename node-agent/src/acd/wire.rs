//! Where a network is asked: which links of the node lead to all who may have an address of it.

use std::io::{self, Read};
use std::net::IpAddr;

use causeway_proto::Mac;
use socket2::Socket;
use tokio::sync::mpsc;

use super::frame::{self, Asker, Claim};
use crate::dev::{Dev, Role};
use crate::lan::want::wanted;
use crate::model::{Attach, Desired, Port};
use crate::observed::Observed;
use crate::probe::socket;

/// A link of the node, seen as a way into a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wire {
    pub(crate) dev: Dev,
    /// Frames carry this tag.
    pub(crate) vlan: Option<u16>,
    /// MAC that they come from; `None`: that of the link.
    pub(crate) mac: Option<Mac>,
    /// It leads to other VTEPs.
    pub(crate) is_tunnel: bool,
}

/// Where to ask for a port's addresses; `None`: its network is not there yet. Nowhere: nobody else can be asked.
///
/// A node with tunnels asks on the network's bridge those who are here, and through the VXLAN device those elsewhere: with
/// ARP suppression the bridge itself passes no question without a sender on to its tunnel (`br_do_proxy_suppress_arp`). A
/// host behind switches asks on its bridge, of which the wire is a port; where there is none, or one for all VLANs, on the
/// wire.
pub(crate) fn wires(desired: &Desired, observed: &Observed, port: &Port) -> Option<Vec<Wire>> {
    let network = desired.networks().get(&port.vni)?;
    let Some(lan) = desired.lan() else {
        let is_there = observed.bridges.contains_key(&port.vni) && observed.vxlans.contains_key(&port.vni);
        let wire = |dev, is_tunnel| Wire { dev, vlan: None, mac: Some(network.bridge_mac), is_tunnel };
        let wires = || vec![wire(Dev::bridge(port.vni), false), wire(Dev::vxlan(port.vni), true)];
        return is_there.then(wires);
    };
    let wanted = wanted(desired, observed, lan);
    let Some(net) = wanted.nets.get(&port.vni) else {
        // A routed port with the host's own address: asked where that is, which only the kernel's routes say.
        return (port.attach == Attach::Routed).then(Vec::new);
    };
    let (dev, vlan) = match &net.bridge {
        Some(bridge) if *bridge != Dev::trunk() => (bridge.clone(), None),
        Some(_) => (net.wire.clone(), net.id),
        None => match net.parent.role() {
            Some(Role::Trunk) => (net.wire.clone(), net.id),
            _ => (net.parent.clone(), None),
        },
    };
    let is_there = observed.lan.links.get(&dev).is_some_and(|link| link.link.up);
    is_there.then(|| vec![Wire { dev, vlan, mac: None, is_tunnel: false }])
}

/// What was heard on a wire.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) wire: Wire,
    pub(super) claim: Claim,
}

/// An open wire.
#[derive(Debug)]
pub(super) struct Open {
    wire: Wire,
    /// MAC that questions come from.
    pub(super) mac: Mac,
    socket: Socket,
}

impl Open {
    pub(super) fn new(wire: &Wire) -> io::Result<Open> {
        // Answers come to a MAC that is not the link's.
        let promiscuous = wire.mac.is_some();
        let (socket, found) = socket::open(&wire.dev, &frame::filter(wire.vlan), promiscuous)?;
        Ok(Open { wire: wire.clone(), mac: wire.mac.unwrap_or(found), socket })
    }

    pub(super) fn ask(&self, address: IpAddr) -> io::Result<()> {
        // A bridge that suppresses ND keeps an answer to all from its own tunnel (`br_do_suppress_nd`), and lets one to a
        // single asker pass.
        let asker = if self.wire.is_tunnel { Asker::LinkLocal } else { Asker::Nobody };
        let question = frame::question(self.mac, address, self.wire.vlan, asker);
        self.socket.send(&question).map(|_| ())
    }

    /// Hears claims until it is dropped or nobody takes them.
    pub(super) fn read(&self, heard: mpsc::Sender<Seen>) -> io::Result<impl Future<Output = ()> + use<>> {
        let socket = socket::watch(self.socket.try_clone()?)?;
        let wire = self.wire.clone();
        Ok(async move {
            let mut bytes = [0_u8; 256];
            loop {
                let Ok(mut ready) = socket.readable().await else { return };
                let length = match ready.try_io(|socket| socket.get_ref().read(&mut bytes)) {
                    Ok(Ok(length)) => length,
                    // The link is down, or gone: it may come back.
                    Ok(Err(error)) => {
                        tracing::debug!(dev = %wire.dev, %error, "not heard");
                        continue;
                    }
                    Err(_) => continue,
                };
                if let Some(claim) = bytes.get(..length).and_then(frame::claim)
                    && heard.send(Seen { wire: wire.clone(), claim }).await.is_err()
                {
                    return;
                }
            }
        })
    }
}
