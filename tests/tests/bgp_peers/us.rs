//! Our speaker as the tests drive it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_bgp::{
    Attributes, Esi, Event, PeerConfig, PeerState, Pmsi, Route, RouteDistinguisher, RouteKey, RouteTarget,
    SessionState, Speaker, SpeakerConfig,
};
use causeway_tests::wait_for;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::peer::Setup;

/// Longest wait for a session: GoBGP refuses connections for a while after an error.
pub(crate) const SESSION: Duration = Duration::from_secs(60);
/// Longest wait for routes to arrive.
pub(crate) const ROUTES: Duration = Duration::from_secs(30);

/// A running speaker, all its events, and how to stop it.
#[derive(Debug)]
pub(crate) struct Us {
    pub(crate) speaker: Speaker,
    events: Arc<Mutex<Vec<Event>>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// The speaker's configuration: router identifier 10.9.0.1, listening on both addresses.
pub(crate) fn config(asn: u32) -> SpeakerConfig {
    let listen = ["10.9.0.1:179", "[fd00:9::1]:179"].map(|a| a.parse::<SocketAddr>().unwrap()).to_vec();
    SpeakerConfig { router_id: Ipv4Addr::new(10, 9, 0, 1), asn, listen, restarting: false }
}

/// Our side of a session with the neighbour of this set-up.
pub(crate) fn peer_config(setup: &Setup) -> PeerConfig {
    let (ours, theirs) = setup.addresses();
    PeerConfig {
        local_address: Some(ours),
        md5_key: setup.password.map(|p| p.as_bytes().to_vec()),
        gtsm_hops: setup.gtsm.then_some(1),
        hold_time: Duration::from_secs(setup.hold.into()),
        connect_retry: Duration::from_secs(1),
        route_target_constraint: setup.constraint,
        ..PeerConfig::new(theirs, setup.asn)
    }
}

impl Us {
    pub(crate) async fn start(config: SpeakerConfig, peers: Vec<PeerConfig>) -> Result<Us> {
        let cancel = CancellationToken::new();
        let (speaker, mut inbox, task) = Speaker::start(config, cancel.clone()).await?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        tokio::spawn(async move {
            while let Some(event) = inbox.recv().await {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        speaker.set_peers(peers).await;
        Ok(Us { speaker, events, cancel, task })
    }

    /// Starts it with the neighbour of this set-up, which it connects to and accepts from.
    pub(crate) async fn with(setup: &Setup) -> Result<Us> {
        Us::start(config(setup.our_asn), vec![peer_config(setup)]).await
    }

    /// What it says about a neighbour.
    pub(crate) async fn state(&self, peer: IpAddr) -> Result<PeerState> {
        let peers = self.speaker.peers().await;
        peers.into_iter().find(|p| p.address == peer).with_context(|| format!("no peer {peer}"))
    }

    /// Waits until the session is Established for the `times`-th time.
    pub(crate) async fn established(&self, peer: IpAddr, times: u64) -> Result<PeerState> {
        wait_for(&format!("session {times} with {peer}"), SESSION, async || {
            let state = self.state(peer).await?;
            ensure!(
                state.state == SessionState::Established && state.counters.established >= times,
                "{} (established {} times), last error: {:?}",
                state.state,
                state.counters.established,
                state.last_error
            );
            Ok(state)
        })
        .await
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops it as a crash would look to its peers: connections end without a NOTIFICATION.
    pub(crate) async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.task)
            .await
            .context("the speaker does not stop")??;
        Ok(())
    }
}

/// Attributes of a route of VNI 100 behind the VTEP 10.9.0.1, which every neighbour can reach.
pub(crate) fn attributes() -> Attributes {
    Attributes {
        next_hop: "10.9.0.1".parse().unwrap(),
        vni: Some(100.try_into().unwrap()),
        l3_vni: None,
        route_targets: vec![RouteTarget::new(65000, 100).unwrap()],
        sequence: 0,
        sticky: false,
        router_mac: None,
        default_gateway: false,
        pmsi: None,
        esi: Esi::default(),
        gateway: None,
    }
}

pub(crate) fn rd(number: u16) -> RouteDistinguisher {
    RouteDistinguisher::new(Ipv4Addr::new(10, 9, 0, 1), number)
}

/// A type 2 for host `n`, with an address of its own.
pub(crate) fn host(n: u32) -> Route {
    let [_, a, b, c] = n.to_be_bytes();
    let key = RouteKey::MacIp {
        rd: rd(100),
        etag: 0,
        mac: format!("02:aa:00:{a:02x}:{b:02x}:{c:02x}").parse().unwrap(),
        ip: Some(IpAddr::V4(Ipv4Addr::new(172, 20 + a, b, c))),
    };
    Route { key, attributes: Arc::new(attributes()) }
}

/// Hosts `0..count` sharing their attributes.
pub(crate) fn hosts(count: u32) -> Vec<Route> {
    let shared = Arc::new(attributes());
    (0..count).map(|n| Route { attributes: Arc::clone(&shared), ..host(n) }).collect()
}

/// One route of every type and shape we originate.
pub(crate) fn every_shape() -> Vec<Route> {
    let mac = |text: &str| text.parse().unwrap();
    let route = |key, attributes| Route { key, attributes: Arc::new(attributes) };
    let mac_ip = |m: &str, ip: Option<&str>| RouteKey::MacIp {
        rd: rd(100),
        etag: 0,
        mac: mac(m),
        ip: ip.map(|ip| ip.parse().unwrap()),
    };
    let plain = attributes();
    let two_targets = vec![RouteTarget::new(65000, 7).unwrap(), RouteTarget::new(65000, 100).unwrap()];
    let vrf = Attributes {
        vni: Some(4001.try_into().unwrap()),
        route_targets: vec![RouteTarget::new(65000, 4001).unwrap()],
        router_mac: Some(mac("02:cc:00:00:00:07")),
        ..plain.clone()
    };
    let prefix = |text: &str| RouteKey::IpPrefix { rd: rd(4001), etag: 0, prefix: text.parse().unwrap() };
    vec![
        route(mac_ip("02:aa:00:00:01:01", None), plain.clone()),
        route(mac_ip("02:aa:00:00:01:02", Some("172.20.1.2")), plain.clone()),
        route(mac_ip("02:aa:00:00:01:03", Some("2001:db8::3")), plain.clone()),
        route(
            mac_ip("02:aa:00:00:01:04", Some("172.20.1.4")),
            Attributes { sequence: 5, route_targets: two_targets.clone(), ..plain.clone() },
        ),
        route(mac_ip("02:aa:00:00:01:05", Some("172.20.1.5")), Attributes { sticky: true, ..plain.clone() }),
        route(
            mac_ip("02:aa:00:00:01:06", Some("172.20.1.6")),
            Attributes {
                l3_vni: Some(4001.try_into().unwrap()),
                router_mac: Some(mac("02:cc:00:00:00:07")),
                route_targets: two_targets,
                ..plain.clone()
            },
        ),
        route(
            mac_ip("02:aa:00:00:01:07", Some("172.20.1.1")),
            Attributes { default_gateway: true, ..plain.clone() },
        ),
        route(
            RouteKey::Imet { rd: rd(100), etag: 0, originator: plain.next_hop },
            Attributes {
                pmsi: Some(Pmsi { vni: 100.try_into().unwrap(), tunnel: plain.next_hop }),
                vni: None,
                ..plain
            },
        ),
        route(prefix("172.31.0.0/16"), vrf.clone()),
        route(prefix("0.0.0.0/0"), vrf.clone()),
        route(prefix("2001:db8:1::/48"), vrf),
    ]
}
