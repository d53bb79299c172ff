//! What controller and node have to say to each other besides the node's state: probes and their results, how far ports
//! are, and whose proof is wanted. The stream hands over what it does not handle itself, and takes the answers.

use std::collections::VecDeque;
use std::time::Duration;

use causeway_proto::v1;
use causeway_proto::v1::{agent_message, controller_message};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::probe::{Ask, ProberHandle};
use crate::stream::{Notice, Side};
use crate::wait::book::Keeper;

/// Room between stream and duties.
const ROOM: usize = 256;
/// Answers that wait for the stream; then those who answer wait.
const PENDING: usize = 1024;
/// Between two writes of levels to disk.
const SAVE: Duration = Duration::from_secs(1);

/// The two ends of a connection between stream and duties.
#[derive(Debug)]
pub(crate) struct Duties {
    notices: mpsc::Receiver<Notice>,
    messages: mpsc::Sender<agent_message::Message>,
    keeper: Keeper,
    proves: mpsc::Receiver<v1::ProveRequest>,
}

/// Makes the two ends. What the controller says of ports goes to `keeper`; what shall be proven comes from `proves`.
pub(crate) fn pair(keeper: Keeper, proves: mpsc::Receiver<v1::ProveRequest>) -> (Side, Duties) {
    let (give, notices) = mpsc::channel(ROOM);
    let (messages, take) = mpsc::channel(ROOM);
    (Side { notices: give, messages: take }, Duties { notices, messages, keeper, proves })
}

impl Duties {
    /// Works until the stream's end is gone.
    pub(crate) async fn run(mut self, mut prober: ProberHandle) {
        let mut connected = false;
        let messages = self.messages.clone();
        let mut pending: VecDeque<agent_message::Message> = VecDeque::new();
        let mut saves = tokio::time::interval(SAVE);
        saves.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = self.notices.recv() => match notice {
                    Some(Notice::Up) => {
                        connected = true;
                        self.keeper.set_connected(true);
                    }
                    Some(Notice::Down) => {
                        connected = false;
                        self.keeper.set_connected(false);
                        pending.clear();
                        // Who ordered them is gone and does not know them any more.
                        let _ = prober.asks.send(Ask::CancelAll).await;
                    }
                    Some(Notice::Said(message)) => self.hear(*message, &prober).await,
                    None => break,
                },
                Some(result) = prober.results.recv(), if pending.len() < PENDING => {
                    if connected {
                        pending.push_back(agent_message::Message::ProbeResult(result));
                    }
                }
                Some(request) = self.proves.recv(), if pending.len() < PENDING => {
                    if connected {
                        pending.push_back(agent_message::Message::Prove(request));
                    }
                }
                _ = saves.tick(), if self.keeper.is_unsaved() => self.save(),
                permit = messages.reserve(), if !pending.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(message) = pending.pop_front() {
                            permit.send(message);
                        }
                    }
                    Err(_) => break,
                },
            }
        }
        self.save();
        // Its thread ends with this; it holds nothing that needs waiting for.
        drop(prober);
    }

    /// A full disk costs no more than what an agent without a controller does not know after its next start.
    fn save(&mut self) {
        if self.keeper.is_unsaved()
            && let Err(error) = self.keeper.save()
        {
            tracing::warn!(%error, "levels of ports are not kept on disk");
        }
    }

    async fn hear(&mut self, message: controller_message::Message, prober: &ProberHandle) {
        let ask = match message {
            controller_message::Message::Probe(order) => Ask::Probe(order),
            controller_message::Message::CancelProbe(v1::ProbeCancel { id }) => Ask::Cancel(id),
            controller_message::Message::Levels(levels) => return self.keeper.take(&levels),
            // The stream keeps these to itself.
            _ => return,
        };
        // A prober that ended said why.
        let _ = prober.asks.send(ask).await;
    }
}
