//! The node agent: brings one machine to the state that the controller derives for it, and keeps it there.
//!
//! ```text
//!  controller ── gRPC stream ──> stream ──> journal (last complete state on disk)
//!                                  │ snapshots, deltas          ▲ status
//!                                  ▼                            │
//!                reconciler thread: Desired, Observed ── plan ──> ops ──> kernel ──> events, read back
//! ```
//!
//! The reconciler has a thread and a current-thread runtime of its own, and is the only one that touches the kernel.
//! Everything between `Desired` and the steps is pure ([`mod@plan`]); [`kernel`] maps kernel messages to the same terms.

mod acd;
pub mod agent;
pub mod announce;
pub mod checks;
pub mod cleanup;
pub mod config;
pub mod dev;
mod duties;
pub mod fabric;
pub mod guard;
pub mod journal;
pub mod kernel;
pub mod lan;
pub mod local;
pub mod model;
pub mod netlink;
pub mod netns;
pub mod observed;
pub mod op;
pub mod plan;
pub mod probe;
pub mod rate;
pub mod reconcile;
pub mod render;
pub mod state_json;
pub mod stream;
mod tap;
pub mod wait;

pub use kernel::{Dataplane, Kernel};
pub use model::Desired;
pub use observed::Observed;
pub use op::Op;
pub use plan::{Plan, Scope, plan};
