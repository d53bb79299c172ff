//! Which findings are worth telling: those that stand for a while. Pure; the time is passed in.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_proto::Mac;

use super::{Finding, Presence, Subject};

/// How long a finding must stand without a break before it is told, and be gone before that is told.
const HOLD: Duration = Duration::from_secs(2);
/// The same for a missing claim: a switch learns a MAC when the workload first speaks.
const HOLD_MISSING: Duration = Duration::from_secs(10);

/// An alarm that is raised or cleared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alarm {
    pub(crate) subject: Subject,
    pub(crate) finding: Finding,
    pub(crate) raised: bool,
    /// Unix time in milliseconds.
    pub(crate) time_ms: i64,
}

#[derive(Debug)]
struct State {
    /// What is found now; `None`: it is as intended.
    now: Option<Finding>,
    /// Since when.
    since: Duration,
    /// What was told.
    told: Option<(Finding, i64)>,
}

/// Findings on their way to becoming alarms, and alarms on their way out.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    states: BTreeMap<Subject, State>,
}

impl Alarms {
    /// Takes over what is found of these MACs, or of everything.
    pub(crate) fn observe(
        &mut self,
        macs: Option<&std::collections::BTreeSet<Mac>>,
        mut found: BTreeMap<Subject, Finding>,
        now: Duration,
    ) {
        found.retain(|_, finding| finding.presence != Presence::Present);
        let concerned = |subject: &Subject| macs.is_none_or(|macs| macs.contains(&subject.mac));
        for (subject, state) in self.states.iter_mut().filter(|(subject, _)| concerned(subject)) {
            state.see(found.remove(subject), now);
        }
        for (subject, finding) in found {
            self.states.insert(subject, State { now: Some(finding), since: now, told: None });
        }
        self.states.retain(|_, state| state.now.is_some() || state.told.is_some());
    }

    /// What is to be told now, in order.
    pub(crate) fn due(&mut self, now: Duration, time_ms: i64) -> Vec<Alarm> {
        let mut due = Vec::new();
        for (subject, state) in &mut self.states {
            if now < state.since + state.hold() || !state.differs() {
                continue;
            }
            let (finding, raised) = match (state.now.clone(), state.told.take()) {
                (Some(finding), _) => {
                    state.told = Some((finding.clone(), time_ms));
                    (finding, true)
                }
                (None, Some((finding, _))) => (finding, false),
                (None, None) => continue,
            };
            due.push(Alarm { subject: subject.clone(), finding, raised, time_ms });
        }
        self.states.retain(|_, state| state.now.is_some() || state.told.is_some());
        due
    }

    /// Alarms that stand.
    pub(crate) fn standing(&self) -> impl Iterator<Item = Alarm> {
        self.states.iter().filter_map(|(subject, state)| {
            let (finding, time_ms) = state.told.clone()?;
            Some(Alarm { subject: subject.clone(), finding, raised: true, time_ms })
        })
    }

    /// Whether there is anything to wait for.
    pub(crate) fn is_restless(&self) -> bool {
        self.states.values().any(State::differs)
    }
}

impl State {
    fn see(&mut self, found: Option<Finding>, now: Duration) {
        let presence = |finding: &Option<Finding>| finding.as_ref().map(|finding| finding.presence);
        if presence(&self.now) != presence(&found) {
            self.since = now;
        }
        self.now = found;
    }

    fn differs(&self) -> bool {
        let told = self.told.as_ref().map(|(finding, _)| finding.presence);
        self.now.as_ref().map(|finding| finding.presence) != told
    }

    fn hold(&self) -> Duration {
        match &self.now {
            Some(finding) if finding.presence == Presence::Missing => HOLD_MISSING,
            _ => HOLD,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn subject(n: u8) -> Subject {
        let mac = Mac::new([2, 0, 0, 0, 0, n]);
        let network = "default/web".parse().unwrap();
        Subject { mac, network, address: None, peer: [10, 0, 0, 1].into() }
    }

    fn finding(presence: Presence) -> Finding {
        let (port, text) = (None, String::new());
        Finding { port, presence, intended: None, observed: Vec::new(), sequence: 0, text }
    }

    fn found(n: u8, presence: Presence) -> BTreeMap<Subject, Finding> {
        BTreeMap::from([(subject(n), finding(presence))])
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn told(alarms: &mut Alarms, ms: u64) -> Vec<(u8, Presence, bool)> {
        let due = alarms.due(at(ms), i64::try_from(ms).unwrap());
        due.into_iter().map(|a| (a.subject.mac.octets()[5], a.finding.presence, a.raised)).collect()
    }

    #[test]
    fn raised_when_it_stands_and_cleared_when_it_is_gone_for_as_long() {
        let mut alarms = Alarms::default();
        alarms.observe(None, found(1, Presence::Elsewhere), at(0));
        assert_eq!(told(&mut alarms, 1999), []);
        assert_eq!(told(&mut alarms, 2000), [(1, Presence::Elsewhere, true)]);
        assert_eq!(told(&mut alarms, 9000), [], "once");
        assert_eq!(alarms.standing().count(), 1);
        alarms.observe(None, found(1, Presence::Present), at(10_000));
        assert_eq!(told(&mut alarms, 11_999), []);
        assert!(alarms.is_restless());
        assert_eq!(told(&mut alarms, 12_000), [(1, Presence::Elsewhere, false)]);
        assert!(alarms.states.is_empty() && !alarms.is_restless());
    }

    #[test]
    fn flapping_is_not_told() {
        let mut alarms = Alarms::default();
        for round in 0..100 {
            alarms.observe(None, found(1, Presence::Duplicate), at(round * 2000));
            assert_eq!(told(&mut alarms, round * 2000 + 999), []);
            alarms.observe(None, BTreeMap::new(), at(round * 2000 + 1000));
            assert_eq!(told(&mut alarms, round * 2000 + 1999), []);
        }
        // Nor is a break in one that stands.
        alarms.observe(None, found(1, Presence::Duplicate), at(300_000));
        assert_eq!(told(&mut alarms, 302_000).len(), 1);
        alarms.observe(None, BTreeMap::new(), at(303_000));
        alarms.observe(None, found(1, Presence::Duplicate), at(304_000));
        assert_eq!(told(&mut alarms, 400_000), []);
    }

    #[test]
    fn missing_takes_longer_and_another_kind_is_told_anew() {
        let mut alarms = Alarms::default();
        alarms.observe(None, found(1, Presence::Missing), at(0));
        assert_eq!(told(&mut alarms, 9999), []);
        assert_eq!(told(&mut alarms, 10_000), [(1, Presence::Missing, true)]);
        alarms.observe(None, found(1, Presence::Elsewhere), at(20_000));
        assert_eq!(told(&mut alarms, 21_000), []);
        assert_eq!(told(&mut alarms, 22_000), [(1, Presence::Elsewhere, true)]);
    }

    #[test]
    fn a_look_at_some_macs_says_nothing_of_the_others() {
        let mut alarms = Alarms::default();
        alarms.observe(None, found(1, Presence::Stale), at(0));
        let other = BTreeSet::from([subject(2).mac]);
        alarms.observe(Some(&other), found(2, Presence::Foreign), at(1000));
        assert_eq!(told(&mut alarms, 2000), [(1, Presence::Stale, true)]);
        assert_eq!(told(&mut alarms, 3000), [(2, Presence::Foreign, true)]);
        alarms.observe(Some(&other), BTreeMap::new(), at(4000));
        assert_eq!(told(&mut alarms, 6000), [(2, Presence::Foreign, false)]);
        assert_eq!(alarms.standing().count(), 1);
    }
}
