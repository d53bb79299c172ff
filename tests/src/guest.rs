//! Tests that need more than this machine's kernel has (802.1Q, VLAN-aware bridges, VRF, ...) run in a QEMU guest.
//!
//! ```no_run
//! # use causeway_tests::guest;
//! #[tokio::test]
//! async fn a_vrf_routes() -> anyhow::Result<()> {
//!     if guest::in_guest_instead(&["8021q", "vrf"], "a_vrf_routes", &guest::TestGuest::default())? {
//!         return Ok(());
//!     }
//!     // everything the test does
//!     Ok(())
//! }
//! ```
//!
//! Everything of this machine is there under the same path: FRR, etcd, image roots, our programs, labs. See
//! [`causeway_labs::guest::test`] for the rules.

pub use causeway_labs::guest::test::{
    TestGuest, here_or_in_guest, in_guest_instead, output, will_be_in_guest,
};
