//! What a speaker and its peers are configured with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The speaker's own identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// BGP identifier (RFC 4271 §1.1); unique among speakers, not 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// Own AS number (RFC 6793), not 0 and not 4294967295.
    pub asn: u32,
    /// Where to accept connections, usually port 179. Empty: active connections only. Several families may be given.
    pub listen: Vec<SocketAddr>,
    /// True if an earlier run of this speaker may have left routes with peers: the first OPEN to each peer says
    /// "restarted" (R bit, RFC 4724 §3) and the forwarding state is always said to be kept (F bit), as it lives in VTEPs.
    pub restarting: bool,
}

/// Which side opens the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerMode {
    /// Connect and accept; collisions are solved by RFC 4271 §6.8.
    #[default]
    Both,
    /// Connect only.
    Active,
    /// Accept only.
    Passive,
}

/// A neighbour. Two neighbours never have the same `address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its address; connections from other addresses are refused.
    pub address: IpAddr,
    /// TCP port to connect to.
    pub port: u16,
    /// Its AS number: equal to ours is iBGP, else eBGP (multihop, next hop unchanged).
    pub asn: u32,
    /// Local address to bind; `None`: the system's choice.
    pub local_address: Option<IpAddr>,
    /// Who connects.
    pub mode: PeerMode,
    /// TCP MD5 key (RFC 2385), 1 to 80 bytes.
    pub md5_key: Option<Vec<u8>>,
    /// GTSM (RFC 5082): hops at most to the neighbour, 1 for directly connected. `None`: TTL is not checked.
    pub gtsm_hops: Option<u8>,
    /// Hold time offered, 3 s or more (RFC 4271 §4.2); KEEPALIVEs go every third of the negotiated one.
    pub hold_time: Duration,
    /// Longest pause between two connection attempts; the first retries come faster, with jitter.
    pub connect_retry: Duration,
    /// Graceful restart (RFC 4724, with the N bit of RFC 8538): how long the peer shall keep our routes over a restart.
    /// `None`: the capability is not offered.
    pub restart_time: Option<Duration>,
    /// Offer route target constraint (RFC 4684): a peer that has it too tells which routes it wants and gets no others,
    /// and sends only those we ask for (see `Speaker::set_interest`).
    pub route_target_constraint: bool,
}

impl PeerConfig {
    /// A peer with the usual values: port 179, connect and accept, hold time 90 s, retry at most every 10 s, routes kept
    /// for 120 s over a restart, no route target constraint.
    pub fn new(address: IpAddr, asn: u32) -> Self {
        PeerConfig {
            address,
            port: 179,
            asn,
            local_address: None,
            mode: PeerMode::Both,
            md5_key: None,
            gtsm_hops: None,
            hold_time: Duration::from_secs(90),
            connect_retry: Duration::from_secs(10),
            restart_time: Some(Duration::from_secs(120)),
            route_target_constraint: false,
        }
    }
}
