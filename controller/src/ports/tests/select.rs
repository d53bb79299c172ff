use super::super::plan::select;
use causeway_proto::NetworkKey;

use super::*;

/// Three networks, of which two have the label `rack=r1`; `web` is one of them, `app` the other, with three addresses
/// each.
fn world() -> World {
    let mut world = World::with_network();
    for (n, (name, labels)) in
        [("app", r#"{"rack":"r1","zone":"a"}"#), ("db", r#"{"rack":"r2"}"#), ("web", r#"{"rack":"r1"}"#)]
            .into_iter()
            .enumerate()
    {
        world.put(
            &format!("intent/network/default/{name}"),
            &format!(
                r#"{{"key":"default/{name}","vni":{},"mtu":1450,"rd_number":{n},"quarantine_seconds":0,"labels":{labels}}}"#,
                200 + n
            ),
        );
        if name != "web" {
            world.put(
                &format!("intent/subnet/default/{name}/10.{n}.1.0/29"),
                &format!(
                    r#"{{"network":"default/{name}","prefix":"10.{n}.1.0/29","ranges":["10.{n}.1.1-10.{n}.1.3"]}}"#
                ),
            );
        }
    }
    world
}

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split(',').map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
}

impl World {
    fn select(&mut self, name: &str, by: &str) -> Result<Stored, PortError> {
        let network = NetworkKey { vrf: Name::default_vrf(), network: Name::lowest() };
        let key = PortKey { network, name: name.parse().unwrap() };
        let mut wanted = CreatePort { select: labels(by), ..CreatePort::new(key) };
        let view = View { snapshot: &self.snapshot, overlay: &self.overlay };
        let context = Context { now_ms: 1, seed: None, heard: &self.heard, hearing: &|_| Hearing::default() };
        select(&view, &mut wanted, context).map_err(|refusal| refusal.error)?;
        self.run(&Request::Create(wanted), 1).map(Option::unwrap)
    }
}

fn place_of(stored: &Stored) -> (String, String) {
    (stored.port.key.network.network.to_string(), stored.port.addresses[0].to_string())
}

#[test]
fn networks_with_the_labels_are_filled_in_the_order_of_their_names() {
    let mut world = world();
    let got: Vec<(String, String)> =
        (0..5).map(|n| place_of(&world.select(&format!("p{n}"), "rack=r1").unwrap())).collect();
    let networks: Vec<&str> = got.iter().map(|(network, _)| network.as_str()).collect();
    assert_eq!(networks, ["app", "app", "app", "web", "web"]);
    assert_eq!(place_of(&world.select("other", "rack=r2").unwrap()).0, "db");
    // All labels must match.
    let full = world.select("p9", "rack=r1,zone=a").unwrap_err();
    assert!(matches!(&full, PortError::Full { pools, .. } if pools.len() == 1), "{full:?}");
}

#[test]
fn a_name_keeps_its_network_and_address() {
    let mut world = world();
    let first = world.select("a", "rack=r1").unwrap();
    assert!(first.created);
    let again = world.select("a", "rack=r1").unwrap();
    assert!(!again.created);
    assert_eq!(place_of(&again), place_of(&first));
    // Released, and the network is another one's now: the name comes back to it all the same.
    world.run(&Request::Release { key: first.port.key.clone(), forget: false }, 5).unwrap();
    world.put(
        "intent/network/default/app",
        r#"{"key":"default/app","vni":200,"mtu":1450,"rd_number":0,"quarantine_seconds":0,"labels":{"rack":"r9"}}"#,
    );
    assert_eq!(place_of(&world.select("a", "rack=r1").unwrap()), place_of(&first));
    // Other labels that its network has find it too; such that it has not are refused.
    assert_eq!(place_of(&world.select("a", "rack=r9").unwrap()), place_of(&first));
    let refused = world.select("a", "rack=r2").unwrap_err();
    assert!(
        matches!(&refused, PortError::Taken { owner, .. } if owner.contains("default/app/a")),
        "{refused:?}"
    );
    // Given up, the name is free: it goes where there is room, and its claim is gone.
    world.run(&Request::Release { key: first.port.key.clone(), forget: true }, 6).unwrap();
    assert_eq!(place_of(&world.select("a", "rack=r2").unwrap()).0, "db");
}

#[test]
fn a_port_that_was_made_by_its_key_is_found_where_the_labels_match() {
    let mut world = world();
    let named = world.create("a").unwrap();
    let found = world.select("a", "rack=r1").unwrap();
    assert_eq!((found.created, &found.port), (false, &named.port));
}

#[test]
fn refusals_say_what_there_is() {
    let mut world = world();
    let none = world.select("a", "rack=r7").unwrap_err();
    match &none {
        PortError::NoMatch { labelled, .. } => {
            assert_eq!(
                labelled.as_slice(),
                ["default/app rack=r1,zone=a", "default/db rack=r2", "default/web rack=r1"]
            );
        }
        other => panic!("{other:?}"),
    }
    for n in 0..3 {
        world.select(&format!("p{n}"), "rack=r2").unwrap();
    }
    let key: PortKey = "db/p1".parse().unwrap();
    world.run(&Request::Release { key, forget: false }, 5).unwrap();
    match world.select("a", "rack=r2").unwrap_err() {
        PortError::Full { pools, .. } => {
            let counts: Vec<(u64, u64, u64)> = pools.iter().map(|p| (p.size, p.taken, p.released)).collect();
            assert_eq!(counts, [(3, 3, 1)]);
        }
        other => panic!("{other:?}"),
    }
    let mut wrong = CreatePort { select: labels("rack=r1"), addresses: vec![ip(3)], ..create("a") };
    let view = View { snapshot: &world.snapshot, overlay: &world.overlay };
    let context = Context { now_ms: 1, seed: None, heard: &world.heard, hearing: &|_| Hearing::default() };
    let refused = select(&view, &mut wrong, context).unwrap_err();
    assert!(matches!(refused.error, PortError::Field { .. }), "{refused:?}");
}
