//! Who else has an address of a port: from what agents say to the port's record.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use causeway_proto::{Name, PortKey, v1};

use super::{Agents, message};
use crate::model::Duplicate;
use crate::ports::Ports;

/// What is being noted, by port: its binding's generation and what its agent said last. There is one task a port, so
/// that notes come in the order in which they were said.
pub(super) type Noting = BTreeMap<PortKey, (u64, Option<Duplicate>)>;

impl Agents {
    /// Notes with the ports who else has an address of theirs, or that nobody has any more: what is known already is not
    /// noted again.
    pub(super) fn note_duplicates(&self, node: &Name, status: &v1::AgentStatus) {
        let (Some(ports), snapshot) = (self.shared.ports.get(), self.snapshot()) else { return };
        for said in &status.ports {
            let Ok(key) = said.port.parse::<PortKey>() else { continue };
            let found = message::duplicate(said);
            let here = snapshot.bindings.get(&key).filter(|binding| binding.value.node == *node);
            let speaks = here.is_some_and(|binding| binding.value.generation == said.generation);
            // Whether it is over, only one that works can say.
            let waits = matches!(said.stage(), v1::PortStage::Prepared | v1::PortStage::Held);
            let over = found.is_none() && said.programmed && !waits;
            if !speaks || (found.is_none() && !over) {
                continue;
            }
            let mut noting = self.shared.noting.lock().unwrap_or_else(PoisonError::into_inner);
            let known = snapshot.ports.get(&key).and_then(|port| port.value.duplicate.clone());
            if known == found && !noting.contains_key(&key) {
                continue;
            }
            if let Some(found) = &found {
                let (address, mac, interface) = (found.address, found.mac, &found.interface);
                tracing::warn!(port = %key, %node, %address, %mac, interface, "somebody else has an address of a port");
            }
            if noting.insert(key.clone(), (said.generation, found)).is_none() {
                let note = self.clone().note(ports.clone(), key);
                self.shared.tasks.spawn(self.shared.cancel.clone().run_until_cancelled_owned(note));
            }
        }
    }

    /// Notes what was said last of a port until nothing else was said meanwhile.
    async fn note(self, ports: Ports, key: PortKey) {
        loop {
            let said = self.noting(&key, None);
            let Some((generation, found)) = said.clone() else { return };
            match ports.found(key.clone(), generation, found).await {
                // What is said from now on is compared with a snapshot that has it.
                Ok(stored) => _ = self.shared.state.wait_for(stored.revision).await,
                Err(error) => tracing::warn!(port = %key, %error, "it is not noted who else has its address"),
            }
            if self.noting(&key, said.as_ref()).is_none() {
                return;
            }
        }
    }

    /// What is to be noted of a port. If it is `done`, nothing is any more.
    fn noting(
        &self,
        key: &PortKey,
        done: Option<&(u64, Option<Duplicate>)>,
    ) -> Option<(u64, Option<Duplicate>)> {
        let mut noting = self.shared.noting.lock().unwrap_or_else(PoisonError::into_inner);
        if done.is_some() && noting.get(key) == done {
            noting.remove(key);
        }
        noting.get(key).cloned()
    }
}
