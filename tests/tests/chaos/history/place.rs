//! At how many places an address is at a time, as the kernels and the wire say.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, At, Between, Fence, History, Presence};

pub(super) fn complaints(history: &History) -> Vec<String> {
    let macs: BTreeMap<&str, &str> = history
        .told
        .iter()
        .flat_map(|event| event.addresses.iter().map(|address| (address.as_str(), event.mac.as_str())))
        .collect();
    let (inside, outside): (Vec<_>, Vec<_>) =
        history.seen.iter().map(|presence| split(presence, &history.fences)).unzip();
    let inside: Vec<Presence> = inside.into_iter().flatten().collect();
    let outside: Vec<Presence> = outside.into_iter().flatten().collect();
    let answers: Vec<&Answer> = history
        .answers
        .iter()
        .filter(|answer| !outside.iter().any(|there| could_be(answer, there)))
        .collect();
    let mut all = at_two_places(&inside);
    all.extend(answers_of_nobody(&answers, &inside, &macs));
    all.extend(two_at_one_host(&answers));
    all.extend(two_hosts(&answers, &inside));
    all
}

/// A port that was up at a host when that was fenced, was there until then. What is up there later is out, also what came up
/// meanwhile: its agent had heard of it before. What comes up afterwards counts again.
fn split(presence: &Presence, fences: &[Fence]) -> (Option<Presence>, Option<Presence>) {
    let hits = |fence: &&Fence| {
        fence.node == presence.node
            && presence.from.0 <= fence.to
            && presence.to.is_none_or(|to| to.1 >= fence.from)
    };
    let Some(at) = fences.iter().filter(hits).map(|fence| fence.from).min() else {
        return (Some(presence.clone()), None);
    };
    if presence.from.1 > at {
        return (None, Some(presence.clone()));
    }
    let edge = Between(at, at);
    let end = presence.to.map_or(edge, |to| Between(to.0.min(at), to.1.min(at)));
    let before = Presence { to: Some(end), ..presence.clone() };
    (Some(before), Some(Presence { from: edge, ..presence.clone() }))
}

/// The answer may be this one's.
fn could_be(answer: &Answer, presence: &Presence) -> bool {
    answer.node == presence.node
        && answer.mac == presence.mac
        && presence.from.0 <= answer.heard
        && presence.to.is_none_or(|to| to.1 >= answer.asked)
}

/// The same MAC up at two places at a time, beyond the doubt of when exactly each was seen.
fn at_two_places(seen: &[Presence]) -> Vec<String> {
    let mut of_mac: BTreeMap<&str, Vec<&Presence>> = BTreeMap::new();
    for presence in seen {
        of_mac.entry(presence.mac.as_str()).or_default().push(presence);
    }
    let mut all = Vec::new();
    for (mac, places) in of_mac {
        for (n, one) in places.iter().enumerate() {
            for other in &places[n + 1..] {
                let elsewhere = (&one.node, &one.device) != (&other.node, &other.device);
                let begin = one.from.1.max(other.from.1);
                let end = |p: &Presence| p.to.map_or(At::MAX, |to| to.0);
                let end = end(one).min(end(other));
                if elsewhere && begin < end {
                    let ms = end.saturating_sub(begin).as_millis();
                    let where_is = |p: &Presence| format!("{} ({})", p.node, p.device);
                    all.push(format!(
                        "{mac} was at {} and at {} from {} ms on, for {}",
                        where_is(one),
                        where_is(other),
                        begin.as_millis(),
                        if end == At::MAX { "ever".to_owned() } else { format!("{ms} ms at least") },
                    ));
                }
            }
        }
    }
    all
}

/// Who answers has the address's MAC, and a port that is up.
fn answers_of_nobody(answers: &[&Answer], seen: &[Presence], macs: &BTreeMap<&str, &str>) -> Vec<String> {
    let mut all = BTreeMap::new();
    for answer in answers {
        let Answer { node, address, mac, .. } = answer;
        let ms = answer.asked.as_millis();
        if let Some(should) = macs.get(address.as_str()).filter(|should| *should != mac) {
            let text =
                format!("{address} was answered for by {mac} at {node}, at {ms} ms first; it is {should}'s");
            all.entry((node, address, 0)).or_insert(text);
        } else if !seen.iter().any(|presence| could_be(answer, presence)) {
            let text =
                format!("{address} was answered for by {node}, where no port was up, at {ms} ms first");
            all.entry((node, address, 1)).or_insert(text);
        }
    }
    all.into_values().collect()
}

/// One request, two answers: two workloads of one host have the address.
fn two_at_one_host(answers: &[&Answer]) -> Vec<String> {
    let (mut known, mut all) = (BTreeSet::new(), BTreeMap::new());
    for answer in answers {
        if !known.insert((&answer.node, answer.request)) {
            let Answer { node, address, .. } = answer;
            let ms = answer.asked.as_millis();
            let text = format!("{address} was answered for twice by {node}, at {ms} ms first");
            all.entry((node, address)).or_insert(text);
        }
    }
    all.into_values().collect()
}

/// A host answered, then another one, then the first again, where the port did not come up anew in between.
fn two_hosts(answers: &[&Answer], seen: &[Presence]) -> Vec<String> {
    let mut of_address: BTreeMap<&str, BTreeMap<&str, Vec<&Answer>>> = BTreeMap::new();
    for answer in answers {
        of_address.entry(&answer.address).or_default().entry(&answer.node).or_default().push(answer);
    }
    let mut all: BTreeMap<_, (&Answer, usize)> = BTreeMap::new();
    for (address, hosts) in &mut of_address {
        hosts.values_mut().for_each(|answers| answers.sort_by_key(|answer| answer.asked));
        let pairs = hosts.keys().flat_map(|one| hosts.keys().map(move |other| (*one, *other)));
        for (one, other) in pairs.filter(|(one, other)| one != other) {
            for between in &hosts[other] {
                let Some((before, after)) = around(between, &hosts[one]) else { continue };
                if !came_up(before, after, seen) {
                    all.entry((*address, one.min(other), one.max(other))).or_insert((*between, 0)).1 += 1;
                }
            }
        }
    }
    let text = |((address, one, other), (first, times)): (_, (&Answer, usize))| {
        let ms = first.asked.as_millis();
        format!(
            "{address} was answered for by {one} and by {other} at a time, at {ms} ms first, {times} times"
        )
    };
    all.into_iter().map(text).collect()
}

/// The last answer that was there before this one was asked for, and the first that was asked for after it was there.
fn around<'a>(between: &Answer, others: &[&'a Answer]) -> Option<(&'a Answer, &'a Answer)> {
    // Sorted by when they were asked for; hence, but for a few milliseconds, by when they came.
    let after = others.partition_point(|other| other.asked <= between.heard);
    let before = others[..after].iter().rev().find(|other| other.heard < between.asked)?;
    Some((before, others.get(after)?))
}

/// True if a port may have come up at this host between two answers.
fn came_up(before: &Answer, after: &Answer, seen: &[Presence]) -> bool {
    let here = |p: &&Presence| p.node == before.node && p.mac == before.mac;
    seen.iter().filter(here).any(|p| p.from.1 >= before.asked && p.from.0 <= after.heard)
}

#[cfg(test)]
mod tests;
