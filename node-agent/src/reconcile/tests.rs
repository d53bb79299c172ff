use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::acd::{Answer, Evidence, Outcome};
use crate::dev::Dev;
use crate::kernel::{Heard, OpError};
use crate::netlink::NetlinkError;
use crate::observed::Inside;
use crate::op::Op;

/// A kernel that can be told to fail.
#[derive(Debug, Clone, Default)]
struct Fake {
    shared: Arc<Mutex<State>>,
    wake: Arc<tokio::sync::Notify>,
}

#[derive(Debug, Default)]
struct State {
    kernel: Observed,
    taken: Vec<String>,
    /// Steps that fail, by what they contain, and how often.
    broken: Vec<(String, u32)>,
    /// A step that fails is heard of as something that happened to this.
    stirs: Option<Key>,
    /// Full looks that fail.
    blind: u32,
    lost: bool,
    drift: VecDeque<Key>,
    /// What the readiness socket is told, and how many ports that are while a link is deleted.
    local: Option<watch::Receiver<Arc<Local>>>,
    local_at_deletion: Vec<usize>,
}

fn refused() -> NetlinkError {
    NetlinkError::Refused { errno: libc::EBUSY, text: String::new() }
}

impl Dataplane for Fake {
    fn observe(&mut self, desired: &Desired) -> Result<Observed, NetlinkError> {
        let mut state = self.shared.lock().unwrap();
        if state.blind > 0 {
            state.blind -= 1;
            return Err(refused());
        }
        for id in desired.ports().keys() {
            state.kernel.insides.entry(crate::dev::Dev::port(id)).or_insert(Inside::Absent);
        }
        Ok(state.kernel.clone())
    }

    fn refresh(
        &mut self,
        _: &BTreeSet<Key>,
        desired: &Desired,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        let mut state = self.shared.lock().unwrap();
        for id in desired.ports().keys() {
            state.kernel.insides.entry(crate::dev::Dev::port(id)).or_insert(Inside::Absent);
        }
        observed.clone_from(&state.kernel);
        Ok(())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut state = self.shared.lock().unwrap();
        let state = &mut *state;
        let take = |op: &Op| {
            let text = op.to_string();
            if let (Op::LinkDel { .. }, Some(local)) = (op, &state.local) {
                state.local_at_deletion.push(local.borrow().ports.len());
            }
            state.taken.push(text.clone());
            if let Some((_, left)) = state.broken.iter_mut().find(|(what, n)| *n > 0 && text.contains(what)) {
                *left -= 1;
                state.drift.extend(state.stirs.clone());
                self.wake.notify_one();
                return Err(refused().into());
            }
            state.kernel.apply(op);
            Ok(())
        };
        ops.iter().map(take).collect()
    }

    fn hear(&mut self, _: &Desired, observed: &mut Observed) -> Result<Heard, NetlinkError> {
        let mut state = self.shared.lock().unwrap();
        let heard = Heard {
            host: false,
            keys: state.drift.drain(..).collect(),
            lost: std::mem::take(&mut state.lost),
            addresses: false,
        };
        if !heard.keys.is_empty() {
            observed.clone_from(&state.kernel);
        }
        Ok(heard)
    }

    async fn wait(&mut self) {
        self.wake.notified().await;
    }

    fn changed_namespaces(&mut self, _: &Desired) -> BTreeSet<Key> {
        BTreeSet::new()
    }
}

struct Bench {
    fake: Fake,
    commands: mpsc::Sender<Command>,
    statuses: mpsc::Receiver<v1::AgentStatus>,
    progress: watch::Receiver<Progress>,
    questions: mpsc::Receiver<Question>,
    answers: mpsc::Sender<Answer>,
    _stop: tokio_util::sync::DropGuard,
}

fn no_checks(_: &Desired) -> Vec<String> {
    Vec::new()
}

impl Bench {
    fn new() -> Self {
        let fake = Fake::default();
        let (commands, take) = mpsc::channel(16);
        let (give, statuses) = mpsc::channel(64);
        let (publish, progress) = watch::channel(Progress::default());
        let stop = CancellationToken::new();
        let (detector, questions, answers) = Detector::pair();
        let reconciler = Reconciler::new(fake.clone(), Timing::default(), give, publish, no_checks, detector);
        fake.shared.lock().unwrap().local = Some(reconciler.local());
        tokio::spawn(reconciler.run(take, stop.clone()));
        Bench { fake, commands, statuses, progress, questions, answers, _stop: stop.drop_guard() }
    }

    async fn set(&self, state: &v1::NodeState) {
        self.commands.send(Command::Snapshot(Arc::new(state.clone()))).await.unwrap();
    }

    async fn port(&mut self) -> v1::PortStatus {
        loop {
            let status = self.statuses.recv().await.unwrap();
            if let Some(port) = status.ports.into_iter().next() {
                return port;
            }
        }
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.shared.lock().unwrap().taken)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.fake.shared.lock().unwrap());
        self.fake.wake.notify_one();
    }
}

fn state() -> v1::NodeState {
    let remote = v1::RemoteMac {
        vni: 100,
        mac: "02:ca:0a:08:00:06".into(),
        vtep: "192.0.2.2".into(),
        addresses: vec![],
    };
    v1::NodeState {
        revision: 1,
        vtep: "192.0.2.1".into(),
        networks: vec![crate::model::tests::network(100)],
        ports: vec![crate::model::tests::port("default/web/a", 100, "02:ca:0a:08:00:05")],
        remotes: vec![remote],
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn port_is_programmed_once_and_reported_once() {
    let mut bench = Bench::new();
    bench.set(&state()).await;
    let port = bench.port().await;
    assert!(port.programmed && port.problem.is_empty() && port.generation == 1, "{port:?}");
    assert!(!bench.taken().is_empty());
    bench.set(&v1::NodeState { revision: 2, ..state() }).await;
    let status = bench.statuses.recv().await.unwrap();
    assert_eq!((status.revision, status.ports.len()), (2, 0));
    assert!(bench.taken().is_empty());
    bench.commands.send(Command::ReportAll).await.unwrap();
    assert!(bench.port().await.programmed);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_leaves_is_not_ready_while_it_goes() {
    let mut bench = Bench::new();
    bench.set(&state()).await;
    bench.port().await;
    let mut local = bench.fake.shared.lock().unwrap().local.clone().unwrap();
    local.wait_for(|local| local.ports.len() == 1).await.unwrap();
    bench.set(&v1::NodeState { revision: 2, ports: vec![], ..state() }).await;
    while bench.statuses.recv().await.unwrap().revision < 2 {}
    let ready = std::mem::take(&mut bench.fake.shared.lock().unwrap().local_at_deletion);
    assert!(!ready.is_empty() && ready.iter().all(|count| *count == 0), "{ready:?}");
}

#[tokio::test(start_paused = true)]
async fn a_first_use_waits_for_the_answer_and_says_who_has_the_address() {
    let mut bench = Bench::new();
    let mut wanted = state();
    wanted.ports[0].address_check_ms = 200;
    bench.set(&wanted).await;
    let port = bench.port().await;
    assert!(port.programmed && port.stage() == v1::PortStage::Prepared, "{port:?}");
    let taken = bench.taken();
    let up =
        |taken: &[String]| taken.iter().any(|s| s.starts_with("ip link set dev cwp") && s.ends_with(" up"));
    assert!(taken.iter().any(|s| s.contains("type veth")) && !up(&taken), "there, but down: {taken:#?}");
    let Question { serial, port: id, addresses, wires, wait, .. } = bench.questions.recv().await.unwrap();
    assert_eq!((addresses.len(), wires.len(), wait), (2, 2, Duration::from_millis(200)));
    let found = Evidence {
        address: addresses[0],
        mac: causeway_proto::Mac::new([2, 9, 9, 9, 9, 9]),
        interface: Dev::new("cwb100"),
        seen_ms: 1_700_000_000_000,
    };
    let answer = Answer { serial, port: id.clone(), outcome: Outcome::Taken(found) };
    bench.answers.send(answer).await.unwrap();
    let port = bench.port().await;
    assert!(!port.programmed && port.stage() == v1::PortStage::Active, "{port:?}");
    assert!(port.problem.contains("02:09:09:09:09:09 answered an ARP probe on cwb100"), "{}", port.problem);
    assert_eq!(port.duplicate.map(|found| found.mac), Some("02:09:09:09:09:09".into()));
    let Question { serial, .. } = bench.questions.recv().await.unwrap();
    bench.answers.send(Answer { serial, port: id, outcome: Outcome::Free }).await.unwrap();
    let port = bench.port().await;
    assert!(port.programmed && port.stage() == v1::PortStage::Active && port.duplicate.is_none(), "{port:?}");
    assert!(up(&bench.taken()));
}

#[tokio::test(start_paused = true)]
async fn failed_step_stops_its_key_and_is_tried_again() {
    let mut bench = Bench::new();
    bench.change(|s| s.broken.push(("address add 10.8.0.5/24".into(), 3)));
    bench.set(&state()).await;
    let port = bench.port().await;
    assert!(!port.programmed);
    assert!(
        port.problem.starts_with("ip -n w1 address add 10.8.0.5/24 dev eth0 proto 77: "),
        "{}",
        port.problem
    );
    let start = Instant::now();
    let port = bench.port().await;
    assert!(port.programmed, "{port:?}");
    // 100, 200, 400 ms, each with jitter downwards.
    let took = start.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_millis(800)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn broken_network_keeps_its_entries_from_being_tried() {
    let mut bench = Bench::new();
    bench.change(|s| s.broken.push(("type vxlan".into(), 1)));
    bench.set(&state()).await;
    let port = bench.port().await;
    assert!(port.problem.contains("type vxlan"), "{port:?}");
    assert!(!bench.taken().iter().any(|s| s.contains("bridge fdb")), "entries without their device");
    assert!(bench.port().await.programmed);
    assert!(bench.taken().iter().any(|s| s.contains("bridge fdb replace 02:ca:0a:08:00:06")));
}

#[tokio::test(start_paused = true)]
async fn unreadable_kernel_is_not_reported_as_programmed() {
    let mut bench = Bench::new();
    bench.change(|s| s.blind = 3);
    let start = Instant::now();
    bench.set(&state()).await;
    assert!(bench.port().await.programmed);
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn drift_and_lost_events_are_repaired() {
    let mut bench = Bench::new();
    bench.set(&state()).await;
    assert!(bench.port().await.programmed);
    bench.taken();
    let (vni, mac) = (causeway_proto::Vni::try_from(100).unwrap(), "02:ca:0a:08:00:06".parse().unwrap());
    let mut repaired = bench.progress.clone();
    let before = repaired.borrow().steps;
    bench.change(|s| {
        s.kernel.tunnels.clear();
        s.drift.push_back(Key::Mac(vni, mac));
    });
    repaired.wait_for(|p| p.steps > before).await.unwrap();
    assert_eq!(bench.taken().len(), 1);
    let before = repaired.borrow().clone();
    bench.change(|s| {
        s.kernel.forget_bridge(vni);
        s.lost = true;
    });
    repaired.wait_for(|p| p.steps > before.steps && p.observed > before.observed).await.unwrap();
    assert!(bench.taken().iter().any(|s| s.contains("type bridge mcast")));
}

#[tokio::test(start_paused = true)]
async fn without_a_vtep_no_port_is_programmed() {
    let mut bench = Bench::new();
    bench.set(&v1::NodeState { vtep: String::new(), ..state() }).await;
    let port = bench.port().await;
    assert!(port.problem.contains("no usable VTEP"), "{port:?}");
    assert!(bench.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn refused_port_is_reported_with_its_generation() {
    let mut bench = Bench::new();
    let mut state = state();
    state.ports[0].mac = "nonsense".into();
    state.ports[0].generation = 9;
    bench.set(&state).await;
    let port = bench.port().await;
    assert_eq!((port.port.as_str(), port.generation, port.programmed), ("default/web/a", 9, false));
    assert!(port.problem.starts_with("mac: 'nonsense'"), "{}", port.problem);
}

/// A host behind switches with a workload on a bridge.
fn host_state() -> v1::NodeState {
    use crate::lan::tests::{network, port, state};
    state(vec![network(100, 0)], vec![port(5, 100, v1::Attachment::Bridge)])
}

/// A step that is undone when it fails leaves events of a link that came and went.
#[tokio::test(start_paused = true)]
async fn a_failing_step_is_reported_and_backed_off_whatever_it_stirs() {
    let vni = causeway_proto::Vni::try_from(100).unwrap();
    for (stirs, state, port) in [
        (Key::Lan, host_state(), "default/n100/p5"),
        (Key::Network(vni), state(), "default/web/a"),
        (Key::Port(crate::dev::Dev::port(&"default/web/a".parse().unwrap())), state(), "default/web/a"),
    ] {
        let mut bench = Bench::new();
        bench.change(|s| {
            s.kernel.lan.links.insert(crate::dev::Dev::new("eth1"), crate::lan::tests::uplink());
            s.broken.push(("type veth".into(), 500));
            s.stirs = Some(stirs.clone());
        });
        bench.set(&state).await;
        let told = bench.port().await;
        assert_eq!(told.port, port);
        assert!(told.problem.contains("type veth"), "{stirs:?}: {told:?}");
        let failed = |bench: &Bench| bench.progress.borrow().failures;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let minute = failed(&bench);
        assert!((9..=12).contains(&minute), "{stirs:?}: {minute} attempts in a minute");
        tokio::time::sleep(Duration::from_secs(600)).await;
        let later = failed(&bench) - minute;
        assert!((9..=15).contains(&later), "{stirs:?}: {later} attempts in ten minutes");
        // What happens some time after an attempt is others' doing. It is worth one attempt, not one each time.
        let mut progress = bench.progress.clone();
        let before = failed(&bench);
        progress.wait_for(|p| p.failures > before).await.unwrap();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bench.change(|s| s.drift.push_back(stirs.clone()));
        }
        assert!((2..=3).contains(&(failed(&bench) - before)), "{stirs:?}: {before} to {}", failed(&bench));
        tokio::time::sleep(Duration::from_secs(20)).await;
        let freed = Instant::now();
        bench.change(|s| {
            s.broken.clear();
            s.drift.push_back(stirs.clone());
        });
        let told = bench.port().await;
        assert!(told.programmed, "{stirs:?}: {told:?}");
        assert!(freed.elapsed() <= Duration::from_secs(1), "{stirs:?}: {:?}", freed.elapsed());
    }
}
