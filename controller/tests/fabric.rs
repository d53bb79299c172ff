//! The controller and a switch: sessions over loopback between two speakers of ours.

mod support;

use anyhow::{Context, Result, ensure};
use causeway_bgp::{Attributes, Esi, Pmsi, Route, RouteChange, RouteDistinguisher, RouteKey, RouteTarget};
use causeway_controller::store::{FileStore, KeyValue, Store, Txn, TxnOutcome, Write};
use causeway_proto::{Mac, Vni, v1};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use support::*;

async fn with_switch() -> Result<(Lab, Switch)> {
    let lab = Lab::with_sample().await?;
    let switch = Switch::start([127, 0, 0, 2], None).await?;
    lab.apply(vec![resource(v1::resource::Spec::Peer(switch.peer()))]).await?;
    wait_peer(&lab, "Established").await?;
    Ok((lab, switch))
}

async fn wait_peer(lab: &Lab, state: &str) -> Result<v1::PeerStatus> {
    wait_for(&format!("peer {state}"), async || {
        let peers = lab.fabric().list_peers(v1::ListPeersRequest {}).await?.into_inner().peers;
        Ok(peers.into_iter().find(|peer| peer.state == state))
    })
    .await
}

fn attributes(next_hop: [u8; 4]) -> Attributes {
    Attributes {
        next_hop: IpAddr::from(next_hop),
        vni: Vni::try_from(110).ok(),
        l3_vni: None,
        route_targets: RouteTarget::new(ASN, 110).into_iter().collect(),
        sequence: 0,
        sticky: false,
        router_mac: None,
        default_gateway: false,
        pmsi: None,
        esi: Esi::default(),
        gateway: None,
    }
}

fn server(mac: &str, ip: &str, next_hop: [u8; 4]) -> Result<Route> {
    let rd = RouteDistinguisher::new(Ipv4Addr::new(10, 99, 0, 200), 2);
    let key = RouteKey::MacIp { rd, etag: 0, mac: mac.parse::<Mac>()?, ip: Some(ip.parse()?) };
    Ok(Route { key, attributes: Arc::new(attributes(next_hop)) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_port_is_announced_and_an_unbound_one_withdrawn() -> Result<()> {
    let (lab, switch) = with_switch().await?;
    let port = lab.create("a", Some("h1")).await?;
    let (ip, mac) = (&port.addresses[0], &port.mac);
    let first = format!("2 10.99.0.1:1 {mac} {ip} via 10.0.0.1 seq 0");
    switch.wait_routes(&[&first, "3 10.99.0.1:1 10.0.0.1"]).await?;
    lab.unbind("a").await?;
    switch.wait_routes(&[]).await?;
    lab.bind("a", "h2").await?;
    let moved = format!("2 10.99.0.1:1 {mac} {ip} via 10.0.0.2 seq 1");
    switch.wait_routes(&[&moved, "3 10.99.0.1:1 10.0.0.2"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_advertised_when_programmed_and_sent() -> Result<()> {
    let (lab, switch) = with_switch().await?;
    lab.create("a", Some("h1")).await?;
    let mut agent = Agent::connect(&lab.channel, "h1", "i").await?;
    let revision = agent.snapshot().await?.revision;
    agent.say(revision, vec![programmed("a", 1)]).await?;
    lab.wait_state("a", v1::PortState::Advertised).await?;
    assert_eq!(switch.routes().await.len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_fabric_says_reaches_the_agents() -> Result<()> {
    let (lab, switch) = with_switch().await?;
    let own = lab.create("a", Some("h1")).await?;
    let mut agent = Agent::connect(&lab.channel, "h1", "i").await?;
    assert!(agent.snapshot().await?.remotes.is_empty());
    let bare_metal = server("00:11:22:33:44:55", "10.8.0.99", [10, 0, 9, 1])?;
    let mut flood = attributes([10, 0, 9, 1]);
    flood.pmsi = Some(Pmsi { vni: Vni::try_from(110)?, tunnel: IpAddr::from([10, 0, 9, 1]) });
    let flood = Route {
        key: RouteKey::Imet { rd: bare_metal.key.rd(), etag: 0, originator: IpAddr::from([10, 0, 9, 1]) },
        attributes: Arc::new(flood),
    };
    // A MAC of ours, from a host that pretends.
    let thief = server(&own.mac, "10.8.0.98", [10, 0, 9, 1])?;
    let routes = [bare_metal.clone(), flood, thief];
    switch.speaker.update(routes.into_iter().map(RouteChange::Announce).collect()).await;
    let (mut remotes, mut floods) = (Vec::new(), Vec::new());
    while remotes.is_empty() || floods.is_empty() {
        let delta = agent.delta().await?;
        remotes.extend(delta.remotes);
        floods.extend(delta.floods);
    }
    assert_eq!(remotes.len(), 1);
    assert_eq!((remotes[0].mac.as_str(), remotes[0].vtep.as_str()), ("00:11:22:33:44:55", "10.0.9.1"));
    assert_eq!(remotes[0].addresses, ["10.8.0.99"]);
    assert_eq!(floods[0].vtep, "10.0.9.1");
    let verdict = async |mac: &str| -> Result<String> {
        let request = v1::ListRoutesRequest {
            direction: v1::RouteDirection::In.into(),
            mac: mac.into(),
            ..v1::ListRoutesRequest::default()
        };
        let routes = lab.fabric().list_routes(request).await?.into_inner().routes;
        Ok(routes.into_iter().next().context("a route")?.verdict)
    };
    assert_eq!(verdict("00:11:22:33:44:55").await?, "used: default/web");
    assert_eq!(verdict(&own.mac).await?, "not used: its MAC belongs to port default/web/a");
    let explained = lab
        .fabric()
        .explain(v1::ExplainRequest { subject: own.mac.clone(), ..Default::default() })
        .await?
        .into_inner();
    let text = explained.findings.join("\n");
    assert!(text.contains("port default/web/a") && text.contains("conflict"), "{text}");
    assert_eq!(explained.routes[0].direction(), v1::RouteDirection::Out, "ours first");
    let (_, metrics) = lab.http("/metrics").await?;
    assert!(metrics.contains("causeway_bgp_conflicts 1\n"), "{metrics}");
    switch.speaker.update(vec![RouteChange::Withdraw(bare_metal.key)]).await;
    assert_eq!(agent.delta().await?.deleted_remotes.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_its_key_file_is_told_and_comes_up_when_it_is_there() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let switch = Switch::start([127, 0, 0, 2], Some(b"secret".to_vec())).await?;
    let file = lab.directory.path().join("key");
    let peer = v1::Peer { md5_key_file: file.display().to_string(), ..switch.peer() };
    lab.apply(vec![resource(v1::resource::Spec::Peer(peer))]).await?;
    let status = wait_for("the error", async || {
        let peers = lab.fabric().list_peers(v1::ListPeersRequest {}).await?.into_inner().peers;
        Ok(peers.into_iter().find(|peer| !peer.last_error.is_empty()))
    })
    .await?;
    assert_eq!(status.state, "Idle");
    assert!(status.last_error.starts_with("md5_key_file /"), "{}", status.last_error);
    tokio::fs::write(&file, "secret\n").await?;
    wait_peer(&lab, "Established").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_routes_at_the_peer() -> Result<()> {
    let (lab, switch) = with_switch().await?;
    let port = lab.create("a", Some("h1")).await?;
    let route = format!("2 10.99.0.1:1 {} {} via 10.0.0.1 seq 0", port.mac, port.addresses[0]);
    let flood = "3 10.99.0.1:1 10.0.0.1";
    switch.wait_routes(&[&route, flood]).await?;
    let directory = lab.stop().await?;
    switch.wait_routes(&[&format!("{route} stale"), &format!("{flood} stale")]).await?;
    let lab = Lab::start_in(directory).await?;
    wait_peer(&lab, "Established").await?;
    switch.wait_routes(&[&route, flood]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_listed_by_filter_with_a_limit() -> Result<()> {
    let (lab, _switch) = with_switch().await?;
    for n in 0..5 {
        lab.create(&format!("p{n}"), Some("h1")).await?;
    }
    let list = async |request: v1::ListRoutesRequest| -> Result<(usize, u64)> {
        let answer = lab.fabric().list_routes(request).await?.into_inner();
        Ok((answer.routes.len(), answer.more))
    };
    let all = v1::ListRoutesRequest::default();
    wait_for("all routes", async || Ok((list(all.clone()).await? == (6, 0)).then_some(()))).await?;
    assert_eq!(list(v1::ListRoutesRequest { limit: 2, ..all.clone() }).await?, (2, 4));
    assert_eq!(list(v1::ListRoutesRequest { route_type: 3, ..all.clone() }).await?, (1, 0));
    assert_eq!(list(v1::ListRoutesRequest { vni: 120, ..all.clone() }).await?, (0, 0));
    for (request, field) in [
        (v1::ListRoutesRequest { route_type: 6, ..all.clone() }, "route_type"),
        (v1::ListRoutesRequest { vni: 1 << 24, ..all.clone() }, "vni"),
        (v1::ListRoutesRequest { mac: "x".into(), ..all.clone() }, "mac"),
        (v1::ListRoutesRequest { ip: "x".into(), ..all.clone() }, "ip"),
        (v1::ListRoutesRequest { peer: "x".into(), ..all.clone() }, "peer"),
        (v1::ListRoutesRequest { direction: 9, ..all.clone() }, "direction"),
        (v1::ListRoutesRequest { limit: 1_000_000, ..all.clone() }, "limit"),
    ] {
        let status = refused(lab.fabric().list_routes(request).await)?;
        assert!(status.message().starts_with(&format!("{field}: ")), "{status:?}");
    }
    Ok(())
}

/// A switch that speaks EVPN, as a node.
fn leaf(name: &str, vtep: &str) -> v1::Resource {
    let mode = v1::NodeMode::TorEvpn.into();
    let node = v1::Node { name: name.into(), mode, vtep: vtep.into(), ..v1::Node::default() };
    resource(v1::resource::Spec::Node(node))
}

/// A host behind a switch.
fn host(name: &str, switch: &str) -> v1::Resource {
    let uplink = v1::Uplink { interface: "eth1".into(), switch: switch.into(), ..v1::Uplink::default() };
    let mode = v1::NodeMode::Host.into();
    let node = v1::Node { name: name.into(), mode, uplinks: vec![uplink], ..v1::Node::default() };
    resource(v1::resource::Spec::Node(node))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fabric_is_compared_explained_and_alarms_are_raised_and_cleared() -> Result<()> {
    let (lab, switch) = with_switch().await?;
    lab.apply(vec![leaf("leaf1", "10.0.9.1"), leaf("leaf2", "10.0.9.2"), host("s1", "leaf1")]).await?;
    let port = lab.create("a", Some("s1")).await?;
    let (mac, ip) = (port.mac.clone(), port.addresses[0].clone());
    let diff = async |all: bool| -> Result<Vec<(String, String)>> {
        let request =
            v1::DiffFabricRequest { all, network: "web".into(), ..v1::DiffFabricRequest::default() };
        let answer = lab.fabric().diff_fabric(request).await?.into_inner();
        assert_eq!((answer.ports, answer.peers.len(), answer.more), (1, 1, 0));
        let short = |f: v1::FabricFinding| {
            (
                f.presence().as_str_name().trim_start_matches("PRESENCE_").to_owned(),
                f.observed_vteps.join(","),
            )
        };
        Ok(answer.findings.into_iter().map(short).collect())
    };
    let becomes = async |what: &str, wanted: &[(&str, &str)]| -> Result<()> {
        let wanted: Vec<_> = wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        wait_for(what, async || Ok((diff(false).await? == wanted).then_some(()))).await
    };
    let mut alarms = lab.fabric().watch_alarms(v1::WatchAlarmsRequest {}).await?.into_inner();
    assert!(alarms.message().await?.context("an alarm")?.synced, "nothing stands yet");
    becomes("the switch has learned nothing", &[("MISSING", "")]).await?;

    let explain = async |at: &str| -> Result<String> {
        let request = v1::ExplainRequest { subject: mac.clone(), at: at.into() };
        Ok(lab.fabric().explain(request).await?.into_inner().findings.join("\n"))
    };
    let text = explain("leaf1").await?;
    assert!(text.contains("dropped at leaf1, martian or self next-hop"), "{text}");
    assert!(text.contains("nothing remains"), "{text}");
    let text = explain("leaf2").await?;
    assert!(text.contains("leaf1 (10.0.9.1)") && text.contains("wins (nothing else remains)"), "{text}");

    let here = server(&mac, &ip, [10, 0, 9, 1])?;
    switch.speaker.update(vec![RouteChange::Announce(here.clone())]).await;
    becomes("learned", &[]).await?;
    assert_eq!(diff(true).await?.len(), 2, "MAC and address are present");

    let mut moved = (*server(&mac, &ip, [10, 0, 9, 2])?.attributes).clone();
    moved.sequence = 3;
    let moved = Route { key: here.key, attributes: Arc::new(moved) };
    switch.speaker.update(vec![RouteChange::Announce(moved)]).await;
    becomes("moved", &[("ELSEWHERE", "10.0.9.2"), ("ELSEWHERE", "10.0.9.2")]).await?;
    for _ in 0..2 {
        let raised = alarms.message().await?.context("an alarm")?;
        let finding = raised.finding.context("a finding")?;
        assert!(raised.raised && finding.text.contains("leaf2 (10.0.9.2)"), "{finding:?}");
        assert_eq!((finding.presence(), finding.observed_sequence), (v1::Presence::Elsewhere, 3));
    }
    let (_, metrics) = lab.http("/metrics").await?;
    assert!(
        metrics.contains("causeway_fabric_findings{presence=\"elsewhere\",peer=\"127.0.0.2\"} 2"),
        "{metrics}"
    );
    // Nothing is fought over: our route goes, it is not raised.
    let ours = format!("2 10.99.0.1:1 {mac}");
    wait_for("our route is gone", async || {
        Ok((!switch.routes().await.iter().any(|route| route.starts_with(&ours))).then_some(()))
    })
    .await?;
    assert!(explain("").await?.contains("wins (nothing else remains)"));
    assert!(
        refused(lab.fabric().explain(v1::ExplainRequest { subject: mac.clone(), at: "s1".into() }).await)?
            .message()
            .contains("has no VTEP")
    );

    switch.speaker.update(vec![RouteChange::Announce(here)]).await;
    becomes("back", &[]).await?;
    for _ in 0..2 {
        assert!(!alarms.message().await?.context("an alarm")?.raised);
    }
    let unknown = v1::DiffFabricRequest { node: "nobody".into(), ..v1::DiffFabricRequest::default() };
    assert!(refused(lab.fabric().diff_fabric(unknown).await)?.message().contains("nobody"));
    Ok(())
}

/// What a switch needs to install a host and a prefix into a VRF (RFC 9135 §5.1, RFC 9136 §4.4.1): both targets and the
/// router MAC of the VTEP, and labels that are the VNIs themselves. Over a session, through the octets.
#[tokio::test(flavor = "multi_thread")]
async fn symmetric_irb_and_prefixes_arrive_as_a_switch_needs_them() -> Result<()> {
    let (lab, switch) = with_switch().await?;
    let route = v1::VrfRoute { prefix: "2001:db8:7::/48".into(), node: "h2".into() };
    let vrf = v1::Vrf { name: "default".into(), l3_vni: 4001, routes: vec![route], ..Default::default() };
    lab.apply(vec![resource(v1::resource::Spec::Vrf(vrf))]).await?;
    let port = lab.create("a", Some("h1")).await?;
    let routes = wait_for("four routes", async || {
        let routes = switch.speaker.routes_in(&Default::default()).await;
        Ok((routes.len() == 4).then_some(routes))
    })
    .await?;
    let find = |wanted: &dyn Fn(&RouteKey) -> bool| {
        let found = routes.iter().find(|received| wanted(&received.route.key));
        found.map(|received| (*received.route.attributes).clone()).context("no such route")
    };
    let targets = |attributes: &Attributes| -> Vec<String> {
        attributes.route_targets.iter().map(ToString::to_string).collect()
    };
    let vnis = |attributes: &Attributes| (attributes.vni.map(Vni::get), attributes.l3_vni.map(Vni::get));
    let host = find(
        &|key| matches!(key, RouteKey::MacIp { ip: Some(ip), .. } if ip.to_string() == port.addresses[0]),
    )?;
    assert_eq!(vnis(&host), (Some(110), Some(4001)));
    assert_eq!(targets(&host), ["65000:110", "65000:4001"]);
    assert_eq!(host.router_mac.map(|mac| mac.to_string()).as_deref(), Some("12:00:0a:00:00:01"));
    let connected = find(&|key| matches!(key, RouteKey::IpPrefix { prefix, .. } if prefix.is_ipv4()))?;
    assert_eq!((vnis(&connected), connected.gateway), ((Some(4001), None), None));
    assert_eq!(targets(&connected), ["65000:4001"]);
    assert_eq!(connected.router_mac, host.router_mac);
    let given = find(&|key| matches!(key, RouteKey::IpPrefix { prefix, .. } if !prefix.is_ipv4()))?;
    assert_eq!(given.next_hop, IpAddr::from([10, 0, 0, 2]));
    assert_eq!(given.router_mac.map(|mac| mac.to_string()).as_deref(), Some("12:00:0a:00:00:02"));
    let flood = find(&|key| matches!(key, RouteKey::Imet { .. }))?;
    assert_eq!((flood.router_mac, flood.l3_vni), (None, None));
    // The same, to the node: what its agent hears and what is shown are one state.
    let mut agent = Agent::connect(&lab.channel, "h2", "i").await?;
    let told = agent.snapshot().await?;
    let shown =
        lab.fabric().get_node_state(v1::GetNodeStateRequest { node: "h2".into() }).await?.into_inner();
    assert_eq!(shown.state.as_ref(), Some(&told));
    assert_eq!((told.vrfs.len(), told.vrfs[0].l3_vni, told.vrfs[0].table), (1, 4001, 254));
    let routes: Vec<&str> = told.routes.iter().map(|route| route.prefix.as_str()).collect();
    assert_eq!(routes, ["10.8.0.0/24", &format!("{}/32", port.addresses[0])]);
    assert_eq!(told.routes[1].next_hops[0].router_mac, "12:00:0a:00:00:01");
    Ok(())
}

/// The store of a controller that has stopped, as soon as it is closed.
async fn opened(directory: &std::path::Path) -> Result<FileStore> {
    let path = directory.join("store/store.redb");
    wait_for("the store to be closed", async || Ok(FileStore::open(&path).await.ok())).await
}

/// The records go back to a copy of before two bindings. Another controller's routes are still in the fabric and say what
/// the first one's said last.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_does_not_undercut_what_the_fabric_remembers() -> Result<()> {
    let (lab, switch) = with_switch().await?;
    let port = lab.create("a", Some("h1")).await?;
    let (ip, mac) = (port.addresses[0].clone(), port.mac.clone());
    let directory = lab.stop().await?;
    let copy = opened(directory.path()).await?.list("intent/").await?.entries;
    let lab = Lab::start_in(directory).await?;
    for _ in 0..2 {
        lab.unbind("a").await?;
        lab.bind("a", "h1").await?;
    }
    let said = format!("2 10.99.0.1:1 {mac} {ip} via 10.0.0.1 seq 2");
    switch.wait_routes(&[&said, "3 10.99.0.1:1 10.0.0.1"]).await?;
    let directory = lab.stop().await?;
    let store = opened(directory.path()).await?;
    let put = |entry: KeyValue| Write::Put { key: entry.key, value: entry.value, lease: None };
    let writes = copy.into_iter().map(put).collect();
    let restored = store.txn(Txn { compares: Vec::new(), writes }).await?;
    ensure!(matches!(restored, TxnOutcome::Committed(_)), "{restored:?}");
    let binding = store.get("intent/binding/default/web/a").await?.context("a binding")?;
    ensure!(String::from_utf8(binding.value)?.contains("\"generation\":1,"), "the copy is not in place");
    drop(store);
    // What a second controller announced of it: with its own distinguisher, for our node.
    let rd = RouteDistinguisher::new(Ipv4Addr::new(10, 99, 0, 2), 1);
    let key = RouteKey::MacIp { rd, etag: 0, mac: mac.parse()?, ip: Some(ip.parse()?) };
    let remembered = Attributes { sequence: 2, ..attributes([10, 0, 0, 1]) };
    let remembered = Route { key, attributes: Arc::new(remembered) };
    switch.speaker.update(vec![RouteChange::Announce(remembered)]).await;
    let lab = Lab::start_in(directory).await?;
    wait_for("the generation is that of before again", async || {
        let binding = lab.get("a").await?.binding.context("a binding")?;
        Ok((binding.generation == 3).then_some(()))
    })
    .await?;
    let announced = async |route: &str| {
        wait_for(route, async || Ok(switch.routes().await.iter().any(|r| r == route).then_some(()))).await
    };
    announced(&said).await?;
    // And the next place is above it.
    lab.unbind("a").await?;
    lab.bind("a", "h2").await?;
    announced(&format!("2 10.99.0.1:1 {mac} {ip} via 10.0.0.2 seq 3")).await
}
