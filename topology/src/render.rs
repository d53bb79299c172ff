//! Configuration of a plan's nodes as text.

use crate::lab::Lab;
use crate::plan::Plan;

/// `frr.conf` of a switch, addresses of its interfaces included. `None`: the node is no switch of the plan.
pub fn frr(_lab: &Lab, _plan: &Plan, _node: &str) -> Option<String> {
    None
}

/// `daemons` of a switch: which of FRR's daemons run.
pub fn daemons() -> String {
    String::new()
}

/// Commands, one a line for a shell, that give a node its addresses, routes, bridges and VXLAN devices: of a switch
/// only what FRR does not make itself.
pub fn setup(_lab: &Lab, _plan: &Plan, _node: &str) -> Option<String> {
    None
}
