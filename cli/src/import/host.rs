//! Addresses that are in use on this machine: in named network namespaces, and in Docker's containers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use causeway_proto::Mac;
use serde::Deserialize;

use super::Found;
use crate::failure::{Exit, Failure};

/// Where named namespaces are.
const NAMED: &str = "/run/netns";

/// A link as `ip -j -d address show` tells it.
#[derive(Debug, Clone, Deserialize)]
struct Link {
    #[serde(default)]
    ifindex: u32,
    ifname: String,
    #[serde(default)]
    link_type: String,
    #[serde(default)]
    address: String,
    /// Index of its other end, in the namespace of that.
    #[serde(default)]
    link_index: Option<u32>,
    #[serde(default)]
    master: Option<String>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Debug, Clone, Deserialize)]
struct Address {
    #[serde(default)]
    local: String,
    #[serde(default)]
    scope: String,
}

/// A container as `docker inspect` tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    name: String,
    state: State,
    host_config: HostConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    pid: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    network_mode: String,
}

/// Interfaces of all named namespaces.
pub(super) fn netns(node: &str) -> Result<Vec<Found>, Failure> {
    let entries = match std::fs::read_dir(NAMED) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::new(Exit::Failed, format!("cannot read {NAMED}: {error}"))),
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let bridges = bridges()?;
    let mut all = Vec::new();
    for name in names {
        let path = format!("{NAMED}/{name}");
        // One that goes away meanwhile is none.
        let Ok(links) = inside(&path) else { continue };
        let source = format!("netns {name}");
        all.extend(interfaces(&source, &name, &path, node, &links, &bridges));
    }
    Ok(all)
}

/// Interfaces of all containers that run and have a namespace of their own.
pub(super) fn docker(node: &str) -> Result<Vec<Found>, Failure> {
    let listed = output("docker", &["ps", "--quiet", "--no-trunc"])?;
    let ids: Vec<&str> = listed.split_whitespace().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let text = output("docker", &[&["inspect"], &ids[..]].concat())?;
    let containers: Vec<Container> = serde_json::from_str(&text).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot read what docker inspect says: {error}"))
    })?;
    let bridges = bridges()?;
    let mut all = Vec::new();
    for container in containers {
        let Container { name, state, host_config } = container;
        let shared = host_config.network_mode == "host" || host_config.network_mode.starts_with("container:");
        if !state.running || state.pid == 0 || shared {
            continue;
        }
        let name = name.trim_start_matches('/');
        let Ok(links) = inside(&format!("/proc/{}/ns/net", state.pid)) else { continue };
        let place = format!("pid:{}", state.pid);
        all.extend(interfaces(&format!("container {name}"), name, &place, node, &links, &bridges));
    }
    Ok(all)
}

/// Those that have addresses; of several, all but the first are named with their interface.
fn interfaces(
    source: &str,
    name: &str,
    place: &str,
    node: &str,
    links: &[Link],
    bridges: &BTreeMap<u32, String>,
) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for link in links.iter().filter(|link| link.link_type == "ether") {
        let global = link.addr_info.iter().filter(|address| address.scope == "global");
        let addresses: Vec<IpAddr> = global.filter_map(|address| address.local.parse().ok()).collect();
        let Ok(mac) = link.address.parse::<Mac>() else { continue };
        if addresses.is_empty() {
            continue;
        }
        let first = all.is_empty();
        all.push(Found {
            source: format!("{source}, {}", link.ifname),
            name: if first { name.to_owned() } else { format!("{name}/{}", link.ifname) },
            network: None,
            addresses,
            mac: Some(mac),
            node: node.to_owned(),
            netns: place.to_owned(),
            interface: link.ifname.clone(),
            bridge: link.link_index.and_then(|index| bridges.get(&index)).cloned().unwrap_or_default(),
        });
    }
    all
}

/// Bridges of this machine by the indexes of their ports.
fn bridges() -> Result<BTreeMap<u32, String>, Failure> {
    let links = links(&output("ip", &["-j", "-d", "address", "show"])?)?;
    Ok(links.into_iter().filter_map(|link| Some((link.ifindex, link.master?))).collect())
}

/// What is in a namespace.
fn inside(path: &str) -> Result<Vec<Link>, Failure> {
    links(&output("nsenter", &[&format!("--net={path}"), "ip", "-j", "-d", "address", "show"])?)
}

fn links(text: &str) -> Result<Vec<Link>, Failure> {
    // An empty object stands for what was filtered away.
    let values: Vec<serde_json::Value> = serde_json::from_str(text)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read what ip says: {error}")))?;
    Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}

/// What a program prints.
fn output(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let shown = format!("{program} {}", arguments.first().copied().unwrap_or_default());
    let done = Command::new(program).args(arguments).output().map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot run {shown}: {error}")).hint(format!(
            "install {program}, and run this on the machine whose addresses are to be imported"
        ))
    })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(Failure::new(Exit::Failed, format!("{shown}: {}: {}", done.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: &str = r#"[{"ifindex":1,"ifname":"lo","link_type":"loopback","address":"00:00:00:00:00:00",
        "addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"}]},{},
        {"ifindex":5,"link_index":6,"ifname":"eth0","link_type":"ether","address":"02:42:ac:11:00:02",
        "addr_info":[{"family":"inet","local":"172.17.0.2","prefixlen":16,"scope":"global"},
        {"family":"inet6","local":"fe80::42:acff:fe11:2","prefixlen":64,"scope":"link"}]},
        {"ifindex":7,"link_index":8,"ifname":"eth1","link_type":"ether","address":"02:42:0a:08:00:05",
        "addr_info":[{"family":"inet6","local":"fd00:8::5","prefixlen":64,"scope":"global"}]},
        {"ifindex":9,"ifname":"eth2","link_type":"ether","address":"02:42:0a:08:00:06","addr_info":[]}]"#;

    #[test]
    fn interfaces_with_addresses_are_found_with_their_bridges() {
        let bridges = [(6, "docker0".to_owned())].into();
        let found = interfaces("container web", "web", "pid:7", "h1", &links(INSIDE).unwrap(), &bridges);
        let names: Vec<(&str, &str, &str)> =
            found.iter().map(|f| (f.name.as_str(), f.interface.as_str(), f.bridge.as_str())).collect();
        assert_eq!(names, [("web", "eth0", "docker0"), ("web/eth1", "eth1", "")]);
        assert_eq!(found[0].addresses, ["172.17.0.2".parse::<IpAddr>().unwrap()], "no link-local ones");
        assert_eq!(found[0].mac.map(|mac| mac.to_string()), Some("02:42:ac:11:00:02".into()));
    }
}
