//! Macvlans and ipvlans: made on a link of the host, in a workload's namespace.

use std::os::fd::AsRawFd;

use netlink_packet_route::RouteNetlinkMessage;

use super::lan::{busy, without};
use super::{Kernel, OpError};
use crate::dev::Dev;
use crate::model::Child;
use crate::netlink::lan as message;
use crate::netlink::message::{del_link, get_link};
use crate::netlink::socket::Connection;
use crate::netlink::{NetlinkError, parse};
use crate::op::At;

impl Kernel {
    /// Makes one under the port's own name, which no other link has, and then calls it as the workload wants it. Older
    /// kernels (6.1, but not 6.18) look for the name of a new link where the request is made, too: a host that has an eth0
    /// itself could not give one to anybody.
    pub(super) fn add_child(
        &mut self,
        at: &At,
        parent: &Dev,
        child: Child,
        mac: causeway_proto::Mac,
        mtu: u32,
    ) -> Result<(), OpError> {
        let index = self.index(parent)?;
        let netns = self.foreign_netns(&at.netns)?;
        self.remember_child(at.clone());
        let mut add = || {
            let (request, flags) =
                message::add_child(&at.dev, index, child, mac, mtu, netns.fd().as_raw_fd());
            self.connection.request(request, flags)
        };
        let mut made = add();
        if made.as_ref().is_err_and(NetlinkError::is_existing) {
            netns.run(|| discard(&at.dev))??;
            made = add();
        }
        made.map_err(OpError::from)
            .map_err(|e| without(e, "macvlan or ipvlan: load the module"))
            .map_err(|e| busy(e, parent))?;
        Ok(netns.run(|| call(&at.dev, &at.interface))??)
    }
}

/// A macvlan or ipvlan of ours in this namespace.
fn find(connection: &mut Connection, dev: &Dev) -> Result<Option<u32>, NetlinkError> {
    let Some(RouteNetlinkMessage::NewLink(found)) = connection.get(get_link(Some(dev)))? else {
        return Ok(None);
    };
    let ours = |l: &parse::RawLink| l.link.grouped && matches!(l.kind, parse::Kind::Child(_));
    Ok(parse::link(&found).filter(ours).map(|l| l.index))
}

/// Removes what an agent that was killed has made and not named.
fn discard(dev: &Dev) -> Result<(), NetlinkError> {
    let mut connection = Connection::open()?;
    let Some(index) = find(&mut connection, dev)? else { return Ok(()) };
    let (request, flags) = del_link(index);
    connection.request(request, flags)
}

/// Gives it its name. One that cannot have it, because the workload has an interface of that name, does not stay.
fn call(dev: &Dev, name: &Dev) -> Result<(), NetlinkError> {
    let mut connection = Connection::open()?;
    // Gone already: its parent has been deleted, and reading back says so.
    let Some(index) = find(&mut connection, dev)? else { return Ok(()) };
    let (request, flags) = message::rename(index, name);
    let named = connection.request(request, flags);
    if named.is_err() {
        let (request, flags) = del_link(index);
        drop(connection.request(request, flags));
    }
    named
}
