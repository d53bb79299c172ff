mod vips;

use std::collections::BTreeSet;
use std::sync::Arc;

use causeway_proto::{PortKey, v1};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::history::{By, EventKind, History};
use crate::intent::Intent;
use crate::ports::{CreatePort, Place, Ports, now_ms};
use crate::state::State;
use crate::store::{FileStore, Store, Txn, TxnOutcome};

struct Rig {
    store: Arc<dyn Store>,
    state: State,
    ports: Ports,
    checker: Checker,
    _cancel: tokio_util::sync::DropGuard,
    _directory: tempfile::TempDir,
}

const FIX: Fix = Fix { books: true, leaked: false };

fn key(name: &str) -> PortKey {
    format!("web/{name}").parse().unwrap()
}

impl Rig {
    /// A network with three ports: `a` on a node, `b` nowhere, `c` released.
    async fn new() -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FileStore::open(directory.path().join("s")).await.unwrap());
        let cancel = CancellationToken::new();
        let state = State::start(store.clone(), cancel.clone()).await.unwrap();
        let spec = |spec| v1::Resource { spec: Some(spec) };
        use v1::resource::Spec;
        let node = v1::Node {
            name: "n1".into(),
            mode: v1::NodeMode::HostVtep.into(),
            vtep: "192.0.2.1".into(),
            ..Default::default()
        };
        let network = v1::Network { name: "web".into(), vni: 100, sticky_seconds: 60, ..Default::default() };
        let subnet = v1::Subnet { network: "web".into(), prefix: "10.0.0.0/28".into(), ..Default::default() };
        let records = [spec(Spec::Network(network)), spec(Spec::Subnet(subnet)), spec(Spec::Node(node))];
        Intent::new(store.clone(), state.clone(), 65000).apply(&records, false).await.unwrap();
        let ports = Ports::start(store.clone(), state.clone(), cancel.clone());
        for name in ["a", "b", "c"] {
            ports.create(vec![CreatePort::new(key(name))]).await.remove(0).unwrap();
        }
        ports.bind(key("a"), Place::container("n1".parse().unwrap(), "/run/netns/a", "eth0")).await.unwrap();
        let at = ports.release(key("c"), false).await.unwrap();
        state.wait_for(at).await.unwrap();
        let by = By { actor: "op@host".into(), ..By::default() };
        let checker = Checker::new(store.clone(), ports.clone(), by);
        Rig { store, state, ports, checker, _cancel: cancel.drop_guard(), _directory: directory }
    }

    /// Somebody writes to the store by hand.
    async fn put(&self, key: &str, value: impl AsRef<[u8]>) {
        self.write(Write::Put { key: key.into(), value: value.as_ref().to_vec(), lease: None }).await;
    }

    async fn delete(&self, key: &str) {
        self.write(Write::Delete(key.into())).await;
    }

    async fn write(&self, write: Write) {
        let txn = Txn { compares: Vec::new(), writes: vec![write] };
        assert!(matches!(self.store.txn(txn).await.unwrap(), TxnOutcome::Committed(_)));
    }

    /// What the store holds of a key, as text.
    async fn get(&self, key: &str) -> Option<String> {
        let entry = self.store.get(key).await.unwrap()?;
        Some(String::from_utf8(entry.value).unwrap())
    }

    /// A port's record with parts of its text replaced.
    async fn edit(&self, path: &str, edits: &[(&str, &str)]) {
        let mut text = self.get(path).await.unwrap();
        for (from, to) in edits {
            assert!(text.contains(from), "{text}");
            text = text.replace(from, to);
        }
        self.put(path, text).await;
    }

    async fn problems(&self) -> Vec<(Problem, String)> {
        let checked = self.checker.run(Fix::default()).await.unwrap();
        assert!(checked.findings.iter().all(|(_, repaired)| !repaired));
        checked.findings.into_iter().map(|(finding, _)| (finding.problem, finding.subject)).collect()
    }

    /// Repairs until nothing more can be; what is left.
    async fn fix(&self) -> Vec<(Problem, String)> {
        for _ in 0..5 {
            if self.checker.run(FIX).await.unwrap().more == 0 {
                break;
            }
        }
        self.problems().await
    }

    /// Kinds of the events of a port, the latest first.
    async fn told(&self, port: &str) -> Vec<(EventKind, String)> {
        let newest = self.store.list("intent/").await.unwrap().entries.iter().map(|e| e.revision).max();
        let ports = self.store.list("intent/port/").await.unwrap().entries.len();
        let mut seen = self.state.wait_for(newest.unwrap()).await.unwrap();
        // What was deleted has no revision any more.
        while seen.ports.len() > ports {
            seen = self.state.wait_after(seen.revision).await.unwrap();
        }
        let history = History::new(self.store.clone());
        let (told, _) = history.of_port(&self.state.snapshot(), &key(port), 0, 100).await.unwrap();
        told.into_iter().map(|told| (told.event.kind, told.event.actor)).collect()
    }

    /// Checks thirty times with repair, and once behind it, that nothing is wrong while this is done again and again.
    async fn is_right_during<F>(&self, round: impl Fn(Ports) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let ports = self.ports.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let churn = tokio::spawn(async move {
            let mut rounds = 0;
            while stopped.try_recv().is_err() {
                round(ports.clone()).await;
                rounds += 1;
            }
            rounds
        });
        for _ in 0..30 {
            let checked = self.checker.run(FIX).await.unwrap();
            let texts: Vec<&str> =
                checked.findings.iter().map(|(finding, _)| finding.text.as_str()).collect();
            assert!(texts.is_empty(), "{texts:?}");
        }
        stop.send(()).unwrap();
        assert!(churn.await.unwrap() > 0, "nothing happened meanwhile");
        assert_eq!(self.problems().await, []);
    }
}

const A: &str = "intent/port/default/web/a";
const C: &str = "intent/port/default/web/c";
const ADDRESS_A: &str = "index/address/default/10.0.0.0/28/10.0.0.1";
const ADDRESS_C: &str = "index/address/default/10.0.0.0/28/10.0.0.3";
const MAC_A: &str = "index/mac/default/web/02:ca:0a:00:00:01";

#[tokio::test]
async fn right_books_have_no_findings() {
    let rig = Rig::new().await;
    assert_eq!(rig.problems().await, []);
    let checked = rig.checker.run(FIX).await.unwrap();
    assert_eq!((checked.findings.len(), checked.more), (0, 0));
    assert_eq!((checked.books.snapshot.ports.len(), checked.books.claims.len()), (3, 6));
}

#[tokio::test]
async fn claims_of_nobody_are_removed() {
    let rig = Rig::new().await;
    rig.put("index/address/default/10.0.0.0/28/10.0.0.9", "default/web/gone").await;
    rig.put("index/mac/default/web/02:00:00:00:00:09", "default/web/a").await;
    rig.put("index/address/default/10.9.0.0/24/10.9.0.1", "default/web/a").await;
    let expected = [
        "MAC 02:00:00:00:00:09 of network default/web",
        "address 10.0.0.9 of VRF default",
        "address 10.9.0.1 of VRF default",
    ];
    let expected = expected.map(|subject| (Problem::ClaimWithoutOwner, subject.to_owned()));
    assert_eq!(rig.problems().await, expected);
    assert_eq!(rig.fix().await, []);
    assert_eq!(rig.get("index/address/default/10.0.0.0/28/10.0.0.9").await, None);
    assert!(rig.get(ADDRESS_A).await.is_some());
    let log = rig.store.list(crate::keys::LOG).await.unwrap().entries;
    let told: Vec<Event> = log.iter().flat_map(crate::history::read).map(|told| told.event).collect();
    let repaired: Vec<&Event> = told.iter().filter(|event| event.kind == EventKind::Repaired).collect();
    assert_eq!(repaired.len(), 3);
    assert!(repaired.iter().all(|event| event.actor == "op@host" && event.record.starts_with("claim on ")));
}

#[tokio::test]
async fn what_is_not_claimed_is_claimed_again() {
    let rig = Rig::new().await;
    rig.delete(ADDRESS_A).await;
    rig.put(MAC_A, "default/web/b").await;
    let subjects = ["MAC 02:ca:0a:00:00:01 of network default/web", "address 10.0.0.1 of VRF default"];
    assert_eq!(rig.problems().await, subjects.map(|s| (Problem::OwnerWithoutClaim, s.to_owned())));
    assert_eq!(rig.fix().await, []);
    assert_eq!(rig.get(ADDRESS_A).await.as_deref(), Some("default/web/a"));
    assert_eq!(rig.get(MAC_A).await.as_deref(), Some("default/web/a"));
    // Both repairs rewrite the port's record, so that its history leads to them.
    let told = rig.told("a").await;
    let kinds: Vec<EventKind> = told.iter().map(|(kind, _)| *kind).collect();
    use EventKind::{Bound, Created, Repaired};
    assert_eq!(kinds, [Repaired, Repaired, Bound, Created]);
    assert_eq!(told[0].1, "op@host");
}

#[tokio::test]
async fn of_two_ports_with_one_address_only_a_released_one_goes() {
    let rig = Rig::new().await;
    // `c` is released: it had 10.0.0.3 and now says that it has that of `a`.
    rig.edit(C, &[("10.0.0.3", "10.0.0.1")]).await;
    let found = rig.problems().await;
    assert!(found.contains(&(Problem::Duplicate, "address 10.0.0.1 of VRF default".into())), "{found:?}");
    assert_eq!(rig.fix().await, []);
    assert_eq!((rig.get(C).await, rig.get(ADDRESS_C).await), (None, None));
    assert_eq!(rig.get(ADDRESS_A).await.as_deref(), Some("default/web/a"));
    assert_eq!(rig.told("c").await[0].0, EventKind::Freed);
    // Two that are in use: nothing is taken from either.
    rig.edit("intent/port/default/web/b", &[("10.0.0.2", "10.0.0.1")]).await;
    let left = rig.fix().await;
    assert_eq!(left, [(Problem::Duplicate, "address 10.0.0.1 of VRF default".to_owned())]);
    assert!(rig.get(A).await.is_some() && rig.get("intent/port/default/web/b").await.is_some());
}

#[tokio::test]
async fn stray_bindings_and_moves_end() {
    let rig = Rig::new().await;
    let binding = rig.get("intent/binding/default/web/a").await.unwrap();
    rig.put("intent/binding/default/web/x", binding.replace("web/a", "web/x")).await;
    rig.put("intent/binding/default/web/b", binding.replace("web/a", "web/b").replace("\"n1\"", "\"n9\""))
        .await;
    rig.put("intent/binding/default/web/c", binding.replace("web/a", "web/c")).await;
    let stray: Vec<_> =
        ["b", "c", "x"].map(|n| (Problem::StrayBinding, format!("port default/web/{n}"))).into();
    assert_eq!(rig.problems().await, stray);
    assert_eq!(rig.fix().await, []);
    assert_eq!(rig.get("intent/binding/default/web/x").await, None);
    for name in ["b", "c"] {
        let binding = rig.get(&format!("intent/binding/default/web/{name}")).await.unwrap();
        assert!(binding.contains("\"active\":false") && binding.contains("\"generation\":1"), "{binding}");
        assert_eq!(rig.told(name).await[0].0, EventKind::Repaired);
    }
    assert!(rig.get("intent/binding/default/web/a").await.unwrap().contains("\"active\":true"));
}

#[tokio::test]
async fn what_should_have_ended_long_ago_ends() {
    let rig = Rig::new().await;
    // `c` was released for 60 s, as it says an hour ago.
    let text = rig.get(C).await.unwrap();
    let released = text.split("\"released_ms\":").nth(1).unwrap().trim_end_matches('}').to_owned();
    rig.edit(C, &[(released.as_str(), (now_ms() - 3_600_000).to_string().as_str())]).await;
    let overdue = (Problem::Overdue, "port default/web/c".to_owned());
    assert_eq!(rig.problems().await, std::slice::from_ref(&overdue));
    let newest = rig.store.get(C).await.unwrap().unwrap().revision;
    rig.state.wait_for(newest).await.unwrap();
    assert_eq!(rig.fix().await, []);
    assert!(rig.get(C).await.unwrap().contains("quarantined_ms"), "its quarantine begins");
    assert_eq!(rig.told("c").await[0], (EventKind::Quarantined, "op@host".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_repaired_is_only_told() {
    let rig = Rig::new().await;
    rig.put("intent/port/default/web/broken", "{").await;
    rig.put("index/address/default/nonsense", "default/web/a").await;
    // By hand, as the service refuses it while ports have addresses there.
    rig.delete("intent/subnet/default/web/10.0.0.0/28").await;
    let before: BTreeSet<String> =
        rig.store.list("").await.unwrap().entries.into_iter().map(|e| e.key).collect();
    let left = rig.fix().await;
    let count = |problem| left.iter().filter(|(p, _)| *p == problem).count();
    assert_eq!((count(Problem::Unreadable), count(Problem::OutsideSubnet)), (2, 3), "{left:?}");
    let after: BTreeSet<String> =
        rig.store.list("").await.unwrap().entries.into_iter().map(|e| e.key).collect();
    let lost: Vec<&String> = before.difference(&after).filter(|key| key.starts_with("intent/")).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// Ports come and go while the books are checked, from another task: nothing is found, and nothing repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_way_are_no_findings() {
    let rig = Rig::new().await;
    rig.is_right_during(|ports| async move {
        let names = ["x1", "x2", "x3", "x4"];
        ports.create(names.iter().map(|name| CreatePort::new(key(name))).collect()).await;
        for name in names {
            ports.free(key(name), "test").await.unwrap();
        }
    })
    .await;
}
