//! Anti-spoofing: the rules that let a workload send only what is its own, as a pure function of its port.
//!
//! One nftables table of ours in the bridge family, `causeway`: a map from the name of a port's interface to its chain,
//! which ends in drop. Frames of all other ports pass. A chain is replaced whole, in one transaction, so there is no
//! moment without it. Every rule carries a comment with a digest of the whole chain and its place in it, by which a
//! chain that is read back is known to be complete and unchanged, whatever way this version of nft prints rules.
//!
//! The rules are stateless: bridge chains have no connection tracking on every kernel.

pub mod monitor;
pub mod nft;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use causeway_proto::Mac;

use crate::dev::Dev;
use crate::model::Port;

/// Name of our table in the bridge family.
pub const TABLE: &str = "causeway";
/// Comment of the one rule in the table's base chain.
const BASE: &str = "causeway";

/// What a workload may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The interface of the host that its frames come in at.
    pub interface: Dev,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// What the kernel has of our table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// Why rules can be neither read nor set.
    pub unusable: Option<String>,
    /// Chains by port (the name that its host side has or would have).
    pub chains: BTreeMap<Dev, Chain>,
}

/// What the kernel has of a port's chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// What all rules carry; 0: some are missing, strange, or never reached.
    pub digest: u64,
    /// Interfaces that lead to it.
    pub interfaces: BTreeSet<Dev>,
}

impl Guards {
    /// Ports whose chain is not the same in `other`; all, if rules can be used in only one of the two.
    pub fn differing(&self, other: &Guards) -> BTreeSet<Dev> {
        let all = self.chains.keys().chain(other.chains.keys());
        let turned = self.unusable.is_some() != other.unusable.is_some();
        all.filter(|dev| turned || self.chains.get(*dev) != other.chains.get(*dev)).cloned().collect()
    }
}

/// The link-local address that a kernel gives an interface by default (RFC 4291 appendix A).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// `{ a, b }`.
fn set<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", items.join(", "))
}

impl Guard {
    /// The guard of a port whose frames come in at `interface`. Refuses a name that means something else to nft.
    pub fn of(port: &Port, interface: &Dev) -> Result<Self, String> {
        if interface.as_str().contains(['"', '*', '\\']) {
            return Err(format!("interface {interface} has a character that nft cannot take; rename it"));
        }
        Ok(Guard {
            interface: interface.clone(),
            mac: port.mac,
            addresses: port.addresses.iter().map(|a| a.ip).collect(),
        })
    }

    /// What it reads back as.
    pub fn chain(&self, dev: &Dev) -> Chain {
        Chain { digest: self.digest(dev), interfaces: [self.interface.clone()].into() }
    }

    /// The rules of its chain, in order, without comments.
    pub fn rules(&self) -> Vec<String> {
        let mac = self.mac;
        let v4: Vec<IpAddr> = self.addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
        let v6 =
            self.addresses.iter().filter_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None });
        let v6: Vec<Ipv6Addr> = std::iter::once(link_local(mac)).chain(v6).collect();
        // The target of a neighbour message: nft 1.0.6 has no name for it.
        let raw: Vec<String> = v6.iter().map(|ip| format!("{:#034x}", u128::from(*ip))).collect();
        let (own_v6, targets) = (set(&v6), set(&raw));
        let mut rules = vec![
            format!("ether saddr != {mac} drop"),
            // A receiver takes VLAN 0 for untagged, and rules on addresses do not see behind a tag.
            "ether type { 8021q, 8021ad } drop".into(),
            format!("ether type arp arp saddr ether != {mac} drop"),
            // Is this address taken (RFC 5227 §2.1.1)? Nobody learns from it.
            "ether type arp arp operation request arp saddr ip 0.0.0.0 accept".into(),
        ];
        if !v4.is_empty() {
            rules.push(format!("ether type arp arp saddr ip {} accept", set(&v4)));
        }
        rules.push("ether type ip udp sport 67 drop".into());
        if !v4.is_empty() {
            rules.push(format!("ether type ip ip saddr {} accept", set(&v4)));
        }
        rules.extend([
            "ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept".into(),
            "ether type ip6 udp sport 547 drop".into(),
            "ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop".into(),
            format!("ether type ip6 icmpv6 type nd-neighbor-advert @th,64,128 != {targets} drop"),
            format!("ether type ip6 ip6 saddr {own_v6} accept"),
            // Duplicate detection (RFC 4862 §5.4) of its own addresses only, so that it can keep nobody from theirs.
            format!(
                "ether type ip6 ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 {targets} accept"
            ),
            "ether type ip6 ip6 saddr :: icmpv6 type { nd-router-solicit, mld-listener-report, \
             mld-listener-done, mld2-listener-report } accept"
                .into(),
            "drop".into(),
        ]);
        rules
    }

    /// What tells this chain from any other.
    pub fn digest(&self, dev: &Dev) -> u64 {
        let text = format!("{dev}\n{}", self.rules().join("\n"));
        let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        // 0 stands for damage.
        text.bytes().fold(0xcbf2_9ce4_8422_2325, step).max(1)
    }

    /// The commands that give a port this guard, whatever it had before; `stale` interfaces no longer lead to it.
    pub fn commands(&self, dev: &Dev, stale: &BTreeSet<Dev>) -> Vec<String> {
        let rules = self.rules();
        let (digest, count) = (self.digest(dev), rules.len());
        let mut lines =
            vec![format!("add chain bridge {TABLE} {dev}"), format!("flush chain bridge {TABLE} {dev}")];
        lines.extend(rules.iter().enumerate().map(|(n, rule)| {
            let comment = comment(digest, n + 1, count);
            format!("add rule bridge {TABLE} {dev} {rule} comment \"{comment}\"")
        }));
        lines.push(element("add", &self.interface, dev));
        lines.extend(stale.iter().flat_map(|interface| removed(interface, dev)));
        lines
    }
}

fn element(act: &str, interface: &Dev, dev: &Dev) -> String {
    format!("{act} element bridge {TABLE} ports {{ \"{interface}\" : jump {dev} }}")
}

/// Adding first makes a deletion succeed if there is nothing to delete.
fn removed(interface: &Dev, dev: &Dev) -> [String; 2] {
    ["add", "delete"].map(|act| element(act, interface, dev))
}

/// The commands that take a port's guard away; adding first makes them succeed if there is none.
pub fn removal(dev: &Dev, interfaces: &BTreeSet<Dev>) -> Vec<String> {
    let mut lines = vec![format!("add chain bridge {TABLE} {dev}")];
    lines.extend(interfaces.iter().flat_map(|interface| removed(interface, dev)));
    lines.push(format!("flush chain bridge {TABLE} {dev}"));
    lines.push(format!("delete chain bridge {TABLE} {dev}"));
    lines
}

/// The commands that make the table with no port guarded, and change nothing but a damaged base chain if it is there.
pub fn base() -> Vec<String> {
    [
        "add table bridge causeway",
        "add map bridge causeway ports { type ifname : verdict ; }",
        "add chain bridge causeway input { type filter hook prerouting priority -300 ; policy accept ; }",
        "flush chain bridge causeway input",
        "add rule bridge causeway input iifname vmap @ports comment \"causeway\"",
    ]
    .map(String::from)
    .to_vec()
}

/// The commands of a step, with those that make the table, as one line.
pub fn one_line(commands: &[String]) -> String {
    [&base(), commands].concat().join("; ")
}

fn comment(digest: u64, number: usize, count: usize) -> String {
    let mut text = format!("{digest:016x}");
    // Writing to a string cannot fail.
    let _ = write!(text, " {number}/{count}");
    text
}

/// What a comment says: digest, number of the rule, number of rules.
type Place = (u64, usize, usize);

fn parse_comment(text: &str) -> Option<Place> {
    let (digest, place) = text.split_once(' ')?;
    let (number, count) = place.split_once('/')?;
    Some((u64::from_str_radix(digest, 16).ok()?, number.parse().ok()?, count.parse().ok()?))
}

/// What `nft -j list table bridge causeway` printed. Something that is not as expected makes chains damaged, and they
/// are set again.
pub fn parse(json: &serde_json::Value) -> Guards {
    let mut base = false;
    let mut base_rules = Vec::new();
    let mut reached: BTreeMap<Dev, BTreeSet<Dev>> = BTreeMap::new();
    let mut rules: BTreeMap<Dev, Vec<Option<Place>>> = BTreeMap::new();
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    for object in json["nftables"].as_array().into_iter().flatten() {
        if let Some(chain) = object.get("chain") {
            if text(chain, "name") == "input" {
                base = text(chain, "hook") == "prerouting" && chain["prio"] == -300;
                base &= text(chain, "policy") == "accept";
            } else {
                rules.entry(Dev::new(&text(chain, "name"))).or_default();
            }
        } else if let Some(rule) = object.get("rule") {
            let (chain, comment) = (text(rule, "chain"), text(rule, "comment"));
            if chain == "input" {
                base_rules.push(comment);
            } else {
                rules.entry(Dev::new(&chain)).or_default().push(parse_comment(&comment));
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
        let interfaces = reached.remove(&dev).unwrap_or_default();
        let digest = base.then(|| whole_chain(&rules)).flatten().unwrap_or(0);
        (dev, Chain { digest, interfaces })
    });
    Guards { unusable: None, chains: chains.collect() }
}

/// The digest that all rules carry, if they are all there and in order.
fn whole_chain(rules: &[Option<Place>]) -> Option<u64> {
    let (digest, ..) = (*rules.first()?)?;
    let right = |(n, rule): (usize, &Option<_>)| *rule == Some((digest, n + 1, rules.len()));
    rules.iter().enumerate().all(right).then_some(digest)
}

#[cfg(test)]
mod tests;
