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
/// End of the name of a port's second chain.
const TARGETS: &str = "-nd";
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

/// The chain beside a port's own one that knows whom it may speak for in neighbour discovery.
fn targets(dev: &Dev) -> String {
    format!("{dev}{TARGETS}")
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

    /// The rules of its chain, in order, without comments. No rule has a set of its own: in one table the kernel takes
    /// time with the square of their number.
    pub fn rules(&self, dev: &Dev) -> Vec<String> {
        let mac = self.mac;
        let v4: Vec<&IpAddr> = self.addresses.iter().filter(|ip| ip.is_ipv4()).collect();
        let each = |before: &str, after: &str| -> Vec<String> {
            v4.iter().map(|ip| format!("{before} {ip} {after}")).collect()
        };
        let icmp6 = |rest: &str| format!("ether type ip6 icmpv6 type {rest}");
        let nobody = |rest: &str| format!("ether type ip6 ip6 saddr :: icmpv6 type {rest}");
        let targets = targets(dev);
        let mut rules = vec![
            format!("ether saddr != {mac} drop"),
            // A receiver takes VLAN 0 for untagged, and rules on addresses do not see behind a tag.
            "ether type 8021q drop".into(),
            "ether type 8021ad drop".into(),
            format!("ether type arp arp saddr ether != {mac} drop"),
            // Is this address taken (RFC 5227 §2.1.1)? Nobody learns from it.
            "ether type arp arp operation request arp saddr ip 0.0.0.0 accept".into(),
        ];
        rules.extend(each("ether type arp arp saddr ip", "accept"));
        rules.push("ether type ip udp sport 67 drop".into());
        rules.extend(each("ether type ip ip saddr", "accept"));
        rules.extend([
            "ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept".into(),
            "ether type ip6 udp sport 547 drop".into(),
            icmp6("nd-router-advert drop"),
            icmp6("nd-redirect drop"),
            icmp6(&format!("nd-neighbor-advert jump {targets}")),
        ]);
        rules.extend(self.own_v6().iter().map(|ip| format!("ether type ip6 ip6 saddr {ip} accept")));
        rules.extend([
            // Duplicate detection (RFC 4862 §5.4) of its own addresses only, so that it can keep nobody from theirs.
            nobody(&format!("nd-neighbor-solicit jump {targets}")),
            nobody("nd-neighbor-solicit accept"),
            nobody("nd-router-solicit accept"),
            nobody("mld-listener-report accept"),
            nobody("mld-listener-done accept"),
            nobody("mld2-listener-report accept"),
            "drop".into(),
        ]);
        rules
    }

    /// The rules on the target of a neighbour message, for which nft 1.0.6 has no name.
    fn target_rules(&self) -> Vec<String> {
        let own = self.own_v6();
        let own = own.iter().map(|ip| format!("@th,64,128 {:#034x} return", u128::from(*ip)));
        own.chain(["drop".to_owned()]).collect()
    }

    fn own_v6(&self) -> Vec<Ipv6Addr> {
        let given = self.addresses.iter().filter_map(|ip| match ip {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        std::iter::once(link_local(self.mac)).chain(given).collect()
    }

    /// What tells this chain from any other.
    pub fn digest(&self, dev: &Dev) -> u64 {
        let text = [self.rules(dev), self.target_rules()].concat().join("\n");
        let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        // 0 stands for damage.
        text.bytes().fold(0xcbf2_9ce4_8422_2325, step).max(1)
    }

    /// The commands that give a port this guard, whatever it had before; `stale` interfaces no longer lead to it.
    pub fn commands(&self, dev: &Dev, stale: &BTreeSet<Dev>) -> Vec<String> {
        let (rules, target_rules) = (self.rules(dev), self.target_rules());
        let (digest, count) = (self.digest(dev), rules.len() + target_rules.len());
        let mut lines = chains(dev);
        let own = rules.iter().map(|rule| (dev.to_string(), rule));
        let all = own.chain(target_rules.iter().map(|rule| (targets(dev), rule)));
        lines.extend(all.enumerate().map(|(n, (chain, rule))| {
            let comment = comment(digest, n + 1, count);
            format!("add rule bridge {TABLE} {chain} {rule} comment \"{comment}\"")
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
    lines.extend(chains(dev));
    lines.push(format!("delete chain bridge {TABLE} {dev}"));
    lines.push(format!("delete chain bridge {TABLE} {}", targets(dev)));
    lines
}

/// A port's two chains, with nothing in them.
fn chains(dev: &Dev) -> Vec<String> {
    let names = [dev.to_string(), targets(dev)];
    let act = |act: &str| names.clone().map(|name| format!("{act} chain bridge {TABLE} {name}"));
    [act("add"), act("flush")].concat()
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
                base = text(chain, "hook") == "prerouting" && chain["prio"] == -300;
                base &= text(chain, "policy") == "accept";
            } else {
                rules.entry(part(&text(chain, "name")).0).or_default();
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
        let interfaces = reached.remove(&dev).unwrap_or_default();
        let digest = base.then(|| whole_chain(&rules.concat())).flatten().unwrap_or(0);
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
