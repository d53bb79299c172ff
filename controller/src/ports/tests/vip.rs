//! VIPs and their holders.

use super::*;
use crate::history::EventKind;

fn vip(name: &str) -> CreatePort {
    CreatePort { vip: true, ..create(name) }
}

fn hold(holder: Option<&str>) -> Request {
    Request::Hold { key: key("vip"), holder: holder.map(key) }
}

impl World {
    /// A VIP, `a` on a node, `b` on another, `c` nowhere.
    fn with_vip() -> World {
        let mut world = World::with_network();
        world.run(&Request::Create(vip("vip")), 1).unwrap();
        for (name, bind) in [("a", Some(place(1))), ("b", Some(place(2))), ("c", None)] {
            world.run(&Request::Create(CreatePort { bind, ..create(name) }), 1).unwrap();
        }
        world
    }

    fn answers(&self, name: &str) -> Vec<String> {
        self.snapshot.ports[&key(name)].value.answers().map(|ip| ip.to_string()).collect()
    }

    fn generation(&self, name: &str) -> u64 {
        self.snapshot.bindings[&key(name)].value.generation
    }

    /// The holder as the VIP names it, which must be the one port that has its addresses.
    fn holder(&self) -> Option<String> {
        let record = &self.snapshot.ports[&key("vip")].value;
        let named = record.vip.as_ref().unwrap().holder.clone();
        let ports = self.snapshot.ports.values();
        let having: Vec<_> = ports.filter(|port| !port.value.held.is_empty()).collect();
        assert_eq!(having.len(), usize::from(named.is_some()));
        for port in having {
            assert_eq!(Some(&port.value.key), named.as_ref());
            assert_eq!(port.value.held[0].addresses, record.addresses);
        }
        named.map(|key| key.name.to_string())
    }
}

#[test]
fn a_vip_goes_from_holder_to_holder_with_a_higher_sequence_each_time() {
    let mut world = World::with_vip();
    assert_eq!(world.holder(), None);
    assert_eq!(world.answers("vip"), ["10.0.0.2"]);
    let before = world.generation("a");
    world.run(&hold(Some("a")), 5).unwrap();
    assert_eq!(world.holder().as_deref(), Some("a"));
    assert_eq!(world.answers("a"), ["10.0.0.3", "10.0.0.2"]);
    assert_eq!(world.generation("a"), before + 1);
    // Asked for again, nothing changes.
    assert!(matches!(world.plan(&hold(Some("a")), 6), Ok(Plan::Done(_))));
    // The holder was bound often: whoever is next is announced above it.
    for n in 0..3 {
        world.run(&Request::Unbind(key("a")), 10 + n).unwrap();
        world.run(&Request::Bind(key("a"), place(1), None), 10 + n).unwrap();
    }
    let announced = world.generation("a");
    world.run(&hold(Some("b")), 20).unwrap();
    assert_eq!((world.holder().as_deref(), world.answers("a").len()), (Some("b"), 1));
    assert!(world.generation("b") > announced, "{} {announced}", world.generation("b"));
    // One that lives nowhere yet is bound above it, too.
    let announced = world.generation("b");
    world.run(&hold(Some("c")), 30).unwrap();
    assert!(!world.snapshot.bindings.contains_key(&key("c")));
    world.run(&Request::Bind(key("c"), place(1), None), 31).unwrap();
    assert!(world.generation("c") > announced);
    // Nobody, and then somebody again.
    let announced = world.generation("c");
    world.run(&hold(None), 40).unwrap();
    assert_eq!(world.holder(), None);
    world.run(&hold(Some("a")), 41).unwrap();
    assert!(world.generation("a") > announced);
}

#[test]
fn the_end_of_either_side_ends_the_holding() {
    for forget in [false, true] {
        let mut world = World::with_vip();
        world.run(&hold(Some("a")), 5).unwrap();
        let announced = world.generation("a");
        world.run(&Request::Release { key: key("a"), forget }, 6).unwrap();
        assert_eq!(world.holder(), None);
        world.run(&hold(Some("b")), 7).unwrap();
        assert!(world.generation("b") > announced, "what was announced before is not forgotten");
        world.run(&Request::Release { key: key("vip"), forget }, 8).unwrap();
        assert_eq!((world.holder(), world.answers("b").len()), (None, 1));
    }
    let mut world = World::with_vip();
    world.run(&hold(Some("a")), 5).unwrap();
    let free = |name: &str| Request::Free { key: key(name), quarantined: false, cause: String::new() };
    world.run(&free("vip"), 6).unwrap();
    assert_eq!(world.answers("a"), ["10.0.0.3"]);
    // Gone, its address is free for others.
    assert_eq!(world.create("d").unwrap().port.addresses, [ip(2)]);
}

#[test]
fn what_cannot_hold_or_be_held_is_refused() {
    let mut world = World::with_vip();
    let precondition = |world: &mut World, request: &Request| match world.run(request, 5).unwrap_err() {
        PortError::Precondition { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let bind = Request::Bind(key("vip"), place(1), None);
    assert!(precondition(&mut world, &bind).contains("is a VIP"));
    let not_vip = Request::Hold { key: key("a"), holder: Some(key("b")) };
    assert_eq!(precondition(&mut world, &not_vip), "is no VIP");
    world.run(&Request::Release { key: key("c"), forget: false }, 4).unwrap();
    assert_eq!(precondition(&mut world, &hold(Some("c"))), "is released");
    for holder in ["db/a", "web/vip"] {
        let request = Request::Hold { key: key("vip"), holder: Some(holder.parse().unwrap()) };
        let error = world.run(&request, 5).unwrap_err();
        assert!(matches!(&error, PortError::Field { field, .. } if field == "holder"), "{error:?}");
    }
    assert!(matches!(world.run(&hold(Some("none")), 5).unwrap_err(), PortError::NoPort(_)));
    let bound = CreatePort { bind: Some(place(1)), ..vip("other") };
    assert!(matches!(world.run(&Request::Create(bound), 5).unwrap_err(), PortError::Field { .. }));
    // The same name is not both.
    assert!(matches!(world.run(&Request::Create(vip("a")), 5).unwrap_err(), PortError::Taken { .. }));
    assert!(matches!(world.create("vip").unwrap_err(), PortError::Taken { .. }));
}

#[test]
fn the_history_tells_all_three_what_happened() {
    let mut world = World::with_vip();
    world.run(&hold(Some("a")), 5).unwrap();
    let Plan::Write(planned) = world.plan(&hold(Some("b")), 9).unwrap() else { panic!("nothing to do") };
    let event = planned.event.unwrap();
    assert_eq!((event.kind, event.port), (EventKind::Held, Some(key("vip"))));
    assert_eq!(event.cause, "held by port default/web/b, before by port default/web/a");
    let others: Vec<(Option<PortKey>, String)> =
        planned.others.into_iter().map(|e| (e.port, e.cause)).collect();
    assert_eq!(
        others,
        [
            (Some(key("a")), "VIP default/web/vip is taken from it".to_owned()),
            (Some(key("b")), "VIP default/web/vip is given to it".to_owned()),
        ]
    );
}
