//! FRR configurations that the file puts into its nodes, against the plan and against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Check;
use crate::plan::{InterfaceUse, NodePlan};

/// What matters of an `frr.conf`; of BGP the default VRF.
#[derive(Debug, Default, PartialEq, Eq)]
struct Config {
    asn: Option<u32>,
    router_id: Option<IpAddr>,
    /// Address and AS number of each neighbour; no number for `internal`, `external` and what cannot be read.
    neighbors: BTreeMap<IpAddr, Option<u32>>,
    addresses: BTreeSet<IpAddr>,
    /// It takes neighbours that it does not name (`bgp listen range`, `neighbor eth1 interface`).
    open: bool,
    graceful_restart: bool,
    /// Seconds, `bgp graceful-restart select-defer-time`.
    defer: Option<u32>,
}

impl Config {
    fn read(text: &str) -> Config {
        let mut config = Config::default();
        let mut groups: BTreeMap<String, Option<u32>> = BTreeMap::new();
        let mut members: Vec<(IpAddr, String)> = Vec::new();
        let mut bgp = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["router", "bgp", asn, rest @ ..] => {
                    bgp = !rest.contains(&"vrf") && !rest.contains(&"view");
                    if bgp {
                        config.asn = asn.parse().ok();
                    }
                }
                ["router" | "interface" | "vrf", ..] => bgp = false,
                ["ip" | "ipv6", "address", address, ..] => {
                    config.addresses.extend(address.parse::<IpNetwork>().ok().map(|a| a.ip()));
                }
                _ if !bgp => {}
                ["bgp", "router-id", id, ..] => config.router_id = id.parse().ok(),
                ["bgp", "listen", ..] => config.open = true,
                ["bgp", "graceful-restart"] => config.graceful_restart = true,
                ["bgp", "graceful-restart", "select-defer-time", seconds] => {
                    config.defer = seconds.parse().ok()
                }
                ["neighbor", _, "interface", ..] => config.open = true,
                ["neighbor", who, "remote-as", asn] => match who.parse() {
                    Ok(address) => {
                        config.neighbors.insert(address, asn.parse().ok());
                    }
                    Err(_) => {
                        groups.insert((*who).to_owned(), asn.parse().ok());
                    }
                },
                ["neighbor", who, "peer-group", group] => {
                    members.extend(who.parse().ok().map(|a| (a, (*group).to_owned())));
                }
                _ => {}
            }
        }
        for (address, group) in members {
            let asn = groups.get(&group).copied().flatten();
            config.neighbors.entry(address).or_insert(asn);
        }
        config
    }
}

/// Addresses of a node by the plan.
fn planned(plan: &NodePlan) -> impl Iterator<Item = IpAddr> + '_ {
    let links = plan
        .interfaces
        .iter()
        .filter(|i| i.usage == InterfaceUse::Underlay)
        .filter_map(|i| Some(i.address?.ip()));
    links.chain(plan.loopback).chain(plan.vtep)
}

pub(super) fn check(check: &mut Check<'_>, texts: &BTreeMap<String, String>) {
    let configs: BTreeMap<&str, Config> = texts.iter().map(|(n, t)| (n.as_str(), Config::read(t))).collect();
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, plan) in &check.plan.nodes {
        owners.extend(planned(plan).map(|a| (a, name.as_str())));
    }
    // What a configuration puts on an interface is there, whatever the plan says.
    for (name, config) in &configs {
        owners.extend(config.addresses.iter().map(|a| (*a, *name)));
    }
    for (name, config) in &configs {
        node(check, name, config);
        for (address, asn) in &config.neighbors {
            neighbor(check, &configs, &owners, name, (*address, *asn));
        }
    }
}

fn node(check: &mut Check<'_>, name: &str, config: &Config) {
    /// FRR's default, seconds.
    const DEFER: u32 = 120;
    let (Some(node), Some(plan)) = (check.node(name), check.plan.nodes.get(name)) else { return };
    let (place, reflects) = (node.place, plan.route_reflector);
    if let (Some(has), Some(asn)) = (config.asn, plan.asn)
        && has != asn
    {
        let message = format!("frr.conf of '{name}' has AS {has}, and the fabric has {asn} for it");
        check.warn("config-differs", place, message, format!("set causeway.asn: {has}, or change frr.conf"));
    }
    if let (Some(has), Some(id)) = (config.router_id, plan.router_id)
        && has != IpAddr::V4(id)
    {
        let message = format!("frr.conf of '{name}' has the router id {has}, and the fabric has {id} for it");
        check.warn(
            "config-differs",
            place,
            message,
            format!("set causeway.router-id: {has}, or change frr.conf"),
        );
    }
    let defer = config.defer.unwrap_or(DEFER);
    if reflects && config.graceful_restart && defer > 10 {
        let message = format!(
            "route reflector '{name}' has 'bgp graceful-restart': when it restarts, routes get no best path for up to {defer} s"
        );
        check.warn("graceful-restart", place, message, "take the line away (helping others needs none), or set 'bgp graceful-restart select-defer-time' to a few seconds");
    }
}

fn neighbor(
    check: &mut Check<'_>,
    configs: &BTreeMap<&str, Config>,
    owners: &BTreeMap<IpAddr, &str>,
    name: &str,
    (address, asn): (IpAddr, Option<u32>),
) {
    let Some(place) = check.node(name).map(|n| n.place) else { return };
    let Some(peer) = owners.get(&address).copied() else {
        let message = format!(
            "frr.conf of '{name}' has the neighbour {address}, and no node of the file has this address"
        );
        return check.warn(
            "bgp-peer-unknown",
            place,
            message,
            "the session cannot come up inside of this lab: correct the address",
        );
    };
    let expected =
        configs.get(peer).map_or_else(|| check.plan.nodes.get(peer).and_then(|p| p.asn), |c| c.asn);
    if let (Some(asn), Some(expected)) = (asn, expected)
        && asn != expected
    {
        let message =
            format!("frr.conf of '{name}' expects AS {asn} of {address}, and '{peer}' has AS {expected}");
        check.error(
            "bgp-as-mismatch",
            place,
            message,
            format!("say 'neighbor {address} remote-as {expected}'"),
        );
    }
    let Some(config) = configs.get(peer).filter(|c| !c.open) else { return };
    let ours = |a: &IpAddr| owners.get(a).is_some_and(|owner| *owner == name);
    if !config.neighbors.keys().any(ours) {
        let message = format!(
            "frr.conf of '{name}' has the neighbour {address}, and that of '{peer}' has no neighbour '{name}'"
        );
        check.error(
            "bgp-peer-missing",
            place,
            message,
            format!("add the neighbour to the configuration of '{peer}', or take it away here"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_of_a_configuration_is_read() {
        let text = "interface eth1\n ip address 192.0.2.1/31\nexit\nrouter bgp 65001\n bgp router-id 192.0.2.9\n \
            bgp graceful-restart\n bgp graceful-restart select-defer-time 5\n neighbor RR peer-group\n neighbor RR remote-as 65000\n \
            neighbor 192.0.2.0 peer-group RR\n neighbor 192.0.2.7 remote-as external\nexit\n!\nrouter bgp 7 vrf red\n neighbor 192.0.2.8 remote-as 1\n";
        let config = Config::read(text);
        assert_eq!(
            (config.asn, config.defer, config.graceful_restart, config.open),
            (Some(65001), Some(5), true, false)
        );
        let want = [("192.0.2.0", Some(65000)), ("192.0.2.7", None)];
        assert_eq!(config.neighbors, want.into_iter().map(|(a, n)| (a.parse().unwrap(), n)).collect());
        assert!(config.addresses.contains(&"192.0.2.1".parse().unwrap()));
    }
}
