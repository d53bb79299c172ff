//! Emptying a node.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use causeway_proto::{Name, PortKey, v1};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use super::{App, follow, node_name, number};
use crate::api::port_message::{binding_message, key_message};
use crate::api::status::Refusal;
use crate::history::By;
use crate::model::{Binding, WorkloadKind};
use crate::ports::plan::unfit;
use crate::snapshot::Snapshot;

/// Moves at the same time.
const CONCURRENCY: u32 = 4;
const MOST_CONCURRENT: u32 = 64;

type Outbound = mpsc::Sender<Result<v1::DrainNodeResponse, Status>>;

/// A node that is emptied, port by port.
pub(super) struct Drain {
    app: App,
    /// Who asks.
    by: By,
    waiting: VecDeque<(PortKey, v1::MigratePortRequest)>,
    concurrency: usize,
    so_far: v1::DrainNodeResponse,
    /// Ports that can be nowhere else, and why.
    stuck: Vec<(PortKey, String)>,
}

/// How a port's move ended, or why there was none.
type Ended = (PortKey, Result<v1::Move, String>);

impl Drain {
    pub(super) fn new(
        app: &App,
        snapshot: &Snapshot,
        asked: v1::DrainNodeRequest,
        by: By,
    ) -> Result<Self, Refusal> {
        let node = node_name(&asked.node)?;
        if !snapshot.nodes.contains_key(&node) {
            return Err(Refusal::not_found(
                format!("node {node} does not exist"),
                "known ones: causeway get nodes",
            ));
        }
        let to = match asked.to.as_str() {
            "" => None,
            name => Some(node_name(name).map_err(|_| Refusal::field("to", "is no node name"))?),
        };
        if to.as_ref() == Some(&node) {
            return Err(Refusal::field("to", format!("is the node to drain, {node}")));
        }
        let concurrency = number("concurrency", asked.concurrency, CONCURRENCY, MOST_CONCURRENT)?;
        let mut drain = Drain {
            app: app.clone(),
            by,
            waiting: VecDeque::new(),
            concurrency: concurrency as usize,
            so_far: v1::DrainNodeResponse::default(),
            stuck: Vec::new(),
        };
        let mut load: BTreeMap<Name, usize> =
            snapshot.nodes.keys().map(|name| (name.clone(), snapshot.bindings_at(name).count())).collect();
        for binding in snapshot.bindings_at(&node) {
            let binding = &binding.value;
            match drain.target(snapshot, binding, to.as_ref(), &load) {
                Ok(target) => {
                    *load.entry(target.clone()).or_default() += 1;
                    let request = v1::MigratePortRequest {
                        key: Some(key_message(&binding.port)),
                        to: Some(v1::Binding { node: target.to_string(), ..binding_message(binding) }),
                        max_loss_ms: asked.max_loss_ms,
                        window_seconds: asked.window_seconds,
                        ..v1::MigratePortRequest::default()
                    };
                    drain.waiting.push_back((binding.port.clone(), request));
                }
                Err(why) => drain.stuck.push((binding.port.clone(), why)),
            }
        }
        drain.so_far.total = u32::try_from(drain.waiting.len() + drain.stuck.len()).unwrap_or(u32::MAX);
        Ok(drain)
    }

    /// Where a port can be: as asked for, or the node with the fewest ports that can have it as it is.
    fn target(
        &self,
        snapshot: &Snapshot,
        binding: &Binding,
        to: Option<&Name>,
        load: &BTreeMap<Name, usize>,
    ) -> Result<Name, String> {
        if binding.kind == WorkloadKind::BareMetal {
            return Err(format!(
                "it is a machine on a wire of this node, which nobody else can move: causeway port migrate {} --to …",
                binding.port
            ));
        }
        if binding.netns.starts_with("pid:") {
            return Err("its namespace is named by a process of this node: move it by itself".to_owned());
        }
        if let Some(to) = to {
            return Ok(to.clone());
        }
        let Some(network) = snapshot.networks.get(&binding.port.network) else {
            return Err("its network does not exist".to_owned());
        };
        let can = |name: &Name| {
            let Some(node) = snapshot.nodes.get(name) else { return false };
            *name != binding.node
                && !snapshot.fences.contains_key(name)
                && self.app.agents.hearing(name).connected
                && unfit(snapshot, &network.value, &node.value, binding.kind, binding.attachment).is_none()
        };
        let best = load.iter().filter(|(name, _)| can(name)).min_by_key(|(_, ports)| **ports);
        best.map(|(name, _)| name.clone())
            .ok_or_else(|| "no other node with a connected agent can have it as it is attached".to_owned())
    }

    pub(super) async fn run(mut self, outbound: Outbound) {
        if outbound.send(Ok(self.so_far.clone())).await.is_err() {
            return;
        }
        for (port, problem) in std::mem::take(&mut self.stuck) {
            if !self.tell(&outbound, (port, Err(problem))).await {
                return;
            }
        }
        let mut under_way: JoinSet<Ended> = JoinSet::new();
        let (app, by) = (Arc::new(self.app.clone()), Arc::new(self.by.clone()));
        loop {
            while under_way.len() < self.concurrency
                && let Some((key, request)) = self.waiting.pop_front()
            {
                under_way.spawn(one(Arc::clone(&app), Arc::clone(&by), key, request));
            }
            let Some(ended) = under_way.join_next().await else { return };
            // A client that goes away ends the drain; moves that have begun go on.
            if let Ok(ended) = ended
                && !self.tell(&outbound, ended).await
            {
                under_way.detach_all();
                return;
            }
        }
    }

    async fn tell(&mut self, outbound: &Outbound, (port, result): Ended) -> bool {
        let mut message = match result {
            Ok(moved) => {
                let there = [v1::MovePhase::Hold, v1::MovePhase::Done].map(i32::from).contains(&moved.phase);
                self.so_far.done += u32::from(there);
                self.so_far.failed += u32::from(!there);
                let problem = if there { String::new() } else { moved.reason.clone() };
                v1::DrainNodeResponse { r#move: Some(moved), problem, ..self.so_far.clone() }
            }
            Err(problem) => {
                self.so_far.failed += 1;
                v1::DrainNodeResponse { problem, ..self.so_far.clone() }
            }
        };
        message.port = Some(key_message(&port));
        outbound.send(Ok(message)).await.is_ok()
    }
}

/// One port, until it is at its new place or back.
async fn one(app: Arc<App>, by: Arc<By>, key: PortKey, request: v1::MigratePortRequest) -> Ended {
    let snapshot = app.snapshot().await;
    let order = match super::order(&snapshot, request, &by) {
        Ok((_, order)) => order,
        Err(refusal) => return (key, Err(Status::from(refusal).message().to_owned())),
    };
    if let Err(error) = super::begin(&app, key.clone(), order, &by).await {
        return (key, Err(error.to_string()));
    }
    let (tell, mut told) = mpsc::channel::<Result<v1::Move, Status>>(1);
    let mut last = None;
    let watched = async {
        while let Some(Ok(message)) = told.recv().await {
            let settled = message.phase == i32::from(v1::MovePhase::Hold);
            last = Some(message);
            if settled {
                break;
            }
        }
        // Whoever tells ends with it.
        drop(told);
    };
    tokio::join!(follow::follow(&app, &key, tell), watched);
    let ended = last.ok_or_else(|| "the move is not to be found any more".to_owned());
    (key, ended)
}
