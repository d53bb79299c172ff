//! What the declared topology asks of each leaf's hardware tables, against a profile of them.
//!
//! An estimate from above, as for leaves that have all routes of their networks: every host of a network is a MAC entry at
//! each leaf of the network, and a host route per address where the network is routed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use causeway_proto::Vni;

use crate::diagnostic::{Diagnostic, Severity};
use crate::lab::{Lab, Role};
use crate::plan::{InterfaceUse, Plan};

/// A table of a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// MAC addresses.
    Macs,
    /// Host routes and neighbours: /32 and /128.
    Hosts,
    /// Prefixes of longest-prefix match.
    Prefixes,
    /// VXLAN networks, those of VRFs included.
    Vnis,
    /// Equal paths to one destination.
    Ecmp,
}

impl Table {
    /// All tables.
    pub const ALL: [Table; 5] = [Table::Macs, Table::Hosts, Table::Prefixes, Table::Vnis, Table::Ecmp];

    /// The word of a profile.
    pub fn word(self) -> &'static str {
        match self {
            Table::Macs => "macs",
            Table::Hosts => "hosts",
            Table::Prefixes => "prefixes",
            Table::Vnis => "vnis",
            Table::Ecmp => "ecmp",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Sizes of a switch's tables, entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile(BTreeMap<Table, u64>);

/// Names and sizes of the built-in profiles: round numbers in the range of data sheets, no product's. In the order of
/// [`Table::ALL`].
pub const PROFILES: [(&str, [u64; 5]); 3] = [
    ("small", [32_000, 16_000, 12_000, 512, 32]),
    ("medium", [96_000, 48_000, 32_000, 2_000, 64]),
    ("large", [256_000, 128_000, 256_000, 8_000, 128]),
];

impl Profile {
    /// How many entries a table has.
    pub fn size(&self, table: Table) -> u64 {
        self.0.get(&table).copied().unwrap_or(0)
    }
}

impl FromStr for Profile {
    type Err = String;

    /// A name, numbers `macs=64000,vnis=1000`, or both: a name first and then what is different. Without a name `medium`
    /// counts for what is not said.
    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str| {
            PROFILES
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, sizes)| Table::ALL.into_iter().zip(*sizes).collect())
        };
        let mut profile = Profile(named("medium").unwrap_or_default());
        for (n, part) in text
            .split([',', '\n'])
            .map(str::trim)
            .filter(|p| !p.is_empty() && !p.starts_with('#'))
            .enumerate()
        {
            let Some((key, value)) = part.split_once('=') else {
                let sizes = named(part).filter(|_| n == 0);
                profile.0 = sizes.ok_or_else(|| {
                    format!("'{part}' is no profile (small, medium, large) and no TABLE=NUMBER")
                })?;
                continue;
            };
            let table = Table::ALL.into_iter().find(|t| t.word() == key.trim());
            let table = table
                .ok_or_else(|| format!("there is no table '{key}': macs, hosts, prefixes, vnis, ecmp"))?;
            let size = value.trim().parse::<u64>().ok().filter(|n| *n > 0);
            profile.0.insert(table, size.ok_or_else(|| format!("{key}: '{value}' is no number above 0"))?);
        }
        Ok(profile)
    }
}

/// What a switch needs of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The switch.
    pub switch: String,
    /// The table.
    pub table: Table,
    /// Entries needed.
    pub need: u64,
    /// Entries there are.
    pub size: u64,
}

impl Need {
    /// Needed of what there is, per cent, rounded up.
    pub fn percent(&self) -> u64 {
        self.need.saturating_mul(100).div_ceil(self.size.max(1))
    }
}

/// What each leaf and border needs, in the order of the file. `ports_per_host`: workloads behind each host and server, which
/// count in every network that the host's links carry; the addresses of the file count as one.
pub fn budget(lab: &Lab, plan: &Plan, profile: &Profile, ports_per_host: u64) -> Vec<Need> {
    // Workloads of each network, and of these the addresses.
    let mut ends: BTreeMap<Vni, u64> = BTreeMap::new();
    for own in plan.nodes.values().filter(|p| matches!(p.role, Role::Host | Role::Server)) {
        let mut networks: BTreeSet<Vni> = own
            .interfaces
            .iter()
            .flat_map(|i| i.untagged.into_iter().chain(i.tagged.iter().copied()))
            .collect();
        networks.extend(
            own.interfaces
                .iter()
                .filter_map(|i| if let InterfaceUse::Access(v) = i.usage { Some(v) } else { None }),
        );
        for vni in networks {
            let count = ends.entry(vni).or_default();
            *count = count.saturating_add(ports_per_host.max(1));
        }
    }
    // A host that is a VTEP may have workloads in any network; what runs on it is in none of the leaf's tables.
    let underlay: usize = plan.nodes.values().map(|p| p.networks.len()).sum();
    let prefixes: usize = plan.networks.values().map(|n| n.subnets.len()).sum::<usize>()
        + plan.nodes.values().map(|p| p.routed.len()).sum::<usize>();
    let mut all = Vec::new();
    for node in lab.nodes_in_order().into_iter().filter(|n| matches!(n.role, Role::Leaf | Role::Border)) {
        let Some(own) = plan.nodes.get(&node.name) else { continue };
        let here: BTreeSet<Vni> = own.access.iter().map(|a| a.vni).collect();
        let macs = here.iter().filter_map(|v| ends.get(v)).fold(0u64, |sum, n| sum.saturating_add(*n));
        // A routed network's hosts are host routes once per family that has a subnet.
        let routed = |vni: &Vni| {
            plan.network(*vni).map_or(0, |n| {
                u64::from(n.subnets.iter().any(|s| s.is_ipv4()))
                    + u64::from(n.subnets.iter().any(|s| !s.is_ipv4()))
            })
        };
        let vrfs = own.vrfs.len();
        let hosts = ends
            .iter()
            .filter(|(v, _)| here.contains(v) || vrfs > 0)
            .fold(0u64, |sum, (v, n)| sum.saturating_add(n.saturating_mul(routed(v))));
        let uplinks = own.interfaces.iter().filter(|i| {
            i.usage == InterfaceUse::Underlay
                && i.peer
                    .as_ref()
                    .is_some_and(|(n, _)| plan.nodes.get(n).is_some_and(|p| p.role == Role::Spine))
        });
        let l3 =
            own.vrfs.iter().filter(|v| plan.vrfs.get(*v).is_some_and(|d| d.vrf.l3_vni.is_some())).count();
        let needs = [macs, hosts, wide(underlay + prefixes), wide(here.len() + l3), wide(uplinks.count())];
        let need = |(table, need)| Need { switch: node.name.clone(), table, need, size: profile.size(table) };
        all.extend(Table::ALL.into_iter().zip(needs).map(need));
    }
    all
}

/// What of this does not fit: an error, or beyond [`TIGHT`] per cent a warning, at the switch.
pub fn findings(lab: &Lab, needs: &[Need]) -> Vec<Diagnostic> {
    let found = needs.iter().filter(|need| need.percent() > TIGHT).map(|need| {
        let Need { switch, table, need: entries, size } = need;
        let percent = need.percent();
        let (severity, verb) =
            if percent > 100 { (Severity::Error, "needs") } else { (Severity::Warning, "comes near:") };
        let place = lab.nodes.get(switch).map(|node| node.place).unwrap_or_default();
        let message =
            format!("'{switch}' {verb} {entries} {table} of {size} that its profile has ({percent} %)");
        let mut found = lab.source.diagnostic(severity, place, message);
        found.rule = "table-size";
        found.help = match table {
            Table::Macs | Table::Hosts => "spread its networks over more leaves, or take a larger switch",
            Table::Prefixes => "summarise prefixes, or take a larger switch",
            Table::Vnis => "spread its networks over more leaves",
            Table::Ecmp => "link it to fewer spines, or take a larger switch",
        }
        .to_owned();
        found
    });
    found.collect()
}

/// Per cent of a table beyond which little room is left.
pub const TIGHT: u64 = 80;

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_names_and_numbers() {
        let sizes = |text: &str| text.parse::<Profile>().map(|p| (p.size(Table::Macs), p.size(Table::Vnis)));
        assert_eq!(sizes("small"), Ok((32_000, 512)));
        assert_eq!(sizes("small, vnis=9"), Ok((32_000, 9)));
        assert_eq!(sizes("macs=7\n# a file\nvnis=8\n"), Ok((7, 8)));
        for bad in ["huge", "macs=0", "macs=x", "tcam=5", "vnis=3,small"] {
            assert!(sizes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_of_a_network_fill_the_tables_of_its_leaves() {
        let shape = crate::new::Shape {
            name: "x".into(),
            spines: 2,
            leaves: 2,
            hosts: 6,
            borders: 1,
            vpcs: 0,
            mode: crate::new::HostMode::TorEvpn,
        };
        let text = crate::new::fabric(&shape).unwrap().topology;
        let lab = crate::parse(&text, std::path::Path::new("x"), &crate::LoadOptions::default()).unwrap().lab;
        let plan = crate::plan(&lab).unwrap();
        let profile = "macs=100,hosts=100,vnis=4".parse().unwrap();
        let needs = budget(&lab, &plan, &profile, 10);
        let of = |switch: &str, table| {
            needs.iter().find(|n| n.switch == switch && n.table == table).map(|n| (n.need, n.percent()))
        };
        assert_eq!(of("leaf1", Table::Macs), Some((60, 60)));
        assert_eq!(of("leaf2", Table::Hosts), Some((120, 120)));
        assert_eq!(of("leaf1", Table::Vnis), Some((1, 25)));
        assert_eq!(of("leaf1", Table::Ecmp).map(|(n, _)| n), Some(2));
        assert_eq!(of("border1", Table::Macs), Some((0, 0)));
        // Each at its switch, with the line and a caret.
        let found = findings(&lab, &budget(&lab, &plan, &"macs=70,hosts=100".parse().unwrap(), 10));
        let line = |name: &str| text.lines().position(|l| l == format!("    {name}:")).unwrap() + 1;
        let told: Vec<_> = found.iter().map(|d| (d.severity, d.rule, d.line)).collect();
        let [one, two] = ["leaf1", "leaf2"].map(line);
        let both = |line| [(Severity::Warning, "table-size", line), (Severity::Error, "table-size", line)];
        assert_eq!(told, [both(one), both(two)].concat(), "{found:?}");
        assert!(found.iter().all(|d| d.excerpt.contains('^') && d.column > 0 && !d.help.is_empty()));
        assert_eq!(found[1].message, "'leaf1' needs 120 hosts of 100 that its profile has (120 %)");
    }
}
