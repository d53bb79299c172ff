//! A configured peer as the owner task sees it: its task, its session, its counters.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::codec::encode::Writing;
use crate::codec::pack::Packed;
use crate::codec::{self, Notification};
use crate::config::{PeerConfig, SpeakerConfig};
use crate::constraint::Membership;
use crate::fsm::Agreed;
use crate::peer::{Channels, Inbox, Meters, PeerId, PeerTask, ToPeer};
use crate::rib_in::RibIn;
use crate::rib_out::{Desired, OutQueue};
use crate::speaker::{PeerCounters, PeerState, SessionState, Ticket};

/// Chunks that may be on their way to the kernel: one is written while the next one is made.
pub(super) const CREDIT: usize = 2;
/// Commands and accepted connections that may wait for a peer's task; more are refused.
const WAITING: usize = 16;

/// A chunk on its way.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) ticket: Option<Ticket>,
    pub(super) end_of_rib: bool,
    pub(super) refresh_end: bool,
}

/// An Established session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) agreed: Box<Agreed>,
    pub(super) writing: Writing,
    pub(super) queue: OutQueue,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Everything up to it is written.
    pub(super) sent: Option<Ticket>,
    pub(super) updates_out: u64,
    pub(super) end_of_rib_in: bool,
    pub(super) end_of_rib_out: bool,
    /// A refresh is being sent.
    pub(super) refreshing: bool,
    /// Another one was asked for since; not before this time.
    pub(super) refresh_wanted: bool,
    pub(super) refresh_not_before: Instant,
    /// Until when the peer's memberships are waited for; `None`: it has told them all, or none are agreed on.
    pub(super) asking: Option<Instant>,
    /// What we have asked the peer for; `None`: nothing yet.
    asked: Option<Arc<BTreeSet<Membership>>>,
    /// Our address, the next hop of memberships.
    local: IpAddr,
}

/// A configured peer.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) id: PeerId,
    pub(super) config: PeerConfig,
    to: mpsc::Sender<ToPeer>,
    streams: mpsc::Sender<TcpStream>,
    stop: oneshot::Sender<Option<Notification>>,
    task: JoinHandle<()>,
    meters: Arc<Meters>,
    pub(super) state: SessionState,
    pub(super) since: SystemTime,
    pub(super) last_error: Option<String>,
    pub(super) counters: PeerCounters,
    pub(super) session: Option<Session>,
    /// When routes kept over a restart, or not confirmed by a refresh, are dropped.
    pub(super) stale_until: Option<Instant>,
}

impl Neighbour {
    /// Starts the peer's task.
    pub(super) fn start(id: PeerId, speaker: &Arc<SpeakerConfig>, config: PeerConfig, owner: Inbox) -> Self {
        let (to, commands) = mpsc::channel(WAITING);
        let (streams, accepted) = mpsc::channel(WAITING);
        let (stop, stopped) = oneshot::channel();
        let meters = Arc::new(Meters::default());
        let channels = Channels { commands, accepted, owner };
        let task = PeerTask::new(id, Arc::clone(speaker), config.clone(), channels, Arc::clone(&meters));
        Neighbour {
            id,
            config,
            to,
            streams,
            stop,
            task: tokio::spawn(task.run(stopped)),
            meters,
            state: SessionState::Idle,
            since: super::now(),
            last_error: None,
            counters: PeerCounters::default(),
            session: None,
            stale_until: None,
        }
    }

    /// What to say at the end. `flush`: the peer is to forget our routes, which takes a hard reset where a NOTIFICATION
    /// alone would leave them (RFC 8538 §3).
    pub(super) fn goodbye(&self, cease: Notification, flush: bool) -> Notification {
        let kept = self.session.as_ref().is_some_and(|s| s.agreed.notification_graceful);
        if flush && kept { Notification::hard_reset(cease) } else { cease }
    }

    /// Ends the task, with last words or without a word.
    pub(super) fn stop(self, words: Option<Notification>) -> impl Future<Output = ()> + Send + 'static {
        // A task that is over needs no stop.
        self.stop.send(words).ok();
        let task = self.task;
        async move {
            if let Err(error) = task.await {
                tracing::error!(%error, "task of a BGP peer");
            }
        }
    }

    pub(super) fn reset(&self, notification: &Notification) {
        // A full channel is full of resets.
        self.to.try_send(ToPeer::Reset(notification.clone())).ok();
    }

    pub(super) fn request_refresh(&self) -> bool {
        let Some(session) = self.session.as_ref().filter(|s| s.agreed.refresh) else { return false };
        self.to.try_send(ToPeer::RequestRefresh { session: session.number }).is_ok()
    }

    pub(super) fn accepted(&self, stream: TcpStream) {
        if self.streams.try_send(stream).is_err() {
            tracing::debug!(peer = %self.id.address, "too many connections at once, one is refused");
        }
    }

    /// Makes and hands over chunks as long as there is credit.
    pub(super) fn pump(&mut self, desired: &Desired, interest: &Arc<BTreeSet<Membership>>) {
        let Some(session) = &mut self.session else { return };
        session.queue.constrain(desired);
        while session.in_flight.len() < CREDIT && session.has_something(interest) {
            let Ok(permit) = self.to.try_reserve() else { return };
            // Before any route: the peer may wait for it (RFC 4684 §6).
            if let Some(packed) = session.ask(interest) {
                self.counters.updates_out += packed.messages;
                permit.send(ToPeer::Chunk {
                    session: session.number,
                    octets: packed.octets.into(),
                    messages: packed.messages,
                });
                session.in_flight.push_back(InFlight { ticket: None, end_of_rib: false, refresh_end: false });
                continue;
            }
            let chunk = session.queue.take(desired, &session.writing);
            self.counters.unsendable += chunk.unsendable;
            let flight = InFlight {
                ticket: chunk.ticket,
                end_of_rib: chunk.end_of_rib,
                refresh_end: chunk.refresh_end,
            };
            if chunk.octets.is_empty() {
                // Nothing to write: it is sent when what is on its way is.
                match session.in_flight.back_mut() {
                    Some(last) => last.ticket = flight.ticket.or(last.ticket),
                    None => session.sent = flight.ticket.or(session.sent),
                }
                continue;
            }
            session.updates_out += chunk.messages;
            self.counters.updates_out += chunk.messages;
            permit.send(ToPeer::Chunk {
                session: session.number,
                octets: chunk.octets.into(),
                messages: chunk.messages,
            });
            session.in_flight.push_back(flight);
        }
    }

    /// For people.
    pub(super) fn show(&self, rib_in: &RibIn, desired: &Desired) -> PeerState {
        let (routes_in, routes_stale) = rib_in.count(self.config.address);
        let session = self.session.as_ref();
        let mut counters = self.counters.clone();
        counters.messages_in = self.meters.messages_in.load(Ordering::Relaxed);
        counters.messages_out = self.meters.messages_out.load(Ordering::Relaxed);
        let queue = session.map_or(0, |s| s.queue.waiting());
        PeerState {
            address: self.config.address,
            asn: self.config.asn,
            state: self.state,
            since: self.since,
            last_error: self.last_error.clone(),
            router_id: session.map(|s| s.agreed.router_id),
            hold_time: session.map(|s| s.agreed.hold_time),
            capabilities: session.map(|s| capabilities(&s.agreed)).unwrap_or_default(),
            routes_in,
            routes_stale,
            routes_out: session.map_or(0, |s| s.queue.told(desired)),
            memberships: session.and_then(|s| s.queue.memberships()),
            queue,
            end_of_rib_in: session.is_some_and(|s| s.end_of_rib_in),
            end_of_rib_out: session.is_some_and(|s| s.end_of_rib_out),
            counters,
        }
    }
}

impl Session {
    pub(super) fn new(
        number: u64,
        agreed: Box<Agreed>,
        local: Option<IpAddr>,
        speaker: &SpeakerConfig,
        peer: &PeerConfig,
        queue: OutQueue,
        now: Instant,
    ) -> Self {
        let limit = if agreed.extended_message { codec::EXTENDED_LIMIT } else { codec::STANDARD_LIMIT };
        let writing = Writing {
            limit,
            ibgp: speaker.asn == peer.asn,
            own_as: speaker.asn,
            four_octet_as: agreed.four_octet_as,
        };
        Session {
            number,
            agreed,
            writing,
            queue,
            in_flight: VecDeque::new(),
            sent: None,
            updates_out: 0,
            end_of_rib_in: false,
            end_of_rib_out: false,
            refreshing: false,
            refresh_wanted: false,
            refresh_not_before: now,
            asking: None,
            asked: None,
            local: local.filter(is_routed).unwrap_or(IpAddr::V4(speaker.router_id)),
        }
    }

    /// Whether there is something to send.
    pub(super) fn has_something(&self, interest: &Arc<BTreeSet<Membership>>) -> bool {
        !self.queue.is_done() || self.must_ask(interest)
    }

    fn must_ask(&self, interest: &Arc<BTreeSet<Membership>>) -> bool {
        self.agreed.constraint && self.asked.as_ref() != Some(interest)
    }

    /// The messages that turn what we have asked for into what we want, if there is a difference.
    fn ask(&mut self, interest: &Arc<BTreeSet<Membership>>) -> Option<Packed> {
        if !self.must_ask(interest) {
            return None;
        }
        let mut packed = Packed::new();
        let first = self.asked.is_none();
        let before = self.asked.replace(Arc::clone(interest)).unwrap_or_default();
        // In this order: GoBGP 4.8 answers a withdrawn membership with withdrawals of routes that another one covers.
        packed.ask_no_more(before.difference(interest), &self.writing);
        packed.ask(interest.difference(&before), self.local, &self.writing);
        if first {
            packed.message(&codec::end_of_memberships());
        }
        Some(packed)
    }
}

/// Whether other routers can have a route to it.
fn is_routed(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

fn capabilities(agreed: &Agreed) -> Vec<&'static str> {
    [
        ("four-octet-as", agreed.four_octet_as),
        ("extended-message", agreed.extended_message),
        ("route-refresh", agreed.refresh),
        ("enhanced-route-refresh", agreed.enhanced_refresh),
        ("graceful-restart", agreed.peer_graceful),
        ("graceful-notification", agreed.notification_graceful),
        ("route-target-constraint", agreed.constraint),
    ]
    .into_iter()
    .filter_map(|(name, agreed)| agreed.then_some(name))
    .collect()
}
