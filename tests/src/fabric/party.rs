//! Who takes part: workloads that the agents attach, machines that know nothing of us, and a program that plays a VM.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::Daemon;
use crate::{Lab, wait_for};

/// Somebody with addresses.
#[derive(Debug, Clone)]
pub struct Party {
    /// What it is called, in tables and as a port.
    pub name: &'static str,
    /// The lab's node it is on, or is.
    pub node: &'static str,
    /// Whether it is a workload in a namespace of its own on the node.
    pub workload: bool,
    /// How it hangs on the node.
    pub attachment: &'static str,
    /// Its IPv4 address; empty if it has none.
    pub ipv4: String,
    /// Its IPv6 address; empty if it has none.
    pub ipv6: String,
}

impl Party {
    /// A machine with these addresses.
    pub fn alone(name: &'static str, ipv4: &str, ipv6: &str) -> Party {
        let (ipv4, ipv6) = (ipv4.to_string(), ipv6.to_string());
        Party { name, node: name, workload: false, attachment: "bare metal", ipv4, ipv6 }
    }

    /// A shell line that runs `line` where the party is. The line must have no single quotes.
    pub fn inside(&self, line: &str) -> String {
        if self.workload {
            format!("ip netns exec {} sh -c '{line}'", self.name)
        } else {
            format!("sh -c '{line}'")
        }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<&str> {
        [&self.ipv4, &self.ipv6].into_iter().filter(|a| !a.is_empty()).map(String::as_str).collect()
    }

    /// Address by address of the families that both have: its own, and the other's.
    pub fn common<'a>(&'a self, other: &'a Party) -> Vec<(&'a str, &'a str)> {
        let both = [(&self.ipv4, &other.ipv4), (&self.ipv6, &other.ipv6)];
        both.into_iter()
            .filter(|(a, b)| !a.is_empty() && !b.is_empty())
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect()
    }

    /// Rows for [`super::reach`] and [`super::tcp`]: each of these, and all others.
    pub fn all_to_all<'a>(all: &[&'a Party]) -> Vec<(&'a Party, Vec<&'a Party>)> {
        let others = |from: &Party| all.iter().copied().filter(|to| to.name != from.name).collect();
        all.iter().map(|from| (*from, others(from))).collect()
    }
}

/// A workload that an agent attaches, or a VM for which it makes a tap.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Of its port and its namespace.
    pub name: &'static str,
    /// Where it runs.
    pub node: &'static str,
    /// `tap`, another word of `--attachment`, or empty for what fits the node.
    pub attachment: &'static str,
    /// VRF/NETWORK.
    pub network: &'static str,
    /// More words of `port create`.
    pub options: &'static str,
}

/// A node of the lab that knows nothing of us. It has these addresses in place of those of the lab, which the
/// controller keeps away from ports.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// The node; also the port.
    pub name: &'static str,
    /// VRF/NETWORK.
    pub network: &'static str,
    /// The switch at the other end of its eth1.
    pub switch: &'static str,
    /// That end.
    pub interface: &'static str,
    /// As the lab says.
    pub mac: &'static str,
    /// Empty: none.
    pub ipv4: &'static str,
    /// Empty: none.
    pub ipv6: &'static str,
}

/// The gateway of every network here: the first address of its /24 or /64.
fn gateway(address: &str) -> String {
    let separator = if address.contains(':') { ':' } else { '.' };
    let network = address.rsplit_once(separator).map_or(address, |(network, _)| network);
    format!("{network}{separator}1")
}

/// Lines for `ip -batch`: addresses and default routes of a card.
fn settings(dev: &str, addresses: &[&str]) -> String {
    let line = |address: &&str| {
        let (length, nodad) = if address.contains(':') { (64, " nodad") } else { (24, "") };
        let gateway = gateway(address);
        format!("address add {address}/{length} dev {dev}{nodad}\nroute replace default via {gateway}\n")
    };
    addresses.iter().map(line).collect()
}

/// Everybody, and the programs that play VMs.
#[derive(Debug)]
pub struct Parties {
    all: Vec<Party>,
    /// How many of them are ports.
    pub ports: usize,
    _vms: Vec<Daemon>,
}

impl Parties {
    /// Somebody by name.
    pub fn get(&self, name: &str) -> Result<&Party> {
        self.all.iter().find(|p| p.name == name).with_context(|| format!("there is no party {name}"))
    }

    /// Somebody who is no port.
    pub fn add(&mut self, party: Party) {
        self.all.push(party);
    }

    /// These, by name.
    pub fn these(&self, names: &[&str]) -> Result<Vec<&Party>> {
        names.iter().map(|name| self.get(name)).collect()
    }

    /// Rows for [`super::reach`]: names of who pings, each with names of whom.
    pub fn rows(&self, names: &[(&str, &[&str])]) -> Result<Vec<(&Party, Vec<&Party>)>> {
        let row = |(from, to): &(&str, &[&str])| {
            Ok((self.get(from)?, to.iter().map(|name| self.get(name)).collect::<Result<_>>()?))
        };
        names.iter().map(row).collect()
    }
}

/// Namespaces on the hosts, other addresses on the machines, ports on the controller; then all are where they belong.
pub async fn create(lab: &Lab, workloads: &[Workload], machines: &[Machine]) -> Result<Parties> {
    let mut namespaces: BTreeMap<&str, String> = BTreeMap::new();
    for workload in workloads {
        *namespaces.entry(workload.node).or_default() += &format!("ip netns add {}\n", workload.name);
    }
    for (node, script) in namespaces {
        lab.shell(node, &script).await?;
    }
    for machine in machines {
        let addresses = settings("eth1", &addresses(machine));
        let batch = format!("address flush dev eth1 scope global\n{addresses}");
        lab.shell(machine.name, &format!("ip -batch - <<END\n{batch}END\n")).await?;
    }
    let mut script = String::from("set -e\n");
    for Workload { name, node, attachment, network, options } in workloads {
        let place = match *attachment {
            "tap" => "--workload vm".to_string(),
            "" => format!("--netns /run/netns/{name}"),
            _ => format!("--netns /run/netns/{name} --attachment {attachment}"),
        };
        script +=
            &format!("causeway port create {network}/{name} --bind-node {node} {place} {options} -o json\n");
    }
    for machine in machines {
        let Machine { name, network, switch, interface, mac, .. } = machine;
        let addresses: String = addresses(machine).iter().map(|a| format!("--address {a} ")).collect();
        script += &format!(
            "causeway port create {network}/{name} {addresses}--mac {mac} --bind-node {switch} \
             --workload bare-metal --interface {interface} -o json\n"
        );
    }
    lab.script("ctl", &script, Duration::from_secs(60)).await?;
    let ports = advertised(lab).await?;
    let mut all: Vec<Party> = Vec::new();
    for Workload { name, node, attachment, network, .. } in workloads {
        let mut party = Party { workload: true, node, attachment, ..Party::alone(name, "", "") };
        for address in port(&ports, network, name)?["addresses"].as_array().into_iter().flatten() {
            let address = address.as_str().context("no address")?.to_string();
            let place = if address.contains(':') { &mut party.ipv6 } else { &mut party.ipv4 };
            *place = address;
        }
        all.push(party);
    }
    all.extend(machines.iter().map(|m| Party::alone(m.name, m.ipv4, m.ipv6)));
    let vms = start_vms(lab, &all, workloads, &ports).await?;
    Ok(Parties { ports: all.len(), all, _vms: vms })
}

fn addresses(machine: &Machine) -> Vec<&'static str> {
    [machine.ipv4, machine.ipv6].into_iter().filter(|address| !address.is_empty()).collect()
}

/// Waits until all ports are programmed and told of.
async fn advertised(lab: &Lab) -> Result<Vec<Value>> {
    wait_for("all ports are programmed and advertised", Duration::from_secs(60), async || {
        let ports = lab.json("ctl", &["causeway", "port", "list", "-o", "json"]).await?;
        let ports = ports.as_array().context("no list of ports")?.clone();
        let late = |p: &&Value| p["state"] != "advertised" || p["problem"] != "";
        let late: Vec<String> = ports
            .iter()
            .filter(late)
            .map(|p| format!("{}: {} {}", p["key"]["name"], p["state"], p["problem"]))
            .collect();
        ensure!(late.is_empty(), "{late:#?}");
        Ok(ports)
    })
    .await
}

fn port<'a>(ports: &'a [Value], network: &str, name: &str) -> Result<&'a Value> {
    let is = |key: &Value| {
        let text = |field: &str| key[field].as_str().unwrap_or_default();
        key["name"] == name && format!("{}/{}", text("vrf"), text("network")) == network
    };
    ports.iter().find(|p| is(&p["key"])).with_context(|| format!("there is no port {network}/{name}"))
}

/// A VM as the kernel sees one: a program that has the port's tap open, and a network card that is another tap. $1 is
/// the port's tap; the card is called like the VM, and moved into its namespace afterwards.
const VM: &str = r#"use strict;
sub tap {
    open(my $file, "+<", "/dev/net/tun") or die "/dev/net/tun: $!";
    my $request = pack("Z16 s x22", $_[0], 0x1002); # IFF_TAP, IFF_NO_PI
    ioctl($file, 0x400454ca, $request) or die "$_[0]: $!"; # TUNSETIFF
    return $file;
}
my ($port, $card) = map { tap($_) } @ARGV;
$| = 1;
print "the VM runs\n";
my $both = "";
vec($both, fileno($_), 1) = 1 for ($port, $card);
while (select(my $ready = $both, undef, undef, undef)) {
    for ([$port, $card], [$card, $port]) {
        my ($from, $to) = @$_;
        next unless vec($ready, fileno($from), 1);
        my $frame;
        sysread($from, $frame, 65536) and syswrite($to, $frame);
    }
}
"#;

/// The VMs' programs, and their cards' addresses, as they would take them by themselves.
async fn start_vms(lab: &Lab, all: &[Party], workloads: &[Workload], ports: &[Value]) -> Result<Vec<Daemon>> {
    let mut vms = Vec::new();
    for (workload, party) in workloads.iter().zip(all).filter(|(w, _)| w.attachment == "tap") {
        let (name, node) = (workload.name, workload.node);
        let port = port(ports, workload.network, name)?;
        let tap = port["binding"]["interface"].as_str().context("no tap")?;
        let mac = port["mac"].as_str().context("no MAC")?;
        let vm = lab.spawn(node, &["perl", "-e", VM, tap, name])?;
        wait_for("the VM has its tap", Duration::from_secs(60), async || {
            ensure!(vm.log().contains("the VM runs"), "it says: {}", vm.log());
            Ok(())
        })
        .await?;
        let settings = settings("eth0", &party.addresses());
        let card = format!(
            "set -e; ip link set {name} netns {name} address {mac} mtu 1450 addrgenmode none name eth0; ip -n {name} -batch - <<END\n\
             link set lo up\nlink set eth0 up\n{settings}END\n"
        );
        lab.shell(node, &card).await?;
        vms.push(vm);
    }
    Ok(vms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_the_first_of_their_subnets() {
        assert_eq!(gateway("10.20.0.100"), "10.20.0.1");
        assert_eq!(gateway("fd00:20::100"), "fd00:20::1");
    }
}
