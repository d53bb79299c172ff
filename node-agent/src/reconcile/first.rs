//! Which ports wait until their network has been asked for their addresses. Pure: times are given.
//!
//! Asked for is what is brought into use on this node for the first time: not what runs here already when the agent
//! starts, nor what a move brings, nor what was here until a moment ago.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use causeway_proto::PortKey;
use tokio::time::Instant;

use crate::acd::{Answer, Evidence, Outcome};
use crate::dev::{Dev, says_announced};
use crate::model::{Attach, Desired, Key, Port};
use crate::observed::{Inside, Observed};

/// How long it is remembered that an address was in use here by the same port.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Before a question is put that could not be put yet: its network is not there.
const NOT_YET: Duration = Duration::from_millis(50);
/// Before an address is asked for again that somebody has: at first, and at most. It may be the port's own last place
/// that is about to fall silent.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// How far a port is.
#[derive(Debug)]
enum First {
    /// In use here, or until then.
    Known { left: Option<Instant> },
    /// To be asked for.
    Due { at: Instant, rounds: u32, evidence: Option<Evidence> },
    /// Asked for.
    Asked { serial: u64, rounds: u32, evidence: Option<Evidence> },
}

/// All ports of the node.
#[derive(Debug, Default)]
pub(super) struct Firsts {
    /// With the addresses that are meant.
    ports: BTreeMap<PortKey, (BTreeSet<IpAddr>, First)>,
    serial: u64,
}

impl Firsts {
    /// Looks which ports must wait, and has them wait.
    pub(super) fn review(&mut self, desired: &mut Desired, observed: &Observed, now: Instant) {
        self.forget(desired, now);
        let mut waiting = Vec::new();
        for port in desired.ports().values() {
            let addresses: BTreeSet<IpAddr> = port.addresses.iter().map(|address| address.ip).collect();
            let asks = port.address_check_ms > 0
                && !addresses.is_empty()
                && !matches!(port.attach, Attach::BareMetal | Attach::Adopted)
                && (port.stage.is_active() || desired.is_held(&port.id));
            let known = match self.ports.get(&port.id) {
                _ if !asks => true,
                Some((had, First::Known { .. })) => addresses.is_subset(had) || in_use(observed, port),
                Some((had, _)) if *had == addresses => {
                    waiting.push(port.id.clone());
                    continue;
                }
                _ => in_use(observed, port),
            };
            let first = match known {
                true => First::Known { left: None },
                false => {
                    waiting.push(port.id.clone());
                    First::Due { at: now, rounds: 0, evidence: None }
                }
            };
            self.ports.insert(port.id.clone(), (addresses, first));
        }
        waiting.iter().for_each(|id| desired.hold(id));
    }

    /// Ports that are not here any more.
    fn forget(&mut self, desired: &Desired, now: Instant) {
        self.ports.retain(|id, (_, first)| match first {
            _ if desired.ports().contains_key(id) => true,
            First::Known { left } => now.duration_since(*left.get_or_insert(now)) < REMEMBERED,
            First::Due { .. } | First::Asked { .. } => false,
        });
    }

    /// When something is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = |(_, first): &(_, First)| match first {
            First::Due { at, .. } => Some(*at),
            First::Known { .. } | First::Asked { .. } => None,
        };
        self.ports.values().filter_map(due).min()
    }

    /// Ports that are due.
    pub(super) fn due(&self, now: Instant) -> Vec<PortKey> {
        let is_due = |first: &First| matches!(first, First::Due { at, .. } if *at <= now);
        self.ports.iter().filter(|(_, (_, first))| is_due(first)).map(|(id, _)| id.clone()).collect()
    }

    /// The question for a port goes out. Returns its number.
    pub(super) fn asked(&mut self, id: &PortKey) -> Option<u64> {
        self.serial += 1;
        let serial = self.serial;
        let (_, first) = self.ports.get_mut(id)?;
        let First::Due { rounds, evidence, .. } = first else { return None };
        *first = First::Asked { serial, rounds: *rounds, evidence: evidence.take() };
        Some(serial)
    }

    /// It could not go out yet.
    pub(super) fn not_yet(&mut self, id: &PortKey, now: Instant) {
        if let Some((_, First::Due { at, .. })) = self.ports.get_mut(id) {
            *at = now + NOT_YET;
        }
    }

    /// There is nobody to ask.
    pub(super) fn skip(&mut self, id: &PortKey, desired: &mut Desired) -> BTreeSet<Key> {
        let Some((_, first)) = self.ports.get_mut(id) else { return BTreeSet::new() };
        *first = First::Known { left: None };
        desired.let_go(id)
    }

    /// What became of a question. Returns what to look at.
    pub(super) fn answer(&mut self, answer: Answer, desired: &mut Desired, now: Instant) -> BTreeSet<Key> {
        let Answer { serial, port: id, outcome } = answer;
        let Some((_, first)) = self.ports.get_mut(&id) else { return BTreeSet::new() };
        let First::Asked { serial: asked, rounds, evidence: before } = first else { return BTreeSet::new() };
        if *asked != serial {
            return BTreeSet::new();
        }
        match outcome {
            Outcome::Taken(found) => {
                let (address, mac, on) = (found.address, found.mac, &found.interface);
                if before.is_none() {
                    tracing::warn!(port = %id, %address, %mac, %on, "an address is in use by somebody else");
                }
                let rounds = *rounds + 1;
                let wait = AGAIN.0.saturating_mul(1 << (rounds - 1).min(16)).min(AGAIN.1);
                // As long as it is the same one, it was seen first when it was.
                let same = |before: &Evidence| {
                    (before.address, before.mac, &before.interface) == (address, mac, &found.interface)
                };
                let evidence = Some(before.take().filter(same).unwrap_or(found));
                *first = First::Due { at: now + wait, rounds, evidence };
                BTreeSet::from([Key::Port(Dev::port(&id))])
            }
            Outcome::Free => {
                if before.is_some() {
                    tracing::info!(port = %id, "nobody else has its addresses any more");
                }
                self.skip(&id, desired)
            }
            Outcome::Failed(why) => {
                tracing::warn!(port = %id, why, "its addresses could not be asked for, and are used all the same");
                self.skip(&id, desired)
            }
        }
    }

    /// Who else has an address of a port that waits.
    pub(super) fn evidence(&self, id: &PortKey) -> Option<&Evidence> {
        match self.ports.get(id) {
            Some((_, First::Due { evidence, .. } | First::Asked { evidence, .. })) => evidence.as_ref(),
            _ => None,
        }
    }
}

/// True if the kernel says that the port has been announced on this node.
fn in_use(observed: &Observed, port: &Port) -> bool {
    let says = |alias: &String| says_announced(alias, &port.id);
    let inside = match observed.insides.get(&Dev::port(&port.id)) {
        Some(Inside::Present(peer)) => Some(&peer.alias),
        _ => None,
    };
    let side = port.host_side();
    let links = [observed.ports.get(&side).map(|s| &s.link), observed.lan.links.get(&side).map(|l| &l.link)];
    links.into_iter().flatten().map(|link| &link.alias).chain(inside).any(says)
}

/// What a port's status says of it.
pub(super) fn words(evidence: &Evidence, port: &Port) -> String {
    let Evidence { address, mac, interface, seen_ms } = evidence;
    let how = if address.is_ipv4() { "an ARP probe" } else { "a neighbour solicitation" };
    let whose = match *mac == port.mac {
        true => {
            "which is the port's own MAC: its last place is not silent yet, or another installation gives the same"
        }
        false => "which is not the port's",
    };
    let seconds = seen_ms / 1000;
    format!(
        "address {address} is in use: {mac} answered {how} on {interface}, first at Unix time {seconds} s, {whose}; stop it \
         there, or release the port and take another address; it is asked for again until nobody answers"
    )
}

#[cfg(test)]
mod tests {
    use causeway_proto::{Mac, v1};

    use super::*;

    fn desired(check: u32, stage: v1::PortStage) -> Desired {
        let port = v1::NodePort {
            address_check_ms: check,
            stage: stage.into(),
            ..crate::model::tests::port("default/web/a", 100, "02:ca:0a:08:00:05")
        };
        let state = v1::NodeState {
            revision: 1,
            vtep: "192.0.2.1".into(),
            networks: vec![crate::model::tests::network(100)],
            ports: vec![port],
            ..Default::default()
        };
        Desired::from_state(&state, &Desired::default())
    }

    fn id() -> PortKey {
        "default/web/a".parse().unwrap()
    }

    fn taken() -> Outcome {
        Outcome::Taken(Evidence {
            address: "10.8.0.5".parse().unwrap(),
            mac: Mac::new([2, 1, 1, 1, 1, 1]),
            interface: Dev::new("cwb100"),
            seen_ms: 1,
        })
    }

    fn answer(serial: u64, outcome: Outcome) -> Answer {
        Answer { serial, port: id(), outcome }
    }

    #[test]
    fn a_first_use_waits_until_nobody_answers() {
        let (mut firsts, observed, now) = (Firsts::default(), Observed::default(), Instant::now());
        let mut wanted = desired(200, v1::PortStage::Active);
        firsts.review(&mut wanted, &observed, now);
        assert!(wanted.is_held(&id()) && !wanted.ports()[&id()].stage.is_active());
        assert_eq!(firsts.due(now), [id()]);
        let first = firsts.asked(&id()).unwrap();
        assert_eq!((firsts.due(now), firsts.next_due()), (vec![], None));
        assert!(
            firsts.answer(answer(first, taken()), &mut wanted, now).contains(&Key::Port(Dev::port(&id())))
        );
        assert!(wanted.is_held(&id()) && firsts.evidence(&id()).is_some());
        // A new state of the controller changes nothing.
        wanted = desired(200, v1::PortStage::Active);
        firsts.review(&mut wanted, &observed, now);
        assert!(wanted.is_held(&id()));
        assert_eq!(firsts.next_due(), Some(now + AGAIN.0));
        let second = firsts.asked(&id()).unwrap();
        assert!(firsts.answer(answer(first, Outcome::Free), &mut wanted, now).is_empty(), "an old answer");
        assert!(wanted.is_held(&id()));
        assert!(!firsts.answer(answer(second, Outcome::Free), &mut wanted, now).is_empty());
        assert!(!wanted.is_held(&id()) && wanted.ports()[&id()].stage.is_active());
        assert_eq!((firsts.evidence(&id()), firsts.next_due()), (None, None));
    }

    #[test]
    fn rounds_get_rarer() {
        let (mut firsts, mut now) = (Firsts::default(), Instant::now());
        let mut wanted = desired(200, v1::PortStage::Active);
        firsts.review(&mut wanted, &Observed::default(), now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let serial = firsts.asked(&id()).unwrap();
            firsts.answer(answer(serial, taken()), &mut wanted, now);
            let due = firsts.next_due().unwrap();
            waits.push(due.duration_since(now).as_millis());
            now = due;
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn what_is_no_first_use_does_not_wait() {
        let now = Instant::now();
        let held = |firsts: &mut Firsts, wanted: &mut Desired, observed: &Observed, now| {
            firsts.review(wanted, observed, now);
            wanted.is_held(&id())
        };
        let active = || desired(200, v1::PortStage::Active);
        // Turned off.
        assert!(!held(
            &mut Firsts::default(),
            &mut desired(0, v1::PortStage::Active),
            &Observed::default(),
            now
        ));
        // It ran here when the agent started; what was only prepared did not.
        for (generation, waits) in [(3, false), (0, true)] {
            let mut observed = Observed::default();
            let mut side = crate::observed::HostSide::default();
            side.link.alias = crate::dev::port_alias(&id(), generation);
            observed.ports.insert(Dev::port(&id()), side);
            assert_eq!(held(&mut Firsts::default(), &mut active(), &observed, now), waits);
        }
        // A move brings it.
        let (mut firsts, nothing) = (Firsts::default(), Observed::default());
        assert!(!held(&mut firsts, &mut desired(200, v1::PortStage::Prepared), &nothing, now));
        assert!(!held(&mut firsts, &mut active(), &nothing, now));
        // It was here until a moment ago, and until long ago.
        firsts.review(&mut Desired::default(), &nothing, now);
        assert!(!held(&mut firsts, &mut active(), &nothing, now + REMEMBERED / 2));
        firsts.review(&mut Desired::default(), &nothing, now);
        firsts.review(&mut Desired::default(), &nothing, now + REMEMBERED);
        assert!(held(&mut firsts, &mut active(), &nothing, now + REMEMBERED));
    }
}
