//! Guards of ports: what a workload may send.

use super::{Phase, Planner};
use crate::dev::Dev;
use crate::guard::Guard;
use crate::model::Port;
use crate::op::Op;

impl Planner<'_> {
    /// Brings the guard of a port to what it shall be, or says why that cannot be: then the port must not be made, for
    /// it would be open.
    pub(super) fn guard(&mut self, port: &Port, dev: &Dev) -> Result<(), String> {
        if !port.guarded {
            self.unguard(dev);
            return Ok(());
        }
        if let Some(why) = &self.observed.guards.unusable {
            return Err(format!("it cannot be guarded: {why}"));
        }
        let guard = Guard::of(port);
        if self.observed.guards.chains.get(dev) != Some(&guard.digest(dev)) {
            self.push(Phase::Guards, Op::GuardSet { dev: dev.clone(), guard });
        }
        Ok(())
    }

    /// Takes what guard there is from a port.
    pub(super) fn unguard(&mut self, dev: &Dev) {
        if self.observed.guards.chains.contains_key(dev) {
            self.push(Phase::RemoveEntries, Op::GuardDel { dev: dev.clone() });
        }
    }
}
