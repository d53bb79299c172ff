//! The routes to be announced, and what each session has still to be told of them. Pure.
//!
//! A session's queue holds places of routes, not changes: what is sent is the state at the time of sending. So a change
//! that is overtaken by another is never sent, and a peer that reads slowly costs four bytes a route, no more.

use std::collections::{HashMap, VecDeque};

use crate::codec::encode::Writing;
use crate::codec::pack::Packed;
use crate::codec::{self, Refresh};
use crate::constraint::{MembershipChanges, Wanted};
use crate::route::RouteKey;
use crate::speaker::Ticket;

mod desired;

pub(crate) use desired::Desired;

/// Routes in one chunk at most: some 350 kB.
const CHUNK: usize = 8192;

/// Something that is to happen when all changes queued before it have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Ticket(Ticket),
    EndOfRib,
    Refresh(Refresh),
}

/// Ready-made messages.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) octets: Vec<u8>,
    pub(crate) messages: u64,
    /// Everything up to it is sent once this chunk is.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) end_of_rib: bool,
    pub(crate) refresh_end: bool,
    /// Announcements that fit no message.
    pub(crate) unsendable: u64,
}

/// One bit per place.
#[derive(Debug, Default)]
struct Places(Vec<u64>);

impl Places {
    fn contains(&self, place: u32) -> bool {
        self.0.get((place / 64) as usize).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    /// True if it was not there.
    fn insert(&mut self, place: u32) -> bool {
        let (word, bit) = ((place / 64) as usize, 1 << (place % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// True if it was there.
    fn remove(&mut self, place: u32) -> bool {
        let there = self.contains(place);
        if there {
            self.0[(place / 64) as usize] &= !(1 << (place % 64));
        }
        there
    }
}

/// What a peer with route target constraint wants, and has.
#[derive(Debug, Default)]
struct Constraint {
    wanted: Wanted,
    /// It wants something else than when the queue was filled last.
    changed: bool,
    told: Places,
    count: usize,
}

/// What a session has still to be told.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    places: VecDeque<u32>,
    /// Those in `places`.
    queued: Places,
    /// `None`: the peer gets everything.
    constraint: Option<Constraint>,
    taken: u64,
    /// In order, with the number of places taken when it is due.
    markers: VecDeque<(u64, Marker)>,
}

impl OutQueue {
    /// For a session that has just come up: everything is to be told.
    pub(crate) fn full(desired: &Desired, ticket: Ticket) -> Self {
        let mut queue = OutQueue::default();
        for place in desired.places() {
            queue.push(place);
        }
        queue.mark(Marker::Ticket(ticket));
        queue
    }

    /// For a session that has just come up with route target constraint: nothing is to be told yet.
    pub(crate) fn constrained(ticket: Ticket) -> Self {
        let mut queue = OutQueue { constraint: Some(Constraint::default()), ..OutQueue::default() };
        queue.mark(Marker::Ticket(ticket));
        queue
    }

    /// The peer asks for other routes than before; what follows is queued by [`OutQueue::constrain`].
    pub(crate) fn asked(&mut self, changes: &MembershipChanges) {
        if let Some(constraint) = &mut self.constraint {
            constraint.changed |= constraint.wanted.apply(changes);
        }
    }

    /// Queues what the peer now gets and no longer gets, if it has changed its mind. Looks at every route: once for many
    /// changes.
    pub(crate) fn constrain(&mut self, desired: &Desired) {
        let Some(mut constraint) = self.constraint.take() else { return };
        if std::mem::take(&mut constraint.changed) {
            let wanted: HashMap<u32, bool> = desired
                .groups
                .iter()
                .filter_map(|(group, _)| u32::try_from(group).ok())
                .map(|group| (group, constraint.wants(desired, group)))
                .collect();
            for (slot, place) in desired.routes.values().zip(0..) {
                let wanted = wanted.get(&slot.group).is_some_and(|wanted| *wanted);
                if wanted != constraint.told.contains(place) {
                    self.push(place);
                }
            }
        }
        self.constraint = Some(constraint);
    }

    /// Follows [`Desired::compact`].
    pub(crate) fn compacted(&mut self, left: &[u32]) {
        let Some(constraint) = &mut self.constraint else { return };
        let old = std::mem::take(&mut constraint.told);
        for (place, _) in (0..).zip(left).filter(|(_, former)| old.contains(**former)) {
            constraint.told.insert(place);
        }
    }

    /// How many routes the peer has been told of, as far as it asked for them.
    pub(crate) fn told(&self, desired: &Desired) -> usize {
        match &self.constraint {
            Some(constraint) => constraint.count,
            None => desired.len().saturating_sub(self.waiting()),
        }
    }

    /// How many memberships the peer has announced; `None`: no route target constraint.
    pub(crate) fn memberships(&self) -> Option<usize> {
        self.constraint.as_ref().map(|constraint| constraint.wanted.len())
    }

    /// Whether the peer has the route as it is now.
    pub(crate) fn has(&self, desired: &Desired, key: &RouteKey) -> bool {
        desired.place(key).is_some_and(|place| {
            !self.queued.contains(place) && self.constraint.as_ref().is_none_or(|c| c.told.contains(place))
        })
    }

    /// How many changes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.places.len()
    }

    /// Nothing to send, not even a marker.
    pub(crate) fn is_done(&self) -> bool {
        self.places.is_empty() && self.markers.is_empty()
    }

    /// Queues changed places.
    pub(crate) fn extend(&mut self, places: &[u32], ticket: Ticket) {
        for &place in places {
            self.push(place);
        }
        self.mark(Marker::Ticket(ticket));
    }

    /// Queues End-of-RIB behind all that waits now.
    pub(crate) fn end_of_rib(&mut self) {
        self.mark(Marker::EndOfRib);
    }

    /// Queues everything again, between the messages that frame a refresh if the peer knows them (RFC 7313). What waits
    /// already moves behind the beginning: announced before it, it would count as not confirmed.
    pub(crate) fn refresh(&mut self, desired: &Desired, framed: bool) {
        let withdrawals: Vec<u32> = self
            .places
            .drain(..)
            .filter(|&place| desired.at(place).is_some_and(|(_, group)| group.is_none()))
            .collect();
        self.queued = Places::default();
        let waiting: Vec<Marker> = self.markers.drain(..).map(|(_, marker)| marker).collect();
        if framed {
            self.mark(Marker::Refresh(Refresh::Begin));
        }
        for place in desired.places().into_iter().chain(withdrawals) {
            self.push(place);
        }
        if framed {
            self.mark(Marker::Refresh(Refresh::End));
        }
        for marker in waiting {
            if !matches!(marker, Marker::Refresh(_)) {
                self.mark(marker);
            }
        }
    }

    fn push(&mut self, place: u32) {
        if self.queued.insert(place) {
            self.places.push_back(place);
        }
    }

    fn mark(&mut self, marker: Marker) {
        let due = self.taken + self.places.len() as u64;
        if let (Marker::Ticket(_), Some((at, last @ Marker::Ticket(_)))) = (marker, self.markers.back_mut())
            && *at == due
        {
            *last = marker;
            return;
        }
        self.markers.push_back((due, marker));
    }

    /// Takes the next chunk: announcements first, then withdrawals, then the markers that have become due.
    pub(crate) fn take(&mut self, desired: &Desired, writing: &Writing) -> Chunk {
        // A message of its own stands between what is before and what is behind it.
        let barrier = self.markers.iter().find(|(_, marker)| !matches!(marker, Marker::Ticket(_)));
        let room = barrier.map_or(u64::MAX, |(due, _)| due - self.taken);
        let count = self.places.len().min(CHUNK).min(usize::try_from(room).unwrap_or(usize::MAX));
        let mut announce = Vec::with_capacity(count);
        let mut withdraw = Vec::new();
        for place in self.places.drain(..count) {
            self.queued.remove(place);
            let Some((key, group)) = desired.at(place) else { continue };
            let act = match &mut self.constraint {
                Some(constraint) => constraint.act(desired, place, group),
                None => group.map_or(Act::Withdraw, Act::Announce),
            };
            match act {
                Act::Announce(group) => announce.push((group, key)),
                Act::Withdraw => withdraw.push(key),
                Act::Nothing => {}
            }
        }
        self.taken += count as u64;
        announce.sort_by_key(|(group, _)| *group);

        let mut chunk = Chunk::default();
        let mut packed = Packed::new();
        for routes in announce.chunk_by(|a, b| a.0 == b.0) {
            let Some(group) = routes.first().and_then(|(group, _)| desired.groups.get(*group as usize))
            else {
                continue;
            };
            let keys = routes.iter().map(|(_, key)| *key);
            chunk.unsendable += packed.announce(&group.attributes, keys, writing);
        }
        packed.withdraw(withdraw.into_iter(), writing);
        self.take_markers(&mut chunk, &mut packed);
        chunk.messages = packed.messages;
        chunk.octets = packed.octets;
        chunk
    }

    fn take_markers(&mut self, chunk: &mut Chunk, packed: &mut Packed) {
        while let Some((due, marker)) = self.markers.front().copied()
            && due <= self.taken
        {
            self.markers.pop_front();
            match marker {
                Marker::Ticket(ticket) => chunk.ticket = Some(ticket),
                Marker::EndOfRib => {
                    packed.message(&codec::end_of_rib());
                    chunk.end_of_rib = true;
                }
                Marker::Refresh(kind) => {
                    packed.message(&codec::refresh(kind));
                    chunk.refresh_end |= kind == Refresh::End;
                }
            }
        }
    }
}

/// What to say of a place.
enum Act {
    Announce(u32),
    Withdraw,
    Nothing,
}

impl Constraint {
    fn wants(&self, desired: &Desired, group: u32) -> bool {
        let group = desired.groups.get(group as usize);
        group.is_some_and(|group| self.wanted.wants(&group.attributes.route_targets))
    }

    /// Decides, and notes it as said.
    fn act(&mut self, desired: &Desired, place: u32, group: Option<u32>) -> Act {
        match group.filter(|group| self.wants(desired, *group)) {
            Some(group) => {
                self.count += usize::from(self.told.insert(place));
                Act::Announce(group)
            }
            None if self.told.remove(place) => {
                self.count -= 1;
                Act::Withdraw
            }
            None => Act::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
