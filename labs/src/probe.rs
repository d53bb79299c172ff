//! What the kernel lacks, found by trying, before something needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::{Command, Stdio};

use crate::guest::GuestError;

/// What a kernel may lack, with a shell line that succeeds where it is there: in an empty network namespace that has a veth
/// pair `p0`, `p1`. Each line makes things of its own.
const FEATURES: [(&str, &str); 16] = [
    ("vlan", "ip link add link p0 name vlan7 type vlan id 7"),
    ("vlan_filtering", "ip link add filtering type bridge vlan_filtering 1"),
    ("vrf", "ip link add red type vrf table 7"),
    ("dummy", "ip link add dummy7 type dummy"),
    ("macvlan", "ip link add link p0 name macvlan7 type macvlan mode bridge"),
    // A device cannot be below macvlan and ipvlan at once.
    ("ipvlan", "ip link add link p1 name ipvlan7 type ipvlan mode l2"),
    ("bond", "ip link add bond7 type bond"),
    ("geneve", "ip link add geneve7 type geneve id 7 remote 192.0.2.1"),
    ("ifb", "ip link add ifb7 type ifb"),
    ("netem", "tc qdisc add dev p0 root handle 7: netem delay 1ms"),
    ("matchall", "tc qdisc add dev p1 ingress; tc filter add dev p1 parent ffff: matchall action drop"),
    (
        "flower",
        "ip link add q0 type veth peer q1; tc qdisc add dev q0 ingress; tc filter add dev q0 parent ffff: flower action drop",
    ),
    (
        "nft_bridge_meta",
        "nft 'add table bridge m; add chain bridge m c; add rule bridge m c meta ibrname b0'",
    ),
    (
        "nft_bridge_reject",
        "nft 'add table bridge r; add chain bridge r c { type filter hook prerouting priority 0; }; add rule bridge r c reject'",
    ),
    (
        "nft_bridge_ct",
        "nft 'add table bridge t; add chain bridge t c { type filter hook prerouting priority 0; }; add rule bridge t c ct state new'",
    ),
    ("mpls", "test -e /proc/sys/net/mpls || modprobe -q mpls_router"),
];

/// Names that people and modules have for the same.
fn canonical(feature: &str) -> &str {
    match feature {
        "8021q" => "vlan",
        "bonding" => "bond",
        "sch_netem" => "netem",
        "cls_matchall" => "matchall",
        "cls_flower" => "flower",
        other => other,
    }
}

/// Those of the features (`vlan` or `8021q`, `vlan_filtering`, `vrf`, `dummy`, `macvlan`, `ipvlan`, `bond`, `geneve`, `ifb`,
/// `netem`, `matchall`, `flower`, `nft_bridge_meta`, `nft_bridge_reject`, `nft_bridge_ct`, `mpls`) that this kernel does not
/// have, tried in a namespace that ends with the attempt. Needs root, and iproute2, tc and nft for theirs.
///
/// # Errors
/// A name is none of these; a namespace cannot be made.
pub fn missing(features: &[&str]) -> Result<Vec<String>, GuestError> {
    let mut wanted = BTreeMap::new();
    for feature in features {
        let name = canonical(feature);
        let Some((name, line)) = FEATURES.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = FEATURES.iter().map(|(known, _)| *known).collect();
            let what = format!(
                "{feature} is no feature of a kernel that can be probed (there are: {})",
                known.join(", ")
            );
            return Err(GuestError::Test(what));
        };
        wanted.insert(*name, *line);
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    // One process for all: in a guest each takes its time.
    let mut script = "ip link add p0 type veth peer p1 || exit 1\n".to_owned();
    for (name, line) in &wanted {
        script += &format!("{{ {line}; }} > /dev/null 2>&1 || echo {name}\n");
    }
    script += "exit 0";
    let output = Command::new("unshare").args(["--net", "sh", "-c", &script]).stdin(Stdio::null()).output();
    let output = output
        .map_err(|source| GuestError::Io { act: "run unshare (package util-linux)".to_owned(), source })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let act = "make a namespace and a veth pair in it, to see what this kernel has".to_owned();
        return Err(GuestError::Io { act, source: io::Error::other(words) });
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Why a node needs a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) feature: &'static str,
    pub(crate) node: String,
    /// The command or file that names it.
    pub(crate) reason: String,
}

/// The features that this kernel does not have, of those needed.
pub(crate) fn unmet(needs: Vec<Need>) -> Result<Vec<Need>, GuestError> {
    let names: BTreeSet<&str> = needs.iter().map(|need| need.feature).collect();
    let missing = missing(&names.into_iter().collect::<Vec<_>>())?;
    Ok(needs.into_iter().filter(|need| missing.iter().any(|name| name == need.feature)).collect())
}

/// Features named by a command or a script (`type vlan`, `vlan_filtering 1`), each once.
pub(crate) fn features_of(text: &str) -> Vec<&'static str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words: Vec<&str> = lines
        .flat_map(|line| line.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';' | '(' | ')')))
        .filter(|word| !word.is_empty())
        .collect();
    let has = |first: &str, second: &str| words.windows(2).any(|pair| pair == [first, second]);
    let is_named = |feature: &str| match feature {
        "vlan_filtering" => has(feature, "1"),
        "netem" => words.contains(&"netem"),
        "matchall" | "flower" => words.contains(&"tc") && words.contains(&feature),
        "nft_bridge_meta" => words.contains(&"ibrname") || words.contains(&"obrname"),
        kind => has("type", kind),
    };
    FEATURES.iter().map(|(feature, _)| *feature).filter(|feature| is_named(feature)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_found_in_commands_and_scripts() {
        assert_eq!(features_of("ip link add link eth1 name eth1.7 type vlan id 7"), ["vlan"]);
        assert_eq!(features_of("sh -c 'ip link add red type vrf table 1'"), ["vrf"]);
        assert_eq!(features_of("ip link add br0 type bridge vlan_filtering 1"), ["vlan_filtering"]);
        assert_eq!(
            features_of("x() { ip link add d type dummy; }\ntc qdisc add dev d root netem loss 1%"),
            ["dummy", "netem"]
        );
        assert!(features_of("ip link add br0 type bridge vlan_filtering 0").is_empty());
        assert!(features_of("echo vlan dummy").is_empty());
        assert!(features_of("# ip link add red type vrf table 1").is_empty());
    }

    #[test]
    fn a_name_that_is_none_is_an_error_and_not_a_missing_feature() {
        assert!(missing(&["vlna"]).unwrap_err().to_string().contains("vlna is no feature"));
    }

    #[test]
    fn what_is_there_is_not_missing() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it with sudo");
        // Every kernel that Causeway runs on has macvlan; none has what nobody asks for.
        assert!(missing(&["macvlan"]).unwrap().is_empty());
        assert!(missing(&[]).unwrap().is_empty());
    }
}
