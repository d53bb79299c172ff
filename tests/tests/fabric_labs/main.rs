//! Labs whose switches do VXLAN, from end to end: every mode of a switch, VRFs with the same addresses, IPv4 and IPv6.

mod dual_stack;
mod modes;
mod vrf;

use causeway_tests::fabric::Machine;

/// What the labs' set-up needs of the kernel.
const FEATURES: [&str; 3] = ["8021q", "vlan_filtering", "vrf"];

/// What the controller says of tunnels and the other way round, on a switch that speaks EVPN.
const TUNNELS: &str = "vtysh -c 'show evpn vni json'";

/// A machine of a lab: name, VRF/NETWORK, port of a switch, MAC, addresses.
const fn machine(
    name: &'static str,
    network: &'static str,
    (switch, interface): (&'static str, &'static str),
    mac: &'static str,
    (ipv4, ipv6): (&'static str, &'static str),
) -> Machine {
    Machine { name, network, switch, interface, mac, ipv4, ipv6 }
}
