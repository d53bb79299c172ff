//! A BGP EVPN speaker as a library: it announces the routes its owner wants announced and remembers what its peers say.
//! It knows nothing of ports, stores or nodes.
//!
//! ```text
//!  owner ── set_peers / replace / update / set_synced ──▶ ┌────────────┐ ◀─bounded channels─▶ peer task ◀─TCP─▶ peer
//!        ◀── events: peer up/down, route received, sent ── │ owner task │ ◀─bounded channels─▶ peer task ◀─TCP─▶ peer
//!                                                         └────────────┘ ◀── listener task (passive side)
//! ```

#[doc(hidden)]
pub mod bench;
mod codec;
mod collision;
mod config;
mod connection;
mod constraint;
mod fsm;
mod link;
#[doc(hidden)]
pub mod mutate;
mod outbox;
mod owner;
mod peer;
mod retry;
mod rib_in;
mod rib_out;
mod route;
mod socket_options;
mod speaker;
#[cfg(test)]
mod testing;
mod transport;

pub use config::{PeerConfig, PeerMode, SpeakerConfig};
pub use constraint::Interest;
pub use route::{
    Attributes, Esi, Pmsi, Route, RouteChange, RouteDistinguisher, RouteKey, RouteTarget, RouteTextError,
};
pub use speaker::{
    Event, PeerCounters, PeerState, ReceivedRoute, RouteFilter, SessionState, Speaker, SpeakerError, Ticket,
};
