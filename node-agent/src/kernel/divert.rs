//! Limits of macvlans and ipvlans: filters at their parent, which others use too.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::RouteNetlinkMessage;

use super::{Kernel, OpError};
use crate::dev::{Dev, Role};
use crate::netlink::NetlinkError;
use crate::observed::Observed;
use crate::rate::filter::{self, Filter};
use crate::rate::lead::{Diverted, Lead, Side};
use crate::rate::message::{self, is_ingress};
use crate::rate::{Found, Shape};

/// What can hang at links where filters hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hanger {
    /// Filters on what comes in only.
    Ingress,
    /// Filters on both sides.
    Clsact,
}

impl Hanger {
    /// An `ingress` qdisc takes and shows filters on the other side as well, but means the one.
    fn sides(self) -> &'static [Side] {
        match self {
            Hanger::Ingress => &[Side::Ingress],
            Hanger::Clsact => &[Side::Ingress, Side::Egress],
        }
    }
}

impl Kernel {
    /// Reads limits at shared links back. `roots` are the root qdiscs by index.
    pub(super) fn observe_diverted(
        &mut self,
        roots: &BTreeMap<u32, Found>,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        observed.diverted.clear();
        observed.astray.clear();
        let shapers: Vec<(Dev, u32)> = self
            .indexes
            .iter()
            .filter(|(dev, _)| dev.role() == Some(Role::Diverter))
            .map(|(dev, index)| (dev.clone(), *index))
            .collect();
        for (shaper, index) in &shapers {
            let link = self.get_link(shaper)?;
            let bucket = match &link {
                Some(link) if !link.is_marked() => Found::Foreign,
                Some(link) if link.link.up => match roots.get(index) {
                    Some(found @ Found::Ours { .. }) => *found,
                    _ => Found::Damaged,
                },
                _ => Found::Damaged,
            };
            observed.diverted.insert(shaper.clone(), Diverted { bucket, leads: BTreeSet::new() });
        }
        let of_ports = |dev: &Dev| matches!(dev.role(), Some(Role::Port | Role::Shaper | Role::Diverter));
        let hangers = self.hangers()?;
        for (index, hanger) in hangers {
            let Some(link) = self.names.get(&index).filter(|dev| !of_ports(dev)).cloned() else { continue };
            for found in self.filters_at(index, hanger)? {
                let Filter { side, priority, to, program, .. } = found;
                let lead = Lead { link: link.clone(), side, priority, program };
                match self.names.get(&to).and_then(|shaper| observed.diverted.get_mut(shaper)) {
                    Some(diverted) => _ = diverted.leads.insert(lead),
                    None => _ = observed.astray.insert(link.clone()),
                }
            }
        }
        Ok(())
    }

    /// Links that filters hang at, or can.
    fn hangers(&mut self) -> Result<BTreeMap<u32, Hanger>, NetlinkError> {
        let mut hangers = BTreeMap::new();
        for found in self.connection.dump(message::get_qdiscs())? {
            let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = found else { continue };
            if is_ingress(&qdisc) {
                let hanger = if filter::is_clsact(&qdisc) { Hanger::Clsact } else { Hanger::Ingress };
                hangers.insert(qdisc.header.index.cast_unsigned(), hanger);
            }
        }
        Ok(hangers)
    }

    /// Filters of ours at a link.
    fn filters_at(&mut self, link: u32, hanger: Hanger) -> Result<Vec<Filter>, NetlinkError> {
        let mut found = Vec::new();
        for side in hanger.sides() {
            for message in self.connection.dump(filter::get_filters(link, *side))? {
                if let RouteNetlinkMessage::NewTrafficFilter(message) = message {
                    found.extend(filter::parse(&message, *side));
                }
            }
        }
        Ok(found)
    }

    /// The bucket is there before anything is led to it, and what leads there now before what did.
    pub(super) fn divert(
        &mut self,
        shaper: &Dev,
        shape: &Shape,
        leads: &BTreeSet<Lead>,
    ) -> Result<(), OpError> {
        let mut wanted = Vec::new();
        for lead in leads {
            wanted.push((self.index(&lead.link)?, lead));
        }
        let hangers = self.hangers()?;
        for (link, lead) in &wanted {
            if hangers.get(link).is_some_and(|hanger| !hanger.sides().contains(&lead.side)) {
                return Err(OpError::Conflict(format!(
                    "{} has an ingress qdisc that is not Causeway's, beside which what goes out cannot be limited: replace \
                     it by clsact, or delete it",
                    lead.link
                )));
            }
        }
        self.add_bucket(shaper, shape)?;
        let to = self.index(shaper)?;
        for (link, lead) in &wanted {
            let hanger = hangers.get(link).copied();
            if hanger.is_none() {
                match self.send(filter::add_clsact(*link)) {
                    Err(error) if !error.is_existing() => return Err(error.into()),
                    _ => {}
                }
            }
            let same = |f: &Filter| is(f, *link, lead) && f.to == to;
            if !self.filters_at(*link, hanger.unwrap_or(Hanger::Clsact))?.iter().any(same) {
                self.send(filter::add_filter(*link, lead.side, lead.priority, &lead.program, to))?;
            }
        }
        let keep = |f: &Filter| f.to != to || wanted.iter().any(|(link, lead)| is(f, *link, lead));
        self.remove_filters(&hangers, keep)
    }

    /// Takes filters away that `keep` does not want, and what they hung at if nothing else hangs there.
    fn remove_filters(
        &mut self,
        hangers: &BTreeMap<u32, Hanger>,
        keep: impl Fn(&Filter) -> bool,
    ) -> Result<(), OpError> {
        for (link, hanger) in hangers {
            let found = self.filters_at(*link, *hanger)?;
            let gone: Vec<Filter> = found.into_iter().filter(|f| !keep(f)).collect();
            for found in &gone {
                self.send_del(filter::del_filter(found))?;
            }
            if !gone.is_empty() && self.is_bare(*link, *hanger)? {
                self.send_del(message::del_ingress(*link))?;
            }
        }
        Ok(())
    }

    /// True if nobody's filters hang at a link.
    fn is_bare(&mut self, link: u32, hanger: Hanger) -> Result<bool, NetlinkError> {
        for side in hanger.sides() {
            if !self.connection.dump(filter::get_filters(link, *side))?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Leads nothing to a device any more, before it goes.
    pub(super) fn divert_no_more(&mut self, shaper: &Dev) -> Result<(), OpError> {
        let Some(to) = self.indexes.get(shaper).copied() else { return Ok(()) };
        let hangers = self.hangers()?;
        self.remove_filters(&hangers, |f| f.to != to)
    }

    /// Takes filters away that lead to devices that are gone: they would swallow frames.
    pub(super) fn remove_astray(&mut self, link: &Dev) -> Result<(), OpError> {
        let index = self.index(link)?;
        let hangers: BTreeMap<u32, Hanger> =
            self.hangers()?.into_iter().filter(|(link, _)| *link == index).collect();
        let there: BTreeSet<u32> = self.dump_links()?.iter().map(|l| l.index).collect();
        self.remove_filters(&hangers, |f| there.contains(&f.to))
    }
}

fn is(found: &Filter, link: u32, lead: &Lead) -> bool {
    (found.link, found.side, found.priority, &found.program)
        == (link, lead.side, lead.priority, &lead.program)
}
