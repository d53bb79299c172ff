//! Links between nodes as `ip` commands: first the plan of them, then the doing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use causeway_topology::{Endpoint, Lab, Link, LinkKind, Node};

use crate::error::{Act, LabError};

/// Where the end of a link is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The machine's own network namespace.
    Machine,
    /// The namespace of this name in /run/netns.
    Netns(String),
}

/// What to run for a lab's links: lines for `ip -batch`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkPlan {
    /// Run first, once, in the machine's namespace: makes all links.
    pub(crate) create: Vec<String>,
    /// Run then, per namespace: names, masters, up.
    pub(crate) finish: BTreeMap<Side, Vec<String>>,
    /// Interfaces that appear in the machine's namespace.
    pub(crate) machine: Vec<String>,
    /// Bridges that must be there in the machine's namespace.
    pub(crate) needed_bridges: BTreeSet<String>,
    /// What is not done, and why.
    pub(crate) warnings: Vec<String>,
    /// How many interfaces each node gets.
    pub(crate) interfaces: BTreeMap<String, usize>,
}

/// One end, ready for `ip`.
struct End {
    side: Side,
    /// At most 15 bytes.
    name: String,
    mac: String,
    /// Commands that finish it.
    finish: Vec<String>,
}

impl LinkPlan {
    /// Plans all links of a lab.
    ///
    /// # Errors
    /// A link or a node's `network-mode` that this runner cannot do.
    pub(crate) fn of(lab: &Lab) -> Result<Self, LabError> {
        let mut plan = LinkPlan::default();
        for node in lab.nodes.values().filter(|node| node.kind == "bridge" || node.kind == "ovs-bridge") {
            match bridge_side(lab, node)? {
                Side::Machine => drop(plan.needed_bridges.insert(node.name.clone())),
                side => {
                    let name = bridge_name(node);
                    let lines = plan.finish.entry(side).or_default();
                    lines.insert(0, format!("link add name {name} type bridge"));
                    lines.insert(1, format!("link set dev {name} up"));
                }
            }
        }
        for link in &lab.links {
            plan.add(lab, link)?;
        }
        Ok(plan)
    }

    fn add(&mut self, lab: &Lab, link: &Link) -> Result<(), LabError> {
        let a = end(lab, &link.a)?;
        let mtu = link.mtu;
        *self.interfaces.entry(link.a.node.clone()).or_default() += 1;
        match &link.kind {
            LinkKind::Veth => {
                let Some(other) = &link.b else { return Ok(()) };
                *self.interfaces.entry(other.node.clone()).or_default() += 1;
                let b = end(lab, other)?;
                self.create.push(format!(
                    "link add {} type veth peer {}",
                    new_device(&a, mtu),
                    new_device(&b, mtu)
                ));
                self.finish_end(b);
            }
            LinkKind::Host { interface } => {
                let b = End {
                    side: Side::Machine,
                    name: interface.clone(),
                    mac: mac(lab, "host", interface),
                    finish: Vec::new(),
                };
                self.create.push(format!(
                    "link add {} type veth peer {}",
                    new_device(&a, mtu),
                    new_device(&b, mtu)
                ));
                self.finish_end(b);
            }
            LinkKind::Macvlan { parent, mode } => {
                self.create
                    .push(format!("link add link {parent} {} type macvlan mode {mode}", new_device(&a, mtu)));
            }
            LinkKind::Dummy => self.create.push(format!("link add {} type dummy", new_device(&a, mtu))),
            LinkKind::Vxlan { remote, vni, dst_port, src_port, stitch: false } => {
                let source =
                    src_port.map(|p| format!(" srcport {p} {}", p.saturating_add(1))).unwrap_or_default();
                let device = new_device(&a, mtu);
                self.create.push(format!(
                    "link add {device} type vxlan id {vni} remote {remote} dstport {dst_port}{source}"
                ));
            }
            LinkKind::Vxlan { stitch: true, .. } => {
                return Err(unsupported(&link.a, "vxlan-stitch links need containerlab; use a vxlan link"));
            }
            LinkKind::MgmtNet { .. } => {
                let a = &link.a;
                self.warnings.push(format!(
                    "link {}:{}: there is no management network here: left out",
                    a.node, a.interface
                ));
                return Ok(());
            }
        }
        self.finish_end(a);
        Ok(())
    }

    fn finish_end(&mut self, end: End) {
        if end.side == Side::Machine {
            self.machine.push(end.name.clone());
        }
        let lines = self.finish.entry(end.side).or_default();
        lines.extend(end.finish);
        lines.push(format!("link set dev {} up", end.name));
    }

    /// True if it needs interfaces or bridges of the machine.
    pub(crate) fn is_tied_to_machine(&self) -> bool {
        !self.machine.is_empty() || !self.needed_bridges.is_empty()
    }

    /// Makes all links.
    ///
    /// # Errors
    /// What `ip` says: a bridge or parent that is missing, a name that is taken, a driver the kernel lacks.
    pub(crate) fn apply(&self) -> Result<(), LabError> {
        for bridge in &self.needed_bridges {
            if !std::path::Path::new("/sys/class/net").join(bridge).join("bridge").is_dir() {
                let what = format!(
                    "this machine has no such bridge: ip link add {bridge} type bridge && ip link set {bridge} up"
                );
                return Err(LabError::Node { node: bridge.clone(), what });
            }
        }
        ip_batch(&Side::Machine, &self.create, "make links")?;
        std::thread::scope(|scope| {
            let parts: Vec<_> = self
                .finish
                .iter()
                .map(|(side, lines)| scope.spawn(move || ip_batch(side, lines, "set links up")))
                .collect();
            parts
                .into_iter()
                .try_for_each(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }
}

fn new_device(end: &End, mtu: u32) -> String {
    let netns = match &end.side {
        Side::Machine => String::new(),
        Side::Netns(name) => format!(" netns {name}"),
    };
    format!("name {} address {} mtu {mtu}{netns}", end.name, end.mac)
}

fn end(lab: &Lab, endpoint: &Endpoint) -> Result<End, LabError> {
    let Some(node) = lab.nodes.get(&endpoint.node) else {
        return Err(unsupported(endpoint, "there is no such node"));
    };
    let mac =
        endpoint.mac.map_or_else(|| mac(lab, &endpoint.node, &endpoint.interface), |mac| mac.to_string());
    let mut finish = Vec::new();
    let name = if endpoint.interface.len() <= 15 {
        endpoint.interface.clone()
    } else {
        // The kernel takes 15 bytes; longer ones live beside the name.
        let short = format!("clab-{:08x}", hash(&format!("{}:{}", endpoint.node, endpoint.interface)) as u32);
        let long: String =
            endpoint.interface.chars().map(|c| if c == '/' || c == ' ' { '-' } else { c }).collect();
        finish.push(format!("link property add dev {short} altname {long}"));
        short
    };
    let side = match node.kind.as_str() {
        "host" => Side::Machine,
        "bridge" | "ovs-bridge" => {
            finish.push(format!("link set dev {name} master {}", bridge_name(node)));
            bridge_side(lab, node)?
        }
        _ => Side::Netns(lab.container_name(&node.name)),
    };
    Ok(End { side, name, mac, finish })
}

/// A node of kind bridge may be named `br01|n1`: the bridge is br01 then.
fn bridge_name(node: &Node) -> &str {
    node.name.split('|').next().unwrap_or(&node.name)
}

fn bridge_side(lab: &Lab, node: &Node) -> Result<Side, LabError> {
    if node.kind == "ovs-bridge" {
        let what = "ovs-bridge needs Open vSwitch and containerlab; use a bridge".to_owned();
        return Err(LabError::Unsupported { subject: format!("node {}", node.name), what });
    }
    match node.network_mode.as_deref().and_then(|mode| mode.strip_prefix("container:")) {
        Some(owner) => Ok(Side::Netns(lab.container_name(owner))),
        None => Ok(Side::Machine),
    }
}

/// `aa:c1:ab` like containerlab's, and three bytes that are the same at every `up`: captures stay comparable.
fn mac(lab: &Lab, node: &str, interface: &str) -> String {
    let [a, b, c, ..] = hash(&format!("{}/{node}/{interface}", lab.name)).to_be_bytes();
    format!("aa:c1:ab:{a:02x}:{b:02x}:{c:02x}")
}

/// FNV-1a, finished by a mix so that the upper bytes differ for similar texts.
fn hash(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn unsupported(endpoint: &Endpoint, what: &str) -> LabError {
    let subject = format!("link {}:{}", endpoint.node, endpoint.interface);
    LabError::Unsupported { subject, what: what.to_owned() }
}

/// Runs lines in one `ip` process, stopping at the first that fails.
fn ip_batch(side: &Side, lines: &[String], task: &str) -> Result<(), LabError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Side::Netns(name) = side {
        command.args(["-n", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .act(|| "run ip (package iproute2)".to_owned())?;
    if let Some(mut input) = child.stdin.take() {
        let mut text = lines.join("\n");
        text.push('\n');
        // It stops reading at a line that fails; its message tells more than a broken pipe.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().act(|| "wait for ip".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(LabError::Program { program: format!("ip, to {task}"), output: explain(&error, lines) })
}

/// `ip -batch` names a line by its number only.
fn explain(error: &str, lines: &[String]) -> String {
    let number = error.rsplit_once("-:").and_then(|(_, n)| n.trim().parse::<usize>().ok());
    match number.and_then(|n| lines.get(n.checked_sub(1)?)) {
        Some(line) => format!("{} (ip {line})", error.lines().next().unwrap_or_default()),
        None => error.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_failed_is_named() {
        let lines = ["link add name a".to_owned(), "link add name b".to_owned()];
        let text = explain("RTNETLINK answers: File exists\nCommand failed -:2\n", &lines);
        assert_eq!(text, "RTNETLINK answers: File exists (ip link add name b)");
        assert_eq!(explain("odd\n", &lines), "odd");
    }

    #[test]
    fn addresses_made_of_similar_names_differ() {
        let all: BTreeSet<_> = (0..1000).map(|n| hash(&format!("lab/leaf{n}/eth1")) >> 40).collect();
        assert_eq!(all.len(), 1000);
    }
}
