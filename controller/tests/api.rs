//! The API as a client sees it: idempotency, errors with their details, pages, watches, reads without the store.

mod support;

use anyhow::{Context, Result};
use causeway_proto::v1;
use causeway_proto::v1::error_detail::Kind;
use support::*;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_twice_gives_the_same_answer() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let request = || v1::CreatePortRequest { key: Some(key("a")), ..v1::CreatePortRequest::default() };
    let first = lab.ports().create_port(request()).await?.into_inner();
    let again = lab.ports().create_port(request()).await?.into_inner();
    assert!(first.created && !again.created);
    assert_eq!(first.port, again.port);
    let port = first.port.context("a port")?;
    assert_eq!(port.state(), v1::PortState::Reserved);
    assert_eq!(port.addresses.len(), 1);
    assert!(port.mac.starts_with("02:ca:0a:08:00:"), "{}", port.mac);
    assert_eq!(lab.get("a").await?, port, "a read behind a write shows it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_lives_and_is_released_and_comes_back_with_its_address() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let created = lab.create("a", Some("h1")).await?;
    assert_eq!(created.state(), v1::PortState::Bound);
    assert_eq!(
        created.binding.as_ref().map(|b| (b.node.as_str(), b.interface.as_str())),
        Some(("h1", "eth0"))
    );
    assert_eq!(lab.unbind("a").await?.state(), v1::PortState::Reserved);
    assert_eq!(lab.unbind("a").await?.state(), v1::PortState::Reserved, "repeating it succeeds");
    let moved = lab.bind("a", "h2").await?;
    assert_eq!(moved.binding.map(|b| b.generation), Some(2));
    let release = || v1::ReleasePortRequest { key: Some(key("a")), ..v1::ReleasePortRequest::default() };
    lab.ports().release_port(release()).await?;
    lab.ports().release_port(release()).await?;
    assert_eq!(lab.get("a").await?.state(), v1::PortState::Released);
    assert_eq!(lab.create("a", None).await?.addresses, created.addresses, "sticky");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_has_its_code_and_detail() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let taken = lab.create("a", Some("h1")).await?.addresses.remove(0);
    let create = async |change: &dyn Fn(&mut v1::CreatePortRequest)| {
        let mut request = v1::CreatePortRequest { key: Some(key("b")), ..v1::CreatePortRequest::default() };
        change(&mut request);
        refused(lab.ports().create_port(request).await)
    };
    let status = create(&|r| r.key = None).await?;
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "key: is required"));
    assert!(matches!(detail(&status)?.kind, Some(Kind::Fields(f)) if f.violations[0].field == "key"));
    let status = create(&|r| r.addresses = vec!["10.77.0.1".into()]).await?;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(matches!(detail(&status)?.kind, Some(Kind::Fields(_))));
    let status = create(&|r| r.addresses = vec![taken.clone()]).await?;
    assert_eq!(status.code(), Code::AlreadyExists);
    let told = detail(&status)?;
    assert!(matches!(&told.kind, Some(Kind::Conflict(c)) if c.owner.contains("default/web/a")), "{told:?}");
    assert!(!told.retryable);
    let status = create(&|r| r.key = Some(key("nowhere/b"))).await?;
    assert_eq!(status.code(), Code::NotFound);
    assert!(detail(&status)?.hint.contains("causeway apply"));
    let status = create(&|r| r.bind = Some(binding("h9"))).await?;
    assert_eq!((status.code(), status.message()), (Code::NotFound, "node h9 does not exist"));
    // Bound elsewhere: unbind first.
    let request = v1::BindPortRequest { key: Some(key("a")), binding: Some(binding("h2")), force: false };
    let status = refused(lab.ports().bind_port(request).await)?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let status = refused(lab.ports().get_port(v1::GetPortRequest { key: Some(key("zz")) }).await)?;
    assert_eq!(status.code(), Code::NotFound);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_pool_says_what_it_is_made_of() -> Result<()> {
    let lab = Lab::start().await?;
    lab.apply(vec![network("web", 110), subnet("web", "10.8.0.0/30", "")]).await?;
    lab.create("a", None).await?;
    lab.create("b", None).await?;
    let request = v1::CreatePortRequest { key: Some(key("c")), ..v1::CreatePortRequest::default() };
    let status = refused(lab.ports().create_port(request).await)?;
    assert_eq!(status.code(), Code::ResourceExhausted);
    let told = detail(&status)?;
    assert!(
        matches!(&told.kind, Some(Kind::Exhausted(e)) if e.size == 2 && e.subnets == ["10.8.0.0/30"]),
        "{told:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_records_are_refused_as_a_whole() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let apply = async |resources: Vec<v1::Resource>| {
        refused(lab.config().apply(v1::ApplyRequest { resources, dry_run: false }).await)
    };
    let status = apply(vec![network("ok", 500), network("Bad", 501)]).await?;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        matches!(detail(&status)?.kind, Some(Kind::Fields(f)) if f.violations[0].field.starts_with("resources[1]"))
    );
    let status = apply(vec![network("other", 110)]).await?;
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert!(matches!(detail(&status)?.kind, Some(Kind::Conflict(c)) if c.owner.contains("default/web")));
    let status = apply(vec![subnet("db", "10.8.0.128/25", "")]).await?;
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    let list = v1::ListResourcesRequest { kind: v1::Kind::Network.into() };
    assert_eq!(
        lab.config().list_resources(list).await?.into_inner().resources.len(),
        2,
        "nothing was written"
    );
    for (kind, name, code) in [
        (v1::Kind::Network, "default/none", Code::NotFound),
        (v1::Kind::Network, "A", Code::InvalidArgument),
        (v1::Kind::Subnet, "x", Code::InvalidArgument),
        (v1::Kind::Peer, "x", Code::InvalidArgument),
        (v1::Kind::Unspecified, "x", Code::InvalidArgument),
    ] {
        let request = v1::GetResourceRequest { kind: kind.into(), name: name.into() };
        assert_eq!(refused(lab.config().get_resource(request).await)?.code(), code, "{kind:?} {name}");
    }
    lab.create("a", None).await?;
    let delete = v1::DeleteResourceRequest { kind: v1::Kind::Network.into(), name: "web".into() };
    let status = refused(lab.config().delete_resource(delete).await)?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_items_succeed_or_fail_one_by_one() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let item =
        |name: &str| v1::CreatePortRequest { key: Some(key(name)), ..v1::CreatePortRequest::default() };
    let wrong = v1::CreatePortRequest { mac: "x".into(), ..item("b") };
    let ports = vec![item("a"), wrong, item("nowhere/c"), item("d")];
    let answer =
        lab.ports().create_ports(v1::CreatePortsRequest { ports, dry_run: false }).await?.into_inner();
    let codes: Vec<i32> = answer
        .results
        .into_iter()
        .map(|result| match result.result {
            Some(v1::create_ports_result::Result::Ok(_)) => 0,
            Some(v1::create_ports_result::Result::Error(error)) => error.code,
            None => -1,
        })
        .collect();
    assert_eq!(codes, [0, Code::InvalidArgument as i32, Code::NotFound as i32, 0]);
    let many =
        v1::CreatePortsRequest { ports: (0..1001).map(|n| item(&format!("p{n}"))).collect(), dry_run: false };
    assert_eq!(refused(lab.ports().create_ports(many).await)?.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_by_filter() -> Result<()> {
    let lab = Lab::with_sample().await?;
    for n in 0..25 {
        let name = if n % 5 == 0 { format!("db/p{n:02}") } else { format!("web/p{n:02}") };
        lab.create(&name, (n % 2 == 0).then_some("h1")).await?;
    }
    let list = async |filter: v1::PortFilter, page_size: u32| -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListPortsRequest { filter: Some(filter.clone()), page_size, page_token };
            let page = lab.ports().list_ports(request).await?.into_inner();
            assert!(page.ports.len() <= page_size.max(1) as usize || page_size == 0);
            names.extend(
                page.ports.into_iter().filter_map(|p| p.key).map(|k| format!("{}/{}", k.network, k.name)),
            );
            if page.next_page_token.is_empty() {
                return Ok(names);
            }
            page_token = page.next_page_token;
        }
    };
    let all = list(v1::PortFilter::default(), 0).await?;
    assert_eq!(all.len(), 25);
    for size in [1, 4, 5, 24, 25, 26] {
        assert_eq!(list(v1::PortFilter::default(), size).await?, all, "pages of {size}");
    }
    let db = v1::PortFilter { network: "db".into(), ..v1::PortFilter::default() };
    assert_eq!(list(db.clone(), 2).await?, ["db/p00", "db/p05", "db/p10", "db/p15", "db/p20"]);
    let both = v1::PortFilter { vrf: "default".into(), node: "h1".into(), ..db };
    assert_eq!(list(both, 1).await?, ["db/p00", "db/p10", "db/p20"]);
    let prefix = v1::PortFilter { name_prefix: "p2".into(), ..v1::PortFilter::default() };
    assert_eq!(list(prefix, 2).await?.len(), 5);
    let address = lab.get("web/p07").await?.addresses.remove(0);
    let by_address = v1::PortFilter { address, ..v1::PortFilter::default() };
    assert_eq!(list(by_address, 1).await?, ["web/p07"]);
    let page = v1::ListPortsRequest { page_token: "?".into(), ..v1::ListPortsRequest::default() };
    assert_eq!(refused(lab.ports().list_ports(page).await)?.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_is_and_what_changes_and_resumes() -> Result<()> {
    use v1::watch_ports_response::Event;
    let lab = Lab::with_sample().await?;
    lab.create("a", None).await?;
    let watch = |from_revision| v1::WatchPortsRequest { filter: None, from_revision };
    let mut stream = lab.ports().watch_ports(watch(0)).await?.into_inner();
    let name = |event: &Option<Event>| match event {
        Some(Event::Changed(port)) => {
            format!("{} {}", port.key.as_ref().map_or("", |k| &k.name), port.state().as_str_name())
        }
        Some(Event::Deleted(key)) => format!("-{}", key.name),
        Some(Event::Synced(_)) => "synced".into(),
        None => "nothing".into(),
    };
    let mut next = async || -> Result<(String, u64)> {
        let message =
            tokio::time::timeout(PATIENCE, stream.message()).await??.context("the stream goes on")?;
        Ok((name(&message.event), message.revision))
    };
    assert_eq!(next().await?.0, "a PORT_STATE_RESERVED");
    assert_eq!(next().await?.0, "synced");
    lab.create("b", None).await?;
    let (event, revision) = next().await?;
    assert_eq!(event, "b PORT_STATE_RESERVED");
    lab.bind("a", "h1").await?;
    assert_eq!(next().await?.0, "a PORT_STATE_BOUND");
    let forget =
        v1::ReleasePortRequest { key: Some(key("b")), forget: true, ..v1::ReleasePortRequest::default() };
    lab.ports().release_port(forget.clone()).await?;
    assert_eq!(next().await?.0, "b PORT_STATE_QUARANTINED");
    lab.ports().release_port(v1::ReleasePortRequest { skip_quarantine: true, ..forget }).await?;
    assert_eq!(next().await?.0, "-b");
    let mut resumed = lab.ports().watch_ports(watch(revision)).await?.into_inner();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let message = tokio::time::timeout(PATIENCE, resumed.message()).await??.context("goes on")?;
        seen.push(name(&message.event));
    }
    assert_eq!(seen, ["a PORT_STATE_BOUND", "-b"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_forgotten_revision_says_so() -> Result<()> {
    let lab = Lab::with_sample().await?;
    lab.create("a", None).await?;
    // The embedded store remembers changes of its own run only.
    let lab = Lab::start_in(lab.stop().await?).await?;
    lab.create("b", None).await?;
    let watch = v1::WatchPortsRequest { filter: None, from_revision: 1 };
    let status = refused(lab.ports().watch_ports(watch).await.map(|_| "a stream"))?;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(matches!(detail(&status)?.kind, Some(Kind::Stale(s)) if s.asked == 1 && s.oldest > 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_reflection_and_the_local_socket_answer() -> Result<()> {
    use tonic_health::pb::health_client::HealthClient;
    let lab = Lab::with_sample().await?;
    let request = tonic_health::pb::HealthCheckRequest { service: "causeway.v1.PortService".into() };
    let answer = HealthClient::new(lab.channel.clone()).check(request).await?.into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(lab.channel.clone());
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
        ..Default::default()
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await?.into_inner();
    let text = format!("{:?}", answers.message().await?.context("an answer")?);
    for service in ["PortService", "ConfigService", "FabricService", "AgentService"] {
        assert!(text.contains(&format!("causeway.v1.{service}")), "{text}");
    }
    let socket = format!("unix:{}", lab.directory.path().join("api.sock").display());
    let channel = tonic::transport::Endpoint::new(socket)?.connect().await?;
    let mut client = v1::config_service_client::ConfigServiceClient::new(channel);
    let list = v1::ListResourcesRequest { kind: v1::Kind::Node.into() };
    assert_eq!(client.list_resources(list).await?.into_inner().resources.len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_say_how_it_is() -> Result<()> {
    let lab = Lab::with_sample().await?;
    lab.create("a", Some("h1")).await?;
    assert_eq!(lab.http("/healthz").await?, (200, "ok\n".into()));
    let (code, text) = lab.http("/readyz").await?;
    assert_eq!(code, 200, "{text}");
    assert!(text.contains("ok: store, revision"), "{text}");
    let (code, text) = lab.http("/metrics").await?;
    assert_eq!(code, 200);
    for line in [
        "causeway_store_records{kind=\"port\"} 1",
        "causeway_store_connected 1",
        "causeway_api_calls_total{method=\"PortService/CreatePort\",code=\"Ok\"} 1",
        "causeway_api_call_seconds_count{method=\"PortService/CreatePort\"} 1",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert_eq!(lab.http("/nothing").await?.0, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_a_restart_and_stopping_is_clean() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let before = lab.create("a", Some("h1")).await?;
    let socket = lab.directory.path().join("api.sock");
    // A stream that stays open does not keep the controller.
    let watch = v1::WatchPortsRequest::default();
    let _stream = lab.ports().watch_ports(watch).await?;
    let started = std::time::Instant::now();
    let directory = lab.stop().await?;
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(!socket.exists(), "the socket's file is gone");
    let lab = Lab::start_in(directory).await?;
    assert_eq!(lab.get("a").await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_served_and_clients_may_be_asked_for_a_certificate() -> Result<()> {
    use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
    let directory = tempfile::tempdir()?;
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .context("run openssl")?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls =
        |client_ca| causeway_controller::config::Tls { cert: cert.clone(), key: key.clone(), client_ca };
    let (pem, key_pem) = (tokio::fs::read(&cert).await?, tokio::fs::read(&key).await?);
    let trust =
        || ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(&pem));
    let known = || trust().identity(Identity::from_pem(&pem, &key_pem));
    for (client_ca, client, fine) in
        [(None, trust(), true), (Some(cert.clone()), known(), true), (Some(cert.clone()), trust(), false)]
    {
        let store = tempfile::tempdir()?;
        let config =
            causeway_controller::config::Config { tls: Some(tls(client_ca)), ..config(store.path()) };
        let cancel = tokio_util::sync::CancellationToken::new();
        let controller = causeway_controller::run::Controller::start(config, cancel).await?;
        let causeway_controller::config::Listen::Tcp(address) = &controller.grpc_addresses()[0] else {
            anyhow::bail!("TCP first")
        };
        let channel = Endpoint::new(format!("https://{address}"))?.tls_config(client)?.connect_lazy();
        let mut client = v1::fabric_service_client::FabricServiceClient::new(channel);
        assert_eq!(client.list_peers(v1::ListPeersRequest {}).await.is_ok(), fine);
        let plain = Endpoint::new(format!("http://{address}"))?.connect_lazy();
        let mut plain = v1::fabric_service_client::FabricServiceClient::new(plain);
        assert!(plain.list_peers(v1::ListPeersRequest {}).await.is_err(), "plain text is refused");
        assert!(controller.stop().await);
    }
    Ok(())
}
