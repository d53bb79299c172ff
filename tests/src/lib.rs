//! What the integration tests stand on: real daemons (FRR, GoBGP, etcd, our own) started for one test, in namespaces or
//! on loopback addresses nobody else uses, and stopped with it, whatever happened.
//!
//! * [`slot`]: what makes two runs at once, or a run after a killed one, not collide.
//! * [`process`]: a daemon with its log; its last lines are printed when it is dropped, so that they show with the
//!   output of a failing test.
//! * [`wait_for`]: the only way to wait.
//!
//! A missing peer (no FRR 10, no etcd 3.7) is an error that says what to run, never a skipped test.

pub mod agent;
pub mod controller;
pub mod docker;
pub mod etcd;
pub mod fabric;
pub mod frr;
pub mod gobgp;
pub mod guest;
pub mod lab;
pub mod moving;
pub mod netns;
pub mod process;
pub mod slot;
pub mod traffic;
pub mod vm;
mod wait;

use std::io::Write;

pub use agent::Agent;
pub use controller::Controller;
pub use docker::Docker;
pub use etcd::Etcd;
pub use frr::Frr;
pub use gobgp::GoBgp;
pub use lab::Lab;
pub use netns::Netns;
pub use wait::wait_for;

/// Notes that a test has met this peer, for the summary of `make test`, which fails if one was never met.
pub(crate) fn met(peer: &str) {
    println!("peer: {peer}");
    let Some(path) = std::env::var_os("CAUSEWAY_TEST_PEERS") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    if let Err(err) = file.and_then(|mut f| writeln!(f, "{peer}")) {
        println!("cannot note the peer in {}: {err}", path.display());
    }
}
