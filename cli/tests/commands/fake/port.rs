//! Ports.

use super::*;

#[tonic::async_trait]
impl v1::port_service_server::PortService for Fake {
    async fn create_port(
        &self,
        request: Request<v1::CreatePortRequest>,
    ) -> Result<Response<v1::CreatePortResponse>, Status> {
        self.create(request.into_inner()).map(Response::new)
    }

    async fn update_port(
        &self,
        request: Request<v1::UpdatePortRequest>,
    ) -> Result<Response<v1::UpdatePortResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let key = request.key.unwrap_or_default();
        let found = state.ports.values_mut().find(|port| port.key.as_ref() == Some(&key));
        let port = found.ok_or_else(|| Status::not_found("there is no such port"))?;
        port.rate = request.rate.or(port.rate);
        if request.reset_guard || request.guard != 0 {
            port.guard = request.guard;
        }
        Ok(Response::new(v1::UpdatePortResponse { port: Some(port.clone()) }))
    }

    async fn create_ports(
        &self,
        request: Request<v1::CreatePortsRequest>,
    ) -> Result<Response<v1::CreatePortsResponse>, Status> {
        self.see("create_ports");
        let result = |item| {
            let result = match self.create(item) {
                Ok(ok) => v1::create_ports_result::Result::Ok(ok),
                Err(status) => v1::create_ports_result::Result::Error(v1::Error {
                    code: status.code().into(),
                    message: status.message().into(),
                    detail: None,
                }),
            };
            v1::CreatePortsResult { result: Some(result) }
        };
        let results = request.into_inner().ports.into_iter().map(result).collect();
        Ok(Response::new(v1::CreatePortsResponse { results }))
    }

    async fn bind_port(
        &self,
        request: Request<v1::BindPortRequest>,
    ) -> Result<Response<v1::BindPortResponse>, Status> {
        let v1::BindPortRequest { key, binding, .. } = request.into_inner();
        let port = self.bind(self.port(key.as_ref())?, binding.unwrap_or_default());
        Ok(Response::new(v1::BindPortResponse { port: Some(port) }))
    }

    async fn hold_vip(
        &self,
        request: Request<v1::HoldVipRequest>,
    ) -> Result<Response<v1::HoldVipResponse>, Status> {
        let v1::HoldVipRequest { key, holder } = request.into_inner();
        let port = self.port(key.as_ref())?;
        let port = self.put(v1::Port { holder, ..port });
        Ok(Response::new(v1::HoldVipResponse { revision: port.revision, port: Some(port) }))
    }

    async fn unbind_port(
        &self,
        request: Request<v1::UnbindPortRequest>,
    ) -> Result<Response<v1::UnbindPortResponse>, Status> {
        let port = self.port(request.into_inner().key.as_ref())?;
        let port = self.put(v1::Port { binding: None, state: v1::PortState::Reserved.into(), ..port });
        Ok(Response::new(v1::UnbindPortResponse { port: Some(port) }))
    }

    async fn release_port(
        &self,
        request: Request<v1::ReleasePortRequest>,
    ) -> Result<Response<v1::ReleasePortResponse>, Status> {
        let v1::ReleasePortRequest { key, forget, .. } = request.into_inner();
        if let (false, Ok(port)) = (forget, self.port(key.as_ref())) {
            self.put(v1::Port { binding: None, state: v1::PortState::Released.into(), ..port });
        }
        let mut state = self.state.lock().unwrap();
        if forget {
            state.ports.remove(&id(key.as_ref()));
        }
        Ok(Response::new(v1::ReleasePortResponse { revision: state.revision, ..Default::default() }))
    }

    async fn get_port(
        &self,
        request: Request<v1::GetPortRequest>,
    ) -> Result<Response<v1::GetPortResponse>, Status> {
        let port = self.port(request.into_inner().key.as_ref())?;
        Ok(Response::new(v1::GetPortResponse { port: Some(port) }))
    }

    /// Pages are of two ports at most, so that a list of three needs a second one.
    async fn list_ports(
        &self,
        request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        self.see("list_ports");
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let state = self.state.lock().unwrap();
        let after =
            |(id, _): &(&String, &v1::Port)| request.page_token.is_empty() || **id > request.page_token;
        let matching = |(_, p): &(&String, &v1::Port)| matches(&filter, p);
        let mut found = state.ports.iter().filter(after).filter(matching);
        let page: Vec<_> = found.by_ref().take(request.page_size.min(2) as usize).collect();
        let more = found.next().is_some();
        let token = page.last().filter(|_| more).map(|(id, _)| (*id).clone()).unwrap_or_default();
        let ports = page.into_iter().map(|(_, p)| p.clone()).collect();
        Ok(Response::new(v1::ListPortsResponse { ports, next_page_token: token, revision: state.revision }))
    }

    type WatchPortsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchPortsResponse, Status>> + Send>>;

    async fn watch_ports(
        &self,
        request: Request<v1::WatchPortsRequest>,
    ) -> Result<Response<Self::WatchPortsStream>, Status> {
        use v1::watch_ports_response::Event;
        self.see("watch_ports");
        let request = request.into_inner();
        if request.from_revision == 1 {
            let stale = v1::StaleRevision { asked: 1, oldest: 7 };
            return Err(status(Code::OutOfRange, "revision 1 is forgotten", Detail::Stale(stale), ""));
        }
        let filter = request.filter.unwrap_or_default();
        let changes = tokio_stream::wrappers::BroadcastStream::new(self.changes.subscribe());
        let mut state = self.state.lock().unwrap();
        let mut first = Vec::new();
        let revision = state.revision;
        if request.from_revision == 0 {
            let current = state.ports.values().filter(|p| matches(&filter, p)).cloned();
            first.extend(
                current.map(|p| Ok(v1::WatchPortsResponse { revision, event: Some(Event::Changed(p)) })),
            );
            first.push(Ok(v1::WatchPortsResponse { revision, event: Some(Event::Synced(true)) }));
        }
        let broken = state.break_watches > 0;
        state.break_watches = state.break_watches.saturating_sub(1);
        let changes = changes.filter_map(move |event| match event {
            Ok(event) => match &event.event {
                Some(Event::Changed(port)) if !matches(&filter, port) => None,
                _ => Some(Ok(event)),
            },
            Err(_) => Some(Err(Status::unavailable("too slow"))),
        });
        if broken {
            first.truncate(1);
            first.push(Err(Status::unavailable("this controller stops")));
            return Ok(Response::new(Box::pin(tokio_stream::iter(first))));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(first).chain(changes))))
    }
}

fn matches(filter: &v1::PortFilter, port: &v1::Port) -> bool {
    let key = port.key.clone().unwrap_or_default();
    let node = port.binding.as_ref().map_or("", |b| b.node.as_str());
    (filter.vrf.is_empty() || filter.vrf == key.vrf)
        && (filter.network.is_empty() || filter.network == key.network)
        && key.name.starts_with(&filter.name_prefix)
        && (filter.node.is_empty() || filter.node == node)
        && (filter.address.is_empty() || port.addresses.contains(&filter.address))
        && filter.labels.iter().all(|(k, v)| port.labels.get(k) == Some(v))
}
