//! etcd goes away for a while and comes back: reads go on, writes say UNAVAILABLE and may be repeated, nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use causeway_proto::v1;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_tests::controller::{Controller, StoreAt, network};
use causeway_tests::etcd::EtcdVersion;
use causeway_tests::{Etcd, wait_for};
use tonic::Code;

/// How long etcd is away.
const AWAY: Duration = Duration::from_secs(30);

fn create(name: &str) -> v1::CreatePortRequest {
    let key = v1::PortKey { vrf: String::new(), network: "web".into(), name: name.into() };
    v1::CreatePortRequest { key: Some(key), ..Default::default() }
}

#[tokio::test]
async fn reads_go_on_and_writes_are_refused_while_etcd_is_away() -> Result<()> {
    let mut etcd = Etcd::start(EtcdVersion::Debian).await?;
    let controller = Controller::start(&StoreAt::Etcd(etcd.endpoint())).await?;
    controller.apply(network("web", 100, "10.9.0.0/24")).await?;
    let mut ports = PortServiceClient::new(controller.channel()?);
    let before = ports.create_port(create("before")).await?.into_inner().port;
    etcd.kill()?;
    let gone = Instant::now();
    let mut refused = 0;
    while gone.elapsed() < AWAY {
        let get = v1::GetPortRequest { key: create("before").key };
        let read = ports.get_port(get).await?.into_inner().port;
        ensure!(
            read.as_ref().map(|p| &p.addresses) == before.as_ref().map(|p| &p.addresses),
            "read {read:?}"
        );
        let status = ports.create_port(create("during")).await.err();
        ensure!(status.as_ref().is_some_and(|s| s.code() == Code::Unavailable), "a write said {status:?}");
        refused += 1;
    }
    println!("{refused} writes were refused in {:?}", gone.elapsed());
    etcd.restart().await?;
    let back = wait_for("writes succeed again", Duration::from_secs(15), async || {
        Ok(ports.create_port(create("during")).await?.into_inner().port)
    })
    .await?;
    // What was there before is still there and its address is nobody else's.
    let again = ports.create_port(create("before")).await?.into_inner();
    ensure!(!again.created, "'before' was created anew");
    let addresses = |port: &Option<v1::Port>| port.as_ref().map(|p| p.addresses.clone());
    ensure!(
        addresses(&again.port) == addresses(&before) && addresses(&back) != addresses(&before),
        "{again:?} {back:?}"
    );
    Ok(())
}
