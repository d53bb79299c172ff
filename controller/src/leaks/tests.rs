use super::*;
use causeway_proto::Revision;

fn key(name: &str) -> PortKey {
    format!("web/{name}").parse().unwrap()
}

fn put(snapshot: &mut Snapshot, path: &str, json: &str) {
    let at = Revision(snapshot.revision.0 + 1);
    snapshot.apply(path, Some((json.as_bytes(), at))).unwrap();
    snapshot.revision = at;
}

fn bound(snapshot: &mut Snapshot, name: &str, node: &str, generation: u64, released: &str) {
    let number = name.bytes().last().unwrap();
    let port = format!(
        r#"{{"key":"default/web/{name}","addresses":["10.0.0.{number}"],"mac":"02:00:00:00:00:{number:02x}","created_ms":1{released}}}"#
    );
    put(snapshot, &format!("intent/port/default/web/{name}"), &port);
    let binding = format!(
        r#"{{"port":"default/web/{name}","node":"{node}","netns":"/n","interface":"eth0","generation":{generation},"active":true}}"#
    );
    put(snapshot, &format!("intent/binding/default/web/{name}"), &binding);
}

fn absent(name: &str, generation: u64) -> Absent {
    Absent { node: "n1".parse().unwrap(), port: key(name), generation, problem: "netns /n not found".into() }
}

fn names(sightings: &Sightings) -> Vec<String> {
    let leaked = sightings.leaked(Duration::from_secs(600));
    leaked.into_iter().map(|leak| leak.port.name.to_string()).collect()
}

#[test]
fn two_looks_with_the_grace_period_between_and_none_otherwise() {
    let mut snapshot = Snapshot::default();
    for name in ["a", "b", "c"] {
        bound(&mut snapshot, name, "n1", 3, "");
    }
    let at = Duration::from_secs;
    let mut sightings = Sightings::default();
    let look = |sightings: &mut Sightings, snapshot: &Snapshot, names: &[&str], now: u64| {
        sightings.look(snapshot, names.iter().map(|name| absent(name, 3)).collect(), at(now));
    };
    look(&mut sightings, &snapshot, &["a", "b", "c"], 1_000);
    assert!(names(&sightings).is_empty(), "seen once, however long ago that may be");
    look(&mut sightings, &snapshot, &["a", "b", "c"], 1_599);
    assert!(names(&sightings).is_empty());
    // The agent of `b` has found it for a moment: its count begins anew.
    look(&mut sightings, &snapshot, &["a", "c"], 1_600);
    assert_eq!(names(&sightings), ["a", "c"]);
    // `c` was bound anew meanwhile.
    bound(&mut snapshot, "c", "n1", 4, "");
    look(&mut sightings, &snapshot, &["a", "b", "c"], 1_700);
    assert_eq!(names(&sightings), ["a"]);
    let leak = sightings.leaked(at(600)).remove(0);
    assert_eq!((leak.node.as_str(), leak.generation, leak.since), ("n1", 3, at(700)));
    // Nobody says anything: the agent is away.
    look(&mut sightings, &snapshot, &[], 1_701);
    look(&mut sightings, &snapshot, &["a", "b"], 1_702);
    assert!(names(&sightings).is_empty());
    look(&mut sightings, &snapshot, &["a", "b"], 2_302);
    assert_eq!(names(&sightings), ["a", "b"]);
}

#[test]
fn what_is_elsewhere_released_or_of_another_binding_does_not_count() {
    let mut snapshot = Snapshot::default();
    bound(&mut snapshot, "a", "n2", 3, "");
    bound(&mut snapshot, "b", "n1", 4, "");
    bound(&mut snapshot, "c", "n1", 3, r#","released_ms":5"#);
    let mut sightings = Sightings::default();
    for now in [0, 10_000] {
        let said = ["a", "b", "c", "d"].iter().map(|name| absent(name, 3)).collect();
        sightings.look(&snapshot, said, Duration::from_secs(now));
    }
    assert_eq!(names(&sightings), [""; 0]);
}
