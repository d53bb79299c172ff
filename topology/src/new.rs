//! New topology files: a spine-leaf fabric of a given size, with the configurations that its nodes need.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use causeway_proto::Mac;

use crate::lab::Role;
use crate::plan::{Plan, plan};
use crate::read::{LoadOptions, parse};
use crate::render;

/// More nodes than one machine brings up.
const MAX_NODES: usize = 1000;

/// Who does VXLAN for the hosts of a new fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostMode {
    /// The leaf: hosts send plain frames into an access port.
    TorEvpn,
    /// The leaf, a Linux switch that our agent programs; the controller speaks EVPN for it.
    TorAgent,
    /// The leaf, by rendered configuration alone; the controller speaks EVPN for it.
    TorStatic,
    /// The host itself: it runs our agent.
    HostVtep,
}

impl HostMode {
    /// What the mode is called in labels.
    fn word(self) -> &'static str {
        match self {
            HostMode::TorEvpn => "tor-evpn",
            HostMode::TorAgent => "tor-agent",
            HostMode::TorStatic => "tor-static",
            HostMode::HostVtep => "host-vtep",
        }
    }

    /// Nobody learns what hangs on these switches: the controller has to be told of each server.
    fn is_told(self) -> bool {
        matches!(self, HostMode::TorAgent | HostMode::TorStatic)
    }
}

/// What a new fabric shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Name of the lab.
    pub name: String,
    /// Spines; each leaf is linked to all of them.
    pub spines: usize,
    /// Leaves.
    pub leaves: usize,
    /// Hosts, spread over the leaves.
    pub hosts: usize,
    /// Border leaves.
    pub borders: usize,
    /// Routers of clouds, spread over the borders.
    pub vpcs: usize,
    /// Who does VXLAN for the hosts.
    pub mode: HostMode,
}

/// A new lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fabric {
    /// The topology file.
    pub topology: String,
    /// The files it binds, by path beside it.
    pub files: BTreeMap<String, String>,
}

/// Why a fabric cannot be made, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(String);

fn refuse<T>(text: impl Into<String>) -> Result<T, ShapeError> {
    Err(ShapeError(text.into()))
}

impl Shape {
    fn check(&self) -> Result<(), ShapeError> {
        let Shape { name, spines, leaves, hosts, borders, vpcs, .. } = self;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > 40 || !name.chars().all(good) || name.starts_with(['-', '_']) {
            return refuse(
                "the name needs 1 to 40 letters, digits, '-' or '_', and begins with a letter or digit",
            );
        }
        if *leaves == 0 && *hosts > 0 {
            return refuse(format!(
                "{hosts} hosts and no leaf: hosts hang on leaves, take at least one leaf"
            ));
        }
        if *leaves + *borders == 0 {
            return refuse("a fabric needs at least one leaf");
        }
        if *spines == 0 {
            return refuse(
                "no spine: spines join the leaves and reflect their routes, take at least one, better two",
            );
        }
        if *vpcs > 0 && *borders == 0 {
            return refuse(format!(
                "{vpcs} VPCs and no border: a VPC's router hangs on a border, take at least one"
            ));
        }
        let all =
            [*spines, *leaves, *hosts, *borders, *vpcs].iter().try_fold(1usize, |sum, n| sum.checked_add(*n));
        if all.is_none_or(|n| n > MAX_NODES) {
            return refuse(format!("more than {MAX_NODES} nodes: make several labs of it"));
        }
        Ok(())
    }

    fn names(what: &str, n: usize) -> Vec<String> {
        (1..=n).map(|i| format!("{what}{i}")).collect()
    }
}

/// The links of a fabric in their order: ends, and whether it is an access port.
fn links(shape: &Shape) -> Vec<(String, String, bool)> {
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let mut port = |node: &str| {
        let n = next.entry(node.to_owned()).or_insert(0);
        *n += 1;
        format!("{node}:eth{n}")
    };
    let spines = Shape::names("spine", shape.spines);
    let (leaves, borders) = (Shape::names("leaf", shape.leaves), Shape::names("border", shape.borders));
    let mut all = Vec::new();
    for leaf in leaves.iter().chain(&borders) {
        for spine in &spines {
            all.push((port(spine), port(leaf), false));
        }
    }
    for spine in spines.iter().take(2) {
        all.push((port(spine), port("ctl"), false));
    }
    for (host, leaf) in Shape::names("host", shape.hosts).iter().zip(leaves.iter().cycle()) {
        all.push((port(leaf), port(host), shape.mode != HostMode::HostVtep));
    }
    for (vpc, border) in Shape::names("vpc", shape.vpcs).iter().zip(borders.iter().cycle()) {
        all.push((port(border), port(vpc), false));
    }
    all
}

/// Makes a fabric: a file that `topology check` finds no error in, and what it binds.
///
/// # Errors
/// What makes no fabric: hosts without a leaf, leaves without a spine, VPCs without a border, a bad name, too many nodes.
pub fn fabric(shape: &Shape) -> Result<Fabric, ShapeError> {
    shape.check()?;
    // Addresses come from the plan, so there is a first text without what is bound.
    let bare = text(shape, &BTreeMap::new());
    let options = LoadOptions::default();
    let read = parse(&bare, Path::new("new.clab.yml"), &options);
    let first =
        |errors: Vec<crate::Diagnostic>| errors.first().map_or_else(String::new, |d| d.message.clone());
    let lab = read.map_err(|e| ShapeError(first(e)))?.lab;
    let plan = plan(&lab).map_err(|e| ShapeError(first(e)))?;
    let (mut scripts, mut files) = (BTreeMap::new(), BTreeMap::new());
    for node in lab.nodes_in_order() {
        if let Some(config) = render::frr(&lab, &plan, &node.name) {
            files.insert(format!("configs/{}/frr.conf", node.name), config);
        }
        if node.role == Role::Controller {
            files.insert(format!("configs/{}/controller.yaml", node.name), controller(&plan, &node.name));
        }
        let script = render::setup(&lab, &plan, &node.name).filter(|s| !s.is_empty());
        scripts.insert(node.name.clone(), script.is_some());
        files.extend(script.map(|s| (format!("configs/{}/setup.sh", node.name), s)));
    }
    files.insert("resources.yaml".to_owned(), render::records(&lab, &plan));
    if has_ports(shape) {
        files.insert("ports.sh".to_owned(), ports(shape));
    }
    Ok(Fabric { topology: text(shape, &scripts), files })
}

fn text(shape: &Shape, scripts: &BTreeMap<String, bool>) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, shape, scripts);
    out
}

fn write_text(out: &mut String, shape: &Shape, scripts: &BTreeMap<String, bool>) -> std::fmt::Result {
    let Shape { name, spines, leaves, hosts, borders, vpcs, mode } = shape;
    let mode = match mode {
        HostMode::TorEvpn => "the leaves do VXLAN, hosts send plain frames",
        HostMode::TorAgent => "our agent programs the leaves, hosts send plain frames",
        HostMode::TorStatic => "the leaves do VXLAN as rendered, hosts send plain frames",
        HostMode::HostVtep => "VXLAN begins in the hosts",
    };
    writeln!(
        out,
        "# {spines} spines (route reflectors), {leaves} leaves, {borders} borders, {hosts} hosts, {vpcs} VPCs, a controller; {mode}."
    )?;
    writeln!(
        out,
        "# Runs under `causeway lab up` and `containerlab deploy`. Addresses, AS numbers and sessions follow from this file:"
    )?;
    writeln!(out, "# after a change of nodes or links write it and configs/ again, or change both.")?;
    if shape.mode.is_told() {
        writeln!(
            out,
            "# Nobody learns what hangs on the leaves: ports.sh tells the controller of each host."
        )?;
    }
    writeln!(out, "name: {name}\n\ntopology:\n  defaults:\n    kind: linux\n    labels:")?;
    // VLAN-aware bridges tell networks apart by VLAN.
    let vlan = if shape.mode.is_told() { " vlan=100" } else { "" };
    // The hosts of the file have addresses of the first /22. Where they become ports, they take them as ports do.
    let exclude = if shape.mode.is_told() { "" } else { " exclude=10.100.0.0-10.100.3.255" };
    writeln!(
        out,
        "      causeway.network.web: vni=100{vlan} mtu=1500 subnet=10.100.0.0/16,fd00:100::/64{exclude}\n"
    )?;
    writeln!(out, "  groups:\n    switches:\n      image: ${{FRR_IMAGE:=causeway/frr:8.4}}")?;
    if !scripts.is_empty() {
        writeln!(out, "      binds:\n        - configs/__clabNodeName__/frr.conf:/etc/frr/frr.conf:ro")?;
    }
    writeln!(
        out,
        "      sysctls:\n        net.ipv4.ip_forward: 1\n        net.ipv4.conf.all.rp_filter: 0\n        net.ipv4.conf.default.rp_filter: 0"
    )?;
    writeln!(out, "\n  nodes:")?;
    let mut node = |name: &str, lines: &[String], binds: &[&str]| -> std::fmt::Result {
        writeln!(out, "    {name}:")?;
        lines.iter().try_for_each(|l| writeln!(out, "      {l}"))?;
        let setup = scripts.get(name).copied().unwrap_or_default();
        // Without scripts this is the first text, of which only nodes and links count.
        let mut binds: Vec<String> =
            binds.iter().filter(|_| !scripts.is_empty()).map(|b| (*b).to_owned()).collect();
        binds.extend(setup.then(|| format!("configs/{name}/setup.sh:/etc/causeway/setup.sh:ro")));
        if !binds.is_empty() {
            writeln!(out, "      binds:")?;
        }
        binds.iter().try_for_each(|b| writeln!(out, "        - {b}"))?;
        if setup { writeln!(out, "      exec:\n        - sh -e /etc/causeway/setup.sh") } else { Ok(()) }
    };
    let label = |role: &str| format!("labels: {{causeway.role: {role}}}");
    for (role, count) in [("spine", *spines), ("leaf", *leaves), ("border", *borders)] {
        for name in Shape::names(role, count) {
            let mut lines = vec!["group: switches".to_owned()];
            match shape.mode {
                mode if role != "leaf" || !mode.is_told() => lines.push(label(role)),
                mode => {
                    if mode == HostMode::TorAgent {
                        lines.push("image: causeway/tor:latest".into());
                        lines.push(agent(shape, &name));
                    }
                    lines.push(format!("labels: {{causeway.role: leaf, causeway.mode: {}}}", mode.word()));
                }
            }
            node(&name, &lines, &[])?;
        }
    }
    for (n, name) in Shape::names("host", *hosts).iter().enumerate() {
        let lines = match shape.mode {
            HostMode::HostVtep => {
                vec!["image: causeway/agent:latest".into(), agent(shape, name), label("host")]
            }
            _ => {
                let [v4, v6] = server_addresses(n);
                let label =
                    format!("labels: {{causeway.role: server, causeway.address: \"{v4}/16, {v6}/64\"}}");
                vec!["image: causeway/server:latest".into(), label]
            }
        };
        node(name, &lines, &[])?;
    }
    for name in Shape::names("vpc", *vpcs) {
        // The router of a cloud's network.
        let sysctls = "sysctls: {net.ipv4.ip_forward: 1}".to_owned();
        node(&name, &["image: causeway/server:latest".into(), label("other"), sysctls], &[])?;
    }
    let mut binds = vec![
        "configs/ctl/controller.yaml:/etc/causeway/controller.yaml:ro",
        "resources.yaml:/etc/causeway/resources.yaml:ro",
    ];
    binds.extend(has_ports(shape).then_some("ports.sh:/etc/causeway/ports.sh:ro"));
    node("ctl", &["image: causeway/controller:latest".to_owned(), label("controller")], &binds)?;
    writeln!(out, "\n  links:")?;
    let mut servers = 0;
    for (a, b, access) in links(shape) {
        if access && shape.mode.is_told() {
            let (a, b) = (long(&a, None), long(&b, Some(server_mac(servers))));
            servers += 1;
            writeln!(out, "    - type: veth\n      endpoints:\n        - {a}\n        - {b}")?;
            writeln!(out, "      mtu: 1500\n      labels: {{causeway.untagged: web}}")?;
        } else if access {
            // The host's MTU: what crosses VXLAN must fit into the underlay's 9500.
            writeln!(
                out,
                "    - {{endpoints: [\"{a}\", \"{b}\"], mtu: 1500, labels: {{causeway.untagged: web}}}}"
            )?;
        } else {
            writeln!(out, "    - endpoints: [\"{a}\", \"{b}\"]")?;
        }
    }
    Ok(())
}

/// Whether there are servers that the controller has to be told of.
fn has_ports(shape: &Shape) -> bool {
    shape.mode.is_told() && shape.hosts > 0
}

/// Addresses of the server with this index, by which its leaf knows it too.
fn server_addresses(n: usize) -> [String; 2] {
    let (high, low) = ((n + 10) / 250, (n + 10) % 250 + 1);
    [format!("10.100.{high}.{low}"), format!("fd00:100::{:x}", n + 11)]
}

/// MAC of the server with this index: locally administered, given where the controller has to be told of it.
fn server_mac(n: usize) -> Mac {
    let [.., high, low] = (n + 11).to_be_bytes();
    Mac::new([2, 0, 0, 0, high, low])
}

/// The end of a link in its long form.
fn long(end: &str, mac: Option<Mac>) -> String {
    let (node, interface) = end.split_once(':').unwrap_or((end, ""));
    let mac = mac.map_or_else(String::new, |mac| format!(", mac: \"{mac}\""));
    format!("{{node: {node}, interface: {interface}{mac}}}")
}

/// The agent's environment: which node it is and where it finds the controller.
fn agent(shape: &Shape, name: &str) -> String {
    let controller = controller_address(shape);
    format!("env: {{CAUSEWAY_NODE: {name}, CAUSEWAY_CONTROLLERS: \"http://{controller}:7480\"}}")
}

/// Commands that tell the controller of every server.
fn ports(shape: &Shape) -> String {
    let mut out = "# Tells the controller what hangs on which port of a leaf: after `causeway apply -f resources.yaml`, and before other\n# ports get addresses of these servers.\nset -e\n".to_owned();
    for (n, (leaf, server, _)) in links(shape).iter().filter(|(_, _, access)| *access).enumerate() {
        let (leaf, interface) = leaf.split_once(':').unwrap_or((leaf, ""));
        let name = server.split(':').next().unwrap_or_default();
        let ([v4, v6], mac) = (server_addresses(n), server_mac(n));
        let _ = writeln!(
            out,
            "causeway port create web/{name} --address {v4} --address {v6} --mac {mac} --bind-node {leaf} --interface {interface} --workload bare-metal"
        );
    }
    out
}

/// Where agents find the controller: its address on its first link, which follows those between switches.
fn controller_address(shape: &Shape) -> std::net::Ipv4Addr {
    let before = (shape.leaves + shape.borders) * shape.spines;
    let n = u32::try_from(before * 2 + 1).unwrap_or(u32::MAX >> 8);
    std::net::Ipv4Addr::from(u32::from(crate::derive::LINK_POOL).saturating_add(n))
}

fn controller(plan: &Plan, name: &str) -> String {
    let own = plan.nodes.get(name);
    let id = own.and_then(|p| p.router_id).map(|id| id.to_string()).unwrap_or_default();
    let asn = own.and_then(|p| p.asn).unwrap_or(crate::derive::DEFAULT_AS);
    format!(
        "name: {name}\nrouter_id: {id}\nasn: {asn}\nlisten: [\"0.0.0.0:7480\"]\nhttp_listen: [\"0.0.0.0:7481\"]\n\
         bgp_listen: [\"0.0.0.0:179\"]\nstore: {{file: /var/lib/causeway}}\n"
    )
}
