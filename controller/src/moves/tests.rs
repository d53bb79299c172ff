use super::*;
use crate::derive::fixture::{begun_move, name, port_key};
use crate::model::{Attachment, MacvlanMode, WorkloadKind};
use proptest::prelude::*;

fn binding(node: &str, generation: u64) -> Binding {
    Binding {
        port: port_key("web/a"),
        node: name(node),
        kind: WorkloadKind::Container,
        attachment: Some(Attachment::VxlanBridge),
        macvlan_mode: MacvlanMode::Bridge,
        netns: "/run/netns/a".into(),
        interface: "eth0".into(),
        generation,
        active: true,
        changed_ms: 0,
        forced: String::new(),
        adopted: false,
        apart: false,
        queues: 0,
        mtu: 0,
    }
}

fn begun() -> Move {
    let moving = begun_move(binding("h1", 3), binding("h2", 4));
    Move { by: "op".into(), steps: vec![(MovePhase::Prepare, 1_000)], ..moving }
}

fn at(phase: MovePhase) -> Move {
    Move { phase, steps: vec![(MovePhase::Prepare, 0), (phase, 1_000)], ..begun() }
}

fn facts(now_ms: i64) -> Facts {
    let side = Side { connected: true, lost: false, fenced: false, said: Said::Nothing };
    Facts { now_ms, holds: true, from: side.clone(), to: side, watched: true, cost: None }
}

/// The phase that a step leads to, and whose the port is then.
fn led(step: Step) -> (Option<MovePhase>, &'static str, String) {
    match step {
        Step::Wait(_) => (None, "", String::new()),
        Step::Write(m) => (Some(m.phase), "", m.reason),
        Step::Switch(m) => (Some(m.phase), "target", m.reason),
        Step::SwitchBack(m) => (Some(m.phase), "source", m.reason),
    }
}

#[test]
fn a_move_goes_its_way() {
    let mut f = facts(1_100);
    assert_eq!(step(&begun(), &f), Step::Wait(Some(11_000)));
    f.to.said = Said::Done;
    f.watched = false;
    assert_eq!(led(step(&begun(), &f)).0, None, "nobody looks yet");
    f.watched = true;
    assert_eq!(led(step(&begun(), &f)).0, Some(MovePhase::Stop));
    let stop = at(MovePhase::Stop);
    assert_eq!(
        step(&stop, &f),
        Step::Wait(Some(3_000)),
        "the target may not answer before the source is silent"
    );
    f.from.said = Said::Done;
    assert_eq!(led(step(&stop, &f)), (Some(MovePhase::Verify), "target", String::new()));
    f.cost = Some(MoveCost { gap_ms: 40, ..MoveCost::default() });
    assert_eq!(led(step(&at(MovePhase::Verify), &f)).0, Some(MovePhase::Hold));
    f.now_ms = 61_000;
    assert_eq!(led(step(&at(MovePhase::Hold), &f)).0, Some(MovePhase::Done));
    assert_eq!(step(&at(MovePhase::Done), &f), Step::Wait(None));
}

#[test]
fn what_goes_wrong_leaves_the_port_where_it_was_or_takes_it_back() {
    use MovePhase::{Done, Prepare, Return, Stop, Undone, Verify};
    type Change = fn(&mut Facts);
    let table: [(MovePhase, Change, Option<MovePhase>, &str); 17] = [
        (Prepare, |f| f.now_ms = 11_000, Some(Undone), "has not prepared"),
        (Prepare, |f| f.to.said = Said::Failed("no netns".into()), Some(Undone), "no netns"),
        (Prepare, |f| f.from.connected = false, None, ""),
        (Prepare, |f| (f.from.connected, f.from.lost) = (false, true), Some(Undone), "nobody hears"),
        (Prepare, |f| f.to.fenced = true, Some(Undone), "fenced"),
        (Prepare, |f| f.holds = false, Some(Undone), "unbound"),
        (Stop, |f| f.now_ms = 3_000, Some(Undone), "did not stop"),
        (Stop, |f| f.to.connected = false, Some(Undone), "lost before the switch"),
        (Stop, |f| f.from.said = Said::Failed("no".into()), Some(Undone), "did not stop"),
        (Verify, |f| f.now_ms = 6_000, Some(Return), "did not take over"),
        (Verify, |f| f.to.said = Said::Failed("gone".into()), Some(Return), "gone"),
        (
            Verify,
            |f| {
                f.to.said = Said::Done;
                f.cost = Some(MoveCost { gap_ms: 501, ..MoveCost::default() });
            },
            Some(Return),
            "501 ms were lost, 500 ms are allowed",
        ),
        (Verify, |f| f.holds = false, Some(Done), "unbound"),
        (Return, |f| f.to.connected = false, None, ""),
        (Return, |f| f.from.connected = false, None, ""),
        (Return, |f| (f.from.connected, f.from.lost) = (false, true), Some(Done), "it stays"),
        (Return, |f| f.from.fenced = true, Some(Done), "it stays"),
    ];
    for (phase, change, expected, reason) in table {
        let mut f = facts(1_100);
        change(&mut f);
        let moving = if phase == Prepare { begun() } else { at(phase) };
        let (found, owner, why) = led(step(&moving, &f));
        assert_eq!((found, owner), (expected, ""), "{phase} {f:?}");
        assert!(why.contains(reason), "{phase}: {why}");
    }
    let mut f = facts(1_100);
    f.to.connected = false;
    assert!(waits_for(&at(Return), &f).contains("causeway node fence h2"));
    f.to.fenced = true;
    assert_eq!(led(step(&at(Return), &f)).1, "source", "what is fenced reaches nobody");
    f.to.fenced = false;
    let forced = Move { forced: true, ..at(Return) };
    assert_eq!(led(step(&forced, &f)).1, "source");
}

#[test]
fn a_source_that_is_silent_is_left_only_by_a_fence_or_by_force() {
    let mut f = facts(1_100);
    f.to.said = Said::Done;
    f.from.connected = false;
    assert_eq!(led(step(&begun(), &f)).0, None, "it may be on its way to another controller");
    f.from.lost = true;
    assert_eq!(led(step(&begun(), &f)).0, Some(MovePhase::Undone));
    let forced = |moving: Move| Move { forced: true, ..moving };
    assert_eq!(led(step(&forced(begun()), &f)).0, Some(MovePhase::Stop));
    assert_eq!(led(step(&forced(at(MovePhase::Stop)), &f)).1, "target");
    f.from.fenced = true;
    assert_eq!(led(step(&begun(), &f)).0, Some(MovePhase::Stop));
    assert_eq!(led(step(&at(MovePhase::Stop), &f)).1, "target");
    // By force is no reason not to wait for one that is there.
    f.from = Side { connected: true, lost: false, fenced: false, said: Said::Nothing };
    assert_eq!(led(step(&forced(at(MovePhase::Stop)), &f)).0, None);
}

#[test]
fn a_clock_that_was_set_back_ends_no_phase_early_and_orders_steps() {
    let f = Facts { now_ms: -5_000_000, to: Side { said: Said::Done, ..facts(0).to }, ..facts(0) };
    let Step::Write(next) = step(&begun(), &f) else { panic!("no step") };
    assert!(next.steps.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{:?}", next.steps);
    assert_eq!(led(step(&at(MovePhase::Hold), &f)).0, None);
}

/// A model of two nodes, the store and any number of controllers that come and go: what a node does follows from the
/// record and the binding as of some time, and its word arrives late.
#[derive(Debug, Clone)]
struct Model {
    moving: Move,
    binding: Binding,
    /// What each node was told last, and whether it answers for the port: source, target.
    nodes: [NodeModel; 2],
    now_ms: i64,
}

#[derive(Debug, Clone)]
struct NodeModel {
    connected: bool,
    lost: bool,
    fenced: bool,
    answers: bool,
    /// It has carried out the newest state.
    is_current: bool,
}

impl Model {
    fn new() -> Model {
        let node =
            |answers| NodeModel { connected: true, lost: false, fenced: false, answers, is_current: false };
        let moving = begun();
        Model { binding: moving.from.clone(), moving, nodes: [node(true), node(false)], now_ms: 1_000 }
    }

    /// What the derivation tells a node: whether the port takes part there.
    fn active(&self, side: usize) -> bool {
        let here = if side == 0 { &self.moving.from.node } else { &self.moving.to.node };
        let stops = matches!(self.moving.phase, MovePhase::Stop | MovePhase::Return);
        self.binding.active && self.binding.node == *here && !(stops && holds(&self.moving, &self.binding))
    }

    fn side(&self, side: usize) -> Side {
        let node = &self.nodes[side];
        let said = if node.connected && node.is_current { Said::Done } else { Said::Nothing };
        // One that is away may come back, or not.
        let lost = !node.connected && node.lost;
        Side { connected: node.connected, lost, fenced: node.fenced, said }
    }

    fn facts(&self, cost: Option<u32>) -> Facts {
        Facts {
            now_ms: self.now_ms,
            holds: holds(&self.moving, &self.binding),
            from: self.side(0),
            to: self.side(1),
            watched: true,
            cost: cost.map(|gap_ms| MoveCost { gap_ms, ..MoveCost::default() }),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Wait(_) => return,
            Step::Write(next) => self.moving = *next,
            Step::Switch(mut next) => {
                let generation = ledger::next_generation(self.binding.generation, 0, None);
                self.binding = Binding { generation, ..next.to.clone() };
                next.to.generation = generation;
                self.moving = *next;
            }
            Step::SwitchBack(next) => {
                let generation = ledger::next_generation(self.binding.generation, 0, None);
                self.binding = Binding { generation, ..next.from.clone() };
                self.moving = *next;
            }
        }
        for node in &mut self.nodes {
            node.is_current = false;
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Decide(cost) => self.apply(step(&self.moving, &self.facts(cost))),
            // A controller decides, and dies before its transaction: nothing has happened.
            Event::DieDeciding => drop(step(&self.moving, &self.facts(None))),
            Event::Carry(side) if self.nodes[side].connected => {
                self.nodes[side].answers = self.active(side);
                self.nodes[side].is_current = true;
            }
            // One that is not connected keeps what it has.
            Event::Carry(_) => {}
            Event::Connect(side, connected) => {
                self.nodes[side].connected = connected;
                self.nodes[side].lost = false;
                self.nodes[side].is_current = false;
            }
            Event::Lose(side) => self.nodes[side].lost = true,
            Event::Fence(side) => self.nodes[side].fenced = true,
            // The store refuses it for a move that is over or void.
            Event::Back if self.moving.phase.is_over() || !holds(&self.moving, &self.binding) => {}
            Event::Back => {
                self.moving = turn_back(&self.moving, "asked", false, self.now_ms);
                for node in &mut self.nodes {
                    node.is_current = false;
                }
            }
            Event::Wait(ms) => self.now_ms += ms,
            Event::Unbind => self.binding.active = false,
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Decide(Option<u32>),
    DieDeciding,
    Carry(usize),
    Connect(usize, bool),
    Lose(usize),
    Fence(usize),
    Back,
    Wait(i64),
    Unbind,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop::option::of(0..1_000_u32).prop_map(Event::Decide),
        1 => Just(Event::DieDeciding),
        6 => (0..2_usize).prop_map(Event::Carry),
        2 => (0..2_usize, any::<bool>()).prop_map(|(side, up)| Event::Connect(side, up)),
        1 => (0..2_usize).prop_map(Event::Lose),
        1 => (0..2_usize).prop_map(Event::Fence),
        1 => Just(Event::Back),
        2 => (0..12_000_i64).prop_map(Event::Wait),
        1 => Just(Event::Unbind),
    ]
}

proptest! {
    /// Whatever dies at any step: never do both places answer, the generation only grows, and once everybody is back the
    /// move ends, with the port at one place or, if somebody unbound it, at none.
    #[test]
    fn never_both_and_always_an_end(events in prop::collection::vec(event(), 0..60)) {
        let mut model = Model::new();
        let mut generation = model.binding.generation;
        for event in events {
            let was_over = model.moving.phase.is_over();
            model.event(event.clone());
            // Fenced, a node reaches nobody, whatever it does.
            let heard = |side: usize| model.nodes[side].answers && !model.nodes[side].fenced;
            prop_assert!(!(heard(0) && heard(1)), "both answer after {event:?}: {model:?}");
            prop_assert!(model.binding.generation >= generation);
            generation = model.binding.generation;
            prop_assert!(!was_over || model.moving.phase.is_over());
        }
        for _ in 0..20 {
            for side in 0..2 {
                model.event(Event::Connect(side, true));
                model.event(Event::Carry(side));
            }
            model.event(Event::Decide(Some(10)));
            model.event(Event::Wait(61_000));
        }
        prop_assert!(model.moving.phase.is_over(), "{model:?}");
        for side in 0..2 {
            model.event(Event::Carry(side));
        }
        let answering = model.nodes.iter().filter(|node| node.answers).count();
        prop_assert_eq!(answering, usize::from(model.binding.active), "{:?}", model);
    }
}
