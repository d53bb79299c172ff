//! Who takes part: workloads that the agents attach, machines that know nothing of us, and a program that plays a VM.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::process::Daemon;
use causeway_tests::{Lab, wait_for};
use serde_json::Value;

/// Somebody with addresses.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    /// What it is called, in tables and as a port.
    pub(crate) name: &'static str,
    /// The lab's node it is on, or is.
    pub(crate) node: &'static str,
    /// Whether it is a workload in a namespace of its own on the node.
    pub(crate) workload: bool,
    /// How it hangs on the node.
    pub(crate) attachment: &'static str,
    pub(crate) ipv4: String,
    pub(crate) ipv6: String,
}

impl Party {
    /// A shell line that runs `line` where the party is. The line must have no single quotes.
    pub(crate) fn inside(&self, line: &str) -> String {
        if self.workload {
            format!("ip netns exec {} sh -c '{line}'", self.name)
        } else {
            format!("sh -c '{line}'")
        }
    }

    pub(crate) fn addresses(&self) -> [&str; 2] {
        [&self.ipv4, &self.ipv6]
    }
}

/// Name, node, attachment, network. A link carries macvlans or ipvlans, so host2 has the ones in `web`, the others in `db`.
const WORKLOADS: [(&str, &str, &str, &str); 8] = [
    ("b1", "host1", "bridge", "web"),
    ("b2", "host1", "bridge", "web"),
    ("b3", "host1", "bridge", "db"),
    ("vm1", "host1", "tap", "web"),
    ("m1", "host2", "macvlan", "web"),
    ("m2", "host2", "macvlan", "web"),
    ("i1", "host2", "ipvlan", "db"),
    ("i2", "host2", "ipvlan", "db"),
];

/// Name, network, port of leaf3, MAC, addresses. They have these in place of those of the lab, which the controller keeps
/// away from ports.
const MACHINES: [(&str, &str, &str, &str, &str, &str); 2] = [
    ("bm1", "web", "eth3", "02:00:00:00:00:b1", "10.10.0.100", "fd00:10::100"),
    ("bm2", "db", "eth4", "02:00:00:00:00:b2", "10.20.0.100", "fd00:20::100"),
];

/// Behind the routed port: a type 5 prefix each family.
const CLOUD: (&str, &str) = ("172.31.0.1", "fd31::1");

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

/// Everybody, and the programs that play VMs.
#[derive(Debug)]
pub(crate) struct Parties {
    all: Vec<Party>,
    _vms: Vec<Daemon>,
}

impl Parties {
    pub(crate) fn get(&self, name: &str) -> Result<&Party> {
        self.all.iter().find(|p| p.name == name).with_context(|| format!("there is no party {name}"))
    }
}

/// Namespaces on the hosts, second addresses on the machines, ports on the controller; then all are where they belong.
pub(crate) async fn create(lab: &Lab) -> Result<Parties> {
    let on = |node| WORKLOADS.iter().filter(move |w| w.1 == node).map(|w| w.0);
    for host in ["host1", "host2"] {
        let script: String = on(host).map(|name| format!("ip netns add {name}\n")).collect();
        lab.shell(host, &script).await?;
    }
    for (name, network, _, _, ipv4, ipv6) in MACHINES {
        let net = if network == "web" { "10" } else { "20" };
        let batch = format!(
            "address flush dev eth1 scope global\naddress add {ipv4}/24 dev eth1\naddress add {ipv6}/64 dev eth1 nodad\n\
             route replace default via 10.{net}.0.1\nroute replace default via fd00:{net}::1\n"
        );
        lab.shell(name, &format!("ip -batch - <<END\n{batch}END\n")).await?;
    }
    let mut script = String::from("set -e\n");
    for (name, node, attachment, network) in WORKLOADS {
        let place = match attachment {
            "tap" => "--workload vm".to_string(),
            _ => format!("--netns /run/netns/{name} --attachment {attachment}"),
        };
        script += &format!("causeway port create red/{network}/{name} --bind-node {node} {place} -o json\n");
    }
    for (name, network, interface, mac, ipv4, ipv6) in MACHINES {
        script += &format!(
            "causeway port create red/{network}/{name} --address {ipv4} --address {ipv6} --mac {mac} \
             --bind-node leaf3 --workload bare-metal --interface {interface} -o json\n"
        );
    }
    lab.script("ctl", &script, Duration::from_secs(60)).await?;
    let ports = wait_for("all ports are programmed and advertised", Duration::from_secs(60), async || {
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
    .await?;
    let all = parties(&ports)?;
    let vms = start_vms(lab, &ports).await?;
    Ok(Parties { all, _vms: vms })
}

fn parties(ports: &[Value]) -> Result<Vec<Party>> {
    let mut all = Vec::new();
    for (name, node, attachment, _) in WORKLOADS {
        let port = port(ports, name)?;
        let address = |n: usize| {
            Ok::<_, anyhow::Error>(port["addresses"][n].as_str().context("no address")?.to_string())
        };
        all.push(Party { name, node, workload: true, attachment, ipv4: address(0)?, ipv6: address(1)? });
    }
    let alone = |name, ipv4: &str, ipv6: &str| Party {
        name,
        node: name,
        workload: false,
        attachment: "bare metal",
        ipv4: ipv4.to_string(),
        ipv6: ipv6.to_string(),
    };
    all.extend(MACHINES.map(|(name, _, _, _, ipv4, ipv6)| alone(name, ipv4, ipv6)));
    all.push(alone("cloud", CLOUD.0, CLOUD.1));
    Ok(all)
}

fn port<'a>(ports: &'a [Value], name: &str) -> Result<&'a Value> {
    ports.iter().find(|p| p["key"]["name"] == name).with_context(|| format!("there is no port {name}"))
}

/// The VMs' programs, and their cards' addresses, as they would take them by themselves.
async fn start_vms(lab: &Lab, ports: &[Value]) -> Result<Vec<Daemon>> {
    let mut vms = Vec::new();
    for (name, node, _, network) in WORKLOADS.into_iter().filter(|w| w.2 == "tap") {
        let port = port(ports, name)?;
        let text = |value: &Value| value.as_str().map(ToString::to_string).context("no text");
        let (tap, mac) = (text(&port["binding"]["interface"])?, text(&port["mac"])?);
        let (ipv4, ipv6) = (text(&port["addresses"][0])?, text(&port["addresses"][1])?);
        let net = if network == "web" { "10" } else { "20" };
        let vm = lab.spawn(node, &["perl", "-e", VM, &tap, name])?;
        wait_for("the VM has its tap", Duration::from_secs(20), async || {
            ensure!(vm.log().contains("the VM runs"), "it says: {}", vm.log());
            Ok(())
        })
        .await?;
        let card = format!(
            "set -e; ip link set {name} netns {name} address {mac} mtu 1450 addrgenmode none name eth0; ip -n {name} -batch - <<END\n\
             link set lo up\nlink set eth0 up\naddress add {ipv4}/24 dev eth0\naddress add {ipv6}/64 dev eth0 nodad\n\
             route add default via 10.{net}.0.1\nroute add default via fd00:{net}::1\nEND\n"
        );
        lab.shell(node, &card).await?;
        vms.push(vm);
    }
    Ok(vms)
}
