//! Our own controller as a process on loopback.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;
use causeway_proto::v1::config_service_client::ConfigServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::process::{Daemon, program};
use crate::slot::{Directory, Slot};
use crate::wait_for;

/// Longest wait for the API to answer.
const START: Duration = Duration::from_secs(30);

/// Where it keeps its records.
#[derive(Debug, Clone)]
pub enum StoreAt {
    /// In a directory of its own.
    File,
    /// In an etcd.
    Etcd(String),
}

/// A controller. Dropping it kills it.
#[derive(Debug)]
pub struct Controller {
    daemon: Option<Daemon>,
    address: Ipv4Addr,
    /// `ip netns exec NAME` in front, or nothing.
    prefix: Vec<String>,
    directory: Directory,
}

impl Controller {
    /// Starts one on a loopback address of its own and waits until it is ready.
    pub async fn start(store: &StoreAt) -> Result<Controller> {
        let address = Slot::get()?.loopback()?;
        Controller::start_in(&[], address, address, store).await
    }

    /// Starts one behind a command prefix (a namespace), at an address, with a router id.
    pub async fn start_in(
        prefix: &[&str],
        address: Ipv4Addr,
        router_id: Ipv4Addr,
        store: &StoreAt,
    ) -> Result<Controller> {
        let directory = Slot::get()?.directory("ctl")?;
        let store = match store {
            StoreAt::File => format!("{{file: {}}}", directory.path().join("store").display()),
            StoreAt::Etcd(endpoint) => format!("{{etcd: {{endpoints: [\"{endpoint}\"]}}}}"),
        };
        let config = format!(
            "name: {}\nrouter_id: {router_id}\nasn: 65000\nlisten: [\"{address}:7480\", \"unix:{}/api\"]\n\
             http_listen: [\"{address}:7481\"]\nbgp_listen: [\"{address}:1790\"]\nstore: {store}\n",
            directory.path().file_name().and_then(|n| n.to_str()).context("odd directory")?,
            directory.path().display(),
        );
        std::fs::write(directory.path().join("controller.yaml"), config)?;
        let prefix = prefix.iter().map(ToString::to_string).collect();
        let mut controller = Controller { daemon: None, address, prefix, directory };
        controller.restart().await?;
        Ok(controller)
    }

    /// Its gRPC endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}:7480", self.address)
    }

    /// The address that it listens at, and connects to its peers from.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its unix socket, for those in other namespaces.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("api")
    }

    /// A channel to it that connects when used.
    pub fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.endpoint())?.connect_timeout(Duration::from_secs(2)).connect_lazy())
    }

    /// Its process.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("the controller is not running")
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("the controller is not running")?.kill()
    }

    /// Starts it again (killing it first if it runs), and waits until its API answers.
    pub async fn restart(&mut self) -> Result<()> {
        self.daemon = None;
        let program = program("causeway-controller")?;
        let words: Vec<_> = self.prefix.iter().map(AsRef::as_ref).chain([program.as_os_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("--config").arg(self.directory.path().join("controller.yaml"));
        let mut daemon = Daemon::spawn("controller", command, &self.directory.path().join("log"))?;
        // From inside a namespace only those in it can ask.
        if self.prefix.is_empty() {
            let list = v1::ListResourcesRequest { kind: v1::Kind::Vrf.into() };
            wait_for("the controller answers", START, async || {
                daemon.must_run()?;
                let vrfs = ConfigServiceClient::new(self.channel()?).list_resources(list).await?.into_inner();
                ensure!(!vrfs.resources.is_empty(), "the VRF default is missing");
                Ok(())
            })
            .await?;
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Applies records.
    pub async fn apply(&self, specs: Vec<v1::resource::Spec>) -> Result<()> {
        apply(&self.channel()?, specs).await
    }
}

/// Applies records through a channel.
pub async fn apply(channel: &Channel, specs: Vec<v1::resource::Spec>) -> Result<()> {
    let resources = specs.into_iter().map(|spec| v1::Resource { spec: Some(spec) }).collect();
    let request = v1::ApplyRequest { resources, dry_run: false };
    ConfigServiceClient::new(channel.clone()).apply(request).await?;
    Ok(())
}

/// A network `default/NAME` with one subnet.
pub fn network(name: &str, vni: u32, prefix: &str) -> Vec<v1::resource::Spec> {
    let network = v1::Network { name: name.into(), vni, ..Default::default() };
    let subnet = v1::Subnet { network: name.into(), prefix: prefix.into(), ..Default::default() };
    vec![v1::resource::Spec::Network(network), v1::resource::Spec::Subnet(subnet)]
}
