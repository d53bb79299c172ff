//! The host's own addresses and routes as the kernel's messages, and putting them on another link in one batch.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::moves::{Record, boot};
use super::seen::is_link_local;
use crate::dev::Dev;
use crate::netlink::message::{Request, get_addresses, get_link, set_link};
use crate::netlink::socket::Connection;
use crate::netlink::{NetlinkError, lan, parse};
use crate::op::LinkChange;

/// Why addresses cannot be put elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The kernel cannot be read.
    #[error("read the host's addresses: {0}")]
    Read(#[from] NetlinkError),
    /// No such link.
    #[error("interface {0} is missing")]
    Missing(Dev),
    /// A route that cannot be moved.
    #[error("a route through {0} has several next hops or a next hop object: configure it with one next hop")]
    Multipath(Dev),
    /// A message of the record cannot be read.
    #[error("the record of the move is damaged")]
    Damaged,
    /// A step failed.
    #[error("{act}: {source}")]
    Step {
        /// Which.
        act: &'static str,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// What moves between an uplink and a bridge.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    uplink: Dev,
    bridge: Dev,
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
}

/// `RT_TABLE_LOCAL`.
const RT_TABLE_LOCAL: u8 = 255;
const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;

fn hex(message: RouteNetlinkMessage) -> String {
    let mut message = NetlinkMessage::from(message);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<RouteNetlinkMessage> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes = digits.map(byte).collect::<Option<Vec<u8>>>()?;
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

/// As somebody would have asked for it: without what only the kernel says.
fn asked_address(mut message: AddressMessage) -> AddressMessage {
    let kept = AddressFlags::Noprefixroute;
    let mut flags = AddressFlags::Nodad;
    for attribute in &message.attributes {
        if let AddressAttribute::Flags(found) = attribute {
            flags |= *found & kept;
        }
    }
    let answers = |a: &AddressAttribute| {
        matches!(a, AddressAttribute::CacheInfo(_) | AddressAttribute::Label(_) | AddressAttribute::Flags(_))
    };
    message.attributes.retain(|a| !answers(a));
    message.attributes.push(AddressAttribute::Flags(flags));
    message.header.flags = AddressHeaderFlags::empty();
    message
}

fn asked_route(mut message: RouteMessage) -> RouteMessage {
    message.header.flags &= RouteFlags::Onlink;
    message.attributes.retain(|a| !matches!(a, RouteAttribute::CacheInfo(_)));
    message
}

fn index_of(connection: &mut Connection, dev: &Dev) -> Result<Option<(u32, Option<u32>)>, NetlinkError> {
    Ok(match connection.get(get_link(Some(dev)))? {
        Some(RouteNetlinkMessage::NewLink(link)) => parse::link(&link).map(|l| (l.index, l.master)),
        _ => None,
    })
}

impl Transfer {
    /// What of the host's own is on `from`, which is the uplink or the bridge.
    pub(crate) fn read(uplink: &Dev, bridge: &Dev, from: &Dev) -> Result<Self, TransferError> {
        let mut connection = Connection::open()?;
        let missing = || TransferError::Missing(from.clone());
        let (index, _) = index_of(&mut connection, from)?.ok_or_else(missing)?;
        let mut addresses = Vec::new();
        for found in connection.dump(get_addresses())? {
            if let RouteNetlinkMessage::NewAddress(found) = found
                && parse::address(&found).is_some_and(|(i, _, ours)| i == index && !ours)
            {
                addresses.push(asked_address(found));
            }
        }
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            for found in connection.dump(RouteNetlinkMessage::GetRoute(all))? {
                let RouteNetlinkMessage::NewRoute(found) = found else { continue };
                let plural = |a: &RouteAttribute| matches!(a, RouteAttribute::MultiPath(hops) if hops.iter().any(|h| h.interface_index == index));
                if found.attributes.iter().any(plural) {
                    return Err(TransferError::Multipath(from.clone()));
                }
                let kernel = found.header.protocol == RouteProtocol::Kernel;
                let unicast = found.header.kind == RouteType::Unicast;
                let local = found.header.table == RT_TABLE_LOCAL;
                if lan::route_dev(&found) == Some(index) && unicast && !kernel && !local {
                    routes.push(asked_route(found));
                }
            }
        }
        Ok(Transfer { uplink: uplink.clone(), bridge: bridge.clone(), addresses, routes })
    }

    pub(crate) fn record(&self) -> Record {
        let addresses = self.addresses.iter().map(|a| hex(RouteNetlinkMessage::NewAddress(a.clone())));
        let routes = self.routes.iter().map(|r| hex(RouteNetlinkMessage::NewRoute(r.clone())));
        Record {
            uplink: self.uplink.to_string(),
            bridge: self.bridge.to_string(),
            boot: boot(),
            addresses: addresses.collect(),
            routes: routes.collect(),
        }
    }

    pub(crate) fn from_record(record: &Record) -> Result<Self, TransferError> {
        let mut transfer = Transfer {
            uplink: Dev::new(&record.uplink),
            bridge: Dev::new(&record.bridge),
            addresses: Vec::new(),
            routes: Vec::new(),
        };
        for text in record.addresses.iter().chain(&record.routes) {
            match unhex(text) {
                Some(RouteNetlinkMessage::NewAddress(address)) => transfer.addresses.push(address),
                Some(RouteNetlinkMessage::NewRoute(route)) => transfer.routes.push(route),
                _ => return Err(TransferError::Damaged),
            }
        }
        Ok(transfer)
    }

    /// Addresses to tell the neighbourhood of.
    pub(crate) fn announced(&self) -> BTreeSet<IpAddr> {
        let found = self.addresses.iter().filter_map(parse::address);
        found.map(|(_, address, _)| address.ip).filter(|ip| !is_link_local(*ip)).collect()
    }

    /// To `to`: addresses first, since routes need them; then routes, which replace those through `from` one by one;
    /// then nothing needs the old addresses any more.
    fn requests(&self, from: Option<u32>, to: u32) -> Vec<(&'static str, Request)> {
        let mut requests = Vec::new();
        for address in &self.addresses {
            let mut address = address.clone();
            address.header.index = to;
            requests.push(("add an address", (RouteNetlinkMessage::NewAddress(address), SET)));
        }
        // Those without a gateway first: others may need them.
        let is_via = |r: &&RouteMessage| r.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_)));
        let (via, direct): (Vec<_>, Vec<_>) = self.routes.iter().partition(is_via);
        for route in direct.into_iter().chain(via) {
            let mut route = route.clone();
            for attribute in &mut route.attributes {
                if let RouteAttribute::Oif(index) = attribute {
                    *index = to;
                }
            }
            requests.push(("set a route", (RouteNetlinkMessage::NewRoute(route), SET)));
        }
        for address in from.into_iter().flat_map(|from| self.addresses.iter().map(move |a| (from, a))) {
            let (from, mut address) = (address.0, address.1.clone());
            address.header.index = from;
            address
                .attributes
                .retain(|a| matches!(a, AddressAttribute::Local(_) | AddressAttribute::Address(_)));
            requests.push(("delete an address", (RouteNetlinkMessage::DelAddress(address), 0)));
        }
        requests
    }

    /// The uplink becomes a port of the bridge, and all is on the bridge.
    pub(crate) fn perform(&self) -> Result<(), TransferError> {
        let mut connection = Connection::open()?;
        let mut index =
            |dev: &Dev| index_of(&mut connection, dev)?.ok_or(TransferError::Missing(dev.clone()));
        let ((uplink, _), (bridge, _)) = (index(&self.uplink)?, index(&self.bridge)?);
        let master = LinkChange { master: Some(self.bridge.clone()), ..LinkChange::default() };
        let mut requests = vec![("enslave the uplink", set_link(uplink, &master, Some(bridge)))];
        requests.extend(self.requests(Some(uplink), bridge));
        send(&mut connection, requests)
    }

    /// All is on the uplink, which is no port of the bridge. May be repeated.
    pub(crate) fn undo(&self) -> Result<(), TransferError> {
        let mut connection = Connection::open()?;
        let found = index_of(&mut connection, &self.uplink)?;
        let (uplink, master) = found.ok_or(TransferError::Missing(self.uplink.clone()))?;
        let bridge = index_of(&mut connection, &self.bridge)?.map(|(index, _)| index);
        send(&mut connection, self.requests(bridge, uplink))?;
        // A bridge takes frames to its port's MAC too: who knows that one now loses nothing when the port leaves.
        crate::announce::once(&self.uplink, &self.announced());
        if bridge.is_some() && master == bridge {
            send(&mut connection, vec![("release the uplink", lan::release(uplink))])?;
            crate::announce::once(&self.uplink, &self.announced());
        }
        Ok(())
    }
}

/// All of them, whatever becomes of one; the first failure is told.
fn send(connection: &mut Connection, requests: Vec<(&'static str, Request)>) -> Result<(), TransferError> {
    let (acts, requests): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
    let answers = connection.batch(requests);
    let harmless =
        |act: &str, e: &NetlinkError| act == "delete an address" && e.is_missing() || e.is_existing();
    for (act, answer) in acts.into_iter().zip(answers) {
        match answer {
            Err(source) if !harmless(act, &source) => return Err(TransferError::Step { act, source }),
            _ => {}
        }
    }
    Ok(())
}
