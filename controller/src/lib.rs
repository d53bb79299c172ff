//! The controller: the store of record for every address and MAC, and all that is derived from it.

mod agents;
pub mod alloc;
mod api;
#[doc(hidden)]
pub mod bench;
pub mod clock;
mod compare;
pub mod config;
pub mod derive;
pub mod election;
pub mod fabric;
pub mod gc;
pub mod history;
mod http;
pub mod intent;
pub mod ipam;
pub mod keys;
mod leaks;
mod metrics;
pub mod model;
pub mod moves;
pub mod ports;
mod ready;
pub mod run;
pub mod snapshot;
pub mod state;
mod steps;
pub mod store;
