//! What is told about labs: tables, and JSON with the keys that containerlab uses.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use causeway_topology::{Endpoint, Lab, LinkKind};
use comfy_table::{Table, presets::UTF8_FULL};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Act, LabError};
use crate::guest::client;
use crate::guest::frame::Request;
use crate::spec::EntryStatus;
use crate::state::{LabState, NodeState};

/// Address shown when there is none.
const NO_ADDRESS: &str = "N/A";

/// One node of a lab, with the keys of `containerlab inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Name of the lab.
    pub lab_name: String,
    /// Topology file, relative to the working directory if it is below it.
    #[serde(rename = "labPath")]
    pub lab_path: String,
    /// Topology file, absolute.
    #[serde(rename = "absLabPath")]
    pub abs_lab_path: String,
    /// Long name.
    pub name: String,
    /// The container's short id; number of PID 1 on the machine where there is no container.
    pub container_id: String,
    /// Image; `host` for the machine's own root.
    pub image: String,
    /// Kind.
    pub kind: String,
    /// Group.
    pub group: String,
    /// `running` or `exited`.
    pub state: String,
    /// For how long, or how the entry point ended.
    pub status: String,
    /// First global IPv4 address with prefix length, the loopback's before others; `N/A`: none.
    pub ipv4_address: String,
    /// The same for IPv6.
    pub ipv6_address: String,
    /// Who owns it: always root here.
    pub owner: String,
}

/// The nodes of a lab, in the order of its file.
pub fn node_rows(lab: &LabState) -> Vec<NodeRow> {
    let here = std::env::current_dir().unwrap_or_default();
    let relative = lab.file.strip_prefix(&here).unwrap_or(&lab.file).display().to_string();
    if let Some(guest) = lab.guest.as_ref().filter(|guest| guest.is_alive()) {
        // What cannot be asked shows as what it is for us: nodes that do not run.
        if let Ok(rows) = client::ask::<Vec<NodeRow>>(guest, Request::Nodes { lab: lab.name.clone() }) {
            return rows.into_iter().map(|row| NodeRow { lab_path: relative.clone(), ..row }).collect();
        }
    }
    let uptime = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        .saturating_sub(lab.created);
    lab.nodes
        .iter()
        .map(|node| {
            let entry = node.entry_status();
            let (ipv4_address, ipv6_address) = if entry.is_some() { addresses(node) } else { none() };
            NodeRow {
                lab_name: lab.name.clone(),
                lab_path: relative.clone(),
                abs_lab_path: lab.file.display().to_string(),
                name: node.long_name.clone(),
                container_id: match &node.container {
                    Some(id) => id.chars().take(12).collect(),
                    None => node.init.map_or(String::new(), |init| init.pid.to_string()),
                },
                image: node.image.clone().unwrap_or_else(|| "host".to_owned()),
                kind: node.kind.clone(),
                group: node.group.clone(),
                state: if entry.is_some() { "running" } else { "exited" }.to_owned(),
                status: match entry {
                    Some(EntryStatus::Exited(code)) => {
                        format!("Up {uptime} seconds, entry point exited with {code}")
                    }
                    Some(_) => format!("Up {uptime} seconds"),
                    None => "Exited".to_owned(),
                },
                ipv4_address,
                ipv6_address,
                owner: "root".to_owned(),
            }
        })
        .collect()
}

fn none() -> (String, String) {
    (NO_ADDRESS.to_owned(), NO_ADDRESS.to_owned())
}

/// One interface as `ip -json` tells it; what is left out is not shown.
#[derive(Debug, Deserialize)]
struct IpLink {
    ifname: String,
    ifindex: u32,
    mtu: u32,
    #[serde(default)]
    operstate: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    link_type: String,
    #[serde(default)]
    ifalias: String,
    #[serde(default)]
    linkinfo: Option<IpLinkInfo>,
    #[serde(default)]
    addr_info: Vec<IpAddress>,
}

#[derive(Debug, Deserialize)]
struct IpLinkInfo {
    #[serde(default)]
    info_kind: String,
}

#[derive(Debug, Deserialize)]
struct IpAddress {
    family: String,
    local: String,
    prefixlen: u8,
    scope: String,
}

fn ip_links(node: &NodeState, arguments: &[&str]) -> Result<Vec<IpLink>, LabError> {
    let mut command = Command::new("ip");
    command.args(["-n", &node.long_name, "-json", "-details"]).args(arguments).stdin(Stdio::null());
    let output = command.output().act(|| "run ip (package iproute2)".to_owned())?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LabError::Program { program: format!("ip in node {}", node.name), output: error });
    }
    serde_json::from_slice(&output.stdout).act(|| "understand ip -json".to_owned())
}

/// First global IPv4 and IPv6 address.
fn addresses(node: &NodeState) -> (String, String) {
    let Ok(mut links) = ip_links(node, &["address", "show"]) else { return none() };
    links.sort_by_key(|link| (link.ifname != "lo", link.ifindex));
    let first = |family: &str| {
        let mut all = links.iter().flat_map(|link| &link.addr_info);
        all.find(|a| a.family == family && a.scope == "global")
            .map_or(NO_ADDRESS.to_owned(), |a| format!("{}/{}", a.local, a.prefixlen))
    };
    (first("inet"), first("inet6"))
}

/// Interfaces of one node, with the keys of `containerlab inspect interfaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInterfaces {
    /// Long name of the node.
    pub name: String,
    /// Its interfaces, in the order of their indexes.
    pub interfaces: Vec<InterfaceRow>,
}

/// One interface of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRow {
    /// Name.
    pub name: String,
    /// Alias; empty if it has none.
    pub alias: String,
    /// MAC address.
    pub mac: String,
    /// Index.
    pub ifindex: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Kind, for example `veth` or `device`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `up`, `down` or `unknown`.
    pub state: String,
}

/// Interfaces of all nodes of a lab, or of one.
///
/// # Errors
/// There is no such node; `ip` fails.
pub fn interfaces(lab: &LabState, only: Option<&str>) -> Result<Vec<NodeInterfaces>, LabError> {
    if let Some(guest) = &lab.guest {
        if let Some(name) = only {
            lab.node(name)?;
        }
        let node = only.map(str::to_owned);
        return client::ask(guest, Request::Interfaces { lab: lab.name.clone(), node });
    }
    let nodes: Vec<&NodeState> = match only {
        Some(name) => vec![lab.node(name)?],
        None => lab.nodes.iter().collect(),
    };
    let row = |link: IpLink| InterfaceRow {
        kind: match link.linkinfo {
            Some(info) if !info.info_kind.is_empty() => info.info_kind,
            _ if link.link_type == "loopback" => "loopback".to_owned(),
            _ => "device".to_owned(),
        },
        name: link.ifname,
        alias: link.ifalias,
        mac: link.address,
        ifindex: link.ifindex,
        mtu: link.mtu,
        state: link.operstate.to_lowercase(),
    };
    nodes
        .into_iter()
        .map(|node| {
            let interfaces = ip_links(node, &["link", "show"])?.into_iter().map(row).collect();
            Ok(NodeInterfaces { name: node.long_name.clone(), interfaces })
        })
        .collect()
}

/// A table with round corners, as containerlab's.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL.with_rounded_corners().with_solid_inner_borders()).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// The table of `inspect`.
pub fn nodes_table(rows: &[NodeRow]) -> String {
    let row = |row: &NodeRow| {
        let state = match row.status.split_once(", ") {
            Some((_, how)) => format!("{}\n{how}", row.state),
            None => row.state.clone(),
        };
        vec![
            row.name.clone(),
            format!("{}\n{}", row.kind, row.image),
            state,
            format!("{}\n{}", row.ipv4_address, row.ipv6_address),
        ]
    };
    table(&["Name", "Kind/Image", "State", "IPv4/6 Address"], rows.iter().map(row))
}

/// Files of the lab's folder that containerlab writes too, as name and text.
pub(crate) fn lab_files(lab: &Lab) -> Vec<(&'static str, String)> {
    let pretty =
        |value: &Value| serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default();
    vec![
        ("topology-data.json", pretty(&topology_data(lab))),
        ("ansible-inventory.yml", ansible_inventory(lab)),
    ]
}

fn topology_data(lab: &Lab) -> Value {
    let prefix = lab.prefix.clone().unwrap_or_else(|| "clab".to_owned());
    let nodes: BTreeMap<&str, Value> = lab
        .nodes
        .values()
        .map(|node| {
            let value = json!({
                "index": node.index.to_string(),
                "shortname": node.name,
                "longname": lab.container_name(&node.name),
                "fqdn": format!("{}.{}.io", node.name, lab.name),
                "group": node.group.clone().unwrap_or_default(),
                "labdir": lab.node_dir(&node.name),
                "kind": node.kind,
                "image": node.image.clone().unwrap_or_default(),
                "labels": node.labels,
                "port-bindings": [],
            });
            (node.name.as_str(), value)
        })
        .collect();
    let links: Vec<Value> = lab
        .links
        .iter()
        .filter_map(|link| {
            let far = match (&link.kind, &link.b) {
                (_, Some(b)) => endpoint(b, "a"),
                (LinkKind::Host { interface }, None) => {
                    json!({"node": "host", "interface": interface, "peer": "a"})
                }
                _ => return None,
            };
            Some(json!({"endpoints": {"a": endpoint(&link.a, "z"), "z": far}}))
        })
        .collect();
    json!({
        "name": lab.name, "type": "clab", "clab": {"config": {"prefix": prefix}},
        "ssh-pub-keys": [], "nodes": nodes, "links": links,
    })
}

fn endpoint(end: &Endpoint, peer: &str) -> Value {
    let mut value = json!({"node": end.node, "interface": end.interface, "peer": peer});
    if let Some(mac) = &end.mac {
        value["mac"] = json!(mac.to_string());
    }
    if let Some(ipv4) = &end.ipv4 {
        value["ipv4"] = json!(ipv4.to_string());
    }
    if let Some(ipv6) = &end.ipv6 {
        value["ipv6"] = json!(ipv6.to_string());
    }
    value
}

/// Hosts by kind. There is no management network: a playbook enters nodes by `ip netns exec` or `causeway lab exec`.
fn ansible_inventory(lab: &Lab) -> String {
    let mut by_kind: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in lab.nodes_in_order() {
        by_kind.entry(&node.kind).or_default().push(lab.container_name(&node.name));
    }
    let mut text = "all:\n  children:\n".to_owned();
    for (kind, hosts) in by_kind {
        text.push_str(&format!("    {kind}:\n      hosts:\n"));
        for host in hosts {
            text.push_str(&format!("        {host}: {{}}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_json_with_holes_is_understood() {
        let text = r#"[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK"],"mtu":65536,"link_type":"loopback","address":"00:00:00:00:00:00"},{}]"#;
        assert!(serde_json::from_str::<Vec<IpLink>>(text).is_err());
        let links: Vec<IpLink> = serde_json::from_str(&text.replace(",{}", "")).unwrap();
        assert_eq!(links[0].mtu, 65536);
    }
}
