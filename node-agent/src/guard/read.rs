//! What of our tables is read back, and whether it is whole.

use std::collections::{BTreeMap, BTreeSet};

use super::{BASE, Chain, Family, PRIORITY, TARGETS};
use crate::dev::Dev;

/// What a comment says: digest, number of the rule, number of rules, and at egress and ingress the interface.
type Place = (u64, usize, usize, Option<Dev>);

fn parse_comment(text: &str) -> Option<Place> {
    let (digest, place) = text.split_once(' ')?;
    let (place, interface) = place.split_once(' ').map_or((place, None), |(p, i)| (p, Some(Dev::new(i))));
    let (number, count) = place.split_once('/')?;
    Some((u64::from_str_radix(digest, 16).ok()?, number.parse().ok()?, count.parse().ok()?, interface))
}

/// True for a base chain at `hook` that lets pass what no rule drops.
fn hooked(chain: &serde_json::Value, hook: &str) -> bool {
    chain["hook"] == hook && chain["prio"] == PRIORITY && chain["policy"] == "accept"
}

/// What `nft -j list table <family> causeway` printed. Something that is not as expected makes chains damaged, and they
/// are set again.
pub fn parse(family: Family, json: &serde_json::Value) -> BTreeMap<(Family, Dev), Chain> {
    let mut base = false;
    let mut bases = BTreeSet::new();
    let mut base_rules = Vec::new();
    let mut reached: BTreeMap<Dev, BTreeSet<Dev>> = BTreeMap::new();
    // Of a port's own chain, and of that beside it.
    let mut rules: BTreeMap<Dev, [Vec<Option<Place>>; 2]> = BTreeMap::new();
    let part = |chain: &str| match chain.strip_suffix(TARGETS) {
        Some(dev) => (Dev::new(dev), 1),
        None => (Dev::new(chain), 0),
    };
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    for object in json["nftables"].as_array().into_iter().flatten() {
        if let Some(chain) = object.get("chain") {
            if text(chain, "name") == "input" {
                base = hooked(chain, "prerouting");
            } else {
                let (dev, part) = part(&text(chain, "name"));
                if part == 0 && (hooked(chain, "ingress") || hooked(chain, "egress")) {
                    bases.insert(dev.clone());
                }
                rules.entry(dev).or_default();
            }
        } else if let Some(rule) = object.get("rule") {
            let (chain, comment) = (text(rule, "chain"), text(rule, "comment"));
            if chain == "input" {
                base_rules.push(comment);
            } else {
                let (dev, part) = part(&chain);
                rules.entry(dev).or_default()[part].push(parse_comment(&comment));
            }
        } else if let Some(map) = object.get("map").filter(|map| text(map, "name") == "ports") {
            for pair in map["elem"].as_array().into_iter().flatten() {
                let (port, target) = (pair[0].as_str(), pair[1]["jump"]["target"].as_str());
                if let (Some(port), Some(target)) = (port, target) {
                    reached.entry(Dev::new(target)).or_default().insert(Dev::new(port));
                }
            }
        }
    }
    let base = base && base_rules == [BASE];
    let chains = rules.into_iter().map(|(dev, rules)| {
        let rules = rules.concat();
        let (base, interfaces) = match family {
            Family::Bridge => (base, reached.remove(&dev).unwrap_or_default()),
            Family::Netdev => {
                (bases.contains(&dev), rules.iter().flatten().filter_map(|p| p.3.clone()).collect())
            }
        };
        let digest = base.then(|| whole_chain(&rules)).flatten().unwrap_or(0);
        ((family, dev), Chain { digest, interfaces })
    });
    chains.collect()
}

/// The digest that all rules carry, if they are all there and in order.
fn whole_chain(rules: &[Option<Place>]) -> Option<u64> {
    let (digest, .., interface) = rules.first()?.as_ref()?;
    let (digest, count) = (*digest, rules.len());
    let right = |(n, rule): (usize, &Option<Place>)| {
        rule.as_ref().is_some_and(|(d, number, of, at)| {
            (*d, *number, *of) == (digest, n + 1, count) && at == interface
        })
    };
    rules.iter().enumerate().all(right).then_some(digest)
}
