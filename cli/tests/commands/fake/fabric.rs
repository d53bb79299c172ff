//! What the fabric says.

use super::*;

fn finding(presence: v1::Presence) -> v1::FabricFinding {
    v1::FabricFinding {
        port: Some(v1::PortKey { vrf: "default".into(), network: "web".into(), name: "a".into() }),
        vrf: "default".into(),
        network: "web".into(),
        mac: "02:00:00:00:00:07".into(),
        peer: "10.0.0.1".into(),
        presence: presence.into(),
        intended_vtep: "10.0.0.21".into(),
        observed_vteps: vec!["10.0.0.22".into()],
        observed_sequence: 3,
        text: "leaf2 claims it".into(),
        ..Default::default()
    }
}

fn foreign() -> v1::FabricFinding {
    v1::FabricFinding {
        port: None,
        mac: "02:00:00:00:00:08".into(),
        intended_vtep: String::new(),
        ..finding(v1::Presence::Foreign)
    }
}

#[tonic::async_trait]
impl v1::fabric_service_server::FabricService for Fake {
    type WatchAlarmsStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::Alarm, Status>>>;

    async fn diff_fabric(
        &self,
        request: Request<v1::DiffFabricRequest>,
    ) -> Result<Response<v1::DiffFabricResponse>, Status> {
        let request = request.into_inner();
        let mut answer = v1::DiffFabricResponse {
            ports: 2,
            peers: vec!["10.0.0.1".into()],
            revision: 7,
            ..Default::default()
        };
        match request.network.as_str() {
            "quiet" if request.all => answer.findings.push(finding(v1::Presence::Present)),
            "quiet" => {}
            "lonely" => answer.peers.clear(),
            _ => answer.findings.extend([finding(v1::Presence::Elsewhere), foreign()]),
        }
        answer.more = u64::from(request.limit == 1);
        Ok(Response::new(answer))
    }

    async fn get_node_state(
        &self,
        _: Request<v1::GetNodeStateRequest>,
    ) -> Result<Response<v1::GetNodeStateResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn watch_alarms(
        &self,
        _: Request<v1::WatchAlarmsRequest>,
    ) -> Result<Response<Self::WatchAlarmsStream>, Status> {
        let raised = v1::Alarm {
            finding: Some(finding(v1::Presence::Elsewhere)),
            raised: true,
            time_ms: 43_200_000,
            synced: false,
        };
        let synced = v1::Alarm { synced: true, ..Default::default() };
        Ok(Response::new(tokio_stream::iter(vec![Ok(raised), Ok(synced)])))
    }

    async fn list_peers(
        &self,
        _: Request<v1::ListPeersRequest>,
    ) -> Result<Response<v1::ListPeersResponse>, Status> {
        let peer = v1::PeerStatus {
            peer: Some(v1::Peer { address: "10.0.0.1".into(), asn: 65000, ..Default::default() }),
            state: "Established".into(),
            state_seconds: 75,
            router_id: "10.0.0.1".into(),
            established_count: 1,
            ..Default::default()
        };
        Ok(Response::new(v1::ListPeersResponse {
            peers: vec![peer],
            router_id: "10.0.0.9".into(),
            asn: 65000,
            version: "0.9.9".into(),
        }))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        let request = request.into_inner();
        let route = v1::Route {
            direction: v1::RouteDirection::Out.into(),
            route_type: 2,
            rd: "10.0.0.9:7".into(),
            mac: request.mac,
            next_hop: "10.0.0.21".into(),
            vnis: vec![10110],
            verdict: "used: default/web".into(),
            ..Default::default()
        };
        Ok(Response::new(v1::ListRoutesResponse { routes: vec![route], more: u64::from(request.limit == 1) }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let v1::ExplainRequest { subject, at } = request.into_inner();
        let at = if at.is_empty() { String::new() } else { format!(" as {at} sees it") };
        Ok(Response::new(v1::ExplainResponse {
            findings: vec![format!("{subject} belongs to port default/web/a{at}")],
            routes: vec![],
        }))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let node = |name: &str, connected| v1::NodeStatus {
            node: Some(v1::Node { name: name.into(), vtep: "10.0.0.21".into(), ..Default::default() }),
            connected,
            agent_version: if connected { "0.1.0".into() } else { String::new() },
            ..Default::default()
        };
        Ok(Response::new(v1::ListNodesResponse {
            nodes: vec![node("dead", false), node("host1", true)],
            revision: 9,
        }))
    }
}
