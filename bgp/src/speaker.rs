//! The handle through which an owner drives the speaker, and what it gets back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use causeway_proto::{Mac, Vni};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{PeerConfig, SpeakerConfig};
use crate::constraint::Interest;
use crate::owner::{Command, Owner};
use crate::route::{Route, RouteChange, RouteKey};
use crate::transport::Listeners;

/// Commands and events that may wait in a channel; a full one makes the sender wait, nothing is lost.
const CHANNEL: usize = 64;

/// Why a speaker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The address to accept connections on could not be bound.
    #[error("listen for BGP on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The speaker's own configuration is not usable.
    #[error("speaker {field}: {reason}")]
    Config {
        /// Name of the field of [`SpeakerConfig`].
        field: &'static str,
        /// Why its value is refused.
        reason: &'static str,
    },
}

/// Position in the stream of desired changes: grows with every [`Speaker::update`] and [`Speaker::replace`].
/// [`Event::Sent`] reports how far the peers have been told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the speaker tells its owner, in order. The channel is bounded and nothing is ever lost: while the owner is
/// slow, changes of one peer's route replace each other, so that what waits is bounded by the number of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session is Established.
    PeerUp {
        /// Whose.
        peer: IpAddr,
    },
    /// A session is no longer Established. Routes that go with it are withdrawn by [`Event::Received`], now or, under
    /// graceful restart, when they are swept: there is nothing to clean up on this event.
    PeerDown {
        /// Whose.
        peer: IpAddr,
        /// In words for people.
        reason: String,
    },
    /// The peer announced or withdrew routes, or they were withdrawn by us as its session ended. Never empty.
    Received {
        /// Who.
        peer: IpAddr,
        /// At most one change per route.
        changes: Vec<RouteChange>,
    },
    /// The peer has sent its whole table for the first time in this session.
    EndOfRib {
        /// Who.
        peer: IpAddr,
    },
    /// Routes kept over a peer's restart were not confirmed and are gone; their withdrawals come as [`Event::Received`].
    StaleSwept {
        /// Whose.
        peer: IpAddr,
        /// How many.
        routes: usize,
    },
    /// Every peer that is Established now has had all changes up to this ticket written to its TCP connection. Grows.
    /// Not sent while no peer is Established: a change nobody was told of is not "sent"; the first peer to come up and
    /// take the table makes up for it.
    Sent(Ticket),
}

/// State of a session (RFC 4271 §8.2.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// Waiting before the next attempt.
    #[default]
    Idle,
    /// Connecting.
    Connect,
    /// Waiting for the peer to connect, or for the next attempt.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN received and accepted, KEEPALIVE sent.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

/// A peer as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Its address.
    pub address: IpAddr,
    /// Its AS number as configured.
    pub asn: u32,
    /// The session's state; of two connections in a collision the more advanced one's.
    pub state: SessionState,
    /// Since when.
    pub since: SystemTime,
    /// Why the last session or attempt ended.
    pub last_error: Option<String>,
    /// BGP identifier, while Established.
    pub router_id: Option<Ipv4Addr>,
    /// Hold time agreed, while Established.
    pub hold_time: Option<Duration>,
    /// What both sides agreed on, in words ("graceful-restart", "extended-message", …), while Established.
    pub capabilities: Vec<&'static str>,
    /// Routes it has announced, stale ones included.
    pub routes_in: usize,
    /// Those kept from before its restart and not confirmed yet.
    pub routes_stale: usize,
    /// Routes we have told it, while Established.
    pub routes_out: usize,
    /// Memberships it has announced: what it asks for (RFC 4684). `None`: it gets everything, or is not Established.
    pub memberships: Option<usize>,
    /// Changes it has still to be told.
    pub queue: usize,
    /// True once it has sent its whole table in this session.
    pub end_of_rib_in: bool,
    /// True once it has been sent our whole table in this session.
    pub end_of_rib_out: bool,
    /// Counters since the peer was configured.
    pub counters: PeerCounters,
}

/// Counters of a peer, since it was configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Times the session became Established.
    pub established: u64,
    /// Messages received, all types.
    pub messages_in: u64,
    /// Messages sent, all types.
    pub messages_out: u64,
    /// UPDATEs received.
    pub updates_in: u64,
    /// UPDATEs sent.
    pub updates_out: u64,
    /// Announcements received by route type.
    pub announced_in: BTreeMap<u8, u64>,
    /// Withdrawals received by route type.
    pub withdrawn_in: BTreeMap<u8, u64>,
    /// Routes treated as withdrawn for a malformed attribute (RFC 7606), by attribute type; 0: its header was cut.
    pub treat_as_withdraw: BTreeMap<u8, u64>,
    /// Attributes discarded as malformed, by attribute type.
    pub attribute_discard: BTreeMap<u8, u64>,
    /// Routes ignored because their type is not ours, by type.
    pub unknown_types: BTreeMap<u8, u64>,
    /// Routes ignored because they are not usable, such as a type 3 without a PMSI tunnel, by type.
    pub unusable: BTreeMap<u8, u64>,
    /// iBGP announcements without LOCAL_PREF, taken as 100.
    pub missing_local_pref: u64,
    /// Own AS or own identifier found in a path (RFC 4271 §9.1.2, RFC 4456 §8): routes ignored.
    pub loops: u64,
    /// Route refreshes asked for by the peer.
    pub refreshes_in: u64,
    /// Announcements of ours that could not be put on the wire (checked before sending).
    pub unsendable: u64,
}

/// Which routes to list; every field that is set narrows the choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// EVPN route type, 1 to 5.
    pub route_type: Option<u8>,
    /// Received from this peer (ignored for routes out).
    pub peer: Option<IpAddr>,
    /// Type 2 for this MAC.
    pub mac: Option<Mac>,
    /// Type 2 with this address, type 3 of this originator, type 5 whose prefix contains it.
    pub ip: Option<IpAddr>,
    /// First or second label, or the PMSI tunnel's.
    pub vni: Option<Vni>,
    /// At most so many, in order of peer and key; 0: all.
    pub limit: usize,
}

/// A route as a peer announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRoute {
    /// Who.
    pub peer: IpAddr,
    /// What.
    pub route: Route,
    /// Kept from before the peer's restart, not confirmed yet.
    pub stale: bool,
    /// When it was last announced.
    pub received: SystemTime,
}

/// Handle of a running speaker. Cheap to clone. Every call is answered in order by one task; a call on a speaker that
/// has stopped does nothing and returns the empty answer.
#[derive(Debug, Clone)]
pub struct Speaker {
    commands: mpsc::Sender<Command>,
    listen: Vec<SocketAddr>,
}

impl Speaker {
    /// Binds the listening addresses and starts the speaker, which then runs until `cancel`: it then closes its
    /// connections without a NOTIFICATION, so that peers with graceful restart keep our routes. (To take the routes
    /// back instead, see [`Speaker::flush`].) The join handle ends when all tasks and sockets are gone.
    pub async fn start(
        config: SpeakerConfig,
        cancel: CancellationToken,
    ) -> Result<(Speaker, mpsc::Receiver<Event>, JoinHandle<()>), SpeakerError> {
        check(&config)?;
        let listeners = Listeners::bind(&config.listen)?;
        let listen = listeners.addresses();
        let (commands, command_inbox) = mpsc::channel(CHANNEL);
        let (events, event_inbox) = mpsc::channel(CHANNEL);
        let owner = Owner::new(config, listeners);
        let task = tokio::spawn(owner.run(command_inbox, events, cancel));
        Ok((Speaker { commands, listen }, event_inbox, task))
    }

    /// Where it listens; the real ports where 0 was asked.
    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        self.listen.clone()
    }

    /// Sets the neighbours. Sessions of unchanged ones go on; a changed one is restarted, a missing one is told to
    /// forget our routes (Cease, hard reset) and forgotten.
    pub async fn set_peers(&self, peers: Vec<PeerConfig>) {
        self.ask(|done| Command::SetPeers { peers, done }).await.unwrap_or_default()
    }

    /// Changes the routes to announce. What peers already have is not sent again.
    pub async fn update(&self, changes: Vec<RouteChange>) -> Ticket {
        self.ask(|done| Command::Update { changes, done }).await.unwrap_or_default()
    }

    /// Sets the routes to announce to exactly these; only the difference is sent.
    pub async fn replace(&self, routes: Vec<Route>) -> Ticket {
        self.ask(|done| Command::Replace { routes, done }).await.unwrap_or_default()
    }

    /// Says that the desired routes are complete for the first time. Until then no End-of-RIB is sent, as peers that
    /// kept our routes over a restart would drop those not announced yet (RFC 4724 §4.2).
    pub async fn set_synced(&self) {
        self.ask(|done| Command::SetSynced { done }).await.unwrap_or_default()
    }

    /// Sets which routes to ask for, of peers with route target constraint; at first it is all.
    pub async fn set_interest(&self, interest: Interest) {
        self.ask(|done| Command::SetInterest { interest, done }).await.unwrap_or_default()
    }

    /// Peers that have been told of a route of ours as it is now. A peer with route target constraint that did not ask
    /// for it is not among them.
    pub async fn holders(&self, key: RouteKey) -> Vec<IpAddr> {
        self.ask(|reply| Command::Holders { key, reply }).await.unwrap_or_default()
    }

    /// The neighbours, by address.
    pub async fn peers(&self) -> Vec<PeerState> {
        self.ask(|reply| Command::Peers { reply }).await.unwrap_or_default()
    }

    /// What peers announced, in order of peer and key. A MAC, an address or a VNI is found by index.
    pub async fn routes_in(&self, filter: &RouteFilter) -> Vec<ReceivedRoute> {
        let filter = filter.clone();
        self.ask(|reply| Command::RoutesIn { filter, reply }).await.unwrap_or_default()
    }

    /// What peers announced of these MACs, in order of MAC, peer and key.
    pub async fn routes_of_macs(&self, macs: Vec<Mac>) -> Vec<ReceivedRoute> {
        self.ask(|reply| Command::RoutesOfMacs { macs, reply }).await.unwrap_or_default()
    }

    /// What is announced, in order of key.
    pub async fn routes_out(&self, filter: &RouteFilter) -> Vec<Route> {
        let filter = filter.clone();
        self.ask(|reply| Command::RoutesOut { filter, reply }).await.unwrap_or_default()
    }

    /// Restarts a session (Cease, administrative reset). False: no such peer.
    pub async fn reset_peer(&self, address: IpAddr) -> bool {
        self.ask(|done| Command::Reset { address, done }).await.unwrap_or_default()
    }

    /// Asks a peer to send its routes again (RFC 2918). False: no such peer, not Established, or it cannot.
    pub async fn request_refresh(&self, address: IpAddr) -> bool {
        self.ask(|done| Command::RequestRefresh { address, done }).await.unwrap_or_default()
    }

    /// Takes all routes back and stops for good: every peer gets a hard reset (Cease/9, RFC 8538), which ends
    /// graceful restart too. Returns when the connections are closed.
    pub async fn flush(&self) {
        self.ask(|done| Command::Flush { done }).await.unwrap_or_default()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn check(config: &SpeakerConfig) -> Result<(), SpeakerError> {
    if config.router_id.is_unspecified() {
        return Err(SpeakerError::Config {
            field: "router_id",
            reason: "0.0.0.0 is no BGP identifier (RFC 6286 §2.1)",
        });
    }
    if config.asn == 0 || config.asn == u32::MAX {
        return Err(SpeakerError::Config {
            field: "asn",
            reason: "0 and 4294967295 are reserved (RFC 7607, RFC 7300)",
        });
    }
    Ok(())
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SessionState::Idle => "Idle",
            SessionState::Connect => "Connect",
            SessionState::Active => "Active",
            SessionState::OpenSent => "OpenSent",
            SessionState::OpenConfirm => "OpenConfirm",
            SessionState::Established => "Established",
        })
    }
}
