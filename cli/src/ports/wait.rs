//! `--wait`: until ports are programmed or advertised, and why not when it is late.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use causeway_proto::{PortKey, v1};
use tokio::time::Instant;

use super::follow::{Ended, follow, late};
use super::{Level, get_one, id, ready};
use crate::client::{Client, fabric};
use crate::failure::{Exit, Failure, printable};
use crate::output::Output;
use crate::tables::port_id;
use crate::view::port_state;

/// Time limit unless --timeout says otherwise.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Ports that a late wait explains one by one.
const EXPLAINED: usize = 5;

/// The ports as they were last seen, and which of them are far enough.
#[derive(Debug)]
struct Waiting {
    level: Level,
    ports: BTreeMap<String, v1::Port>,
    pending: usize,
}

impl Waiting {
    fn new(ports: &[v1::Port], level: Level) -> Self {
        let ports: BTreeMap<_, _> = ports.iter().map(|p| (id(p), p.clone())).collect();
        let pending = ports.values().filter(|p| !is_there(p, level)).count();
        Waiting { level, ports, pending }
    }

    /// Takes an event; says what the user should know at once.
    fn see(&mut self, event: v1::WatchPortsResponse) -> Result<Option<String>, Failure> {
        match event.event {
            Some(v1::watch_ports_response::Event::Changed(port)) => {
                let key = id(&port);
                let Some(old) = self.ports.get_mut(&key) else { return Ok(None) };
                if port.binding.is_none() {
                    let text =
                        format!("port {key} is {}, it was unbound while waiting", port_state(port.state));
                    return Err(
                        Failure::new(Exit::Conflict, text).hint("causeway port watch shows who does what")
                    );
                }
                let news = (port.problem != old.problem && !port.problem.is_empty())
                    .then(|| format!("port {key}: {}", printable(&port.problem)));
                match (is_there(old, self.level), is_there(&port, self.level)) {
                    (false, true) => self.pending -= 1,
                    (true, false) => self.pending += 1,
                    _ => {}
                }
                *old = port;
                Ok(news)
            }
            Some(v1::watch_ports_response::Event::Deleted(key))
                if self.ports.contains_key(&port_id(Some(&key))) =>
            {
                let text = format!("port {} was deleted while waiting", port_id(Some(&key)));
                Err(Failure::new(Exit::Conflict, text).hint("causeway port create makes it again"))
            }
            _ => Ok(None),
        }
    }
}

fn is_there(port: &v1::Port, level: Level) -> bool {
    match port.state() {
        v1::PortState::Ready => true,
        v1::PortState::Advertised => level != Level::Proven,
        v1::PortState::Programmed => level == Level::Programmed,
        _ => false,
    }
}

/// Waits until all `ports` have reached `level`; returns them as they are then, in the same order.
pub(crate) async fn until(
    client: &Client,
    ports: Vec<v1::Port>,
    level: Level,
    timeout: Option<Duration>,
    out: Output,
) -> Result<Vec<v1::Port>, Failure> {
    if level == Level::Proven {
        return proven(client, ports, timeout, out).await;
    }
    let limit = timeout.unwrap_or(WAIT_TIMEOUT);
    let mut waiting = Waiting::new(&ports, level);
    if waiting.pending > 0 {
        let filter = common_filter(&ports);
        let deadline = Some(Instant::now() + limit);
        let watched = follow(client, &filter, 0, deadline, |event| {
            if let Some(news) = waiting.see(event)? {
                out.note(&news);
            }
            Ok(if waiting.pending == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .await;
        match watched {
            Ok(()) => {}
            Err(Ended::Failed(failure)) => return Err(failure),
            Err(Ended::Late) => return Err(explain(client, &waiting, limit).await),
        }
    }
    Ok(ports.iter().filter_map(|p| waiting.ports.get(&id(p)).cloned()).collect())
}

/// Only the controller can have a port proven: it is asked to.
async fn proven(
    client: &Client,
    ports: Vec<v1::Port>,
    timeout: Option<Duration>,
    out: Output,
) -> Result<Vec<v1::Port>, Failure> {
    let keys: Vec<PortKey> = ports.iter().filter_map(|port| id(port).parse().ok()).collect();
    ready::until(client, &keys, Level::Proven, timeout, out).await?;
    let mut found = Vec::new();
    for key in &keys {
        found.push(get_one(client, key).await?);
    }
    Ok(found)
}

/// The narrowest filter that has all ports: they are of one network.
fn common_filter(ports: &[v1::Port]) -> v1::PortFilter {
    let Some(first) = ports.first().and_then(|p| p.key.clone()) else { return v1::PortFilter::default() };
    let mut prefix = first.name.as_str();
    for key in ports.iter().filter_map(|p| p.key.as_ref()) {
        while !key.name.starts_with(prefix) {
            prefix = prefix.char_indices().next_back().map_or("", |(at, _)| &prefix[..at]);
        }
    }
    v1::PortFilter {
        vrf: first.vrf,
        network: first.network,
        name_prefix: prefix.to_owned(),
        ..Default::default()
    }
}

/// Says of each late port what it waits for.
async fn explain(client: &Client, waiting: &Waiting, limit: Duration) -> Failure {
    let request = v1::ListNodesRequest {};
    // The reasons are an extra: a controller that does not answer now must not hide that it is late.
    let nodes = client.call("list nodes", async |channel| fabric(channel).list_nodes(request).await).await;
    let nodes: BTreeMap<String, v1::NodeStatus> = nodes
        .map(|answer| answer.nodes)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|s| Some((s.node.as_ref()?.name.clone(), s)))
        .collect();
    let request = v1::ListPeersRequest {};
    let peers = client.call("list peers", async |channel| fabric(channel).list_peers(request).await).await;
    let down: Vec<String> =
        peers.map(|answer| answer.peers).unwrap_or_default().iter().filter_map(peer_problem).collect();

    let word = waiting.level.word();
    let mut failure =
        late(&format!("{} of {} ports not {word}", waiting.pending, waiting.ports.len()), limit);
    let pending = waiting.ports.iter().filter(|(_, port)| !is_there(port, waiting.level));
    for (key, port) in pending.take(EXPLAINED) {
        let reason = port_reason(port, &nodes, &down);
        failure.text.push_str(&format!("\n  {key} is {}: {reason}", port_state(port.state)));
    }
    if waiting.pending > EXPLAINED {
        failure.text.push_str(&format!("\n  and {} more", waiting.pending - EXPLAINED));
    }
    failure.hint(
        "causeway node list and causeway bgp peers show what is down; causeway port watch goes on looking",
    )
}

fn peer_problem(status: &v1::PeerStatus) -> Option<String> {
    let address = &status.peer.as_ref()?.address;
    let why = if status.last_error.is_empty() { String::new() } else { format!(" ({})", status.last_error) };
    (status.state != "Established")
        .then(|| printable(&format!("BGP peer {address} is {}{why}", status.state)))
}

/// Why one port is not further.
fn port_reason(port: &v1::Port, nodes: &BTreeMap<String, v1::NodeStatus>, down: &[String]) -> String {
    if !port.problem.is_empty() {
        return printable(&port.problem);
    }
    let Some(binding) = &port.binding else { return "it is bound to no node".into() };
    let node = &binding.node;
    match (port.state(), nodes.get(node)) {
        (v1::PortState::Programmed, _) if down.is_empty() => "its routes are not sent yet".into(),
        (v1::PortState::Programmed, _) => down.join(", "),
        (_, Some(status)) if !status.connected => format!("no agent of node {node} is connected"),
        (_, Some(status)) if !status.problems.is_empty() => {
            printable(&format!("node {node}: {}", status.problems.join("; ")))
        }
        _ => format!("the agent of node {node} has not reported it yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, state: v1::PortState) -> v1::Port {
        v1::Port {
            key: Some(v1::PortKey { vrf: "default".into(), network: "web".into(), name: name.into() }),
            state: state.into(),
            binding: Some(v1::Binding { node: "host1".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn changed(port: v1::Port) -> v1::WatchPortsResponse {
        v1::WatchPortsResponse { event: Some(v1::watch_ports_response::Event::Changed(port)), revision: 1 }
    }

    #[test]
    fn all_ports_must_arrive() {
        let mut waiting = Waiting::new(
            &[port("a", v1::PortState::Bound), port("b", v1::PortState::Advertised)],
            Level::Advertised,
        );
        assert_eq!(waiting.pending, 1);
        waiting.see(changed(port("a", v1::PortState::Programmed))).unwrap();
        waiting.see(changed(port("other", v1::PortState::Advertised))).unwrap();
        assert_eq!(waiting.pending, 1);
        waiting.see(changed(port("a", v1::PortState::Advertised))).unwrap();
        assert_eq!(waiting.pending, 0);
    }

    #[test]
    fn a_new_problem_is_told_once() {
        let mut waiting = Waiting::new(&[port("a", v1::PortState::Bound)], Level::Programmed);
        let failed = v1::Port { problem: "no such namespace".into(), ..port("a", v1::PortState::Failed) };
        assert_eq!(
            waiting.see(changed(failed.clone())).unwrap().unwrap(),
            "port default/web/a: no such namespace"
        );
        assert_eq!(waiting.see(changed(failed)).unwrap(), None);
    }

    #[test]
    fn a_port_that_goes_away_ends_the_wait() {
        let mut waiting = Waiting::new(&[port("a", v1::PortState::Bound)], Level::Programmed);
        let unbound = v1::Port { binding: None, ..port("a", v1::PortState::Reserved) };
        assert_eq!(waiting.see(changed(unbound)).unwrap_err().exit, Exit::Conflict);
    }

    #[test]
    fn the_filter_is_the_common_start_of_the_names() {
        let filter =
            common_filter(&[port("vm-10", v1::PortState::Bound), port("vm-11", v1::PortState::Bound)]);
        assert_eq!((filter.network.as_str(), filter.name_prefix.as_str()), ("web", "vm-1"));
        assert_eq!(
            common_filter(&[port("a", v1::PortState::Bound), port("b", v1::PortState::Bound)]).name_prefix,
            ""
        );
    }

    #[test]
    fn reasons_name_what_is_down() {
        let nodes = |connected| {
            let node = Some(v1::Node { name: "host1".into(), ..Default::default() });
            BTreeMap::from([("host1".to_owned(), v1::NodeStatus { node, connected, ..Default::default() })])
        };
        let bound = port("a", v1::PortState::Bound);
        assert_eq!(port_reason(&bound, &nodes(false), &[]), "no agent of node host1 is connected");
        assert_eq!(port_reason(&bound, &nodes(true), &[]), "the agent of node host1 has not reported it yet");
        let programmed = port("a", v1::PortState::Programmed);
        assert_eq!(
            port_reason(&programmed, &nodes(true), &["BGP peer 10.0.0.1 is Active".into()]),
            "BGP peer 10.0.0.1 is Active"
        );
    }
}
