//! Reads containerlab topology files and derives a fabric from them.
//!
//! A file goes through these steps, each of them pure but the reading of the file itself:
//!
//! ```text
//! text ── environment ──> text ── YAML with places ──> Lab ── plan ──> Plan ── render ──> frr.conf, set-up commands
//! ```
//!
//! [`load`] gives a [`Lab`]: nodes and links as containerlab would see them, after inheritance, with magic variables
//! expanded. [`plan()`] gives a [`Plan`]: roles, underlay addresses, AS numbers and BGP sessions. What only Causeway
//! knows stands in labels `causeway.*`, so that the same file runs under containerlab unchanged.
//!
//! Whatever is wrong is a [`Diagnostic`] with file, line, column and an excerpt. Whatever is valid but not acted on is
//! a warning: nothing is dropped in silence.
#![warn(missing_docs)]

pub mod budget;
pub mod check;
mod context;
mod derive;
mod diagnostic;
mod environment;
pub mod graph;
mod inherit;
mod keys;
mod lab;
mod labels;
mod link;
mod magic;
mod multihoming;
mod networks;
pub mod new;
mod node;
mod overlay;
mod plan;
mod read;
pub mod render;
mod sessions;
mod split;
mod stages;
mod suggest;
mod value;

pub use diagnostic::{Diagnostic, Place, Severity, render_all};
pub use lab::{
    Bind, Endpoint, Healthcheck, Lab, Link, LinkKind, Mode, Node, Phase, Role, RoleSource, Stage, StageExec,
    StageName, Target, WaitFor,
};
pub use labels::{LABELS, LabelDoc, LinkLabels, NodeLabels, Reference};
pub use multihoming::{Esi, Multihoming};
pub use networks::{Irb, Network, RouteTarget, Vrf};
pub use plan::{
    Access, Domain, Interface, InterfaceUse, Neighbor, NodePlan, Peering, Plan, Routed, Uplink, plan,
};
pub use read::{LoadOptions, Loaded, load, parse};
pub use split::{SplitError, split_command};
