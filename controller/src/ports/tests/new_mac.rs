//! Moves that change a port's MAC.

use super::*;
use crate::derive::{Stage, seat};
use crate::model::MovePhase;

const OLD: &str = "02:ca:0a:00:00:02";
const NEW: &str = "3c:ec:ef:00:10:01";

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

fn order(to: Place, mac: Option<NewMac>) -> Request {
    let order = MoveOrder {
        to,
        mac,
        max_loss_ms: 500,
        window_ms: 60_000,
        prepare_ms: 10_000,
        force: false,
        by: "op".into(),
    };
    Request::Move(key("a"), order)
}

fn to_new() -> Request {
    order(place(2), Some(NewMac::Given(mac(NEW))))
}

impl World {
    /// A port on the first of two nodes, which are heard of.
    fn with_bound_port() -> World {
        let mut world = World::with_network();
        world.hearing = Hearing { connected: true, known: true, ..Hearing::default() };
        world.run(&Request::Create(CreatePort { bind: Some(place(1)), ..create("a") }), 1).unwrap();
        assert_eq!(world.macs(), [OLD]);
        world
    }

    fn step(&mut self, phase: MovePhase, owner: Owner) {
        let record = self.snapshot.moves[&key("a")].clone();
        let mut next = record.value.clone();
        next.phase = phase;
        next.steps.push((phase, 10));
        let bound = self.snapshot.bindings.get(&key("a")).map(|record| record.revision);
        let step = MoveStep { next, seen: record.revision, bound, owner };
        self.run(&Request::Step(Box::new(step)), 10).unwrap();
    }

    /// The port's own MAC, and the one beside it.
    fn macs(&self) -> Vec<String> {
        self.snapshot.ports[&key("a")].value.macs().map(|mac| mac.to_string()).collect()
    }

    /// What the nodes have: the MAC, and whether the port is active there.
    fn seats(&self) -> Vec<Option<(String, bool)>> {
        let at = |node: &str| {
            let seat = seat(&self.snapshot, &node.parse().unwrap(), &key("a"))?;
            Some((seat.mac.to_string(), seat.stage == Stage::Active))
        };
        vec![at("n1"), at("n2")]
    }

    /// The claims on MACs, which must all be the port's.
    fn claimed(&self) -> Vec<String> {
        let prefix = "index/mac/default/web/";
        let claims =
            self.keys.iter().filter_map(|(key, (value, _))| Some((key.strip_prefix(prefix)?, value)));
        claims
            .map(|(mac, owner)| {
                assert_eq!(owner, b"default/web/a");
                mac.to_owned()
            })
            .collect()
    }

    fn known_sequence(&self, text: &str) -> u64 {
        self.snapshot.ledger.get(&("web".parse().unwrap(), mac(text))).map_or(0, |record| record.value)
    }

    fn refusal(&mut self, request: &Request) -> String {
        self.run(request, 5).unwrap_err().to_string()
    }
}

fn has(mac: &str, active: bool) -> Option<(String, bool)> {
    Some((mac.to_owned(), active))
}

#[test]
fn each_side_of_a_move_has_its_own_mac_and_the_end_frees_the_other() {
    let mut world = World::with_bound_port();
    world.run(&to_new(), 5).unwrap();
    assert_eq!(world.macs(), [OLD, NEW]);
    assert_eq!(world.claimed(), [OLD, NEW]);
    assert_eq!(world.seats(), [has(OLD, true), has(NEW, false)]);
    // Asked for again it is under way; with another MAC, or none, it is another move.
    assert!(matches!(world.plan(&to_new(), 6), Ok(Plan::Done(_))));
    assert!(world.refusal(&order(place(2), None)).contains("is moving to node n2 already"));

    world.step(MovePhase::Stop, Owner::AsItIs);
    assert_eq!(world.seats(), [has(OLD, false), has(NEW, false)]);
    let before = world.snapshot.bindings[&key("a")].value.generation;
    world.step(MovePhase::Verify, Owner::Target);
    assert_eq!(world.macs(), [NEW, OLD]);
    assert_eq!(world.seats(), [has(OLD, false), has(NEW, true)]);
    let after = world.snapshot.bindings[&key("a")].value.generation;
    assert!(after > before, "who hears of both follows the higher sequence");

    world.step(MovePhase::Hold, Owner::AsItIs);
    assert_eq!(world.claimed(), [OLD, NEW], "the way back needs the old one");
    world.step(MovePhase::Done, Owner::AsItIs);
    assert_eq!((world.macs(), world.claimed()), (vec![NEW.to_owned()], vec![NEW.to_owned()]));
    assert_eq!(world.seats(), [None, has(NEW, true)]);
    assert_eq!(world.known_sequence(OLD), after, "who has it next goes on counting");
    // And now somebody else may have it.
    world.run(&Request::Create(CreatePort { mac: Some(mac(OLD)), ..create("b") }), 20).unwrap();
}

#[test]
fn the_way_back_gives_the_old_mac_again() {
    let mut world = World::with_bound_port();
    world.run(&to_new(), 5).unwrap();
    for (phase, owner) in [
        (MovePhase::Stop, Owner::AsItIs),
        (MovePhase::Verify, Owner::Target),
        (MovePhase::Return, Owner::AsItIs),
    ] {
        world.step(phase, owner);
    }
    assert_eq!(world.seats(), [has(OLD, false), has(NEW, false)]);
    world.step(MovePhase::Undone, Owner::Source);
    assert_eq!((world.macs(), world.claimed()), (vec![OLD.to_owned()], vec![OLD.to_owned()]));
    assert_eq!(world.seats(), [has(OLD, true), None]);
    // It was announced with the new one, which remembers that.
    assert!(world.known_sequence(NEW) > 1);
}

#[test]
fn whatever_ends_the_move_or_the_port_frees_the_mac() {
    let turned = Request::TurnBack { key: key("a"), reason: "no".into(), force: false };
    let mut world = World::with_bound_port();
    world.run(&to_new(), 5).unwrap();
    world.run(&turned, 6).unwrap();
    assert_eq!((world.macs(), world.claimed()), (vec![OLD.to_owned()], vec![OLD.to_owned()]));

    // Gone at once, where there is no quarantine: both with it.
    world.put(
        "intent/network/default/web",
        r#"{"key":"default/web","vni":100,"mtu":1450,"quarantine_seconds":0,"rd_number":1}"#,
    );
    world.run(&to_new(), 7).unwrap();
    world.hearing.applied = Revision(u64::MAX);
    world.run(&Request::Release { key: key("a"), forget: true }, 8).unwrap();
    assert!(!world.snapshot.ports.contains_key(&key("a")) && world.claimed().is_empty());
    assert!(world.snapshot.spare_macs.is_empty());

    // Bound anew meanwhile, the move is void: the next one begins with one of its own.
    let mut world = World::with_bound_port();
    world.run(&to_new(), 5).unwrap();
    world.hearing.applied = Revision(u64::MAX);
    world.run(&Request::Unbind(key("a")), 6).unwrap();
    world.run(&Request::Bind(key("a"), place(1), None), 7).unwrap();
    assert_eq!(world.seats(), [has(OLD, true), None]);
    world.run(&order(place(2), None), 8).unwrap();
    assert_eq!((world.macs(), world.claimed()), (vec![OLD.to_owned()], vec![OLD.to_owned()]));
}

#[test]
fn neither_mac_of_a_move_is_given_to_anybody_else() {
    let mut world = World::with_bound_port();
    world.run(&to_new(), 5).unwrap();
    for wanted in [OLD, NEW] {
        let create = Request::Create(CreatePort { mac: Some(mac(wanted)), ..create("b") });
        assert!(world.refusal(&create).contains("port default/web/a"), "{wanted}");
    }
    world.run(&Request::TurnBack { key: key("a"), reason: String::new(), force: false }, 6).unwrap();
    world.run(&Request::Create(CreatePort { mac: Some(mac(NEW)), ..create("b") }), 7).unwrap();
    assert!(world.refusal(&to_new()).contains("port default/web/b"));
}

#[test]
fn a_mac_that_follows_from_the_address_replaces_a_foreign_one() {
    let mut world = World::with_network();
    world.hearing = Hearing { connected: true, known: true, ..Hearing::default() };
    let foreign = CreatePort { mac: Some(mac(NEW)), bind: Some(place(1)), ..create("a") };
    world.run(&Request::Create(foreign), 1).unwrap();
    world.run(&order(place(2), Some(NewMac::Computed)), 5).unwrap();
    assert_eq!(world.macs(), [NEW, OLD]);
    // One that has it already keeps it.
    let mut world = World::with_bound_port();
    world.run(&order(place(2), Some(NewMac::Computed)), 5).unwrap();
    assert_eq!(world.macs(), [OLD]);
    assert_eq!(world.snapshot.moves[&key("a")].value.macs, None);
}

#[test]
fn a_mac_that_cannot_be_is_refused_by_field() {
    let mut world = World::with_bound_port();
    let group = order(place(2), Some(NewMac::Given(mac("01:00:5e:00:00:01"))));
    assert!(world.refusal(&group).contains("no unicast"));
    let hidden = Place { attachment: Some(crate::model::Attachment::Routed), ..place(2) };
    let hidden = order(hidden, Some(NewMac::Given(mac(NEW))));
    assert!(world.refusal(&hidden).contains("MAC of the host"), "{}", world.refusal(&hidden));
}
