//! What the owner task does when a peer's task tells it something: sessions, received routes, graceful restart.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::neighbour::Session;
use super::{Owner, now};
use crate::codec::Refresh;
use crate::codec::update::{Notes, Update};
use crate::connection::{End, Graceful};
use crate::fsm::Agreed;
use crate::peer::{FromPeer, PeerId};
use crate::rib_out::{Desired, OutQueue};
use crate::route::RouteChange;
use crate::speaker::{Event, PeerCounters, Ticket};

/// How long routes kept over a restart wait for the peer's End-of-RIB once it is back, and routes under refresh for its
/// end (RFC 4724 §4.2, RFC 7313 §4).
const STALE: Duration = Duration::from_secs(300);
/// At most one refresh per peer in this time.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);
/// How soon to look again for room in a peer's channel.
const TICK: Duration = Duration::from_millis(100);
/// How long a peer may take to tell what it wants (RFC 4684 §6), and one that does not say where its table ends.
const ASKING: Duration = Duration::from_secs(60);
const ASKING_WITHOUT_END: Duration = Duration::from_secs(3);

impl Owner {
    pub(super) fn heard(&mut self, id: PeerId, message: FromPeer) {
        let Some(neighbour) = self.neighbours.get_mut(&id.address).filter(|n| n.id == id) else { return };
        match message {
            FromPeer::State(state) => {
                neighbour.state = state;
                neighbour.since = now();
            }
            FromPeer::Failed(reason) => {
                tracing::debug!(peer = %id.address, reason, "BGP connection failed");
                neighbour.last_error = Some(reason);
            }
            FromPeer::Up { session, agreed, local } => self.up(id, session, agreed, local),
            FromPeer::Updates { updates } => {
                for update in updates {
                    self.update(id, update);
                }
            }
            FromPeer::Refresh(refresh) => self.refresh(id, refresh),
            FromPeer::Written { session } => {
                let Some(session) = neighbour.session.as_mut().filter(|s| s.number == session) else {
                    return;
                };
                if let Some(flight) = session.in_flight.pop_front() {
                    session.sent = flight.ticket.or(session.sent);
                    session.end_of_rib_out |= flight.end_of_rib;
                    session.refreshing &= !flight.refresh_end;
                }
                self.report();
            }
            FromPeer::Down { end } => self.down(id, end),
        }
    }

    fn up(&mut self, id: PeerId, number: u64, agreed: Box<Agreed>, local: Option<IpAddr>) {
        let peer = id.address;
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        tracing::info!(%peer, router_id = %agreed.router_id, asn = agreed.asn, "BGP session up");
        let at = Instant::now();
        let (mut queue, mut asking) = (OutQueue::full(&self.desired, self.ticket), None);
        if agreed.constraint {
            // A peer with graceful restart says when it has told everything; only for such a one End-of-RIB matters.
            let patience = if agreed.peer_graceful { ASKING } else { ASKING_WITHOUT_END };
            (queue, asking) = (OutQueue::constrained(self.ticket), Some(at + patience));
        } else if self.synced {
            queue.end_of_rib();
        }
        let kept_forwarding = agreed.restart.is_some_and(|restart| restart.forwarding);
        let mut session = Session::new(number, agreed, local, &self.config, &neighbour.config, queue, at);
        session.asking = asking;
        neighbour.session = Some(session);
        neighbour.counters.established += 1;
        neighbour.last_error = None;
        self.outbox.event(peer, Event::PeerUp { peer });
        if self.rib_in.count(peer).1 > 0 {
            if kept_forwarding {
                neighbour.stale_until = Some(at + STALE);
            } else {
                // It has forgotten: so do we (RFC 4724 §4.2).
                self.sweep(id);
            }
        }
    }

    fn update(&mut self, id: PeerId, mut update: Update) {
        let peer = id.address;
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        count(&mut neighbour.counters, &update);
        let notes = std::mem::take(&mut update.notes);
        if let Some((attribute, routes)) = notes.treated_as_withdrawn {
            tracing::warn!(%peer, attribute, routes, "UPDATE with a malformed attribute: its routes are withdrawn");
        }
        if let Some(session) = &mut neighbour.session {
            session.queue.asked(&update.memberships);
            if update.memberships.complete {
                session.has_asked(&self.desired, self.ticket, self.synced);
            }
        }
        let end_of_rib = update.end_of_rib;
        let changes = self.rib_in.apply(peer, update, now());
        self.outbox.changes(peer, changes);
        if end_of_rib {
            let first =
                neighbour.session.as_mut().is_some_and(|s| !std::mem::replace(&mut s.end_of_rib_in, true));
            self.sweep(id);
            if first {
                self.outbox.event(peer, Event::EndOfRib { peer });
            }
        }
    }

    fn refresh(&mut self, id: PeerId, refresh: Refresh) {
        let Some(neighbour) = self.neighbours.get_mut(&id.address) else { return };
        match refresh {
            Refresh::Request => {
                neighbour.counters.refreshes_in += 1;
                if let Some(session) = &mut neighbour.session {
                    session.refresh_wanted = true;
                }
                self.on_time(Instant::now());
            }
            Refresh::Begin => {
                self.rib_in.mark_stale(id.address);
                neighbour.stale_until = Some(Instant::now() + STALE);
            }
            Refresh::End => self.sweep(id),
        }
    }

    fn down(&mut self, id: PeerId, end: End) {
        let peer = id.address;
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        let Some(session) = neighbour.session.take() else { return };
        tracing::info!(%peer, reason = end.reason, "BGP session down");
        neighbour.last_error = Some(end.reason.clone());
        let allowed = match end.graceful {
            Graceful::Always => true,
            Graceful::WithNotification => session.agreed.notification_graceful,
            Graceful::Never => false,
        };
        let keep =
            session.agreed.restart.map(|restart| restart.time).filter(|time| allowed && !time.is_zero());
        self.outbox.event(peer, Event::PeerDown { peer, reason: end.reason });
        if let Some(time) = keep {
            self.rib_in.mark_stale(peer);
            neighbour.stale_until = Some(Instant::now() + time);
        } else {
            neighbour.stale_until = None;
            let keys = self.rib_in.clear(peer);
            self.outbox.changes(peer, keys.into_iter().map(RouteChange::Withdraw).collect());
        }
        self.report();
    }

    /// Drops a peer's routes that were not confirmed.
    fn sweep(&mut self, id: PeerId) {
        let peer = id.address;
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.stale_until = None;
        }
        let keys = self.rib_in.sweep(peer);
        if keys.is_empty() {
            return;
        }
        let routes = keys.len();
        self.outbox.changes(peer, keys.into_iter().map(RouteChange::Withdraw).collect());
        self.outbox.event(peer, Event::StaleSwept { peer, routes });
    }

    /// When [`Owner::on_time`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let neighbours = self.neighbours.values();
        let stale = neighbours.clone().filter_map(|n| n.stale_until);
        let sessions = neighbours.filter_map(|n| n.session.as_ref());
        let refresh =
            sessions.clone().filter(|s| s.refresh_wanted && !s.refreshing).map(|s| s.refresh_not_before);
        // A full channel: nobody tells when there is room again.
        let blocked = sessions.clone().filter(|s| s.in_flight.is_empty() && s.has_something(&self.interest));
        let blocked = blocked.map(|_| Instant::now() + TICK);
        stale.chain(refresh).chain(blocked).chain(sessions.filter_map(|s| s.asking)).min()
    }

    pub(super) fn on_time(&mut self, at: Instant) {
        let expired: Vec<PeerId> = self
            .neighbours
            .values()
            .filter(|n| n.stale_until.is_some_and(|until| until <= at))
            .map(|n| n.id)
            .collect();
        for id in expired {
            self.sweep(id);
        }
        for session in self.neighbours.values_mut().filter_map(|n| n.session.as_mut()) {
            if session.asking.is_some_and(|until| until <= at) {
                session.has_asked(&self.desired, self.ticket, self.synced);
            }
            if session.refresh_wanted && !session.refreshing && session.refresh_not_before <= at {
                session.refresh_wanted = false;
                session.refresh_not_before = at + REFRESH_PAUSE;
                session.refreshing = session.agreed.enhanced_refresh;
                session.queue.refresh(&self.desired, session.agreed.enhanced_refresh);
            }
        }
    }

    /// Gives every session the chunks it has credit for.
    pub(super) fn pump(&mut self) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.pump(&self.desired, &self.interest);
        }
        self.report();
    }

    /// Reports the ticket that all Established sessions have reached.
    pub(super) fn report(&mut self) {
        let reached: Option<Option<Ticket>> =
            self.neighbours.values().filter_map(|n| n.session.as_ref()).map(Session::sent).min();
        if let Some(Some(ticket)) = reached
            && self.reported.is_none_or(|last| last < ticket)
        {
            self.reported = Some(ticket);
            self.outbox.sent(ticket);
        }
    }
}

impl Session {
    /// Everything the peer asked for is written up to this ticket. Nothing is while it may still be asking.
    fn sent(&self) -> Option<Ticket> {
        self.sent.filter(|_| self.asking.is_none())
    }

    /// The peer has told what it wants, or had time enough: what it gets is complete now.
    fn has_asked(&mut self, desired: &Desired, ticket: Ticket, synced: bool) {
        if self.asking.take().is_none() {
            return;
        }
        self.queue.constrain(desired);
        // Sent is what comes behind this, not what went out before it was asked for.
        self.sent = None;
        self.queue.extend(&[], ticket);
        if synced {
            self.queue.end_of_rib();
        }
    }
}

fn count(counters: &mut PeerCounters, update: &Update) {
    counters.updates_in += 1;
    for route in &update.announced {
        *counters.announced_in.entry(route.key.route_type()).or_default() += 1;
    }
    for key in &update.withdrawn {
        *counters.withdrawn_in.entry(key.route_type()).or_default() += 1;
    }
    let Notes { treated_as_withdrawn, discarded, unknown, unusable, missing_local_pref, loops } =
        &update.notes;
    if let Some((attribute, routes)) = treated_as_withdrawn {
        *counters.treat_as_withdraw.entry(*attribute).or_default() += routes;
    }
    for attribute in discarded {
        *counters.attribute_discard.entry(*attribute).or_default() += 1;
    }
    for (kind, routes) in unknown {
        *counters.unknown_types.entry(*kind).or_default() += routes;
    }
    for kind in unusable {
        *counters.unusable.entry(*kind).or_default() += 1;
    }
    counters.missing_local_pref += u64::from(*missing_local_pref);
    counters.loops += loops;
}
