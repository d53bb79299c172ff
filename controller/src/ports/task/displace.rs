//! Quarantines that end early, because the pool ran dry.

use std::sync::Arc;

use causeway_proto::{NetworkKey, PortKey, PortName, Prefix};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Done, Task};
use crate::alloc;
use crate::derive::imports::Imports;
use crate::ports::overlay::View;
use crate::ports::plan::{self, Context};
use crate::ports::{Answer, Job, PortError, Request};
use crate::snapshot::Snapshot;

impl Task {
    /// The port that has been quarantined for longest with an address that may be chosen from these pools.
    fn oldest(&self, error: &PortError, snapshot: &Snapshot) -> Option<PortKey> {
        error.pools().into_iter().find_map(|(network, subnets)| self.oldest_of(network, subnets, snapshot))
    }

    fn oldest_of(&self, network: &NetworkKey, subnets: &[Prefix], snapshot: &Snapshot) -> Option<PortKey> {
        let view = View { snapshot, overlay: &self.overlay };
        let heard = Imports::default();
        let context =
            Context { now_ms: self.clock.now_ms(), seed: None, heard: &heard, hearing: &*self.hearing };
        let of_use = |key: &PortKey| {
            if plan::held_by_node(&view, key, context).is_some() {
                return None;
            }
            let port = snapshot.ports.get(key)?;
            let mut pools =
                subnets.iter().filter_map(|prefix| snapshot.taken.get(&(network.vrf.clone(), *prefix)));
            let has = |first: u128, last: u128, prefix: bool| {
                let here = port.value.addresses.iter().filter(|a| a.is_ipv4() == prefix);
                here.map(|a| alloc::number(*a)).any(|n| (first..=last).contains(&n))
            };
            let ipv4 = subnets.first().is_some_and(|prefix| prefix.is_ipv4());
            pools
                .any(|pool| pool.choosable().iter().any(|(first, last)| has(*first, *last, ipv4)))
                .then_some(())
        };
        let first = PortKey { network: network.clone(), name: PortName::lowest() };
        let quarantined = snapshot.quarantined.range((network.clone(), i64::MIN, first)..);
        let mut keys = quarantined.take_while(|(of, ..)| of == network).map(|(_, _, key)| key);
        keys.find(|key| !self.displacing.contains(*key) && of_use(key).is_some()).cloned()
    }

    pub(super) fn displaces(&self, error: &PortError, snapshot: &Snapshot) -> bool {
        self.oldest(error, snapshot).is_some()
    }

    /// Ends the oldest quarantine early, in a transaction of its own, and looks again.
    pub(super) fn displace(&mut self, job: Job, error: PortError, snapshot: &Snapshot) {
        let Some(key) = self.oldest(&error, snapshot) else { return job.refuse(error, snapshot.revision) };
        let network = snapshot.networks.get(&key.network).map(|record| &record.value);
        let ends = snapshot.ports.get(&key).and_then(|port| plan::quarantine_ends_ms(&port.value, network));
        let left = ends.map_or(0, |end| end.saturating_sub(self.clock.now_ms()).max(0) / 1000);
        let cause = format!(
            "the pool ran dry, for port {}: {left} s before the end of its quarantine",
            job.request.key()
        );
        let (answer, done) = oneshot::channel();
        let request = Request::Free { key: key.clone(), quarantined: true, cause };
        self.displacing.insert(key.clone());
        let (by, since) = (Arc::clone(&job.by), Instant::now());
        self.backlog.push_front(Job { request, by, asked: job.asked, since, tries: 0, answer });
        self.work.spawn(async move { Done::Displaced(key, Box::new(job), Box::new(done.await.ok())) });
    }

    pub(super) fn displaced(&mut self, key: &PortKey, job: Job, answer: Option<Answer>) {
        self.displacing.remove(key);
        match answer {
            Some(Err(PortError::Store(error))) => job.reply(Err(PortError::Store(error))),
            Some(Ok(_)) => {
                self.cut_short.inc();
                tracing::warn!(port = %key, "a quarantine ended early: the pool ran dry");
                self.backlog.push_back(job);
            }
            // Taken back meanwhile, or lost races: there may be another.
            Some(Err(_)) => self.backlog.push_back(job),
            None => job.reply(Err(PortError::Stopping)),
        }
    }
}
