//! The controller: the store of record for every address and MAC, and all that is derived from it.

pub mod alloc;
pub mod derive;
pub mod keys;
pub mod model;
pub mod snapshot;
pub mod state;
pub mod store;
