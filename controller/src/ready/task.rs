//! The task that has wanted ports proven.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_proto::{Name, PortKey, Revision, v1};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Ready;
use super::choose::{self, Target};
use super::records::{self, PROVE, PROVEN, Proof, Request};
use crate::fabric::PortNews;
use crate::ports::now_ms;
use crate::store::Write;

/// Probes that a node is asked for at once; it does twice as many.
const AT_ONCE: usize = 64;
/// Between two rounds that cannot begin, or could not.
const AGAIN: Duration = Duration::from_millis(250);
/// How long it is remembered why what was wanted did not come: who waited asks just then.
const KEPT: Duration = Duration::from_secs(5);

/// A round that ended.
struct Round {
    port: PortKey,
    target: Target,
    from: Name,
    result: v1::ProbeResult,
}

/// How the rounds of a port went.
#[derive(Debug, Default)]
struct Course {
    rounds: usize,
    mute: bool,
    running: bool,
    /// Not before then.
    next: Option<Instant>,
    /// It was asked of other controllers.
    asked: bool,
}

pub(super) struct Task {
    ready: Ready,
    courses: BTreeMap<PortKey, Course>,
    /// Probes under way by node.
    busy: BTreeMap<Name, usize>,
    rounds: JoinSet<Round>,
    seen: Revision,
    writes: Vec<Write>,
}

impl Task {
    pub(super) fn new(ready: Ready) -> Task {
        Task {
            ready,
            courses: BTreeMap::new(),
            busy: BTreeMap::new(),
            rounds: JoinSet::new(),
            seen: Revision(0),
            writes: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let shared = std::sync::Arc::clone(&self.ready.shared);
        let (mut agents, mut fabric) = (shared.agents.news(), shared.fabric.news());
        loop {
            let wake = self.next_wake();
            tokio::select! {
                () = shared.wake.notified() => {}
                news = agents.recv(), if !self.courses.is_empty() => match self.hear(news) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(()) => return,
                },
                news = fabric.recv(), if !self.courses.is_empty() => match self.hear(news) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(()) => return,
                },
                snapshot = shared.state.wait_after(self.seen) => match snapshot {
                    Ok(snapshot) => self.forget(&snapshot),
                    Err(_) => return,
                },
                Some(round) = self.rounds.join_next() => {
                    if let Ok(round) = round {
                        self.judge(round);
                    }
                }
                () = sleep_until(wake) => {}
            }
            self.work();
            records::write(&self.ready, std::mem::take(&mut self.writes)).await;
        }
    }

    fn next_wake(&self) -> Instant {
        let wants = self.ready.wants();
        let ends = wants.values().map(|want| want.until + KEPT);
        let waits = |port: &&PortKey| wants.get(*port).is_some_and(|want| want.until > Instant::now());
        let idle = self.courses.iter().filter(|(port, course)| !course.running && waits(port));
        let next = idle.filter_map(|(_, course)| course.next);
        ends.chain(next).min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    /// True if it may concern a wanted port.
    fn hear(&self, news: Result<PortNews, RecvError>) -> Result<bool, ()> {
        match news {
            Ok(ports) => Ok(ports.iter().any(|port| self.courses.contains_key(port))),
            Err(RecvError::Lagged(_)) => Ok(true),
            Err(RecvError::Closed) => Err(()),
        }
    }

    /// Proofs of ports that are gone go too.
    fn forget(&mut self, snapshot: &crate::snapshot::Snapshot) {
        self.seen = snapshot.revision;
        let proofs = self.ready.shared.proofs.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let gone = proofs.keys().filter(|port| !snapshot.ports.contains_key(*port));
        self.writes.extend(gone.map(|port| Write::Delete(format!("{PROVEN}{port}"))));
    }

    /// Begins what can begin.
    fn work(&mut self) {
        let now = Instant::now();
        let wants: BTreeMap<PortKey, super::Want> = self.ready.wants().clone();
        let over: BTreeSet<PortKey> = self
            .courses
            .iter()
            .filter(|(port, course)| !course.running && !wants.contains_key(*port))
            .map(|(port, _)| port.clone())
            .collect();
        for port in over {
            self.drop_course(&port);
        }
        for (port, want) in wants {
            if self.is_proven(&port) || want.until + KEPT <= now {
                self.ready.wants().remove(&port);
                if !self.courses.get(&port).is_some_and(|course| course.running) {
                    self.drop_course(&port);
                }
                continue;
            }
            let course = self.courses.entry(port.clone()).or_default();
            if !course.running && want.until > now && course.next.is_none_or(|next| next <= now) {
                course.next = Some(now + AGAIN);
                self.begin(&port, &want);
            }
        }
    }

    fn drop_course(&mut self, port: &PortKey) {
        if self.courses.remove(port).is_some_and(|course| course.asked) {
            self.writes.push(Write::Delete(format!("{PROVE}{port}")));
        }
    }

    fn is_proven(&self, port: &PortKey) -> bool {
        let snapshot = self.ready.shared.state.snapshot();
        let binding = snapshot.bindings.get(port);
        binding.is_some_and(|b| b.value.active && self.ready.proof(port, b.value.generation).is_some())
    }

    fn begin(&mut self, port: &PortKey, want: &super::Want) {
        let shared = std::sync::Arc::clone(&self.ready.shared);
        // Its legs say themselves what they wait for.
        if self.ready.is_advertised(port) != Some(true) {
            return self.ready.explain(port, "it is probed once it is advertised".into());
        }
        let snapshot = shared.state.snapshot();
        let target = match choose::target(&snapshot, port) {
            Ok(target) => target,
            Err(text) => return self.ready.explain(port, text),
        };
        let found = choose::candidates(&snapshot, port, &target, |node| shared.agents.has_session(node));
        let Some(course) = self.courses.get_mut(port) else { return };
        let ready = |node: &&Name| self.busy.get(*node).copied().unwrap_or(0) < AT_ONCE;
        let free: Vec<&Name> = found.here.iter().filter(ready).collect();
        let Some(from) = free.get(course.rounds % free.len().max(1)).map(|node| (*node).clone()) else {
            if !found.here.is_empty() {
                return self.ready.explain(port, format!("nodes {} probe others first", names(&found.here)));
            }
            if want.foreign {
                return;
            }
            if found.elsewhere.is_empty() {
                let network = &port.network;
                return self.ready.explain(
                    port,
                    format!(
                        "no other node than {} has network {network}, so nothing can probe it; bind a port of the \
                         network on another node, or ask for the level advertised",
                        target.node
                    ),
                );
            }
            return self.ask(port, want, &found.elsewhere);
        };
        course.rounds += 1;
        let order = choose::order(&target, course.rounds - 1, course.mute);
        match shared.agents.probe(&from, order) {
            Err(error) => self.ready.explain(port, error.to_string()),
            Ok(mut probe) => {
                course.running = true;
                *self.busy.entry(from.clone()).or_default() += 1;
                let port = port.clone();
                self.rounds.spawn(async move {
                    // An agent that says nothing at all is no better than one that hears nothing.
                    let patience = Duration::from_secs(5);
                    let result = match tokio::time::timeout(patience, probe.end()).await {
                        Ok(result) => result,
                        Err(_) => v1::ProbeResult {
                            problem: "its agent did not say what became of the probe".into(),
                            ..v1::ProbeResult::default()
                        },
                    };
                    Round { port, target, from, result }
                });
            }
        }
    }

    /// Asks controllers that have an agent.
    fn ask(&mut self, port: &PortKey, want: &super::Want, nodes: &[Name]) {
        let away: Vec<&Name> =
            nodes.iter().filter(|node| !self.ready.shared.agents.node_report(node).1).collect();
        if away.len() == nodes.len() {
            let text = format!("no agent of the other nodes with its network is connected: {}", names(nodes));
            return self.ready.explain(port, text);
        }
        let Some(course) = self.courses.get_mut(port) else { return };
        if course.asked {
            return;
        }
        course.asked = true;
        let left = want.until.saturating_duration_since(Instant::now());
        let until_ms = now_ms().saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
        let request = Request { controller: self.ready.shared.name.clone(), until_ms };
        self.writes.push(records::put_request(port, &request));
        let text =
            "its probe was asked of the controllers that have agents of other nodes; none has said yet";
        self.ready.explain(port, text.into());
    }

    fn judge(&mut self, round: Round) {
        let Round { port, target, from, result } = round;
        if let Some(busy) = self.busy.get_mut(&from) {
            *busy = busy.saturating_sub(1);
        }
        let Some(course) = self.courses.get_mut(&port) else { return };
        course.running = false;
        course.mute = result.sent == 0 && result.problem.is_empty();
        // A node that refused at once is not asked in a circle.
        course.next = result.sent.eq(&0).then(|| Instant::now() + AGAIN);
        let foreign = self.ready.wants().get(&port).is_some_and(|want| want.foreign);
        let proven = result.received > 0;
        let text = match proven {
            true => format!(
                "{} answered node {from} ({}) {} µs after the first frame",
                target.address, result.source, result.first_reply_us
            ),
            false => choose::failure(&from, &target, &result),
        };
        let proof =
            Proof { generation: target.generation, proven, from, text: text.clone(), at_ms: now_ms() };
        if proven {
            tracing::info!(port = %port, generation = proof.generation, how = %proof.text, "port proven");
            self.writes.push(records::put_proof(&port, &proof));
            self.ready.learn(&port, Some(proof));
        } else {
            tracing::debug!(port = %port, why = %text, "port not proven");
            // Who asked hears of it by the record; of a proof that counts nothing is overwritten.
            if foreign && !self.is_proven(&port) {
                self.writes.push(records::put_proof(&port, &proof));
            }
            self.ready.explain(&port, text);
        }
    }
}

fn names(nodes: &[Name]) -> String {
    let listed: Vec<&str> = nodes.iter().take(5).map(Name::as_str).collect();
    let more = if nodes.len() > listed.len() { " and others" } else { "" };
    format!("{}{more}", listed.join(", "))
}
