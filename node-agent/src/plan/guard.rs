//! Guards of ports: what a workload may send.

use std::collections::BTreeSet;

use super::{Phase, Planner};
use crate::dev::Dev;
use crate::guard::Guard;
use crate::model::Port;
use crate::observed::Observed;
use crate::op::Op;

/// The step that gives a port, whose frames come in at `interface`, its guard, if it has not got it: to be taken before
/// the interface is up. An error says why the port cannot be guarded: then it must not be made, for it would be open.
pub(crate) fn guard_step(
    observed: &Observed,
    port: &Port,
    dev: &Dev,
    interface: &Dev,
) -> Result<Option<Op>, String> {
    if let Some(why) = &observed.guards.unusable {
        return Err(format!("it cannot be guarded: {why}"));
    }
    let guard = Guard::of(port, interface).map_err(|why| format!("it cannot be guarded: {why}"))?;
    let found = observed.guards.chains.get(dev);
    if found == Some(&guard.chain(dev)) {
        return Ok(None);
    }
    let mut stale: BTreeSet<Dev> = found.map(|chain| chain.interfaces.clone()).unwrap_or_default();
    stale.remove(interface);
    Ok(Some(Op::GuardSet { dev: dev.clone(), guard, stale }))
}

/// The step that takes what guard there is from a port: to be taken after the port, if that goes too.
pub(crate) fn unguard_step(observed: &Observed, dev: &Dev) -> Option<Op> {
    let chain = observed.guards.chains.get(dev)?;
    Some(Op::GuardDel { dev: dev.clone(), interfaces: chain.interfaces.clone() })
}

impl Planner<'_> {
    /// Brings the guard of a port to what it shall be, or says why that cannot be.
    pub(super) fn guard(&mut self, port: &Port, dev: &Dev) -> Result<(), String> {
        if !port.guarded {
            self.unguard(dev);
            return Ok(());
        }
        if let Some(op) = guard_step(self.observed, port, dev, dev)? {
            self.push(Phase::Guards, op);
        }
        Ok(())
    }

    /// Takes what guard there is from a port.
    pub(super) fn unguard(&mut self, dev: &Dev) {
        if let Some(op) = unguard_step(self.observed, dev) {
            self.push(Phase::RemoveEntries, op);
        }
    }
}
