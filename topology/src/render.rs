//! What a plan's nodes need, as text: routing configuration, set-up scripts, the controller's records, the address plan,
//! and the containerlab file itself. All of it is a function of the lab and its plan.

mod clab;
mod frr;
mod machine;
mod records;
mod switch;
mod table;
mod vrf;

use crate::lab::Lab;
use crate::plan::Plan;

pub use table::{AddressPlan, Network, Node, NodeInterface, NodeNetwork, Session, Vrf};

/// `frr.conf` of a switch, addresses of its interfaces included. `None`: the node is no switch of the plan.
///
/// It works with FRR 8.4 and 10. VRFs and bridges are made by [`setup`], before or after FRR has started.
pub fn frr(lab: &Lab, plan: &Plan, node: &str) -> Option<String> {
    frr::text(lab, plan, node)
}

/// `daemons` of a switch: which of FRR's daemons run. `staticd` has the routes to hosts; FRR starts zebra always.
pub fn daemons() -> String {
    "bgpd=yes\nstaticd=yes\nvtysh_enable=yes\n\
     zebra_options=\"  -A 127.0.0.1 -s 90000000\"\nbgpd_options=\"   -A 127.0.0.1\"\nstaticd_options=\"-A 127.0.0.1\"\n"
        .to_owned()
}

/// A script for `sh -e` that gives a node what its configuration does not: a switch its bridges, VXLAN devices, VRFs and
/// gateways, in a few batches, anything else its addresses and default route, one command a line. Empty for what needs
/// nothing; next to empty for a switch whose agent does it. `None`: no such node.
pub fn setup(lab: &Lab, plan: &Plan, node: &str) -> Option<String> {
    let (own, spec) = (plan.nodes.get(node)?, lab.nodes.get(node)?);
    if own.role.is_switch() { switch::text(plan, own, spec.index) } else { machine::text(plan, own, spec) }
}

/// The controller's records as a file for `causeway apply`: VRFs, networks, subnets, nodes and BGP peers.
pub fn records(lab: &Lab, plan: &Plan) -> String {
    records::text(lab, plan)
}

/// The address plan: every node with its addresses, sessions and networks.
pub fn address_plan(lab: &Lab, plan: &Plan) -> AddressPlan {
    table::of(lab, plan)
}

/// The topology file after inheritance and expansion, with binds and commands for the files that
/// `causeway topology render --to DIR` writes beside it: `configs/NODE/{frr.conf,setup.sh}`. containerlab deploys it.
pub fn clab(lab: &Lab, plan: &Plan) -> String {
    clab::text(lab, plan)
}
