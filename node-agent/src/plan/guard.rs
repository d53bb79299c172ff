//! Guards of ports: what a workload may send.

use std::collections::BTreeSet;

use super::{Phase, Planner};
use crate::dev::Dev;
use crate::guard::{Family, Guard, Hook};
use crate::model::Port;
use crate::observed::Observed;
use crate::op::Op;

/// The guard that a port shall have. An error says why it cannot be guarded: then it must not be made, for it would be
/// open.
pub(crate) fn guard_of(
    observed: &Observed,
    port: &Port,
    hook: Hook,
    interface: &Dev,
) -> Result<Guard, String> {
    if let Some(why) = &observed.guards.unusable {
        return Err(format!("it cannot be guarded: {why}"));
    }
    Guard::of(port, hook, interface).map_err(|why| format!("it cannot be guarded: {why}"))
}

/// The step that gives a port its guard on the host, if it has not got it: to be taken before its interface is up.
pub(crate) fn guard_step(observed: &Observed, guard: Guard, dev: &Dev) -> Option<Op> {
    let found = observed.guards.chains.get(&(guard.hook.family(), dev.clone()));
    if found == Some(&guard.chain(dev)) {
        return None;
    }
    let mut stale: BTreeSet<Dev> = found.map(|chain| chain.interfaces.clone()).unwrap_or_default();
    stale.remove(&guard.interface);
    Some(Op::GuardSet { dev: dev.clone(), guard, stale })
}

/// The step that takes what guard there is in a family from a port: to be taken after the port, if that goes too.
pub(crate) fn unguard_step(observed: &Observed, family: Family, dev: &Dev) -> Option<Op> {
    let chain = observed.guards.chains.get(&(family, dev.clone()))?;
    Some(Op::GuardDel { family, dev: dev.clone(), interfaces: chain.interfaces.clone() })
}

impl Planner<'_> {
    /// Brings the guard of a port to what it shall be, or says why that cannot be.
    pub(super) fn guard(&mut self, port: &Port, dev: &Dev) -> Result<(), String> {
        if !port.guarded {
            self.unguard(dev);
            return Ok(());
        }
        let guard = guard_of(self.observed, port, Hook::Bridge, &port.host_side())?;
        if let Some(op) = guard_step(self.observed, guard, dev) {
            self.push(Phase::Guards, op);
        }
        self.unguard_in(Family::Netdev, dev);
        Ok(())
    }

    /// Takes what guards there are from a port.
    pub(super) fn unguard(&mut self, dev: &Dev) {
        Family::ALL.into_iter().for_each(|family| self.unguard_in(family, dev));
    }

    fn unguard_in(&mut self, family: Family, dev: &Dev) {
        if let Some(op) = unguard_step(self.observed, family, dev) {
            self.push(Phase::RemoveEntries, op);
        }
    }
}
