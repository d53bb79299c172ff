use super::*;
use crate::derive::fixture::{World, name, port_key};

fn claim(controller: &str) -> ClaimRecord {
    ClaimRecord { instance: "i".into(), controller: controller.into() }
}

fn progress(board: &Board, world: &World, port: &str) -> PortProgress {
    let record = world.snapshot.bindings.get(&port_key(port)).unwrap();
    board.port_progress(&record.value, record.revision)
}

fn told(board: &mut Board, world: &World, all: bool, ports: &[&str]) {
    let sent = if all { Sent::All } else { Sent::Some };
    let records: Vec<_> =
        ports.iter().map(|port| world.snapshot.bindings.get(&port_key(port)).unwrap().clone()).collect();
    let set = records.iter().map(|record| PortTold {
        port: record.value.port.clone(),
        generation: record.value.generation,
        stage: Stage::Active,
        at: record.revision,
    });
    board.told(&name("h1"), world.snapshot.revision, sent, set, &BTreeSet::new());
}

fn said(
    board: &mut Board,
    world: &World,
    port: &str,
    generation: u64,
    result: Result<(), &str>,
) -> Vec<PortKey> {
    let result = result.map_err(ToOwned::to_owned);
    let said = PortSaid { port: port_key(port), generation, stage: Stage::Active, result, absent: false };
    board.said(&name("h1"), world.snapshot.revision, vec![said], Vec::new())
}

fn begun() -> (Board, World) {
    let (mut board, world) = (Board::default(), World::sample());
    board.begin(&name("h1"), claim("c1"), "1".into());
    (board, world)
}

#[test]
fn a_port_is_programmed_when_its_node_says_so() {
    let (mut board, world) = begun();
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Waiting, "nothing was sent yet");
    told(&mut board, &world, true, &["web/a"]);
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Waiting);
    assert_eq!(said(&mut board, &world, "web/a", 1, Ok(())), [port_key("web/a")]);
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Programmed);
    said(&mut board, &world, "web/a", 1, Err("no such namespace"));
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Failed("no such namespace".into()));
}

#[test]
fn an_answer_for_an_older_binding_does_not_count() {
    let (mut board, mut world) = begun();
    world.unbind("web/a");
    world.bind("web/a", "h1");
    told(&mut board, &world, true, &["web/a"]);
    said(&mut board, &world, "web/a", 1, Ok(()));
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Waiting);
    said(&mut board, &world, "web/a", 1, Err("old"));
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Waiting, "the failure is the old binding's");
    said(&mut board, &world, "web/a", 2, Ok(()));
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Programmed);
}

#[test]
fn other_controllers_see_the_same() {
    let (mut board, mut world) = begun();
    told(&mut board, &world, true, &["web/a"]);
    said(&mut board, &world, "web/a", 1, Ok(()));
    world.port("web/c", &["10.8.0.7"]);
    world.bind("web/c", "h1");
    world.port("web/d", &["10.8.0.8"]);
    world.bind("web/d", "h1");
    told(&mut board, &world, false, &["web/c", "web/d"]);
    let view = |board: &mut Board| {
        let mut other = Board::default();
        let report = board.take_dirty(9).pop().unwrap().1;
        let json = serde_json::to_vec(&report).unwrap();
        other.heard(&world.snapshot, &name("h1"), serde_json::from_slice(&json).ok());
        ["web/a", "web/c", "web/d"].map(|port| progress(&other, &world, port))
    };
    use PortProgress::{Failed, Programmed, Waiting};
    assert_eq!(view(&mut board), [Programmed, Waiting, Waiting]);
    said(&mut board, &world, "web/d", 1, Ok(()));
    assert_eq!(view(&mut board), [Programmed, Waiting, Waiting], "web/c is older and open");
    said(&mut board, &world, "web/c", 1, Err("no"));
    assert_eq!(view(&mut board), [Programmed, Failed("no".into()), Programmed]);
}

#[test]
fn a_reconnect_does_not_forget_what_is_programmed() {
    let (mut board, mut world) = begun();
    told(&mut board, &world, true, &["web/a"]);
    said(&mut board, &world, "web/a", 1, Ok(()));
    board.end(&name("h1"), 0);
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Programmed, "the data plane goes on");
    assert!(!board.node(&name("h1")).1, "but the agent is away");
    world.port("web/c", &["10.8.0.7"]);
    world.bind("web/c", "h1");
    board.begin(&name("h1"), claim("c1"), "2".into());
    told(&mut board, &world, true, &["web/a", "web/c"]);
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Programmed);
    assert_eq!(progress(&board, &world, "web/c"), PortProgress::Waiting);
}

#[test]
fn own_sessions_count_more_than_records() {
    let (mut board, world) = begun();
    let report = NodeReport { applied: Revision(u64::MAX), ..NodeReport::default() };
    assert!(board.heard(&world.snapshot, &name("h1"), Some(report.clone())).is_empty());
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Waiting);
    let changed = board.heard(&world.snapshot, &name("h2"), Some(report));
    assert_eq!(changed, [port_key("web/b")], "whose state moved is told");
    assert_eq!(progress(&board, &world, "web/b"), PortProgress::Programmed);
}

#[test]
fn reports_are_written_once_and_put_back_when_not() {
    let (mut board, _) = begun();
    assert_eq!(board.take_dirty(9).len(), 1);
    assert!(board.take_dirty(9).is_empty());
    board.put_back([name("h1")].into_iter());
    assert_eq!(board.take_dirty(9).len(), 1);
}

/// The same generation in another stage is another thing to do: what was said of the one does not close the other.
#[test]
fn an_answer_for_another_stage_does_not_count() {
    let (mut board, world) = begun();
    let record = world.snapshot.bindings.get(&port_key("web/a")).unwrap();
    let node = name("h1");
    let tell = |board: &mut Board, stage, at| {
        let told = PortTold {
            port: port_key("web/a"),
            generation: record.value.generation,
            stage,
            at: Revision(at),
        };
        board.told(&node, Revision(at), Sent::Some, std::iter::once(told), &BTreeSet::new());
    };
    let say = |board: &mut Board, stage, at| {
        let said = PortSaid {
            port: port_key("web/a"),
            generation: record.value.generation,
            stage,
            result: Ok(()),
            absent: false,
        };
        board.said(&node, Revision(at), vec![said], Vec::new());
    };
    let at = record.revision.0;
    tell(&mut board, Stage::Prepared, at);
    tell(&mut board, Stage::Active, at + 1);
    say(&mut board, Stage::Prepared, at);
    let progress =
        |board: &Board| board.progress(&node, &port_key("web/a"), record.value.generation, Revision(at + 1));
    assert_eq!(progress(&board), PortProgress::Waiting);
    say(&mut board, Stage::Active, at + 1);
    assert_eq!(progress(&board), PortProgress::Programmed);
}

/// An agent names only ports of which something changed that it says: a rate, for example, is none of that.
#[test]
fn a_port_that_changes_otherwise_is_answered_for_by_the_revision() {
    let (mut board, mut world) = begun();
    told(&mut board, &world, true, &["web/a"]);
    said(&mut board, &world, "web/a", 1, Ok(()));
    let silent = |board: &mut Board, at: Revision| board.said(&name("h1"), at, Vec::new(), Vec::new());
    let before = world.snapshot.revision;
    world.port("web/c", &["10.8.0.7"]);
    told(&mut board, &world, false, &["web/a"]);
    assert!(silent(&mut board, before).is_empty());
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Waiting, "it speaks of what was before");
    assert_eq!(silent(&mut board, world.snapshot.revision), [port_key("web/a")]);
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Programmed);
    // A new binding has to be named, whatever changes after it.
    world.unbind("web/a");
    world.bind("web/a", "h1");
    told(&mut board, &world, false, &["web/a"]);
    told(&mut board, &world, false, &["web/a"]);
    silent(&mut board, world.snapshot.revision);
    assert_eq!(progress(&board, &world, "web/a"), PortProgress::Waiting);
}

/// A source that is told to stop and, before it heard that, to go on: all that it says is that it has done so far.
#[test]
fn what_came_and_went_unheard_is_answered_for_by_the_revision() {
    let (mut board, world) = begun();
    told(&mut board, &world, true, &["web/a"]);
    said(&mut board, &world, "web/a", 1, Ok(()));
    let tell = |board: &mut Board, stage, at| {
        let told = PortTold { port: port_key("web/a"), generation: 1, stage, at: Revision(at) };
        board.told(&name("h1"), Revision(at), Sent::Some, std::iter::once(told), &BTreeSet::new());
    };
    let at = world.snapshot.revision.0;
    tell(&mut board, Stage::Held, at + 1);
    tell(&mut board, Stage::Active, at + 2);
    let waits = |board: &Board| {
        board.progress(&name("h1"), &port_key("web/a"), 1, Revision(at + 2)) == PortProgress::Waiting
    };
    board.said(&name("h1"), Revision(at + 1), Vec::new(), Vec::new());
    assert!(waits(&board));
    board.said(&name("h1"), Revision(at + 2), Vec::new(), Vec::new());
    assert!(!waits(&board));
    // Held is not Active: without a word it is not done.
    tell(&mut board, Stage::Held, at + 3);
    board.said(&name("h1"), Revision(at + 3), Vec::new(), Vec::new());
    let held = board.progress(&name("h1"), &port_key("web/a"), 1, Revision(at + 3));
    assert_eq!(held, PortProgress::Waiting);
}

/// What happens elsewhere is no reason to wait for an agent that has done all that it was told.
#[test]
fn an_agent_that_has_nothing_to_do_has_done_everything() {
    let (mut board, mut world) = begun();
    let applied = |board: &Board| board.hearing(&name("h1")).applied;
    told(&mut board, &world, true, &["web/a"]);
    let first = world.snapshot.revision;
    assert!(applied(&board) < first);
    said(&mut board, &world, "web/a", 1, Ok(()));
    assert_eq!(applied(&board), first);
    world.port("web/c", &["10.8.0.7"]);
    let none = std::iter::empty();
    board.told(&name("h1"), world.snapshot.revision, Sent::Nothing, none, &BTreeSet::new());
    assert_eq!(applied(&board), world.snapshot.revision);
    // A port that goes is something to do.
    let (done, gone) = (world.snapshot.revision, BTreeSet::from([port_key("web/a")]));
    world.unbind("web/a");
    board.told(&name("h1"), world.snapshot.revision, Sent::Some, std::iter::empty(), &gone);
    assert!(applied(&board) <= done);
    board.told(
        &name("h1"),
        Revision(world.snapshot.revision.0 + 5),
        Sent::Nothing,
        std::iter::empty(),
        &gone,
    );
    assert!(applied(&board) <= done, "it has not answered");
    board.said(&name("h1"), world.snapshot.revision, Vec::new(), Vec::new());
    assert_eq!(applied(&board), Revision(world.snapshot.revision.0 + 5));
}
