use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::overlay::{Overlay, View};
use super::plan::{Context, Plan, Refusal, expires_ms, plan};
use super::*;
use crate::alloc;
use crate::derive::imports::ImportedMac;
use crate::keys::RecordKey;
use crate::snapshot::Snapshot;
use crate::store::{Compare, Write};

mod addresses;
mod attach;
mod life;
mod model;
mod new_mac;
mod select;
mod vip;

/// A store of one thread: what a transaction means, spelled out.
#[derive(Default)]
struct World {
    keys: BTreeMap<String, (Vec<u8>, Revision)>,
    snapshot: Snapshot,
    overlay: Overlay,
    heard: Imports,
    /// What is heard of every node.
    hearing: Hearing,
}

impl World {
    fn put(&mut self, path: &str, json: &str) {
        let at = Revision(self.snapshot.revision.0 + 1);
        self.keys.insert(path.to_owned(), (json.as_bytes().to_vec(), at));
        if path.starts_with("intent/") {
            self.snapshot.apply(path, Some((json.as_bytes(), at))).unwrap();
        }
        self.snapshot.revision = at;
    }

    fn with_network() -> Self {
        let mut world = World::default();
        world.put(
            "intent/network/default/web",
            r#"{"key":"default/web","vni":100,"mtu":1450,"sticky_seconds":60,"rd_number":1}"#,
        );
        world.put(
            "intent/subnet/default/web/10.0.0.0/28",
            r#"{"network":"default/web","prefix":"10.0.0.0/28","gateway":"10.0.0.1","exclusions":["10.0.0.5"],"reservations":["10.0.0.8"]}"#,
        );
        for n in 1..3 {
            world.put(
                &format!("intent/node/n{n}"),
                &format!(r#"{{"name":"n{n}","mode":"host-vtep","vtep":"192.0.2.{n}","underlay_mtu":1500}}"#),
            );
        }
        world
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Present(key) => self.keys.contains_key(key),
            Compare::Unchanged(key, at) => self.keys.get(key).is_some_and(|(_, seen)| seen == at),
            Compare::NoneBelow(prefix) => !self.keys.keys().any(|key| key.starts_with(prefix)),
        }
    }

    fn plan(&self, request: &Request, now_ms: i64) -> Result<Plan, Refusal> {
        let view = View { snapshot: &self.snapshot, overlay: &self.overlay };
        let hearing = self.hearing;
        let hearing = move |_: &causeway_proto::Name| hearing;
        plan(&view, request, Context { now_ms, seed: None, heard: &self.heard, hearing: &hearing })
    }

    /// Plans and commits. Every compare must hold: nobody else is here.
    fn run(&mut self, request: &Request, now_ms: i64) -> Result<Option<Stored>, PortError> {
        match self.plan(request, now_ms).map_err(|refusal| refusal.error)? {
            Plan::Done(effect) => Ok(effect.stored(self.snapshot.revision)),
            Plan::Write(planned) => {
                for compare in planned.shared.iter().chain(&planned.compares) {
                    assert!(self.holds(compare), "{compare:?} of {request:?}");
                }
                let keys: BTreeSet<&String> = planned
                    .writes
                    .iter()
                    .map(|w| match w {
                        Write::Put { key, .. } | Write::Delete(key) => key,
                    })
                    .collect();
                assert_eq!(keys.len(), planned.writes.len(), "a key is written twice");
                let at = Revision(self.snapshot.revision.0 + 1);
                for write in &planned.writes {
                    match write {
                        Write::Put { key, value, .. } => {
                            self.keys.insert(key.clone(), (value.clone(), at));
                        }
                        Write::Delete(key) => assert!(self.keys.remove(key).is_some(), "{key} was not there"),
                    }
                    let (Write::Put { key, .. } | Write::Delete(key)) = write;
                    if key.starts_with("intent/") {
                        let value = self.keys.get(key).map(|(value, _)| value.clone());
                        self.snapshot.apply(key, value.as_ref().map(|v| (v.as_slice(), at))).unwrap();
                    }
                }
                self.snapshot.revision = at;
                Ok(planned.effect.stored(at))
            }
        }
    }

    fn create(&mut self, name: &str) -> Result<Stored, PortError> {
        self.run(&Request::Create(create(name)), 1).map(Option::unwrap)
    }
}

fn key(name: &str) -> PortKey {
    format!("web/{name}").parse().unwrap()
}

fn create(name: &str) -> CreatePort {
    CreatePort::new(key(name))
}

fn place(node: u8) -> Place {
    Place::container(format!("n{node}").parse().unwrap(), "/run/netns/a", "eth0")
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}
