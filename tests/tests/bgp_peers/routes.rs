//! Routes out and in, as the neighbours see and send them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use causeway_bgp::{Event, Route, RouteChange, RouteFilter, RouteKey};
use causeway_tests::netns::{Netns, with_pair};
use causeway_tests::wait_for;

use crate::against_every_peer;
use crate::peer::{Kind, Peer, Setup};
use crate::us::{ROUTES, Us, every_shape, host, hosts, rd};

against_every_peer!(
    every_shape_arrives_over_ibgp,
    every_shape_arrives_over_ebgp,
    updates_with_withdrawals_only,
    thousands_of_routes_and_back,
    a_changed_route_replaces_itself,
    routes_of_the_neighbour,
    we_ask_for_a_refresh;
    neighbour_asks_for_a_refresh,
    a_connected_subnet_leads_to_all_its_vteps,
);

/// Speaker and neighbour with an established session.
async fn session(kind: Kind, ns: &Netns, setup: &Setup) -> Result<(Us, Peer, IpAddr)> {
    let peer = Peer::start(kind, ns, setup).await?;
    let us = Us::with(setup).await?;
    let address = setup.addresses().1;
    us.established(address, 1).await?;
    Ok((us, peer, address))
}

/// The session of the start is still the one there is.
async fn undisturbed(us: &Us, address: IpAddr) -> Result<()> {
    let state = us.state(address).await?;
    ensure!(state.counters.established == 1, "the session was reset: {:?}", state.last_error);
    ensure!(state.counters.unsendable == 0, "{} routes were not sent", state.counters.unsendable);
    Ok(())
}

async fn every_shape_arrives(kind: Kind, ns: &Netns, setup: &Setup) -> Result<()> {
    let (us, peer, address) = session(kind, ns, setup).await?;
    let routes = every_shape();
    us.speaker.replace(routes.clone()).await;
    us.speaker.set_synced().await;
    for route in &routes {
        wait_for(&format!("{:?}", route.key), ROUTES, async || peer.has(route).await).await?;
    }
    let state = us.state(address).await?;
    ensure!(state.routes_out == routes.len() && state.queue == 0, "{state:?}");
    wait_for("End-of-RIB both ways", ROUTES, async || {
        let state = us.state(address).await?;
        ensure!(state.end_of_rib_out, "ours not sent");
        Ok(())
    })
    .await?;
    // All gone again, one by one as the owner would do it.
    for route in &routes {
        us.speaker.update(vec![RouteChange::Withdraw(route.key)]).await;
    }
    wait_for("all withdrawn", ROUTES, async || {
        for route in &routes {
            peer.lacks(route).await?;
        }
        Ok(())
    })
    .await?;
    undisturbed(&us, address).await?;
    us.stop().await
}

fn every_shape_arrives_over_ibgp(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| every_shape_arrives(kind, ns, &Setup::default()).await)
}

fn every_shape_arrives_over_ebgp(kind: Kind) -> Result<()> {
    let setup = Setup { our_asn: 65001, asn: 65002, ..Setup::default() };
    with_pair(async |_, ns| every_shape_arrives(kind, ns, &setup).await)
}

fn updates_with_withdrawals_only(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, address) = session(kind, ns, &Setup::default()).await?;
        us.speaker.replace(hosts(10)).await;
        wait_for("ten routes", ROUTES, async || peer.has(&host(9)).await).await?;
        // Nothing is announced with them, so the UPDATE has MP_UNREACH_NLRI alone (RFC 4760 §4).
        let half = (0..5).map(|n| RouteChange::Withdraw(host(n).key)).collect();
        us.speaker.update(half).await;
        wait_for("five are gone", ROUTES, async || {
            for n in 0..5 {
                peer.lacks(&host(n)).await?;
            }
            Ok(())
        })
        .await?;
        for n in 5..10 {
            peer.has(&host(n)).await?;
        }
        // Not known to the neighbour: nothing to say, nothing to break.
        us.speaker.update(vec![RouteChange::Withdraw(host(77).key)]).await;
        us.speaker.replace(Vec::new()).await;
        wait_for("none is left", ROUTES, async || {
            let count = peer.count().await?;
            ensure!(count == 0, "{count}");
            Ok(())
        })
        .await?;
        undisturbed(&us, address).await?;
        us.stop().await
    })
}

fn thousands_of_routes_and_back(kind: Kind) -> Result<()> {
    const COUNT: u32 = 5_000;
    with_pair(async |_, ns| {
        let (us, peer, address) = session(kind, ns, &Setup::default()).await?;
        let arrived = async |wanted: u64| {
            wait_for(&format!("{wanted} routes"), ROUTES * 4, async || {
                let count = peer.count().await?;
                ensure!(count == wanted, "{count}");
                Ok(())
            })
            .await
        };
        let before = us.state(address).await?.counters.updates_out;
        us.speaker.replace(hosts(COUNT)).await;
        us.speaker.set_synced().await;
        arrived(COUNT.into()).await?;
        let updates = us.state(address).await?.counters.updates_out - before;
        // About a hundred routes fit into a message of 4,096 bytes.
        ensure!(updates < u64::from(COUNT) / 50, "{updates} UPDATEs for {COUNT} routes: they are not packed");
        // The same again: nothing to say.
        us.speaker.replace(hosts(COUNT)).await;
        us.speaker.replace(hosts(COUNT / 2)).await;
        arrived(u64::from(COUNT) / 2).await?;
        us.speaker.replace(Vec::new()).await;
        arrived(0).await?;
        undisturbed(&us, address).await?;
        us.stop().await
    })
}

fn a_changed_route_replaces_itself(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, address) = session(kind, ns, &Setup::default()).await?;
        let mut route = host(1);
        for (sequence, next_hop) in [(0, "10.9.0.1"), (1, "10.9.0.77"), (2, "10.9.0.1"), (7, "10.9.0.78")] {
            let attributes = std::sync::Arc::make_mut(&mut route.attributes);
            attributes.sequence = sequence;
            attributes.next_hop = next_hop.parse()?;
            us.speaker.update(vec![RouteChange::Announce(route.clone())]).await;
            wait_for(&format!("sequence {sequence}"), ROUTES, async || peer.has(&route).await).await?;
        }
        let count = peer.count().await?;
        ensure!(count == 1, "{count} routes");
        undisturbed(&us, address).await?;
        us.stop().await
    })
}

fn neighbour_asks_for_a_refresh(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, address) = session(kind, ns, &Setup::default()).await?;
        us.speaker.replace(hosts(10)).await;
        us.speaker.set_synced().await;
        wait_for("ten routes", ROUTES, async || peer.has(&host(9)).await).await?;
        let before = us.state(address).await?.counters;
        peer.ask_refresh().await?;
        wait_for("the refresh", ROUTES, async || {
            let now = us.state(address).await?.counters;
            ensure!(now.refreshes_in > before.refreshes_in, "not asked");
            ensure!(now.updates_out > before.updates_out, "asked, not answered");
            Ok(())
        })
        .await?;
        wait_for("still ten", ROUTES, async || {
            for n in 0..10 {
                peer.has(&host(n)).await?;
            }
            Ok(())
        })
        .await?;
        undisturbed(&us, address).await?;
        us.stop().await
    })
}

/// A bridge and the VXLAN device of a VNI at the neighbour.
async fn routed_vni(ns: &Netns, vni: u32) -> Result<()> {
    ns.ip(&[
        &format!("link add br{vni} address 02:cc:00:00:00:07 type bridge stp_state 0"),
        &format!("link set br{vni} addrgenmode none"),
        &format!("link add vx{vni} type vxlan id {vni} local 10.9.0.2 dstport 4789 nolearning"),
        &format!("link set vx{vni} master br{vni} addrgenmode none"),
        &format!("link set vx{vni} type bridge_slave neigh_suppress on learning off"),
        &format!("link set br{vni} up"),
        &format!("link set vx{vni} up"),
    ])
    .await
}

const THEIR_MAC: &str = "02:00:00:00:00:aa";

/// Makes the neighbour originate a type 2 with and without address, a type 3 and a type 5.
async fn originate(peer: &Peer, ns: &Netns) -> Result<()> {
    if let Some(gobgp) = peer.gobgp() {
        for line in [
            "macadv 02:00:00:00:00:aa 192.168.7.9 etag 0 label 100 rd 10.9.0.2:100 rt 65000:100 encap vxlan nexthop 10.9.0.2",
            "macadv 02:00:00:00:00:aa 0.0.0.0 etag 0 label 100 rd 10.9.0.2:100 rt 65000:100 encap vxlan nexthop 10.9.0.2",
            "multicast 10.9.0.2 etag 0 rd 10.9.0.2:100 rt 65000:100 encap vxlan pmsi ingress-repl 100 10.9.0.2 nexthop 10.9.0.2",
            "prefix 172.31.0.0/16 gw 0.0.0.0 etag 0 label 4001 rd 10.9.0.2:4001 rt 65000:4001 encap vxlan router-mac 02:cc:00:00:00:07 nexthop 10.9.0.2",
        ] {
            let mut args = vec!["global", "rib", "-a", "evpn", "add"];
            args.extend(line.split_whitespace());
            gobgp.cli(&args).await?;
        }
        return Ok(());
    }
    let frr = peer.frr()?;
    for vni in [100, 4001] {
        routed_vni(ns, vni).await?;
    }
    ns.ip(&[
        "link add h1 type veth peer name h1p",
        "link set h1 master br100 addrgenmode none",
        "link set h1p addrgenmode none",
        "link set h1 up",
        "link set h1p up",
        &format!("neigh add 192.168.7.9 lladdr {THEIR_MAC} dev br100"),
    ])
    .await?;
    ns.run(&["bridge", "fdb", "add", THEIR_MAC, "dev", "h1", "master", "dynamic"]).await?;
    ns.ip(&["route add blackhole 172.31.0.0/16"]).await?;
    frr.configure(&["vni 4001"]).await?;
    frr.configure(&["router bgp 65000", "address-family ipv4 unicast", "network 172.31.0.0/16"]).await?;
    frr.configure(&["router bgp 65000", "address-family l2vpn evpn", "advertise ipv4 unicast"]).await
}

/// What is the same about the neighbour's routes, whoever it is.
fn summary(route: &Route) -> Result<String> {
    let a = &route.attributes;
    let vni = |v: Option<causeway_proto::Vni>| v.map_or("none".to_string(), |v| v.to_string());
    Ok(match route.key {
        RouteKey::MacIp { mac, ip, .. } => {
            let ip = ip.map_or("none".to_string(), |ip| ip.to_string());
            // FRR adds the target of the L3 VNI to a route with an address.
            ensure!(a.route_targets.contains(&"65000:100".parse()?), "route targets {:?}", a.route_targets);
            format!("2 {mac} {ip} vni {} via {}", vni(a.vni), a.next_hop)
        }
        RouteKey::Imet { originator, .. } => {
            let pmsi = a.pmsi.context("no PMSI tunnel")?;
            format!("3 {originator} vni {} to {} {:?}", pmsi.vni, pmsi.tunnel, a.route_targets)
        }
        RouteKey::IpPrefix { prefix, .. } => {
            format!("5 {prefix} vni {} via {} router mac {:?}", vni(a.vni), a.next_hop, a.router_mac)
        }
        ref other => format!("{other:?}"),
    })
}

async fn received(us: &Us) -> Result<BTreeSet<String>> {
    let routes = us.speaker.routes_in(&RouteFilter::default()).await;
    routes.iter().map(|r| summary(&r.route)).collect()
}

fn expected() -> BTreeSet<String> {
    [
        "2 02:00:00:00:00:aa 192.168.7.9 vni 100 via 10.9.0.2",
        "2 02:00:00:00:00:aa none vni 100 via 10.9.0.2",
        "3 10.9.0.2 vni 100 to 10.9.0.2 [65000:100]",
        "5 172.31.0.0/16 vni 4001 via 10.9.0.2 router mac Some(02:cc:00:00:00:07)",
    ]
    .map(str::to_string)
    .into()
}

async fn all_received(us: &Us) -> Result<()> {
    wait_for("the neighbour's routes", ROUTES, async || {
        let missing: Vec<_> = expected().difference(&received(us).await?).cloned().collect();
        ensure!(missing.is_empty(), "missing {missing:#?} in {:#?}", received(us).await?);
        Ok(())
    })
    .await
}

fn routes_of_the_neighbour(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup::default();
        let (us, peer, address) = session(kind, ns, &setup).await?;
        originate(&peer, ns).await?;
        all_received(&us).await?;
        let told: Vec<_> = us
            .events()
            .into_iter()
            .filter_map(|e| if let Event::Received { changes, .. } = e { Some(changes) } else { None })
            .flatten()
            .collect();
        ensure!(
            told.iter().any(|c| matches!(c, RouteChange::Announce(r) if r.key.route_type() == 5)),
            "{told:?}"
        );
        wait_for("the neighbour's End-of-RIB", ROUTES, async || {
            // GoBGP sends none without graceful restart, and has nothing to say so with.
            ensure!(us.state(address).await?.end_of_rib_in || peer.gobgp().is_some(), "not yet");
            Ok(())
        })
        .await?;
        // One of them goes.
        match peer.gobgp() {
            Some(gobgp) => {
                let line = "macadv 02:00:00:00:00:aa 192.168.7.9 etag 0 label 100 rd 10.9.0.2:100";
                let mut args = vec!["global", "rib", "-a", "evpn", "del"];
                args.extend(line.split_whitespace());
                gobgp.cli(&args).await?;
            }
            None => ns.ip(&["neigh del 192.168.7.9 dev br100"]).await?,
        }
        wait_for("its withdrawal", ROUTES, async || {
            let filter = RouteFilter { ip: Some("192.168.7.9".parse()?), ..RouteFilter::default() };
            let left = us.speaker.routes_in(&filter).await;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        // The session ends for good: everything goes.
        us.speaker.set_peers(Vec::new()).await;
        ensure!(received(&us).await?.is_empty(), "routes of a peer that is gone");
        us.stop().await
    })
}

fn we_ask_for_a_refresh(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, address) = session(kind, ns, &Setup::default()).await?;
        originate(&peer, ns).await?;
        all_received(&us).await?;
        let before = us.state(address).await?.counters;
        ensure!(us.speaker.request_refresh(address).await, "the neighbour cannot refresh");
        wait_for("the routes again", ROUTES, async || {
            let now = us.state(address).await?.counters;
            for kind in [2, 3, 5] {
                let count = |c: &causeway_bgp::PeerCounters| c.announced_in.get(&kind).copied().unwrap_or(0);
                ensure!(count(&now) > count(&before), "no type {kind} again");
            }
            Ok(())
        })
        .await?;
        all_received(&us).await?;
        undisturbed(&us, address).await?;
        us.stop().await
    })
}

/// One distinguisher a VTEP: the neighbour's kernel has both ways, and one when the other goes.
fn a_connected_subnet_leads_to_all_its_vteps(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, address) = session(kind, ns, &Setup::default()).await?;
        routed_vni(ns, 4001).await?;
        peer.frr()?.configure(&["vni 4001"]).await?;
        let base = every_shape().into_iter().find(|route| matches!(route.key, RouteKey::IpPrefix { .. }));
        let base = base.context("a type 5 among the shapes")?;
        let way = |number: u16, vtep: &str, router_mac: &str| -> Result<Route> {
            let mut route = base.clone();
            route.key = RouteKey::IpPrefix { rd: rd(number), etag: 0, prefix: "172.30.0.0/16".parse()? };
            let attributes = std::sync::Arc::make_mut(&mut route.attributes);
            attributes.next_hop = vtep.parse()?;
            attributes.router_mac = Some(router_mac.parse()?);
            Ok(route)
        };
        let ways =
            [way(4001, "10.9.0.11", "02:cc:00:00:00:11")?, way(4002, "10.9.0.12", "02:cc:00:00:00:12")?];
        us.speaker.replace(ways.to_vec()).await;
        us.speaker.set_synced().await;
        let leads_to = async |wanted: &[&str]| {
            wait_for(&format!("ways by {wanted:?}"), ROUTES, async || {
                let shown = ns.run(&["ip", "route", "show", "172.30.0.0/16", "proto", "bgp"]).await?;
                let words = shown.split_whitespace().collect::<Vec<_>>();
                let hops: BTreeSet<&str> =
                    words.windows(2).filter(|pair| pair[0] == "via").map(|pair| pair[1]).collect();
                ensure!(hops == wanted.iter().copied().collect(), "{shown}");
                Ok(())
            })
            .await
        };
        leads_to(&["10.9.0.11", "10.9.0.12"]).await?;
        us.speaker.update(vec![RouteChange::Withdraw(ways[0].key)]).await;
        leads_to(&["10.9.0.12"]).await?;
        undisturbed(&us, address).await?;
        us.stop().await
    })
}
