//! Agents that do by themselves what they are told, on a data plane that watches them: no port may answer at two nodes.
//! They outlive their controller, keep what they have, and find the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use causeway_proto::v1::controller_message::Message;
use causeway_proto::v1::{self, PortStage};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::Agent;

type Ports = BTreeMap<String, (PortStage, u64)>;

/// What a robot does when it is told of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// It does it, and says so.
    Obey,
    /// Its connection breaks before it has done anything, and it does not come back before its habit changes.
    DieOn(PortStage),
    /// It does nothing and says nothing, until its habit changes.
    IgnoreOn(PortStage),
    /// The same as it is told of a MAC behind one of its interfaces: it is a switch.
    DieOnMac,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, Ports>,
    out: BTreeSet<String>,
    doubles: Vec<String>,
}

/// What all nodes have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plane(Arc<Mutex<State>>);

impl Plane {
    fn change(&self, node: &str, change: impl FnOnce(&mut Ports)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(state.nodes.entry(node.to_owned()).or_default());
        let mut seen = BTreeMap::new();
        let mut doubles = Vec::new();
        for (node, ports) in state.nodes.iter().filter(|(node, _)| !state.out.contains(*node)) {
            for port in
                ports.iter().filter(|(_, (stage, _))| *stage == PortStage::Active).map(|(port, _)| port)
            {
                if let Some(other) = seen.insert(port.clone(), node) {
                    doubles.push(format!("{port} answers at {other} and {node}"));
                }
            }
        }
        state.doubles.extend(doubles);
    }

    /// The nodes that answer for a port of network `web`.
    pub(crate) fn answering(&self, port: &str) -> Vec<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("default/web/{port}");
        let active = |ports: &Ports| ports.get(&id).is_some_and(|(stage, _)| *stage == PortStage::Active);
        let nodes = state.nodes.iter().filter(|(node, ports)| !state.out.contains(*node) && active(ports));
        nodes.map(|(node, _)| node.clone()).collect()
    }

    /// A machine of its own with a port's addresses, behind a node, answers or is silent: somebody sees to that by hand.
    pub(crate) fn machine(&self, node: &str, port: &str, answers: bool) {
        self.change(node, |held| {
            let stage = if answers { PortStage::Active } else { PortStage::Held };
            held.insert(format!("default/web/{port}"), (stage, 0));
        });
    }

    /// Nobody hears this node any more, whatever it does.
    pub(crate) fn cut(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).out.insert(node.to_owned());
    }

    /// Where two nodes answered for one port at the same time; must be empty.
    pub(crate) fn doubles(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).doubles.clone()
    }
}

/// A robot; it ends when this is dropped.
pub(crate) struct Robot {
    habit: watch::Sender<Habit>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Robot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Robot {
    /// An agent of `node` at whatever controller there is.
    pub(crate) fn start(node: &str, plane: &Plane, controller: watch::Receiver<Option<Channel>>) -> Robot {
        let (habit, receiver) = watch::channel(Habit::Obey);
        let life = Life { node: node.to_owned(), plane: plane.clone(), habit: receiver, controller };
        Robot { habit, task: tokio::spawn(life.run()) }
    }

    pub(crate) fn set(&self, habit: Habit) {
        self.habit.send_replace(habit);
    }
}

struct Life {
    node: String,
    plane: Plane,
    habit: watch::Receiver<Habit>,
    controller: watch::Receiver<Option<Channel>>,
}

impl Life {
    async fn run(mut self) {
        loop {
            let channel = self.controller.borrow_and_update().clone();
            let died = match channel {
                None => false,
                Some(channel) => self.session(&channel).await,
            };
            if died {
                let _ = self.habit.changed().await;
            } else {
                // One that is just being replaced refuses us, or ours is not known to be gone yet.
                let pause = std::time::Duration::from_millis(20);
                let _ = tokio::time::timeout(pause, self.controller.changed()).await;
            }
        }
    }

    /// Serves until the stream ends; true if it died by its habit.
    async fn session(&mut self, channel: &Channel) -> bool {
        let Ok(mut agent) = Agent::connect(channel, &self.node, "robot").await else { return false };
        while let Ok(Some(message)) = agent.stream.message().await {
            let (revision, all, ports, gone, macs) = match message.message {
                Some(Message::Snapshot(state)) => {
                    (state.revision, true, state.ports, Vec::new(), state.locals)
                }
                Some(Message::Delta(delta)) => {
                    (delta.revision, false, delta.ports, delta.deleted_ports, delta.locals)
                }
                _ => continue,
            };
            let habit = *self.habit.borrow_and_update();
            let told_of = |stage| ports.iter().any(|port| port.stage() == stage);
            match habit {
                Habit::DieOn(stage) if told_of(stage) => return true,
                Habit::DieOnMac if !macs.is_empty() => return true,
                Habit::IgnoreOn(stage) if told_of(stage) => {
                    let _ = self.habit.changed().await;
                }
                _ => {}
            }
            // A thing takes a moment.
            tokio::task::yield_now().await;
            self.plane.change(&self.node, |held| {
                if all {
                    held.clear();
                }
                for port in &ports {
                    held.insert(port.id.clone(), (port.stage(), port.generation));
                }
                for port in &gone {
                    held.remove(port);
                }
            });
            let said = |port: &v1::NodePort| v1::PortStatus {
                port: port.id.clone(),
                generation: port.generation,
                programmed: true,
                problem: String::new(),
                stage: port.stage,
                ..v1::PortStatus::default()
            };
            if agent.say(revision, ports.iter().map(said).collect()).await.is_err() {
                return false;
            }
        }
        false
    }
}
