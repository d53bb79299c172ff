//! FRR beside the Linux configuration: which VRF has which L3 VNI. The rest it reads from the kernel.

use super::head;
use crate::dev::Dev;
use crate::model::{Desired, Mode};

pub(super) fn config(desired: &Desired, problems: &[String]) -> String {
    let mut text = head("!", desired, "FRR configuration", problems);
    text += "! Devices, VLANs and gateways come from the Linux configuration.\n";
    for (name, vrf) in desired.fabric().vrfs() {
        let Some(l3) = vrf.l3 else { continue };
        match vrf.table {
            None => text += &format!("vni {}\n!\n", l3.vni),
            Some(table) => {
                text += &format!("! VRF {name}\nvrf {}\n vni {}\nexit-vrf\n!\n", Dev::vrf(table), l3.vni);
            }
        }
    }
    if desired.fabric().mode() == Mode::TorEvpn {
        text += "! In the BGP instance: address-family l2vpn evpn, advertise-all-vni.\n";
        for vrf in desired.fabric().vrfs().values().filter(|vrf| vrf.l3.is_some()) {
            if let Some(table) = vrf.table {
                let dev = Dev::vrf(table);
                text += &format!(
                    "! In the BGP instance of vrf {dev}: redistribute connected for both families; address-family l2vpn \
                     evpn, advertise ipv4 unicast, advertise ipv6 unicast.\n"
                );
            }
        }
    }
    text
}
