//! From a request about a port to a transaction: pure functions of the store's content as far as it is known.

mod create;
mod end;
mod fit;
mod new_mac;
mod place;
mod select;
mod transfer;
mod vip;

use causeway_proto::{Name, NetworkKey, PortKey, Prefix, Revision};
use serde::Serialize;

pub(crate) use super::overlay::View;
use super::{PortError, Request, Stored};
use crate::derive::imports::Imports;
use crate::history::{self, Event, EventKind};
use crate::keys::{self, RecordKey};
use crate::model::{Binding, Port};
use crate::store::{Compare, Write};

pub use create::check_labels;
pub use end::quarantine_ends_ms;
pub use fit::{Unfit, unfit};
pub use place::{interface_name, sequence_elsewhere};
pub(super) use select::select;
pub(crate) use transfer::bound_nowhere;

/// What a request takes besides itself.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Unix time in milliseconds.
    pub now_ms: i64,
    /// Where the search for an address begins; `None`: at the lowest one.
    pub seed: Option<u64>,
    /// What the fabric says.
    pub heard: &'a Imports,
    /// What is heard of nodes.
    pub hearing: &'a super::HearingOf,
}

/// What a port and its binding will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Which port.
    pub key: PortKey,
    /// The port; `None`: gone.
    pub port: Option<Part<Port>>,
    /// Its binding; `None`: there is none.
    pub binding: Option<Part<Binding>>,
    /// True if the port did not exist, or was released.
    pub created: bool,
}

/// A record and the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<T> {
    /// The record.
    pub value: T,
    /// Its revision; `None`: that of this very transaction.
    pub revision: Option<Revision>,
}

/// A transaction's share for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Compares that several requests of one transaction may share.
    pub shared: Vec<Compare>,
    /// Compares of this request.
    pub compares: Vec<Compare>,
    /// Its writes.
    pub writes: Vec<Write>,
    /// What will be when they are committed.
    pub effect: Effect,
    /// What the history calls it; `None`: as before and after tell.
    pub(crate) kind: Option<EventKind>,
    /// Why, for the history; may be empty.
    pub(crate) cause: String,
    /// When the move's record that this one replaces or removes was written, in Unix milliseconds.
    pub(crate) moved_ms: Option<i64>,
    /// What the history says of it.
    pub event: Option<Event>,
    /// What it says of other ports that are written too.
    pub(crate) others: Vec<Event>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// This has to be written.
    Write(Box<Planned>),
    /// Everything is as asked for.
    Done(Box<Effect>),
}

/// A refusal, and what it rests on: if the store holds something else, the request is looked at again.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub error: PortError,
    /// What the store must hold for it.
    pub belief: Option<Box<Belief>>,
}

/// A key of the store and the revision at which it was seen, `None` if it was not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belief {
    /// The key.
    pub path: String,
    /// The revision of its value.
    pub seen: Option<Revision>,
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        Refusal { error, belief: None }
    }
}

impl Refusal {
    /// Rests on the absence of a record.
    fn missing(error: PortError, key: &RecordKey) -> Self {
        Refusal::seen(error, key, None)
    }

    /// Rests on a record as it is.
    fn seen(error: PortError, key: &RecordKey, revision: Option<Revision>) -> Self {
        Refusal { error, belief: Some(Box::new(Belief { path: key.path(), seen: revision })) }
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("now_ms", &self.now_ms)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// What to do about a request.
pub fn plan(view: &View<'_>, request: &Request, context: Context<'_>) -> Result<Plan, Refusal> {
    let mut plan = decide(view, request, context)?;
    if let Plan::Write(planned) = &mut plan
        && planned.is_told()
    {
        history::tell(view, planned, context)?;
    }
    Ok(plan)
}

fn decide(view: &View<'_>, request: &Request, context: Context<'_>) -> Result<Plan, Refusal> {
    match request {
        Request::Create(create) => create::plan(view, create, context),
        Request::Free { key, quarantined, cause } => end::free(view, key, *quarantined, cause, context),
        Request::Bind(key, place, force) => place::bind(view, key, place, force.as_deref(), context),
        Request::Move(key, order) => transfer::start(view, key, order, context),
        Request::Step(step) => transfer::advance(view, step, context),
        Request::TurnBack { key, reason, force } => {
            transfer::turn_back(view, key, reason, *force, context.now_ms)
        }
        Request::Update { key, rate, guard, address_check } => {
            place::update(view, key, *rate, *guard, *address_check)
        }
        Request::Found { key, generation, found } => place::found(view, key, *generation, found.as_ref()),
        Request::Raise { key, sequence } => place::raise(view, key, *sequence),
        Request::Hold { key, holder } => vip::hold(view, key, holder.as_ref(), context),
        Request::Unbind(key) => place::unbind(view, key),
        Request::Release { key, forget: false } => end::release(view, key, context.now_ms),
        Request::Release { key, forget: true } => {
            end::forget(view, key, context.now_ms, "forgotten", context)
        }
        Request::Collect { key, generation, evidence, cause } => {
            end::collect(view, key, *generation, evidence, cause, context)
        }
        Request::Expire { key, now_ms } => end::expire(view, key, *now_ms, context),
    }
}

/// The move that an order would begin, or what stands against it; `None` if it is under way already.
pub fn preview(
    snapshot: &crate::snapshot::Snapshot,
    key: &PortKey,
    order: &super::MoveOrder,
    context: Context<'_>,
) -> Result<Option<crate::model::Move>, PortError> {
    let overlay = super::overlay::Overlay::default();
    let view = View { snapshot, overlay: &overlay };
    transfer::begin(&view, key, order, context, &mut Planned::new(key)).map_err(|refusal| refusal.error)
}

/// Why a quarantined port's addresses cannot be given on yet, whatever the time: the node that had it may have it still.
pub fn held_by_node(view: &View<'_>, key: &PortKey, context: Context<'_>) -> Option<PortError> {
    end::answered_for(view, key, context)
}

/// What would become of ports, were they created in this order; nothing is written.
pub fn rehearse(
    snapshot: &std::sync::Arc<crate::snapshot::Snapshot>,
    ports: Vec<super::CreatePort>,
    context: Context<'_>,
) -> Vec<Result<Stored, PortError>> {
    let mut overlay = super::overlay::Overlay::default();
    let mut results = Vec::with_capacity(ports.len());
    for port in ports {
        let request = Request::Create(port);
        let planned = plan(&View { snapshot, overlay: &overlay }, &request, context);
        let effect = match planned {
            Ok(Plan::Done(effect)) => Ok(*effect),
            Ok(Plan::Write(planned)) => {
                overlay.depart(0, &planned.effect, snapshot);
                overlay.commit(&planned.effect.key, Revision(snapshot.revision.0 + 1), snapshot);
                Ok(planned.effect)
            }
            Err(refusal) => Err(refusal.error),
        };
        let lost = || PortError::Internal("a created port would be gone".to_owned());
        results.push(effect.and_then(|effect| effect.stored(snapshot.revision).ok_or_else(lost)));
    }
    results
}

/// When a released port's addresses go back to the pool, in Unix milliseconds; `None`: never, or it is not released.
pub fn expires_ms(port: &Port, sticky_seconds: u64) -> Option<i64> {
    if port.quarantined_ms.is_some() {
        return None;
    }
    let sticky_ms = i64::try_from(sticky_seconds.checked_mul(1000)?).ok().filter(|ms| *ms > 0)?;
    port.released_ms?.checked_add(sticky_ms)
}

impl Effect {
    /// The port as an answer shows it, once its transaction has this revision; `None` if it is gone.
    pub fn stored(&self, committed: Revision) -> Option<Stored> {
        let port = self.port.as_ref()?;
        let at = |revision: Option<Revision>| revision.unwrap_or(committed);
        let binding = self.binding.as_ref();
        Some(Stored {
            port: port.value.clone(),
            binding: binding.map(|b| b.value.clone()),
            created: self.created,
            revision: at(port.revision).max(binding.map_or(Revision::default(), |b| at(b.revision))),
        })
    }
}

impl Planned {
    fn new(key: &PortKey) -> Self {
        Planned {
            shared: Vec::new(),
            compares: Vec::new(),
            writes: Vec::new(),
            effect: Effect { key: key.clone(), port: None, binding: None, created: false },
            kind: None,
            cause: String::new(),
            moved_ms: None,
            event: None,
            others: Vec::new(),
        }
    }

    /// True if the history tells of it: a move goes on, or the port or its binding will be another, or gone.
    fn is_told(&self) -> bool {
        self.kind.is_some()
            || self.effect.port.as_ref().is_none_or(|part| part.revision.is_none())
            || self.effect.binding.as_ref().is_some_and(|part| part.revision.is_none())
    }

    fn put(&mut self, path: String, value: &impl Serialize) -> Result<(), PortError> {
        let value = serde_json::to_vec(value)
            .map_err(|e| PortError::Internal(format!("{path} cannot be written as JSON: {e}")))?;
        self.writes.push(Write::Put { key: path, value, lease: None });
        Ok(())
    }

    /// Claims an index key for the port.
    fn claim(&mut self, path: String, owner: &PortKey) {
        self.compares.push(Compare::Absent(path.clone()));
        self.writes.push(Write::Put { key: path, value: owner.to_string().into_bytes(), lease: None });
    }

    /// The port's record; what it says of its history is added when the plan is complete.
    fn put_port(&mut self, port: Port) -> Result<(), PortError> {
        self.put_later(RecordKey::Port(port.key.clone()).path());
        self.effect.port = Some(Part { value: port, revision: None });
        Ok(())
    }

    /// The binding's record, in the same way.
    fn put_binding(&mut self, binding: Binding) -> Result<(), PortError> {
        self.put_later(RecordKey::Binding(binding.port.clone()).path());
        self.effect.binding = Some(Part { value: binding, revision: None });
        Ok(())
    }

    fn put_later(&mut self, key: String) {
        self.writes.push(Write::Put { key, value: Vec::new(), lease: None });
    }

    /// Writes the records that were put, now that they are complete.
    pub(crate) fn fill(&mut self) -> Result<(), PortError> {
        fn json(path: &str, value: &impl Serialize) -> Result<Vec<u8>, PortError> {
            serde_json::to_vec(value)
                .map_err(|e| PortError::Internal(format!("{path} cannot be written as JSON: {e}")))
        }
        for write in &mut self.writes {
            let Write::Put { key, value, .. } = write else { continue };
            if !value.is_empty() {
                continue;
            }
            *value = match (&self.effect.port, &self.effect.binding) {
                (Some(port), _) if key.starts_with("intent/port/") => json(key, &port.value)?,
                (_, Some(binding)) if key.starts_with("intent/binding/") => json(key, &binding.value)?,
                _ => return Err(PortError::Internal(format!("{key} would be written without a value"))),
            };
        }
        Ok(())
    }
}

/// The compare that a record is as it was seen.
fn as_seen(key: &RecordKey, revision: Option<Revision>) -> Compare {
    match revision {
        Some(revision) => Compare::Unchanged(key.path(), revision),
        None => Compare::Absent(key.path()),
    }
}

/// The subnet of a network and its index key for an address.
fn claim_path(vrf: &Name, subnet: Prefix, address: std::net::IpAddr) -> String {
    keys::address(vrf, subnet, address)
}

fn network_record(network: &NetworkKey) -> RecordKey {
    RecordKey::Network(network.clone())
}
