//! What a Linux switch needs beside FRR: bridges, VXLAN devices, VRFs, gateways. In batches: in a slow guest it is the
//! start of a program that costs.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use causeway_proto::{Mac, Vni};

use crate::lab::{Mode, Role};
use crate::multihoming::{SegmentPort, segment_ports};
use crate::networks::{DEFAULT_MTU, Irb, Network};
use crate::plan::{Access, Domain, InterfaceUse, NodePlan, Plan};

/// The kernel's rule: a VRF's table ends with "unreachable", or what is not in it is looked up in the main table.
const LAST_METRIC: u32 = 4_278_198_272;

/// The script, or nothing: spines have no networks, and an agent makes all of it itself.
pub(super) fn text(plan: &Plan, own: &NodePlan, index: usize) -> Option<String> {
    if own.mode == Some(Mode::TorAgent) && !own.vrfs.is_empty() {
        return Some(plan.forwarding().to_owned());
    }
    let bonds = segment_ports(plan, own);
    let mut script = Script {
        plan,
        own,
        index,
        bonds,
        ip: String::new(),
        bridge: String::new(),
        addresses: String::new(),
        addressed: None,
        sysctls: Vec::new(),
    };
    let vtep = own.vtep.filter(|_| own.mode.is_some() && own.mode != Some(Mode::TorAgent));
    if let Some(vtep) = vtep {
        script.write(vtep).ok()?;
    }
    Some(script.finish())
}

/// The script in the making. Lines of a kind run together.
struct Script<'a> {
    plan: &'a Plan,
    own: &'a NodePlan,
    index: usize,
    /// Ports that are in a bond of their own, as a segment is one's.
    bonds: Vec<SegmentPort<'a>>,
    ip: String,
    bridge: String,
    /// Lines for `ip` when the devices are there.
    addresses: String,
    /// The last device that has one of them, and its VRF.
    addressed: Option<(String, String)>,
    /// Parameters of devices, set when these are there.
    sysctls: Vec<String>,
}

impl Script<'_> {
    fn finish(self) -> String {
        let mut out = String::new();
        if !self.sysctls.is_empty() {
            out += "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0\n";
        }
        let batch = |program: &str, lines: &str| match lines {
            "" => String::new(),
            _ => format!("{program} -batch - <<'END'\n{lines}END\n"),
        };
        out += &(batch("ip", &self.ip) + &batch("bridge", &self.bridge));
        if let Some((device, vrf)) = self.addressed.filter(|_| self.own.mode == Some(Mode::TorEvpn)) {
            out += &until_known(&device, &vrf);
        }
        out += &batch("ip", &self.addresses);
        if !self.sysctls.is_empty() {
            // What the kernel does not have (-e) is no reason to stop.
            out += &format!("sysctl -qew {}\n", self.sysctls.join(" "));
        }
        out
    }

    fn write(&mut self, vtep: IpAddr) -> std::fmt::Result {
        let (plan, own) = (self.plan, self.own);
        let domains: Vec<&Domain> = own.vrfs.iter().filter_map(|name| plan.vrfs.get(name)).collect();
        for domain in &domains {
            self.vrf(domain)?;
        }
        self.bonds()?;
        let vlan_of = |access: &Access| plan.network(access.vni).and_then(|n| n.vlan);
        let (aware, plain): (Vec<&Access>, Vec<&Access>) =
            own.access.iter().partition(|a| vlan_of(a).is_some());
        if !aware.is_empty() {
            self.vlan_aware_bridge(&aware)?;
        }
        for access in &plain {
            self.own_bridge(access)?;
        }
        let networks = aware.iter().chain(&plain);
        for access in networks {
            self.vxlan(access, vtep)?;
        }
        for access in &aware {
            self.vlan(access)?;
        }
        for domain in &domains {
            self.l3_vni(domain, vtep)?;
        }
        self.routed_ports()
    }

    fn vrf(&mut self, domain: &Domain) -> std::fmt::Result {
        let (name, table) = (&domain.vrf.name, domain.table);
        writeln!(self.ip, "link add {name} type vrf table {table}\nlink set {name} up")?;
        for all in ["0.0.0.0/0", "::/0"] {
            writeln!(self.ip, "route add table {table} unreachable {all} metric {LAST_METRIC}")?;
        }
        Ok(())
    }

    /// A static LAG, as the machine's end is one: the leaves speak no LACP with it.
    fn bonds(&mut self) -> std::fmt::Result {
        for SegmentPort { port, bond, .. } in &self.bonds {
            let (name, mtu) = (&port.name, port.mtu);
            let ip = &mut self.ip;
            writeln!(ip, "link add {bond} mtu {mtu} type bond mode balance-xor miimon 100")?;
            // The kernel takes no link into a bond that is up.
            writeln!(ip, "link set {name} down\nlink set {name} addrgenmode none")?;
            writeln!(ip, "link set {name} master {bond}")?;
        }
        Ok(())
    }

    /// The device that is the bridge's port: the bond of a port that is in one.
    fn bridge_port<'b>(&'b self, port: &'b str) -> &'b str {
        self.bonds.iter().find(|bond| bond.port.name == port).map_or(port, |bond| &bond.bond)
    }

    /// MACs are fixed before a device is up, and no device makes itself an IPv6 address: otherwise an interim MAC leaks
    /// into EVPN by neighbour discovery.
    fn device_mac(&self, kind: u8, vni: u32) -> String {
        let ([_, a, b, c], node) = (vni.to_be_bytes(), self.index & 0xff);
        format!("02:{kind:02x}:{node:02x}:{a:02x}:{b:02x}:{c:02x}")
    }

    fn mtu(&self, vni: Vni) -> u32 {
        self.plan.network(vni).map_or(DEFAULT_MTU, |n| n.mtu)
    }

    /// One bridge for all networks with a VLAN. Its MTU is set: else it would be that of the smallest port.
    fn vlan_aware_bridge(&mut self, networks: &[&Access]) -> std::fmt::Result {
        let mac = self.device_mac(0, 0);
        let mtu = networks.iter().map(|a| self.mtu(a.vni)).max().unwrap_or(DEFAULT_MTU);
        let ports: BTreeSet<String> = networks
            .iter()
            .flat_map(|a| a.ports.iter().chain(&a.tagged))
            .map(|port| self.bridge_port(port).to_owned())
            .collect();
        let ip = &mut self.ip;
        writeln!(
            ip,
            "link add br0 address {mac} mtu {mtu} type bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0"
        )?;
        writeln!(ip, "link set br0 addrgenmode none")?;
        for port in ports {
            writeln!(ip, "link set {port} master br0 addrgenmode none\nlink set {port} up")?;
        }
        writeln!(ip, "link set br0 up")
    }

    /// A bridge of its own for a network that is only ever untagged: any kernel can do that.
    fn own_bridge(&mut self, access: &Access) -> std::fmt::Result {
        let vni = access.vni;
        let gateway = self.plan.network(vni).filter(|n| is_gateway(n));
        let mac = gateway.map_or_else(|| self.device_mac(0, vni.get()), |n| n.gateway_mac.to_string());
        let ports: Vec<String> = access.ports.iter().map(|port| self.bridge_port(port).to_owned()).collect();
        let ip = &mut self.ip;
        writeln!(
            ip,
            "link add br{vni} address {mac} type bridge stp_state 0\nlink set br{vni} addrgenmode none"
        )?;
        for port in &ports {
            writeln!(ip, "link set {port} master br{vni} addrgenmode none\nlink set {port} up")?;
        }
        writeln!(ip, "link set br{vni} up")?;
        gateway.map_or(Ok(()), |network| self.gateway(network, &format!("br{vni}")))
    }

    /// The VXLAN device of a network. A switch without EVPN learns from what it receives, and floods to every VTEP that
    /// may have the network.
    fn vxlan(&mut self, access: &Access, vtep: IpAddr) -> std::fmt::Result {
        let vni = access.vni;
        // Of a network that is not declared nothing is known but its number.
        let mtu = self.plan.network(vni).map_or_else(String::new, |n| format!(" mtu {}", n.mtu));
        let aware = self.plan.network(vni).is_some_and(|n| n.vlan.is_some());
        let bridge = if aware { "br0".to_owned() } else { format!("br{vni}") };
        let is_static = self.own.mode == Some(Mode::TorStatic);
        let (device, port) = if is_static { ("learning", "on") } else { ("nolearning", "off") };
        let mac = self.device_mac(1, vni.get());
        let ip = &mut self.ip;
        writeln!(
            ip,
            "link add vx{vni} address {mac}{mtu} type vxlan id {vni} local {vtep} dstport 4789 {device}"
        )?;
        writeln!(ip, "link set vx{vni} master {bridge} addrgenmode none")?;
        let suppress = if is_static { "off" } else { "on" };
        let flood = if aware && self.all_tell(vni) { " flood off" } else { "" };
        let ip = &mut self.ip;
        writeln!(ip, "link set vx{vni} type bridge_slave neigh_suppress {suppress} learning {port}{flood}")?;
        writeln!(ip, "link set vx{vni} up")?;
        if is_static {
            for remote in self.remotes(vni) {
                writeln!(
                    self.bridge,
                    "fdb append 00:00:00:00:00:00 dev vx{vni} dst {remote} self permanent"
                )?;
            }
        }
        Ok(())
    }

    /// Whether all switches with a network tell the others every MAC they learn: then a frame to a MAC that nobody has told
    /// of is for nobody, and need not be sent to all. Broadcasts, such as ARP requests, still are.
    fn all_tell(&self, vni: Vni) -> bool {
        let has = |node: &&NodePlan| node.role != Role::Host && node.access.iter().any(|a| a.vni == vni);
        self.plan.nodes.values().filter(has).all(|node| node.mode == Some(Mode::TorEvpn))
    }

    /// VTEPs that may have a network: switches with it, and every host that is one.
    fn remotes(&self, vni: Vni) -> BTreeSet<IpAddr> {
        let has = |node: &&NodePlan| node.role == Role::Host || node.access.iter().any(|a| a.vni == vni);
        let vteps = self.plan.nodes.values().filter(has).filter_map(|n| n.vtep);
        vteps.filter(|v| Some(*v) != self.own.vtep).collect()
    }

    /// VLAN membership of a network, and its interface for routing.
    fn vlan(&mut self, access: &Access) -> std::fmt::Result {
        let Some(network) = self.plan.network(access.vni) else { return Ok(()) };
        let (Some(vlan), vni) = (network.vlan, network.vni) else { return Ok(()) };
        writeln!(self.bridge, "vlan add dev vx{vni} vid {vlan} pvid untagged")?;
        for (ports, how) in [(&access.ports, " pvid untagged"), (&access.tagged, "")] {
            for port in ports {
                let line = format!("vlan add dev {} vid {vlan}{how}", self.bridge_port(port));
                writeln!(self.bridge, "{line}")?;
            }
        }
        if !is_gateway(network) {
            return Ok(());
        }
        let (mac, mtu) = (network.gateway_mac, network.mtu);
        writeln!(self.ip, "link add link br0 name vlan{vlan} address {mac} mtu {mtu} type vlan id {vlan}")?;
        writeln!(self.ip, "link set vlan{vlan} addrgenmode none")?;
        // The bridge knows the gateway's MAC as its own: else it would flood what is sent there, and every switch that
        // gets it would route it once more.
        writeln!(self.bridge, "vlan add dev br0 vid {vlan} self")?;
        writeln!(self.bridge, "fdb add {mac} dev br0 vlan {vlan} self permanent")?;
        self.gateway(network, &format!("vlan{vlan}"))
    }

    /// Anycast gateway addresses on the device of a network. All switches have the same, so the answer to one's question
    /// may end at another: it makes a neighbour of what it did not ask for, and announces MAC and address (IPv6: RFC 9131,
    /// since kernel 5.19).
    fn gateway(&mut self, network: &Network, device: &str) -> std::fmt::Result {
        if network.vrf != "default" {
            writeln!(self.ip, "link set {device} master {}", network.vrf)?;
        }
        writeln!(self.ip, "link set {device} up")?;
        for address in &network.gateways {
            // The kernel gives the IPv6 subnet of an address metric 256, zebra gives routes of BGP 20: a type 5 route of another
            // leaf with the same anycast gateway would win, and each would send the other what is for its own link.
            let more = if address.is_ipv4() { "" } else { " metric 1 nodad" };
            writeln!(self.addresses, "address add {address} dev {device}{more}")?;
        }
        // For a packet that is not its own the kernel solicits neighbours from a link-local address, or not at all.
        if network.gateways.iter().any(|g| g.is_ipv6()) {
            writeln!(
                self.addresses,
                "address add {}/64 dev {device} nodad",
                link_local(network.gateway_mac)
            )?;
        }
        self.addressed = Some((device.to_owned(), network.vrf.clone()));
        self.sysctls.push(format!("net.ipv4.conf.{device}.arp_accept=1"));
        self.sysctls.push(format!("net.ipv6.conf.{device}.accept_untracked_na=1"));
        self.sysctls.push(format!("net.ipv4.conf.{device}.rp_filter=0"));
        Ok(())
    }

    /// The L3 VNI of a VRF: a bridge of its own with this switch's router MAC and no address.
    fn l3_vni(&mut self, domain: &Domain, vtep: IpAddr) -> std::fmt::Result {
        let (Some(vni), Some(router)) = (domain.vrf.l3_vni, self.own.router_mac) else { return Ok(()) };
        let vrf = &domain.vrf.name;
        let networks = self.plan.networks.values().filter(|n| n.vrf == *vrf);
        let mtu = networks.map(|n| n.mtu).max().unwrap_or(DEFAULT_MTU);
        let mac = self.device_mac(1, vni.get());
        let ip = &mut self.ip;
        writeln!(ip, "link add br{vni} address {router} mtu {mtu} type bridge stp_state 0")?;
        writeln!(ip, "link set br{vni} master {vrf} addrgenmode none")?;
        writeln!(
            ip,
            "link add vx{vni} address {mac} mtu {mtu} type vxlan id {vni} local {vtep} dstport 4789 nolearning"
        )?;
        writeln!(ip, "link set vx{vni} master br{vni} addrgenmode none")?;
        writeln!(
            ip,
            "link set vx{vni} type bridge_slave learning off\nlink set br{vni} up\nlink set vx{vni} up"
        )?;
        self.sysctls.push(format!("net.ipv4.conf.br{vni}.rp_filter=0"));
        if self.own.mode == Some(Mode::TorStatic) { self.static_routes(vrf, vni) } else { Ok(()) }
    }

    /// Prefixes behind the routed ports of other switches.
    fn static_routes(&mut self, vrf: &str, vni: Vni) -> std::fmt::Result {
        let others = self.plan.nodes.values().filter(|n| n.vtep != self.own.vtep);
        for other in others {
            let prefixes: Vec<_> =
                other.routed.iter().filter(|r| r.vrf == vrf && r.prefix.is_ipv4()).collect();
            let (Some(vtep), Some(router)) = (other.vtep, other.router_mac) else { continue };
            if prefixes.is_empty() {
                continue;
            }
            self.router(vni, vtep, router)?;
            for route in prefixes {
                writeln!(self.ip, "route add {} via {vtep} dev br{vni} onlink vrf {vrf}", route.prefix)?;
            }
        }
        Ok(())
    }

    /// Another switch as router of an L3 VNI.
    fn router(&mut self, vni: Vni, vtep: IpAddr, router: Mac) -> std::fmt::Result {
        writeln!(self.ip, "neighbor replace {vtep} lladdr {router} dev br{vni} nud permanent")?;
        writeln!(self.bridge, "fdb replace {router} dev vx{vni} dst {vtep} self static")
    }

    fn routed_ports(&mut self) -> std::fmt::Result {
        for port in self.own.interfaces.iter().filter(|i| i.usage == InterfaceUse::Routed) {
            let (Some(vrf), name) = (&port.vrf, &port.name) else { continue };
            writeln!(self.ip, "link set {name} master {vrf}\nlink set {name} up")?;
            for address in [port.address, port.second].into_iter().flatten() {
                let nodad = if address.is_ipv4() { "" } else { " nodad" };
                writeln!(self.addresses, "address add {address} dev {name}{nodad}")?;
            }
            self.addressed = Some((name.clone(), vrf.clone()));
            self.sysctls.push(format!("net.ipv4.conf.{name}.rp_filter=0"));
        }
        Ok(())
    }
}

/// zebra reads links and addresses in two threads. An address that overtakes its device, or the device's way into a VRF,
/// is forgotten for good (FRR 8), and the subnet with it: so the addresses wait for the last device. Without FRR the rest
/// of the script is of use all the same.
fn until_known(device: &str, vrf: &str) -> String {
    format!(
        "# Addresses that FRR hears of before their devices are lost to it.\n\
         n=0; until vtysh -c 'show interface {device}' 2>&1 | grep -q 'vrf: {vrf}' || [ $n -ge 50 ]; do n=$((n + 1)); sleep 0.2; done\n"
    )
}

/// The link-local address of a MAC (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets().map(u16::from);
    let (first, second) = (((a ^ 2) << 8) | b, (c << 8) | 0xff);
    Ipv6Addr::new(0xfe80, 0, 0, 0, first, second, 0xfe00 | d, (e << 8) | f)
}

/// True if switches answer for the network's gateways.
fn is_gateway(network: &Network) -> bool {
    network.irb != Irb::None && !network.gateways.is_empty()
}
