//! A real controller, a BGP peer, and two hosts with real agents and a VXLAN between them.

mod docker;
mod import;
mod proven;
mod restored;
mod rig;
