//! Hosts behind switches: their ports hang on the wire of an uplink, plain or with an 802.1Q tag, by a bridge, a macvlan,
//! an ipvlan, a tap, or are routed. No VXLAN, no NAT.
//!
//! ```text
//!            uplink ── cwu (802.1Q) ── cwb (bridge) ── cwp (veth) ── workload
//!                       │                 ├── tap ── VM
//!                       │                 └── macvlan, where the network has both
//!                       ├── macvlan, ipvlan ── workload
//!                       └── cws (shim: a macvlan in the host) ── the host itself
//!            routes ─── cwp (veth) ── workload with single addresses, answered for on cwb
//! ```
//!
//! The plan is made over the whole host, which has hundreds of ports and not a hundred thousand entries: each step is
//! applied to a copy of what was observed before the next one is thought of.

pub mod moves;
pub mod plan;
pub mod seen;
pub mod step;
pub mod table;
pub mod transfer;
pub(crate) mod want;

#[cfg(test)]
pub(crate) mod tests;
