use causeway_proto::v1::resource::Spec;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ports::{CreatePort, Place, Ports};
use crate::store::FileStore;

mod fabric;
mod records;
mod transactions;

struct World {
    _directory: tempfile::TempDir,
    cancel: CancellationToken,
    store: Arc<dyn Store>,
    state: State,
    intent: Intent,
    ports: Ports,
}

impl World {
    async fn new(asn: u32) -> World {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FileStore::open(directory.path().join("state")).await.unwrap());
        let cancel = CancellationToken::new();
        let state = State::start(store.clone(), cancel.clone()).await.unwrap();
        let intent = Intent::new(store.clone(), state.clone(), asn);
        let ports = Ports::start(store.clone(), state.clone(), cancel.clone());
        World { _directory: directory, cancel, store, state, intent, ports }
    }

    async fn apply(&self, specs: Vec<Spec>) -> Result<Applied, IntentError> {
        self.intent.apply(&resources(specs), false).await
    }

    async fn create(&self, name: &str, address: &str, bind: Option<&str>) {
        let bind = bind.map(|node| Place::container(node.parse().unwrap(), "pid:1", "eth0"));
        let addresses = if address.is_empty() { vec![] } else { vec![address.parse().unwrap()] };
        let key = format!("web/{name}").parse().unwrap();
        let create = CreatePort { addresses, bind, ..CreatePort::new(key) };
        let stored = self.ports.create(vec![create]).await.pop().unwrap().unwrap();
        self.state.wait_for(stored.revision).await.unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn resources(specs: Vec<Spec>) -> Vec<v1::Resource> {
    specs.into_iter().map(|spec| v1::Resource { spec: Some(spec) }).collect()
}

fn vrf(name: &str, l3_vni: u32) -> Spec {
    Spec::Vrf(v1::Vrf { name: name.into(), l3_vni, ..Default::default() })
}

fn network(name: &str, vni: u32) -> v1::Network {
    v1::Network { name: name.into(), vni, ..Default::default() }
}

fn subnet(network: &str, prefix: &str) -> v1::Subnet {
    v1::Subnet { network: network.into(), prefix: prefix.into(), ..Default::default() }
}

fn node(name: &str, vtep: &str) -> v1::Node {
    v1::Node {
        name: name.into(),
        vtep: vtep.into(),
        mode: v1::NodeMode::HostVtep.into(),
        ..Default::default()
    }
}

fn base() -> Vec<Spec> {
    vec![
        Spec::Subnet(v1::Subnet { gateway: "10.0.0.1".into(), ..subnet("web", "10.0.0.0/24") }),
        Spec::Network(v1::Network { vlan: 10, ..network("web", 100) }),
        vrf("red", 50),
        Spec::Node(node("n1", "192.0.2.1")),
        Spec::Peer(v1::Peer { address: "192.0.2.9".into(), asn: 65_000, ..Default::default() }),
    ]
}

/// What is wrong, as text with its field.
fn told(error: &IntentError) -> String {
    match error {
        IntentError::Conflict { field, subject, owner } => format!("{field}: {subject} <- {owner}"),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn applying_twice_changes_nothing_the_second_time() {
    let world = World::new(65_000).await;
    let plan = world.intent.apply(&resources(base()), true).await.unwrap();
    assert!(plan.outcomes.iter().all(|o| o.action == Action::Create));
    assert!(world.store.list("").await.unwrap().entries.is_empty());
    let first = world.apply(base()).await.unwrap();
    assert_eq!(first.outcomes, plan.outcomes);
    assert_eq!(first.outcomes[0].name, "default/10.0.0.0/24");
    let second = world.apply(base()).await.unwrap();
    assert!(second.outcomes.iter().all(|o| o.action == Action::Unchanged && o.changes.is_empty()));
    assert_eq!(world.store.revision().await.unwrap(), first.revision);
    // What is stored and shown, declared again, is the same.
    let snapshot = world.state.snapshot();
    let kinds = [v1::Kind::Vrf, v1::Kind::Network, v1::Kind::Subnet, v1::Kind::Node, v1::Kind::Peer];
    let all: Vec<_> =
        kinds.iter().flat_map(|kind| message::list(&snapshot, *kind)).map(|d| d.to_resource()).collect();
    assert_eq!(all.len(), 6);
    let again = world.intent.apply(&all, false).await.unwrap();
    assert!(again.outcomes.iter().all(|o| o.action == Action::Unchanged), "{:?}", again.outcomes);
}

#[tokio::test]
async fn changes_are_told_field_by_field() {
    let world = World::new(65_000).await;
    world.apply(base()).await.unwrap();
    let changed = v1::Network { vlan: 11, mtu: 1400, ..network("web", 101) };
    let outcome = world.apply(vec![Spec::Network(changed)]).await.unwrap().outcomes.remove(0);
    let texts: Vec<String> =
        outcome.changes.iter().map(|c| format!("{} {}>{}", c.field, c.old, c.new)).collect();
    assert_eq!(
        (outcome.action, texts),
        (Action::Update, vec!["vni 100>101".into(), "vlan 10>11".into(), "mtu 1450>1400".into()])
    );
    // The old numbers are free again, the new ones are not.
    world.apply(vec![Spec::Network(v1::Network { vlan: 10, ..network("db", 100) })]).await.unwrap();
    let error = world.apply(vec![Spec::Network(network("x", 101))]).await.unwrap_err();
    assert_eq!(told(&error), "resources[0].network.vni: vni 101 <- network default/web");
}

#[tokio::test]
async fn what_is_taken_is_refused_before_anything_is_written() {
    let world = World::new(65_000).await;
    world.apply(base()).await.unwrap();
    let before = world.store.revision().await.unwrap();
    let fine = Spec::Node(node("fine", "192.0.2.50"));
    for (spec, want) in [
        (Spec::Network(network("db", 100)), "resources[1].network.vni: vni 100 <- network default/web"),
        (Spec::Network(network("db", 50)), "resources[1].network.vni: vni 50 <- vrf red"),
        (vrf("blue", 100), "resources[1].vrf.l3_vni: vni 100 <- network default/web"),
        (
            Spec::Network(v1::Network { vlan: 10, ..network("db", 101) }),
            "resources[1].network.vlan: vlan 10 <- network default/web",
        ),
        (Spec::Node(node("n2", "192.0.2.1")), "resources[1].node.vtep: vtep 192.0.2.1 <- node n1"),
        (
            Spec::Subnet(subnet("web", "10.0.0.128/25")),
            "resources[1].subnet.prefix: a part of 10.0.0.128/25 <- subnet 10.0.0.0/24 of network default/web",
        ),
        (
            Spec::Subnet(subnet("web", "10.0.0.0/8")),
            "resources[1].subnet.prefix: a part of 10.0.0.0/8 <- subnet 10.0.0.0/24 of network default/web",
        ),
        (
            Spec::Subnet(subnet("none", "10.1.0.0/24")),
            "resources[1].subnet.network: network default/none does not exist",
        ),
        (
            Spec::Network(v1::Network { vrf: "blue".into(), ..network("db", 101) }),
            "resources[1].network.vrf: vrf blue does not exist",
        ),
    ] {
        let error = world.apply(vec![fine.clone(), spec]).await.unwrap_err();
        assert_eq!(told(&error), want);
        assert!(!error.retryable());
    }
    let pair = vec![Spec::Subnet(subnet("web", "10.1.0.0/24")), Spec::Subnet(subnet("web", "10.1.0.0/16"))];
    assert!(told(&world.apply(pair).await.unwrap_err()).contains("a part of 10.1.0.0/"));
    assert_eq!(world.store.revision().await.unwrap(), before);
    // The same addresses in another VRF are fine.
    let red = v1::Network { vrf: "red".into(), ..network("web", 102) };
    let overlap = v1::Subnet { vrf: "red".into(), ..subnet("web", "10.0.0.0/8") };
    world.apply(vec![Spec::Network(red), Spec::Subnet(overlap)]).await.unwrap();
}

#[tokio::test]
async fn all_wrong_fields_are_told_at_once() {
    let world = World::new(65_000).await;
    let wrong = vec![
        Spec::Network(v1::Network {
            name: "Web".into(),
            vni: 0,
            vlan: 4095,
            mtu: 100,
            sticky_seconds: -1,
            export_targets: vec!["x".into()],
            ..Default::default()
        }),
        Spec::Subnet(v1::Subnet {
            gateway: "10.1.0.1".into(),
            ranges: vec!["10.0.1.0-10.0.1.5".into()],
            exclusions: vec!["10.0.0.9-10.0.0.1".into()],
            ..subnet("web", "10.0.0.0/24")
        }),
        Spec::Subnet(subnet("web", "10.0.0.5/24")),
        Spec::Node(v1::Node {
            name: "n".into(),
            vtep: "0.0.0.0".into(),
            underlay_mtu: 9,
            ..Default::default()
        }),
        Spec::Peer(v1::Peer {
            address: "224.0.0.1".into(),
            asn: 0,
            port: 70_000,
            hold_seconds: 2,
            restart_seconds: 5000,
            ..Default::default()
        }),
        vrf("a", 0),
        vrf("a", 1),
    ];
    let mut resources = resources(wrong);
    resources.push(v1::Resource { spec: None });
    let IntentError::Invalid(violations) = world.intent.apply(&resources, true).await.unwrap_err() else {
        panic!("not refused")
    };
    let fields: Vec<&str> = violations.iter().map(|v| v.field.trim_start_matches("resources")).collect();
    assert_eq!(
        fields,
        [
            "[0].network.name",
            "[0].network.vni",
            "[0].network.vlan",
            "[0].network.mtu",
            "[0].network.export_targets[0]",
            "[0].network.sticky_seconds",
            "[1].subnet.exclusions[0]",
            "[1].subnet.ranges[0]",
            "[1].subnet.gateway",
            "[2].subnet.prefix",
            "[3].node.mode",
            "[3].node.vtep",
            "[3].node.underlay_mtu",
            "[4].peer.address",
            "[4].peer.asn",
            "[4].peer.port",
            "[4].peer.hold_seconds",
            "[4].peer.restart_seconds",
            "[6]",
            "[7]",
        ]
    );
}

#[tokio::test]
async fn default_targets_of_a_large_as_must_fit() {
    let world = World::new(4_200_000_000).await;
    let error = world.apply(vec![Spec::Network(network("web", 70_000))]).await.unwrap_err();
    assert!(told(&error).contains("resources[0].network.export_targets: must be given"), "{error}");
    world.apply(vec![Spec::Network(network("web", 65_535))]).await.unwrap();
    let given = v1::Network { export_targets: vec!["65000:70000".into()], ..network("db", 70_000) };
    world.apply(vec![Spec::Network(given)]).await.unwrap();
}

#[tokio::test]
async fn what_is_in_use_neither_changes_nor_goes() {
    let world = World::new(65_000).await;
    world.apply(base()).await.unwrap();
    world.create("a", "10.0.0.7", Some("n1")).await;
    for (spec, want) in [
        (
            Spec::Network(v1::Network { vlan: 10, ..network("web", 101) }),
            "vni of network default/web cannot change from 100 to 101 while it has ports: port default/web/a",
        ),
        (
            Spec::Network(v1::Network { vlan: 10, mtu: 1451, ..network("web", 100) }),
            "network default/web cannot change so while port default/web/a is bound: has an underlay of 1500 bytes, network default/web needs 1451 and 50 of VXLAN: node n1",
        ),
        (
            Spec::Node(v1::Node { underlay_mtu: 1499, ..node("n1", "192.0.2.1") }),
            "node n1 cannot change so while port default/web/a is bound: has an underlay of 1499 bytes, network default/web needs 1450 and 50 of VXLAN: node n1",
        ),
        (
            Spec::Subnet(v1::Subnet {
                exclusions: vec!["10.0.0.4/30".into()],
                ..subnet("web", "10.0.0.0/24")
            }),
            "address 10.0.0.7 is excluded by the subnet with this change, and is in use: port default/web/a",
        ),
        (
            Spec::Subnet(v1::Subnet { gateway: "10.0.0.7".into(), ..subnet("web", "10.0.0.0/24") }),
            "address 10.0.0.7 is the subnet's gateway with this change, and is in use: port default/web/a",
        ),
    ] {
        let error = world.apply(vec![spec]).await.unwrap_err();
        assert_eq!(error.to_string(), want);
        assert!(!error.hint().is_empty());
    }
    for (kind, name, want) in [
        (v1::Kind::Node, "n1", "node n1 cannot be deleted while ports are bound to it: port default/web/a"),
        (
            v1::Kind::Subnet,
            "10.0.0.0/24",
            "subnet default/10.0.0.0/24 cannot be deleted while addresses of it are in use: port default/web/a (10.0.0.7)",
        ),
        (
            v1::Kind::Network,
            "web",
            "network default/web cannot be deleted while it has ports: port default/web/a",
        ),
        (
            v1::Kind::Vrf,
            "default",
            "name: the VRF default always exists; apply it without fields to reset it",
        ),
    ] {
        assert_eq!(world.intent.delete(kind, name).await.unwrap_err().to_string(), want);
    }
    // Once it is gone everything goes, in order, and leaves nothing behind.
    let gone = world.ports.free("web/a".parse().unwrap(), "test").await.unwrap();
    world.state.wait_for(gone).await.unwrap();
    for (kind, name) in [
        (v1::Kind::Node, "n1"),
        (v1::Kind::Subnet, "default/10.0.0.0/24"),
        (v1::Kind::Network, "default/web"),
        (v1::Kind::Vrf, "red"),
        (v1::Kind::Peer, "192.0.2.9"),
        (v1::Kind::Peer, "192.0.2.9"),
    ] {
        world.intent.delete(kind, name).await.unwrap();
    }
    let left = world.store.list("").await.unwrap().entries.into_iter().map(|e| e.key);
    let left: Vec<String> = left.filter(|key| !key.starts_with("history/")).collect();
    assert_eq!(left, ["guard/subnets/default"]);
}

#[tokio::test]
async fn a_subnet_without_ports_moves_to_another_network() {
    let world = World::new(65_000).await;
    world.apply(base()).await.unwrap();
    world
        .apply(vec![Spec::Network(network("db", 101)), Spec::Subnet(subnet("db", "10.0.0.0/24"))])
        .await
        .unwrap();
    let snapshot = world.state.snapshot();
    let networks: Vec<String> = snapshot.subnets.values().map(|s| s.value.network.to_string()).collect();
    assert_eq!(networks, ["default/db"]);
    assert_eq!(world.store.list("intent/subnet/").await.unwrap().entries.len(), 1);
}

fn switch(name: &str, mode: v1::NodeMode, vtep: &str) -> v1::Node {
    v1::Node { mode: mode.into(), ..node(name, vtep) }
}

fn host(name: &str, uplinks: &[(&str, &str, &str)]) -> v1::Node {
    let uplink = |(interface, switch, there): &(&str, &str, &str)| v1::Uplink {
        interface: (*interface).into(),
        switch: (*switch).into(),
        switch_interface: (*there).into(),
    };
    v1::Node {
        name: name.into(),
        mode: v1::NodeMode::Host.into(),
        uplinks: uplinks.iter().map(uplink).collect(),
        ..Default::default()
    }
}
