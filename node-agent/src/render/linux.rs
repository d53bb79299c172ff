//! A shell script. Running it again is harmless: what it makes it makes only if it is missing, and everything else sets.

use super::{head, portable};
use crate::dev::{Dev, PROTOCOL};
use crate::fabric::{Step, Thing};
use crate::model::Desired;
use crate::op::Op;

pub(super) fn script(desired: &Desired, ops: &[Op], problems: &[String]) -> String {
    let mut text = "#!/bin/sh\n".to_owned();
    text += &head("#", desired, "Configuration", problems);
    text += "# It makes and sets; it removes nothing, and may be run again.\nset -e\n";
    let gateways = desired.networks().values().flat_map(|network| &network.gateways);
    // IPv4 forwards by interface; IPv6 has one switch for all.
    if gateways.into_iter().any(|gateway| gateway.ip.is_ipv6()) {
        text += "sysctl -w net.ipv6.conf.all.forwarding=1\n";
    }
    for op in ops {
        let command = portable(op).to_string();
        // Debian 12's iproute2 sets no protocol of addresses; the agent takes an address for what it is.
        let command = match op {
            Op::Fabric(Step::Put(Thing::Address(..), _)) => {
                command.replace(&format!(" proto {PROTOCOL}"), "")
            }
            _ => command,
        };
        if let Some(dev) = made(op) {
            text += &format!("ip link show dev {dev} >/dev/null 2>&1 || ");
        }
        text += &format!("{command}\n");
    }
    text
}

/// The device that a step makes.
fn made(op: &Op) -> Option<Dev> {
    match op {
        Op::BridgeAdd { vni, .. } => Some(Dev::bridge(*vni)),
        Op::VxlanAdd { vni, .. } => Some(Dev::vxlan(*vni)),
        Op::Fabric(Step::Make { dev, .. }) => Some(dev.clone()),
        _ => None,
    }
}
