//! Removing all that is ours: what `causeway-agent cleanup` does before a node leaves.

use causeway_proto::v1;

use crate::kernel::Kernel;
use crate::model::Desired;
use crate::netlink::NetlinkError;
use crate::op::Op;
use crate::plan::{Scope, plan};

/// The steps that leave nothing of ours: a plan towards a node with no networks and no ports. Entries, neighbours and
/// workloads' interfaces go with the links they are on.
pub fn steps(kernel: &mut Kernel) -> Result<Vec<Op>, NetlinkError> {
    // Of a host, which is looked at as a whole: what is on a VTEP goes too.
    let nothing = v1::NodeState { mode: v1::NodeMode::Host.into(), ..v1::NodeState::default() };
    let nothing = Desired::from_state(&nothing, &Desired::default());
    let observed = crate::kernel::Dataplane::observe(kernel, &nothing)?;
    Ok(plan(&nothing, &observed, &Scope::All).ops)
}
