//! Addresses that are in use on this machine: in named network namespaces, and in Docker's containers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;

use causeway_proto::Mac;
use serde::Deserialize;

use super::{Found, Skipped};
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
    /// Name of the link that it is a part of, as a VLAN is, in the same namespace.
    #[serde(default)]
    link: Option<String>,
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

impl Container {
    fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    /// Why it has no interface of its own to look for.
    fn shares(&self) -> Option<String> {
        match self.host_config.network_mode.as_str() {
            "host" => Some("has no network of its own (network host): it uses the machine's".to_owned()),
            mode => mode.strip_prefix("container:").map(|other| {
                format!("has no network of its own: it uses that of container {}", short(other))
            }),
        }
    }
}

/// Ids as Docker itself shows them.
fn short(id: &str) -> &str {
    id.get(..12).filter(|_| id.len() == 64).unwrap_or(id)
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
    let machine = Machine::look()?;
    let mut all = Vec::new();
    for name in names {
        let path = format!("{NAMED}/{name}");
        // One that goes away meanwhile is none.
        let Ok(links) = inside(&path) else { continue };
        let source = format!("netns {name}");
        all.extend(interfaces(&source, &name, &path, node, &links, &machine));
    }
    Ok(all)
}

/// Interfaces of all containers that run, and the containers that have none, with the reason.
pub(super) fn docker(node: &str) -> Result<(Vec<Found>, Vec<Skipped>), Failure> {
    let (mut all, mut skipped) = (Vec::new(), Vec::new());
    let containers = running()?;
    let machine = Machine::look()?;
    for container in containers.iter().filter(|c| c.state.running && c.state.pid > 0) {
        let name = container.name();
        let source = format!("container {name}");
        let mut skip = |reason: String| {
            skipped.push(Skipped { source: source.clone(), name: name.to_owned(), reason });
        };
        if let Some(reason) = container.shares() {
            skip(reason);
            continue;
        }
        let links = match inside(&format!("/proc/{}/ns/net", container.state.pid)) {
            Ok(links) => links,
            Err(error) => {
                skip(format!("cannot be looked into: {}", error.text));
                continue;
            }
        };
        let place = format!("pid:{}", container.state.pid);
        let found = interfaces(&source, name, &place, node, &links, &machine);
        if found.is_empty() {
            skip(format!(
                "has no interface with an address (network {})",
                container.host_config.network_mode
            ));
        }
        all.extend(found);
    }
    Ok((all, skipped))
}

/// Containers that run.
fn running() -> Result<Vec<Container>, Failure> {
    let listed = output("docker", &["ps", "--quiet", "--no-trunc"])?;
    let ids: Vec<&str> = listed.split_whitespace().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let text = output("docker", &[&["inspect"], &ids[..]].concat())?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read what docker inspect says: {error}")))
}

/// Those that have addresses; of several, all but the first are named with their interface.
fn interfaces(
    source: &str,
    name: &str,
    place: &str,
    node: &str,
    links: &[Link],
    machine: &Machine,
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
            bridge: link
                .link_index
                .and_then(|index| machine.bridges.get(&index))
                .cloned()
                .unwrap_or_default(),
            ways: Some(machine.ways(link.link_index)),
        });
    }
    all
}

/// What this machine has itself.
#[derive(Debug, Default)]
struct Machine {
    /// Bridges by the indexes of their ports.
    bridges: BTreeMap<u32, String>,
    /// Links by their indexes, with what they are parts of.
    links: BTreeMap<u32, BTreeSet<String>>,
}

impl Machine {
    fn look() -> Result<Machine, Failure> {
        Ok(Machine::of(links(&output("ip", &["-j", "-d", "address", "show"])?)?))
    }

    fn of(all: Vec<Link>) -> Machine {
        let mut machine = Machine::default();
        for link in all {
            machine.links.insert(link.ifindex, std::iter::once(link.ifname).chain(link.link).collect());
            machine.bridges.extend(link.master.map(|bridge| (link.ifindex, bridge)));
        }
        machine
    }

    /// Links in the segment of an interface whose other end, or parent, has this index.
    fn ways(&self, index: Option<u32>) -> BTreeSet<String> {
        let bridge = index.and_then(|index| self.bridges.get(&index));
        let ports = self.bridges.iter().filter(|(_, of)| Some(*of) == bridge).map(|(port, _)| *port);
        let alone = index.filter(|_| bridge.is_none());
        ports.chain(alone).filter_map(|index| self.links.get(&index)).flatten().cloned().collect()
    }
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

    const HOST: &str = r#"[{"ifindex":2,"ifname":"eth1","link_type":"ether","address":"02:00:00:00:00:01"},
        {"ifindex":3,"link":"eth1","ifname":"eth1.100","master":"docker0","link_type":"ether"},
        {"ifindex":4,"ifname":"docker0","link_type":"ether"},{"ifindex":8,"ifname":"eth2","link_type":"ether"},
        {"ifindex":6,"link_index":5,"ifname":"veth1","master":"docker0","link_type":"ether"}]"#;

    #[test]
    fn containers_without_a_network_of_their_own_are_told_apart() {
        let container = |mode: &str| -> Container {
            let text = format!(
                r#"{{"Name":"/web","State":{{"Running":true,"Pid":7}},"HostConfig":{{"NetworkMode":"{mode}"}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(container("bridge").shares(), None);
        assert_eq!(container("none").shares(), None, "it has one, with nothing in it");
        assert!(container("host").shares().unwrap().contains("network host"));
        let id = "0123456789abcdef".repeat(4);
        let said = container(&format!("container:{id}")).shares().unwrap();
        assert!(said.ends_with("container 0123456789ab"), "{said}");
    }

    #[test]
    fn interfaces_with_addresses_are_found_with_their_bridges() {
        let machine = Machine::of(links(HOST).unwrap());
        let found = interfaces("container web", "web", "pid:7", "h1", &links(INSIDE).unwrap(), &machine);
        let names: Vec<(&str, &str, &str)> =
            found.iter().map(|f| (f.name.as_str(), f.interface.as_str(), f.bridge.as_str())).collect();
        assert_eq!(names, [("web", "eth0", "docker0"), ("web/eth1", "eth1", "")]);
        assert_eq!(found[0].addresses, ["172.17.0.2".parse::<IpAddr>().unwrap()], "no link-local ones");
        // The bridge has an uplink by its VLAN; the second is a macvlan on another link.
        let ways = |n: usize| found[n].ways.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        assert_eq!((ways(0), ways(1)), (vec!["eth1", "eth1.100", "veth1"], vec!["eth2"]));
        assert_eq!(found[0].mac.map(|mac| mac.to_string()), Some("02:42:ac:11:00:02".into()));
    }
}
