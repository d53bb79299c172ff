//! Anti-spoofing: the rules that let a workload send only what is its own, as a pure function of its port.
//!
//! One nftables table of ours in the bridge family, `causeway`: a map from the name of a port's interface to its chain,
//! which ends in drop. Frames of all other ports pass. What passes no bridge has a base chain of its own in a table of the
//! same name in the netdev family: a routed port at the ingress of its host side, a macvlan at the egress of its parent
//! and of itself, an ipvlan at its own. A chain is replaced whole, in one transaction, so there is no
//! moment without it. Every rule carries a comment with a digest of the whole chain and its place in it, by which a
//! chain that is read back is known to be complete and unchanged, whatever way this version of nft prints rules.
//!
//! The rules are stateless: bridge chains have no connection tracking on every kernel.

pub mod monitor;
pub mod nft;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use causeway_proto::Mac;

use crate::dev::Dev;
use crate::model::Port;

pub use read::parse;

/// Name of our table in each family.
pub const TABLE: &str = "causeway";
/// End of the name of a port's second chain.
const TARGETS: &str = "-nd";
/// Before all others that are common.
const PRIORITY: i32 = -300;
/// Comment of the one rule in the table's base chain.
const BASE: &str = "causeway";

/// Family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// What passes a bridge.
    Bridge,
    /// What passes one device.
    Netdev,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::Bridge, Family::Netdev];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Bridge => "bridge",
            Family::Netdev => "netdev",
        })
    }
}

/// Where a workload's frames are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the bridge.
    Bridge,
    /// Where they come into the host: of a routed port.
    Ingress,
    /// Where they leave the host, with those of others: of a macvlan.
    Parent,
    /// Where they leave the workload's namespace: of a macvlan, for what never gets to the parent, and of an ipvlan.
    Inside,
}

impl Hook {
    /// Family of the table.
    pub fn family(self) -> Family {
        if self == Hook::Bridge { Family::Bridge } else { Family::Netdev }
    }

    /// What a frame's type is matched by. At egress nft's own `ether` never matches, for it asks what interface the frame
    /// came in at (1.0.6). There also the kernel finds addresses by a type that a packet socket may choose freely, so it
    /// must be that of the frame.
    fn is(self, kind: &str) -> String {
        let number = match kind {
            _ if self == Hook::Bridge => return format!("ether type {kind}"),
            "ip" => "0x0800 meta protocol ip",
            "arp" => "0x0806 meta protocol arp",
            "ip6" => "0x86dd meta protocol ip6",
            "8021q" => "0x8100",
            _ => "0x88a8",
        };
        format!("@ll,96,16 {number}")
    }

    /// What becomes of frames from other MACs.
    fn others(self, mac: Mac) -> String {
        match self {
            Hook::Bridge => format!("ether saddr != {mac} drop"),
            Hook::Parent => format!("@ll,48,48 != {} accept", number(mac)),
            Hook::Ingress | Hook::Inside => format!("@ll,48,48 != {} drop", number(mac)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Hook::Bridge => "prerouting",
            Hook::Ingress => "ingress",
            Hook::Parent | Hook::Inside => "egress",
        }
    }
}

/// A MAC as nft takes it beside raw bytes of a frame.
fn number(mac: Mac) -> String {
    let digits: String = mac.octets().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

/// What a workload may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Where its frames are looked at.
    pub hook: Hook,
    /// The interface that its frames come in at, or at egress leave by.
    pub interface: Dev,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The device that what may pass is led to, to be limited; `None`: it just passes. What comes back from there passes
    /// no hook at ingress any more, and a filter of tc would lead it there before the hook, so the rules do it.
    pub through: Option<Dev>,
}

/// What the kernel has of our table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// Why rules can be neither read nor set.
    pub unusable: Option<String>,
    /// Chains by family and port (the name that its host side has or would have).
    pub chains: BTreeMap<(Family, Dev), Chain>,
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
        let changed = all.filter(|key| turned || self.chains.get(*key) != other.chains.get(*key));
        changed.map(|(_, dev)| dev.clone()).collect()
    }

    /// A device is gone, and with it, or not, the chains at it: they must be made again with the next of its name. So must
    /// those that lead to it, for the kernel knows it there by its number.
    pub(crate) fn forget_link(&mut self, dev: &Dev) {
        for ((family, port), chain) in &mut self.chains {
            if *family == Family::Netdev && (chain.interfaces.contains(dev) || port.shaper() == *dev) {
                chain.digest = 0;
            }
        }
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
    /// The guard of a port whose frames pass `interface`. Refuses a name that means something else to nft.
    pub fn of(port: &Port, hook: Hook, interface: &Dev) -> Result<Self, String> {
        if interface.as_str().contains(['"', '*', '\\']) {
            return Err(format!("interface {interface} has a character that nft cannot take; rename it"));
        }
        Ok(Guard {
            hook,
            interface: interface.clone(),
            mac: port.mac,
            addresses: port.addresses.iter().map(|a| a.ip).collect(),
            through: None,
        })
    }

    /// What it reads back as.
    pub fn chain(&self, dev: &Dev) -> Chain {
        Chain { digest: self.digest(dev), interfaces: [self.interface.clone()].into() }
    }

    /// The rules of its chain, in order, without comments. No rule has a set of its own: in one table the kernel takes
    /// time with the square of their number.
    pub fn rules(&self, dev: &Dev) -> Vec<String> {
        let (mac, hook) = (self.mac, self.hook);
        let (arp, ip, ip6) = (hook.is("arp"), hook.is("ip"), hook.is("ip6"));
        let v4: Vec<&IpAddr> = self.addresses.iter().filter(|ip| ip.is_ipv4()).collect();
        let each = |before: &str, after: &str| -> Vec<String> {
            v4.iter().map(|own| format!("{before} {own} {after}")).collect()
        };
        let icmp6 = |rest: &str| format!("{ip6} icmpv6 type {rest}");
        let nobody = |rest: &str| format!("{ip6} ip6 saddr :: icmpv6 type {rest}");
        let targets = targets(dev);
        let mut rules = vec![
            hook.others(mac),
            // A receiver takes VLAN 0 for untagged, and rules on addresses do not see behind a tag.
            format!("{} drop", hook.is("8021q")),
            format!("{} drop", hook.is("8021ad")),
            format!("{arp} arp saddr ether != {mac} drop"),
            // Is this address taken (RFC 5227 §2.1.1)? Nobody learns from it.
            format!("{arp} arp operation request arp saddr ip 0.0.0.0 accept"),
        ];
        rules.extend(each(&format!("{arp} arp saddr ip"), "accept"));
        rules.push(format!("{ip} udp sport 67 drop"));
        rules.extend(each(&format!("{ip} ip saddr"), "accept"));
        rules.extend([
            format!("{ip} ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept"),
            format!("{ip6} udp sport 547 drop"),
            icmp6("nd-router-advert drop"),
            icmp6("nd-redirect drop"),
            icmp6(&format!("nd-neighbor-advert jump {targets}")),
        ]);
        rules.extend(self.own_v6().iter().map(|own| format!("{ip6} ip6 saddr {own} accept")));
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
        if let Some(shaper) = &self.through {
            for rule in &mut rules {
                if let Some(condition) = rule.strip_suffix("accept") {
                    *rule = format!("{condition}fwd to \"{shaper}\"");
                }
            }
        }
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
        let mut text = [self.rules(dev), self.target_rules()].concat().join("\n");
        if self.hook.family() == Family::Netdev {
            text += &format!("\n{} {}", self.hook.name(), self.interface);
        }
        let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        // 0 stands for damage.
        text.bytes().fold(0xcbf2_9ce4_8422_2325, step).max(1)
    }

    /// The commands that give a port this guard, whatever it had before; `stale` interfaces no longer lead to it.
    pub fn commands(&self, dev: &Dev, stale: &BTreeSet<Dev>) -> Vec<String> {
        let (rules, target_rules) = (self.rules(dev), self.target_rules());
        let (digest, count) = (self.digest(dev), rules.len() + target_rules.len());
        let family = self.hook.family();
        let mut lines = chains(family, dev);
        if family == Family::Netdev {
            let (hook, device) = (self.hook.name(), &self.interface);
            lines.push(format!("delete chain netdev {TABLE} {dev}"));
            lines.push(format!(
                "add chain netdev {TABLE} {dev} {{ type filter hook {hook} device \"{device}\" priority {PRIORITY} ; policy accept ; }}"
            ));
        }
        let own = rules.iter().map(|rule| (dev.to_string(), rule));
        let all = own.chain(target_rules.iter().map(|rule| (targets(dev), rule)));
        lines.extend(all.enumerate().map(|(n, (chain, rule))| {
            let mut comment = comment(digest, n + 1, count);
            if family == Family::Netdev {
                comment += &format!(" {}", self.interface);
            }
            format!("add rule {family} {TABLE} {chain} {rule} comment \"{comment}\"")
        }));
        if family == Family::Bridge {
            lines.push(element("add", &self.interface, dev));
            lines.extend(stale.iter().flat_map(|interface| removed(interface, dev)));
        }
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
pub fn removal(family: Family, dev: &Dev, interfaces: &BTreeSet<Dev>) -> Vec<String> {
    let mut lines = vec![format!("add chain {family} {TABLE} {dev}")];
    if family == Family::Bridge {
        lines.extend(interfaces.iter().flat_map(|interface| removed(interface, dev)));
    }
    lines.extend(chains(family, dev));
    lines.push(format!("delete chain {family} {TABLE} {dev}"));
    lines.push(format!("delete chain {family} {TABLE} {}", targets(dev)));
    lines
}

/// A port's two chains, with nothing in them.
fn chains(family: Family, dev: &Dev) -> Vec<String> {
    let names = [dev.to_string(), targets(dev)];
    let act = |act: &str| names.clone().map(|name| format!("{act} chain {family} {TABLE} {name}"));
    [act("add"), act("flush")].concat()
}

/// The commands that make the table with no port guarded, and change nothing but a damaged base chain if it is there.
pub fn base(family: Family) -> Vec<String> {
    if family == Family::Netdev {
        return vec![format!("add table netdev {TABLE}")];
    }
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
pub fn one_line(family: Family, commands: &[String]) -> String {
    [&base(family), commands].concat().join("; ")
}

fn comment(digest: u64, number: usize, count: usize) -> String {
    format!("{digest:016x} {number}/{count}")
}

#[cfg(test)]
mod tests;
