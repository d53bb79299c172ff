//! Limits of ports in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::TcMessage;

use super::{Kernel, OpError};
use crate::dev::{Dev, Role};
use crate::netlink::NetlinkError;
use crate::netlink::message::{Request, set_link};
use crate::observed::Observed;
use crate::op::LinkChange;
use crate::rate::message::{self, is_ingress, redirect, root};
use crate::rate::{Direction, Found, Led, Shape, Shaping};

impl Kernel {
    /// Reads the limits of all ports back.
    pub(super) fn observe_rates(&mut self, observed: &mut Observed) -> Result<(), NetlinkError> {
        let mut roots: BTreeMap<u32, Found> = BTreeMap::new();
        let mut ingress = BTreeSet::new();
        for found in self.connection.dump(message::get_qdiscs())? {
            let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = found else { continue };
            let index = qdisc.header.index.cast_unsigned();
            roots.extend(root(&qdisc).map(|root| (index, root)));
            if is_ingress(&qdisc) {
                ingress.insert(index);
            }
        }
        self.observe_diverted(&roots, observed)?;
        let shapers = self.indexes.keys().filter(|dev| dev.role() == Some(Role::Shaper));
        let shapers = shapers.filter_map(Dev::shaped);
        let devs: BTreeSet<Dev> = observed.ports.keys().cloned().chain(shapers).collect();
        observed.rates.clear();
        for dev in devs {
            let index = self.indexes.get(&dev).copied();
            let root_of = |index: Option<u32>| index.and_then(|i| roots.get(&i)).copied().unwrap_or_default();
            let inwards = root_of(index);
            let redirected = match index.filter(|i| ingress.contains(i)) {
                Some(index) => self.filters(index)?.iter().any(|(ours, _)| *ours),
                None => false,
            };
            let shaper = dev.shaper();
            let outwards = match self.indexes.get(&shaper).copied() {
                _ if observed.foreign.contains(&shaper) => Found::Foreign,
                None if redirected => Found::Damaged,
                None => Found::None,
                Some(to) => {
                    let up = self.get_link(&shaper)?.is_some_and(|link| link.link.up);
                    let filters = match index.filter(|i| ingress.contains(i)) {
                        Some(index) => self.filters(index)?,
                        None => Vec::new(),
                    };
                    let led = match filters.contains(&(true, Some(to))) {
                        true => Some(Led::ByFilter),
                        // Then by a guard, or the plan finds that it is not led at all.
                        false => Some(Led::ByGuard).filter(|_| !redirected),
                    };
                    match (root_of(Some(to)), led) {
                        (Found::Ours { rate, limit, .. }, Some(led)) if up => {
                            Found::Ours { rate, limit, led }
                        }
                        _ => Found::Damaged,
                    }
                }
            };
            let shaping = Shaping { inwards, outwards };
            if shaping != Shaping::default() {
                observed.rates.insert(dev, shaping);
            }
        }
        Ok(())
    }

    fn filters(&mut self, index: u32) -> Result<Vec<(bool, Option<u32>)>, NetlinkError> {
        let found = self.connection.dump(message::get_filters(index))?;
        let rule = |m: &RouteNetlinkMessage| match m {
            RouteNetlinkMessage::NewTrafficFilter(filter) => redirect(filter),
            _ => None,
        };
        Ok(found.iter().filter_map(rule).collect())
    }

    pub(super) fn apply_rate(
        &mut self,
        dev: &Dev,
        direction: Direction,
        shape: Option<&Shape>,
        led: Led,
    ) -> Result<(), OpError> {
        match (direction, shape) {
            (Direction::In, Some(shape)) => Ok(self.send(message::set_bucket(self.index(dev)?, shape))?),
            (Direction::In, None) => match self.index(dev) {
                Ok(index) => self.send_del(message::del_bucket(index)),
                // With the device its qdisc is gone.
                Err(_) => Ok(()),
            },
            (Direction::Out, Some(shape)) => self.limit_out(dev, shape, led),
            (Direction::Out, None) => self.unlimit_out(dev),
        }
    }

    pub(super) fn send(&mut self, (request, flags): Request) -> Result<(), NetlinkError> {
        self.connection.request(request, flags)
    }

    /// What is not there is deleted. A qdisc that is not there may also be an invalid argument.
    pub(super) fn send_del(&mut self, request: Request) -> Result<(), OpError> {
        match self.send(request) {
            Err(error) if !error.is_missing() && error.errno() != Some(libc::EINVAL) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A device with a bucket, or another bucket for it.
    pub(super) fn add_bucket(&mut self, shaper: &Dev, shape: &Shape) -> Result<(), OpError> {
        if !self.indexes.contains_key(shaper) {
            self.add_link(shaper, message::add_ifb(shaper))?;
        }
        let to = self.index(shaper)?;
        self.send(message::set_bucket(to, shape))?;
        let found = self.get_link(shaper)?.map(|found| found.link).unwrap_or_default();
        // Two messages: the kernel handles the flag before the address generation mode of the same message. None that
        // changes nothing: each is heard of, and would be taken for news.
        for (done, change) in [
            (found.addrgen_none, LinkChange { addrgen_none: true, ..LinkChange::default() }),
            (found.up, LinkChange { up: true, ..LinkChange::default() }),
        ] {
            if !done {
                self.send(set_link(to, &change, None))?;
            }
        }
        Ok(())
    }

    /// The bucket is there before anything is led to it.
    fn limit_out(&mut self, dev: &Dev, shape: &Shape, led: Led) -> Result<(), OpError> {
        let index = self.index(dev)?;
        let shaper = dev.shaper();
        self.add_bucket(&shaper, shape)?;
        let to = self.index(&shaper)?;
        if led == Led::ByGuard {
            return self.lead_no_more(index);
        }
        match self.send(message::add_ingress(index)) {
            Err(error) if !error.is_existing() => return Err(error.into()),
            _ => {}
        }
        let ours: Vec<_> = self.filters(index)?.into_iter().filter(|(ours, _)| *ours).collect();
        if ours == [(true, Some(to))] {
            return Ok(());
        }
        if !ours.is_empty() {
            self.send_del(message::del_redirect(index))?;
        }
        Ok(self.send(message::add_redirect(index, to))?)
    }

    /// Nothing is led to the device any more before it goes. What waits in it is lost.
    fn unlimit_out(&mut self, dev: &Dev) -> Result<(), OpError> {
        if let Ok(index) = self.index(dev) {
            self.lead_no_more(index)?;
        }
        self.delete_link(&dev.shaper())
    }

    fn lead_no_more(&mut self, index: u32) -> Result<(), OpError> {
        self.send_del(message::del_redirect(index))?;
        if self.filters(index)?.is_empty() {
            self.send_del(message::del_ingress(index))?;
        }
        Ok(())
    }

    /// True if a change of qdiscs or filters is on a device of ours, or where filters of ours may be.
    pub(super) fn concerns_rates(&self, message: &TcMessage) -> bool {
        let Some(dev) = self.names.get(&message.header.index.cast_unsigned()) else { return false };
        let shared = || self.indexes.keys().any(|dev| dev.role() == Some(Role::Diverter));
        matches!(dev.role(), Some(Role::Port | Role::Shaper | Role::Diverter)) || shared()
    }
}
