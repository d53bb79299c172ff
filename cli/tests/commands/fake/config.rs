//! Networks and the other records.

use super::*;

fn name_of(resource: &v1::Resource) -> (i32, String) {
    use v1::resource::Spec;
    let vrf = |vrf: &str| if vrf.is_empty() { "default".to_owned() } else { vrf.to_owned() };
    match resource.spec.as_ref().unwrap() {
        Spec::Vrf(r) => (v1::Kind::Vrf.into(), r.name.clone()),
        Spec::Network(r) => (v1::Kind::Network.into(), format!("{}/{}", vrf(&r.vrf), r.name)),
        Spec::Subnet(r) => (v1::Kind::Subnet.into(), format!("{}/{}", vrf(&r.vrf), r.prefix)),
        Spec::Node(r) => (v1::Kind::Node.into(), r.name.clone()),
        Spec::Peer(r) => (v1::Kind::Peer.into(), r.address.clone()),
    }
}

#[tonic::async_trait]
impl v1::config_service_server::ConfigService for Fake {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        self.see("apply");
        let request = request.into_inner();
        let mut violations = Vec::new();
        for (index, resource) in request.resources.iter().enumerate() {
            if let Some(v1::resource::Spec::Network(network)) = &resource.spec
                && network.vni == 0
            {
                let field = format!("resources[{index}].network.vni");
                violations.push(v1::FieldViolation { field, reason: "is required, 1 to 16777215".into() });
            }
        }
        if !violations.is_empty() {
            let kind = Detail::Fields(v1::FieldViolations { violations });
            return Err(status(Code::InvalidArgument, "1 field is wrong", kind, ""));
        }
        let vni = |r: &v1::Resource| match &r.spec {
            Some(v1::resource::Spec::Network(n)) => n.vni,
            _ => 0,
        };
        if let Some(index) = request.resources.iter().position(|r| vni(r) == 666) {
            let conflict = v1::Conflict { subject: "vni 666".into(), owner: "network default/old".into() };
            let message = format!("resources[{index}].network.vni: vni 666 is taken by network default/old");
            return Err(status(Code::AlreadyExists, &message, Detail::Conflict(conflict), ""));
        }
        let mut state = self.state.lock().unwrap();
        let mut results = Vec::new();
        for mut resource in request.resources {
            // Defaults are filled in, as the contract says.
            if let Some(v1::resource::Spec::Subnet(subnet)) = &mut resource.spec
                && subnet.vrf.is_empty()
            {
                subnet.vrf = "default".into();
            }
            if let Some(v1::resource::Spec::Network(network)) = &mut resource.spec {
                if network.vrf.is_empty() {
                    network.vrf = "default".into();
                }
                if network.mtu == 0 {
                    network.mtu = 1450;
                }
            }
            let key = name_of(&resource);
            let change = |field: &str, old: &str, new: &str| v1::FieldChange {
                field: field.into(),
                old: old.into(),
                new: new.into(),
            };
            let (action, changes) = match state.records.get(&key) {
                None => (v1::ApplyAction::Create, vec![change("name", "", &key.1)]),
                Some(old) if *old == resource => (v1::ApplyAction::Unchanged, vec![]),
                Some(_) => (v1::ApplyAction::Update, vec![change("mtu", "1450", "9000")]),
            };
            results.push(v1::ApplyResult {
                kind: key.0,
                name: key.1.clone(),
                action: action.into(),
                changes,
            });
            if !request.dry_run {
                state.revision += 1;
                state.records.insert(key, resource);
            }
        }
        Ok(Response::new(v1::ApplyResponse { results, revision: state.revision }))
    }

    async fn get_resource(
        &self,
        request: Request<v1::GetResourceRequest>,
    ) -> Result<Response<v1::GetResourceResponse>, Status> {
        let v1::GetResourceRequest { kind, name } = request.into_inner();
        let state = self.state.lock().unwrap();
        let full = if kind == v1::Kind::Network as i32 && !name.contains('/') {
            format!("default/{name}")
        } else {
            name
        };
        let resource = state.records.get(&(kind, full.clone())).cloned();
        let resource = resource.ok_or_else(|| Status::not_found(format!("there is no {full}")))?;
        Ok(Response::new(v1::GetResourceResponse { resource: Some(resource), revision: state.revision }))
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Status> {
        let kind = request.into_inner().kind;
        let state = self.state.lock().unwrap();
        let resources =
            state.records.iter().filter(|((k, _), _)| *k == kind).map(|(_, r)| r.clone()).collect();
        Ok(Response::new(v1::ListResourcesResponse { resources, revision: state.revision }))
    }

    async fn delete_resource(
        &self,
        request: Request<v1::DeleteResourceRequest>,
    ) -> Result<Response<v1::DeleteResourceResponse>, Status> {
        let v1::DeleteResourceRequest { kind, name } = request.into_inner();
        let mut state = self.state.lock().unwrap();
        if name == "default/used" {
            return Err(Status::failed_precondition("network default/used has 2 subnets"));
        }
        state.records.remove(&(kind, name));
        Ok(Response::new(v1::DeleteResourceResponse { revision: state.revision }))
    }
}
