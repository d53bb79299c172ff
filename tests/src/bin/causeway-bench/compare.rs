//! Intended against observed: what it costs to compare every port with what a route reflector says of it, beside the
//! least that could be done with the same data, a difference of two sorted lists of MAC, VTEP and sequence.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use causeway_bgp::{Attributes, Esi, ReceivedRoute, Route, RouteDistinguisher, RouteKey, RouteTarget};
use causeway_controller::bench::Comparison;
use causeway_controller::derive::evpn::Context;
use causeway_controller::snapshot::Snapshot;
use causeway_proto::{Mac, Revision};
use serde_json::json;

use crate::report::{Aim, Report};

/// Ports, each with one address and one route.
const PORTS: u32 = 100_000;
/// Leaves that speak EVPN, over which they are spread.
const LEAVES: u32 = 100;
/// Every so many-th port is said to be behind another leaf, with a higher sequence.
const MOVED: u32 = 100;
/// MACs compared one by one.
const SINGLE: u32 = 1000;
const VNI: u32 = 110;
const CONTEXT: Context = Context { asn: 65_000, router_id: Ipv4Addr::new(10, 99, 0, 1) };
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 101));

fn address(port: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a10_0000 + port)
}

fn mac(port: u32) -> Mac {
    Mac::from_ip(address(port).into(), 0)
}

fn vtep(leaf: u32) -> IpAddr {
    Ipv4Addr::from(0x0a63_6400 + leaf % LEAVES).into()
}

/// Leaves, a network, and its ports, read as they lie in the store.
fn intended() -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    let mut put = |path: String, record: serde_json::Value| -> Result<()> {
        snapshot.revision = Revision(snapshot.revision.0 + 1);
        let value = serde_json::to_vec(&record)?;
        snapshot.apply(&path, Some((&value, snapshot.revision))).with_context(|| path)?;
        Ok(())
    };
    let network = json!({"key": "default/bench", "vni": VNI, "mtu": 1450, "rd_number": 1});
    put("intent/network/default/bench".into(), network)?;
    for leaf in 0..LEAVES {
        let name = format!("leaf{leaf}");
        let node = json!({"name": name, "mode": "tor-evpn", "vtep": vtep(leaf), "underlay_mtu": 9000});
        put(format!("intent/node/{name}"), node)?;
    }
    for port in 0..PORTS {
        let key = format!("default/bench/port{port}");
        let record = json!({
            "key": key, "addresses": [address(port)], "mac": mac(port).to_string(), "created_ms": 0
        });
        put(format!("intent/port/{key}"), record)?;
        let binding = json!({
            "port": key, "node": format!("leaf{}", port % LEAVES), "kind": "bare-metal", "attachment": null,
            "netns": "", "interface": "eth1", "generation": 1, "active": true
        });
        put(format!("intent/binding/{key}"), binding)?;
    }
    ensure!(snapshot.by_node.len() == PORTS as usize, "every port is bound");
    Ok(snapshot)
}

/// What the leaves say by way of the reflector.
fn observed(moved: bool) -> Result<Vec<ReceivedRoute>> {
    let target = RouteTarget::new(CONTEXT.asn, VNI).context("a route target")?;
    let attributes = |leaf: u32, sequence: u32| {
        Arc::new(Attributes {
            next_hop: vtep(leaf),
            vni: VNI.try_into().ok(),
            l3_vni: None,
            route_targets: vec![target],
            sequence,
            sticky: false,
            router_mac: None,
            default_gateway: false,
            pmsi: None,
            esi: Esi::default(),
            gateway: None,
        })
    };
    let shared: Vec<[Arc<Attributes>; 2]> =
        (0..LEAVES).map(|leaf| [attributes(leaf, 0), attributes(leaf + 1, 1)]).collect();
    let route = |port: u32| {
        let leaf = port % LEAVES;
        let away = moved && port.is_multiple_of(MOVED);
        let [home, elsewhere] = shared.get(leaf as usize)?;
        let attributes = if away { elsewhere } else { home };
        let IpAddr::V4(id) = attributes.next_hop else { return None };
        let rd = RouteDistinguisher::new(id, 2);
        let key = RouteKey::MacIp { rd, etag: 0, mac: mac(port), ip: Some(address(port).into()) };
        let route = Route { key, attributes: Arc::clone(attributes) };
        Some(ReceivedRoute { peer: PEER, route, stale: false, received: SystemTime::UNIX_EPOCH })
    };
    (0..PORTS).map(route).collect::<Option<Vec<_>>>().context("a route for every port")
}

/// The yardstick: both sides as sorted lists, and how many entries are in one only.
fn plain(snapshot: &Snapshot, routes: &[ReceivedRoute]) -> usize {
    let intended = snapshot.bindings.iter().filter_map(|(key, binding)| {
        let port = &snapshot.ports.get(key)?.value;
        let node = &snapshot.nodes.get(&binding.value.node)?.value;
        Some((port.mac, node.vtep?, binding.value.generation.saturating_sub(1)))
    });
    let observed = routes.iter().filter_map(|received| {
        let RouteKey::MacIp { mac, .. } = received.route.key else { return None };
        let attributes = &received.route.attributes;
        Some((mac, attributes.next_hop, u64::from(attributes.sequence)))
    });
    let (mut left, mut right): (Vec<_>, Vec<_>) = (intended.collect(), observed.collect());
    left.sort_unstable();
    right.sort_unstable();
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    let mut different = 0;
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        match a.cmp(b) {
            std::cmp::Ordering::Equal => {
                left.next();
                right.next();
            }
            std::cmp::Ordering::Less => {
                left.next();
                different += 1;
            }
            std::cmp::Ordering::Greater => {
                right.next();
                different += 1;
            }
        }
    }
    different + left.count() + right.count()
}

/// The best of five in milliseconds, and what came out; what else runs on the machine only ever adds.
fn timed(mut work: impl FnMut() -> usize) -> (f64, usize) {
    let (mut least, mut result) = (f64::INFINITY, 0);
    for _ in 0..5 {
        let start = Instant::now();
        result = std::hint::black_box(work());
        least = least.min(start.elapsed().as_secs_f64() * 1e3);
    }
    (least, result)
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let snapshot = intended()?;
    let mut comparison = Comparison::new(&snapshot, CONTEXT, PEER);
    for (moved, how) in [(false, "as intended"), (true, "1 % elsewhere")] {
        let routes = observed(moved)?;
        let (ours, found) = timed(|| comparison.all(&routes));
        let (yardstick, different) = timed(|| plain(&snapshot, &routes));
        // A port that is elsewhere is a finding for its MAC and one for its address, and an entry in each list.
        let wanted = if moved { (PORTS / MOVED * 2) as usize } else { 0 };
        ensure!((found, different) == (wanted, wanted), "{found} findings, {different} in the lists");
        let name = format!("compare {PORTS} ports with {PORTS} routes, {how}");
        report.versus(&name, ours, "ms", ("difference of sorted lists", yardstick), Aim::Below(1000.0));
        report.add(&format!("{name}, a port"), ours * 1e6 / f64::from(PORTS), "ns", Aim::None);
    }
    let routes = observed(true)?;
    let mut found = 0;
    let start = Instant::now();
    for route in routes.iter().take(SINGLE as usize) {
        let RouteKey::MacIp { mac, .. } = route.route.key else { continue };
        found += comparison.one(mac, std::slice::from_ref(route));
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(SINGLE);
    ensure!(found == (SINGLE / MOVED * 2) as usize, "{found} findings");
    report.add(&format!("compare one MAC again, of {PORTS}"), each, "us", Aim::Below(1000.0));
    Ok(())
}
