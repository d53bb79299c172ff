use proptest::prelude::*;

use super::*;
use crate::derive::fixture::{World, port_key};
use crate::model::MovePhase;
use crate::store::Write;

const PORTS: [&str; 4] = ["web/a", "web/b", "web/c", "db/d"];
const VIPS: [&str; 2] = ["web/v1", "web/v2"];

/// Three ports of one network, one of another, two VIPs that nobody holds; all but `c` have a place.
fn world() -> World {
    let mut world = World::default();
    world.network("web", 110);
    world.network("db", 120);
    for (number, node) in ["h1", "h2"].into_iter().enumerate() {
        world.node(node, &format!("10.0.0.{}", number + 1));
    }
    for (number, key) in PORTS.into_iter().chain(VIPS).enumerate() {
        world.port(key, &[&format!("10.8.0.{}", number + 5)]);
    }
    for (key, node) in [("web/a", "h1"), ("web/b", "h2"), ("db/d", "h1")] {
        world.bind(key, node);
    }
    for vip in VIPS {
        change(&mut world, vip, |port| port.vip = Some(Box::default()));
    }
    world
}

fn change(world: &mut World, key: &str, change: impl FnOnce(&mut Port)) {
    let key = port_key(key);
    let mut port = world.snapshot.ports[&key].value.clone();
    change(&mut port);
    world.put(&RecordKey::Port(key), &port);
}

fn named(world: &mut World, vip: &str, holder: Option<&str>, floor: u64) {
    let holder = holder.map(port_key);
    change(world, vip, |port| port.vip = Some(Box::new(Vip { holder, floor })));
}

fn told(world: &mut World, port: &str, vip: &str, address: &str) {
    let held = Held { vip: port_key(vip), addresses: vec![address.parse().unwrap()] };
    change(world, port, |port| port.held.push(held));
}

fn found(world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    check(&world.snapshot, 7_000, &mut found);
    found
}

/// Carries out a repair as the store does: only if all that it rests on is as it was.
fn repair(world: &mut World, finding: &Finding) -> bool {
    let Some(Repair { act: Act::Write(writes, events), .. }) = &finding.repair else { return false };
    let at = |path: &str| world.snapshot.revision_of(&RecordKey::parse(path).unwrap());
    let holds = finding.evidence.iter().all(|compare| match compare {
        Compare::Absent(path) => at(path).is_none(),
        Compare::Unchanged(path, revision) => at(path) == Some(*revision),
        other => panic!("{other:?} is no evidence"),
    });
    if !holds {
        return false;
    }
    let compared = |path: &String| {
        finding.evidence.iter().any(|compare| match compare {
            Compare::Absent(compared) | Compare::Unchanged(compared, _) => compared == path,
            _ => false,
        })
    };
    for write in writes {
        let Write::Put { key, value, .. } = write else { panic!("{write:?} takes a record away") };
        assert!(compared(key), "{key} is written and not compared");
        let record: serde_json::Value = serde_json::from_slice(value).unwrap();
        world.put(&RecordKey::parse(key).unwrap(), &record);
    }
    let ports: std::collections::BTreeSet<_> = events.iter().map(|event| event.port.clone()).collect();
    assert_eq!(ports.len(), events.len(), "a port is told of once: {events:?}");
    true
}

fn repair_all(world: &mut World) -> Vec<Finding> {
    for _ in 0..8 {
        let repaired = found(world).iter().filter(|finding| repair(world, finding)).count();
        if repaired == 0 {
            break;
        }
    }
    found(world)
}

fn generation(world: &World, key: &str) -> u64 {
    world.snapshot.bindings.get(&port_key(key)).map_or(0, |record| record.value.generation)
}

fn answers(world: &World, key: &str) -> Vec<String> {
    world.snapshot.ports[&port_key(key)].value.held.iter().map(|held| held.vip.to_string()).collect()
}

#[test]
fn what_a_vip_says_of_its_holder_counts() {
    let mut world = world();
    assert_eq!(found(&world), []);
    // The holder does not know; another one thinks that it is the holder, and was announced with it more often.
    named(&mut world, "web/v1", Some("web/a"), 3);
    told(&mut world, "web/b", "web/v1", "10.8.0.9");
    for _ in 0..8 {
        world.bind("web/b", "h2");
    }
    let (a, b) = (generation(&world, "web/a"), generation(&world, "web/b"));
    assert!(a < b);
    let finding = found(&world).remove(0);
    assert_eq!((finding.problem, finding.subject.as_str()), (Problem::VipHolder, "VIP default/web/v1"));
    let text = "its holder, port default/web/a, does not answer for it; port default/web/b answers for it, and is not its \
                holder";
    assert_eq!(finding.text, text);
    assert_eq!(repair_all(&mut world), []);
    assert_eq!((answers(&world, "web/a").len(), answers(&world, "web/b").len()), (1, 0));
    assert!(generation(&world, "web/a") > b, "{} is heard over {b}", generation(&world, "web/a"));
    assert_eq!(generation(&world, "web/b"), b, "it stays as it is");
}

#[test]
fn a_holder_that_cannot_hold_is_dropped_and_outbid_by_the_next() {
    type Break = fn(&mut World);
    let cases: [(Break, &str); 6] = [
        (|w| w.delete(&RecordKey::Port(port_key("web/b"))), "port default/web/b, does not exist"),
        (|w| change(w, "web/b", |p| p.released_ms = Some(1)), "port default/web/b, is released"),
        (|w| change(w, "web/b", |p| p.vip = Some(Box::default())), "port default/web/b, is a VIP itself"),
        (|w| change(w, "web/v1", |p| p.released_ms = Some(1)), "shall not answer for what is released"),
        (|w| named(w, "web/v1", Some("db/d"), 0), "port default/db/d, is in another network"),
        (|w| change(w, "web/b", |p| p.held[0].vip = port_key("web/gone")), "does not answer for it"),
    ];
    for (number, (break_it, text)) in cases.into_iter().enumerate() {
        let mut world = world();
        named(&mut world, "web/v1", Some("web/b"), 0);
        told(&mut world, "web/b", "web/v1", "10.8.0.9");
        assert_eq!(found(&world), []);
        break_it(&mut world);
        assert!(
            found(&world).iter().any(|finding| finding.text.contains(text)),
            "{text}: {:?}",
            found(&world)
        );
        assert_eq!(repair_all(&mut world), [], "{text}");
        let vip = world.snapshot.ports[&port_key("web/v1")].value.vip.clone().unwrap();
        let dropped = number < 5;
        assert_eq!(vip.holder.is_none(), dropped, "{text}");
        assert!(!dropped || vip.floor >= 1, "{text}: it was announced with 1, {vip:?}");
    }
}

#[test]
fn what_is_no_vip_is_answered_for_by_itself_alone() {
    let mut world = world();
    told(&mut world, "web/a", "web/b", "10.8.0.6");
    told(&mut world, "web/a", "web/gone", "10.8.0.77");
    let texts: Vec<String> = found(&world).into_iter().map(|finding| finding.text).collect();
    assert!(texts[0].ends_with("port default/web/a answers for it, and it is no VIP"), "{texts:?}");
    assert!(texts[1].ends_with("port default/web/a answers for it, and it does not exist"), "{texts:?}");
    assert_eq!(repair_all(&mut world), []);
    assert!(answers(&world, "web/a").is_empty());
}

#[test]
fn a_holder_on_its_way_is_left_alone_until_it_is_there() {
    let mut world = world();
    named(&mut world, "web/v1", Some("web/a"), 0);
    world.move_port("web/a", "h2", MovePhase::Prepare);
    let finding = found(&world).remove(0);
    assert!(finding.repair.is_none() && finding.hint.contains("is moving"), "{finding:?}");
    world.move_port("web/a", "h2", MovePhase::Done);
    assert_eq!(repair_all(&mut world), []);
    assert_eq!(answers(&world, "web/a"), ["default/web/v1"]);
}

#[derive(Debug, Clone)]
enum Edit {
    Name(usize, Option<usize>, u64),
    Tell(usize, usize, u8),
    Release(usize),
    Remove(usize),
    Bind(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0..2_usize, prop::option::of(0..6_usize), 0..9_u64).prop_map(|(v, p, f)| Edit::Name(v, p, f)),
        (0..6_usize, 0..7_usize, 5..11_u8).prop_map(|(p, v, a)| Edit::Tell(p, v, a)),
        (0..6_usize).prop_map(Edit::Release),
        (0..6_usize).prop_map(Edit::Remove),
        (0..4_usize, 1..3_usize).prop_map(|(p, n)| Edit::Bind(p, n)),
    ]
}

fn make(world: &mut World, edit: &Edit) {
    let keys = ["web/a", "web/b", "web/c", "db/d", "web/v1", "web/v2", "web/gone"];
    let exists = |world: &World, key: &str| world.snapshot.ports.contains_key(&port_key(key));
    match *edit {
        Edit::Name(vip, holder, floor) if exists(world, VIPS[vip]) => {
            named(world, VIPS[vip], holder.map(|n| keys[n]), floor);
        }
        Edit::Tell(port, vip, last) if exists(world, keys[port]) => {
            told(world, keys[port], keys[vip], &format!("10.8.0.{last}"));
        }
        Edit::Release(port) if exists(world, keys[port]) => {
            change(world, keys[port], |port| port.released_ms = Some(1));
        }
        Edit::Remove(port) => world.delete(&RecordKey::Port(port_key(keys[port]))),
        Edit::Bind(port, node) => world.bind(PORTS[port], &format!("h{node}")),
        _ => {}
    }
}

proptest! {
    /// Whatever somebody wrote: in the end each VIP and its holder say the same, whoever could hold it does, nobody else
    /// answers, the holder is announced above all before, and no generation or floor has gone down.
    #[test]
    fn in_the_end_all_say_the_same(edits in prop::collection::vec(edit(), 0..25)) {
        let mut world = world();
        for edit in &edits {
            make(&mut world, edit);
        }
        let before = world.clone();
        prop_assert_eq!(repair_all(&mut world), vec![]);
        let ports = &world.snapshot.ports;
        for (key, record) in ports.iter() {
            let port = &record.value;
            for held in &port.held {
                let vip = &ports[&held.vip].value;
                let named = vip.vip.as_ref().and_then(|vip| vip.holder.as_ref());
                prop_assert_eq!((named, &held.addresses), (Some(key), &vip.addresses));
            }
            let Some(vip) = &port.vip else { continue };
            let was = before.snapshot.ports[key].value.vip.clone().unwrap();
            prop_assert!(vip.floor >= was.floor);
            let fit = was.holder.filter(|holder| {
                let able = |p: &Port| p.released_ms.is_none() && p.vip.is_none() && p.key.network == key.network;
                port.released_ms.is_none() && ports.get(holder).is_some_and(|record| able(&record.value))
            });
            prop_assert_eq!(&vip.holder, &fit);
            let Some(holder) = &vip.holder else { continue };
            let answers = ports[holder].value.held.iter().filter(|held| held.vip == *key).count();
            prop_assert_eq!(answers, 1);
            // Strays of before have raised the floor; nobody announces the VIP as high as its holder does.
            let rewritten = ports[holder].revision != before.snapshot.ports[holder].revision;
            if let Some(binding) = world.snapshot.bindings.get(holder).filter(|_| rewritten) {
                prop_assert!(binding.value.generation > vip.floor, "{:?} {vip:?}", binding.value);
            }
        }
        for (key, binding) in &before.snapshot.bindings {
            prop_assert!(world.snapshot.bindings[key].value.generation >= binding.value.generation);
        }
    }
}
