//! What the benchmarks measure beside the API. Not part of it: it may change at any time.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_bgp::ReceivedRoute;
use causeway_proto::Mac;

use crate::compare::{Asked, Heard, View};
use crate::derive::evpn::Context;
use crate::snapshot::Snapshot;

/// Compares what is intended with what one peer says, and keeps what it has learned of the peer.
#[derive(Debug)]
pub struct Comparison<'a> {
    snapshot: &'a Snapshot,
    context: Context,
    peer: Asked,
    heard: Heard,
}

impl<'a> Comparison<'a> {
    /// With a peer that has sent its whole table.
    pub fn new(snapshot: &'a Snapshot, context: Context, peer: IpAddr) -> Self {
        let peer = Asked { address: peer, complete: true };
        Comparison { snapshot, context, peer, heard: Heard::default() }
    }

    /// Everything; how many findings there are.
    pub fn all(&mut self, routes: &[ReceivedRoute]) -> usize {
        let mut view = View::new(self.snapshot, self.context, Heard::default(), false);
        let found = view.all(&[self.peer], routes).len();
        self.heard = view.heard;
        found
    }

    /// One MAC, with all that is said of it; how many findings there are.
    pub fn one(&self, mac: Mac, routes: &[ReceivedRoute]) -> usize {
        let mut view = View::new(self.snapshot, self.context, self.heard.clone(), false);
        view.of_macs(&[self.peer], &BTreeSet::from([mac]), routes).len()
    }
}
