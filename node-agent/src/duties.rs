//! What the controller asks of a node besides being as its state says: probes. The stream hands over what it does not
//! handle itself, and takes the answers.

use std::collections::VecDeque;

use causeway_proto::v1;
use causeway_proto::v1::{agent_message, controller_message};
use tokio::sync::mpsc;

use crate::probe::{Ask, ProberHandle};
use crate::stream::{Notice, Side};

/// Room between stream and duties.
const ROOM: usize = 256;
/// Answers that wait for the stream; then those who answer wait.
const PENDING: usize = 1024;

/// The two ends of a connection between stream and duties.
#[derive(Debug)]
pub(crate) struct Duties {
    notices: mpsc::Receiver<Notice>,
    messages: mpsc::Sender<agent_message::Message>,
}

/// Makes the two ends.
pub(crate) fn pair() -> (Side, Duties) {
    let (give, notices) = mpsc::channel(ROOM);
    let (messages, take) = mpsc::channel(ROOM);
    (Side { notices: give, messages: take }, Duties { notices, messages })
}

impl Duties {
    /// Works until the stream's end is gone.
    pub(crate) async fn run(mut self, mut prober: ProberHandle) {
        let mut connected = false;
        let mut pending: VecDeque<agent_message::Message> = VecDeque::new();
        loop {
            tokio::select! {
                notice = self.notices.recv() => match notice {
                    Some(Notice::Up) => connected = true,
                    Some(Notice::Down) => {
                        connected = false;
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
                permit = self.messages.reserve(), if !pending.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(message) = pending.pop_front() {
                            permit.send(message);
                        }
                    }
                    Err(_) => break,
                },
            }
        }
        // Its thread ends with this; it holds nothing that needs waiting for.
        drop(prober);
    }

    async fn hear(&self, message: controller_message::Message, prober: &ProberHandle) {
        let ask = match message {
            controller_message::Message::Probe(order) => Ask::Probe(order),
            controller_message::Message::CancelProbe(v1::ProbeCancel { id }) => Ask::Cancel(id),
            // The stream keeps these to itself.
            _ => return,
        };
        // A prober that ended said why.
        let _ = prober.asks.send(ask).await;
    }
}
