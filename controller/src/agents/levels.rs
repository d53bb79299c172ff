//! How far a node's ports are in the controller's eyes, for its agent to keep: what waits on the node asks the agent.

use std::collections::BTreeMap;

use causeway_proto::{Name, PortKey, v1};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{Agents, PortProgress};
use crate::fabric::PortNews;
use crate::snapshot::Snapshot;

/// What an agent was told of its ports, and what may have changed since.
#[derive(Debug)]
pub(super) struct Levels {
    news: [broadcast::Receiver<PortNews>; 3],
    told: Option<BTreeMap<PortKey, v1::PortLevel>>,
    due: bool,
}

impl Levels {
    pub(super) fn new(agents: &Agents) -> Levels {
        let proofs = agents.ready().map_or_else(|| broadcast::channel(1).1, |ready| ready.news());
        Levels { news: [agents.news(), agents.shared.fabric.news(), proofs], told: None, due: false }
    }

    /// Ports of the node changed, or it was told of all.
    pub(super) fn set_due(&mut self) {
        self.due = true;
    }

    /// True if there may be something to tell.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// Waits for news of ports of the node, as the snapshot has them.
    pub(super) async fn hear(&mut self, node: &Name, snapshot: &Snapshot) {
        let [agents, fabric, proofs] = &mut self.news;
        let news = tokio::select! {
            news = agents.recv() => news,
            news = fabric.recv() => news,
            Ok(news) = proofs.recv() => Ok(news),
        };
        let here = |port: &PortKey| snapshot.bindings.get(port).is_some_and(|b| b.value.node == *node);
        match news {
            Ok(ports) => self.due |= ports.iter().any(here),
            Err(RecvError::Lagged(_)) => self.due = true,
            // The controller ends.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    /// What to tell: all the first time, then what changed, if anything did.
    pub(super) fn take(
        &mut self,
        agents: &Agents,
        node: &Name,
        snapshot: &Snapshot,
    ) -> Option<v1::PortLevels> {
        self.due = false;
        let bindings = snapshot.bindings_at(node).filter(|binding| binding.value.active);
        let level = |port: &PortKey| Some((port.clone(), level(agents, snapshot, port)?));
        let now: BTreeMap<PortKey, v1::PortLevel> =
            bindings.filter_map(|binding| level(&binding.value.port)).collect();
        let all = self.told.is_none();
        let told = self.told.take().unwrap_or_default();
        let changed = now.iter().filter(|(port, level)| all || told.get(*port) != Some(level));
        let ports: Vec<v1::PortLevel> = changed.map(|(_, level)| level.clone()).collect();
        self.told = Some(now);
        (all || !ports.is_empty()).then_some(v1::PortLevels { all, ports })
    }
}

/// One port; `None` if it is bound nowhere.
fn level(agents: &Agents, snapshot: &Snapshot, port: &PortKey) -> Option<v1::PortLevel> {
    let binding = snapshot.bindings.get(port)?;
    let generation = binding.value.generation;
    let programmed = agents.port_progress(&binding.value, binding.revision) == PortProgress::Programmed;
    let advertised = agents.shared.fabric.is_advertised(port);
    let ready = agents.ready();
    let proven = ready.as_ref().is_some_and(|ready| ready.proof(port, generation).is_some());
    let level = match (programmed, advertised, proven) {
        (false, ..) => v1::ReadyLevel::Unspecified,
        (true, false, _) => v1::ReadyLevel::Programmed,
        (true, true, false) => v1::ReadyLevel::Advertised,
        (true, true, true) => v1::ReadyLevel::Proven,
    };
    let fabric = if advertised { "" } else { "its routes have not been sent to every BGP peer yet" };
    let probe = match proven {
        true => String::new(),
        false => ready.and_then(|ready| ready.waits_for(port)).unwrap_or_default(),
    };
    Some(v1::PortLevel {
        port: port.to_string(),
        generation,
        level: level.into(),
        fabric: fabric.into(),
        probe,
    })
}
