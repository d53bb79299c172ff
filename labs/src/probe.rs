//! What the kernel lacks, said before a lab needs it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// Words of a command that need a driver, and how to find out whether it is there: lines for `ip -batch` in an empty
/// network namespace that has a veth pair `p0`, `p1`.
const FEATURES: [(&str, &str); 8] = [
    ("vlan", "link add link p0 name f0 type vlan id 7"),
    ("vrf", "link add f0 type vrf table 7"),
    ("dummy", "link add f0 type dummy"),
    ("macvlan", "link add link p0 name f0 type macvlan mode bridge"),
    ("ipvlan", "link add link p0 name f0 type ipvlan mode l2"),
    ("bond", "link add f0 type bond"),
    ("geneve", "link add f0 type geneve id 7 remote 192.0.2.1"),
    ("vlan_filtering", "link add f0 type bridge vlan_filtering 1"),
];

/// The features that a node's commands name (`type vlan`, `vlan_filtering 1`) and this kernel does not have, with the
/// command that names it. Each feature is tried once.
pub(crate) fn missing_features<'a>(commands: impl Iterator<Item = (&'a str, &'a [String])>) -> Vec<String> {
    let mut known: BTreeMap<&str, bool> = BTreeMap::new();
    let mut missing = Vec::new();
    for (node, argv) in commands {
        for feature in features_of(argv) {
            if !*known.entry(feature).or_insert_with(|| has_feature(feature)) {
                let command = argv.join(" ");
                missing.push(format!("node {node}: this kernel has no {feature}, which `{command}` needs"));
            }
        }
    }
    missing
}

/// Features named by a command; words of a shell's script count too.
fn features_of(argv: &[String]) -> Vec<&'static str> {
    let words: Vec<&str> = argv.iter().flat_map(|word| word.split_whitespace()).collect();
    let is_named = |feature: &str| match feature {
        "vlan_filtering" => words.windows(2).any(|pair| pair == [feature, "1"]),
        kind => words.windows(2).any(|pair| pair == ["type", kind]),
    };
    FEATURES.iter().map(|(feature, _)| *feature).filter(|feature| is_named(feature)).collect()
}

/// Tries it in a namespace that ends with the attempt. If even that cannot be run, the command itself will tell.
fn has_feature(feature: &str) -> bool {
    let Some((_, line)) = FEATURES.iter().find(|(name, _)| *name == feature) else { return true };
    let script = format!("ip link add p0 type veth peer p1 && ip {line}");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        causeway_topology::split_command(line).unwrap()
    }

    #[test]
    fn features_are_found_in_commands_and_scripts() {
        assert_eq!(features_of(&words("ip link add link eth1 name eth1.7 type vlan id 7")), ["vlan"]);
        assert_eq!(features_of(&words("sh -c 'ip link add red type vrf table 1'")), ["vrf"]);
        assert_eq!(features_of(&words("ip link add br0 type bridge vlan_filtering 1")), ["vlan_filtering"]);
        assert!(features_of(&words("ip link add br0 type bridge vlan_filtering 0")).is_empty());
        assert!(features_of(&words("echo vlan dummy")).is_empty());
    }
}
