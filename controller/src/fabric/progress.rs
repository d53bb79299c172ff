//! Which ports' routes have reached the peers.

use std::collections::{BTreeMap, VecDeque};

use causeway_bgp::Ticket;
use causeway_proto::PortKey;

/// Tickets that are under way, and the ports they are about.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Ticket of the first complete table; `None` before.
    first: Option<Ticket>,
    sent: Option<Ticket>,
    queue: VecDeque<(Ticket, Vec<PortKey>)>,
    pending: BTreeMap<PortKey, Ticket>,
}

impl Progress {
    /// The first complete table is under way.
    pub(super) fn begin(&mut self, ticket: Ticket) {
        self.first = Some(ticket);
    }

    /// Routes of these ports are under way.
    pub(super) fn add(&mut self, ticket: Ticket, ports: Vec<PortKey>) {
        // The event may overtake the answer that says the ticket.
        if self.sent.is_some_and(|sent| sent >= ticket) {
            return;
        }
        for port in &ports {
            self.pending.insert(port.clone(), ticket);
        }
        self.queue.push_back((ticket, ports));
    }

    /// All tickets up to this one have reached every established peer. Says whose ports' state that changes.
    pub(super) fn sent(&mut self, ticket: Ticket) -> Vec<PortKey> {
        self.sent = self.sent.max(Some(ticket));
        let mut done = Vec::new();
        while let Some((at, _)) = self.queue.front()
            && *at <= ticket
        {
            let Some((at, ports)) = self.queue.pop_front() else { break };
            for port in ports {
                // A later ticket of the same port is still under way.
                if self.pending.get(&port) == Some(&at) {
                    self.pending.remove(&port);
                    done.push(port);
                }
            }
        }
        done
    }

    /// True if nothing about the port is under way any more.
    pub(super) fn is_advertised(&self, port: &PortKey) -> bool {
        self.first.is_some_and(|first| self.sent.is_some_and(|sent| sent >= first))
            && !self.pending.contains_key(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_advertised_when_its_last_change_was_sent() {
        let port = |text: &str| text.parse::<PortKey>().unwrap();
        let (a, b) = (port("web/a"), port("web/b"));
        let mut progress = Progress::default();
        assert!(!progress.is_advertised(&a), "nothing was sent yet");
        progress.begin(Ticket(1));
        assert!(progress.sent(Ticket(1)).is_empty());
        assert!(progress.is_advertised(&a));
        progress.add(Ticket(2), vec![a.clone(), b.clone()]);
        progress.add(Ticket(3), vec![a.clone()]);
        assert_eq!(progress.sent(Ticket(2)), std::slice::from_ref(&b));
        assert!(!progress.is_advertised(&a) && progress.is_advertised(&b));
        assert_eq!(progress.sent(Ticket(7)), std::slice::from_ref(&a));
        progress.add(Ticket(6), vec![a.clone()]);
        assert!(progress.is_advertised(&a), "the event came before the ticket");
    }
}
