//! The lab `migrate` under test: a port that is a VM on host1 and a container on host2, who asks for it from two places, and
//! what switches and hosts know of it.

mod routes;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use routes::Route;

use crate::fabric::{established, says};
use crate::lab::{Lab, Switches};
use crate::traffic::Cost;
pub use crate::traffic::Pings;
use crate::vm::{Vm, VmSpec};
use crate::wait_for;

/// The port, as users write it.
pub const PORT: &str = "web/db-1";
/// The VM's tap on either host: made by others, named as nova names them, after a port of its own.
pub const TAP: &str = "tap6f0c9d1a-7b";
/// The container's namespace.
pub const NETNS: &str = "/run/netns/db-1";
/// Between two pings. Not 10 ms: where the kernel counts time in 4 ms, ping would make 16 of that.
pub const PING: Duration = Duration::from_millis(8);
/// The switches, of host1, of host2 and bm1, of host3, and their VTEPs.
pub const VTEPS: [(&str, &str); 3] =
    [("leaf1", "10.255.0.2"), ("leaf2", "10.255.0.3"), ("leaf3", "10.255.0.4")];
/// Under which the controller announces the network.
const OUR_RD: &str = "10.254.0.7:1";
const HOSTS: [&str; 3] = ["host1", "host2", "host3"];
const SOON: Duration = Duration::from_secs(60);
/// Makes a tap as others do: Causeway finds it.
const MAKE_TAP: &str = "ip tuntap add $0 mode tap; ip link set $0 addrgenmode none mtu 1450";

/// Where the port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// A VM on host1.
    Vm1,
    /// The VM on host2.
    Vm2,
    /// A container on host2.
    Container2,
    /// A container on host1.
    Container1,
    /// The server bm1, which takes the port's MAC and address.
    Metal,
}

impl Home {
    /// The host, or the server.
    pub fn host(self) -> &'static str {
        match self {
            Home::Vm1 | Home::Container1 => "host1",
            Home::Vm2 | Home::Container2 => "host2",
            Home::Metal => "bm1",
        }
    }

    /// Its switch.
    pub fn leaf(self) -> &'static str {
        if self.host() == "host1" { "leaf1" } else { "leaf2" }
    }

    /// The switch's interface to it.
    fn wire(self) -> &'static str {
        if self == Home::Metal { "eth4" } else { "eth3" }
    }

    fn words(self) -> [&'static str; 4] {
        match self {
            Home::Vm1 => ["--to", "host1:vm", "--interface", TAP],
            Home::Vm2 => ["--to", "host2:vm", "--interface", TAP],
            Home::Container2 => ["--to", "host2:container", "--netns", NETNS],
            Home::Container1 => ["--to", "host1:container", "--netns", NETNS],
            Home::Metal => ["--to", "leaf2:bare-metal", "--interface", "eth4"],
        }
    }
}

/// Who asks: a node, and a namespace in it.
type Asker = (&'static str, Option<&'static str>);

fn inside(netns: Option<&'static str>) -> Vec<&'static str> {
    netns.map_or_else(Vec::new, |netns| vec!["ip", "netns", "exec", netns])
}

/// The lab with the port in it.
#[derive(Debug)]
pub struct Moving {
    /// The lab.
    pub lab: Lab,
    /// The port's address.
    pub ipv4: String,
    /// The port's MAC.
    pub mac: String,
    askers: [Asker; 2],
}

/// A move, as it was.
#[derive(Debug)]
pub struct Moved {
    /// What `port migrate` says.
    pub said: Value,
    /// What each pings' side lost.
    pub costs: Vec<Cost>,
}

impl Moved {
    /// The longest silence that anybody had, in milliseconds.
    pub fn silent_ms(&self) -> f64 {
        self.costs.iter().map(|c| c.silent.as_secs_f64() * 1e3).fold(0.0, f64::max)
    }

    /// The most that anybody lost.
    pub fn lost(&self) -> u64 {
        self.costs.iter().map(|c| c.lost).max().unwrap_or_default()
    }

    /// Answers that came more than once, to all.
    pub fn duplicates(&self) -> usize {
        self.costs.iter().map(|c| c.duplicates).sum()
    }
}

impl Moving {
    /// The lab, and in it who asks; the port exists and is nowhere.
    pub async fn up(switches: Switches) -> Result<Moving> {
        let lab = Lab::up("migrate", switches).await?;
        lab.apply("ctl").await?;
        established(&lab, 1).await?;
        for (leaf, _) in VTEPS {
            let others = VTEPS.iter().filter(|(other, _)| *other != leaf);
            let others: Vec<String> = others.map(|(_, v)| format!("00:00:00:00:00:00 dst {v}")).collect();
            says(&lab, leaf, "bridge fdb show dev vx100", &[&others[0], &others[1]]).await?;
        }
        lab.exec("host3", &["ip", "netns", "add", "ask"]).await?;
        let ask =
            ["causeway", "port", "create", "web/ask", "--bind-node", "host3", "--netns", "/run/netns/ask"];
        lab.exec("ctl", &[&ask[..], &["--wait", "advertised"]].concat()).await?;
        lab.exec("ctl", &["causeway", "port", "create", PORT]).await?;
        let got = lab.json("ctl", &["causeway", "get", "port", PORT, "-o", "json"]).await?;
        let text = |value: &Value| value.as_str().map(ToString::to_string).context("no address");
        let (ipv4, mac) = (text(&got["addresses"][0])?, text(&got["mac"])?);
        Ok(Moving { lab, ipv4, mac, askers: [("host3", Some("ask")), ("bm1", None)] })
    }

    /// bm1 is to be the port itself: a workload on host2 asks in its place, from behind the same switch.
    pub async fn bm1_is_free(&mut self) -> Result<()> {
        self.lab.exec("host2", &["ip", "netns", "add", "near"]).await?;
        let near =
            ["causeway", "port", "create", "web/near", "--bind-node", "host2", "--netns", "/run/netns/near"];
        self.lab.exec("ctl", &[&near[..], &["--wait", "advertised"]].concat()).await?;
        self.askers[1] = ("host2", Some("near"));
        Ok(())
    }

    /// What a VM with this port's address is started with.
    pub async fn vm(&self, node: &str, tap: &str, incoming: Option<&str>) -> Result<Vm> {
        let address = format!("{}/24", self.ipv4);
        Vm::start(&self.lab, &VmSpec { node, tap, mac: &self.mac, address: &address, incoming }).await
    }

    /// A tap that somebody else has made.
    pub async fn tap(&self, node: &str) -> Result<()> {
        self.lab.exec(node, &["sh", "-ec", MAKE_TAP, TAP]).await.map(drop)
    }

    /// The port is bound to a VM on host1, on a tap of others, and answers; a namespace on host2 waits.
    pub async fn place(&self) -> Result<Vm> {
        self.lab.exec("host2", &["ip", "netns", "add", "db-1"]).await?;
        self.tap("host1").await?;
        let bind =
            ["causeway", "port", "bind", PORT, "--node", "host1", "--workload", "vm", "--interface", TAP];
        self.lab.exec("ctl", &[&bind[..], &["--wait", "advertised"]].concat()).await?;
        let mut vm = self.vm("host1", TAP, None).await?;
        vm.booted().await?;
        self.answers().await?;
        Ok(vm)
    }

    /// The port answers host3's workload and who asks from behind leaf2.
    pub async fn answers(&self) -> Result<()> {
        let ping = ["ping", "-n", "-c", "1", "-W", "1", &self.ipv4];
        for (node, netns) in self.askers {
            let what = format!("the port answers {node}");
            let command = [&inside(netns)[..], &ping].concat();
            let answered = wait_for(&what, SOON, async || self.lab.exec(node, &command).await);
            if let Err(error) = answered.await {
                return Err(error.context(self.all_that_is_known().await));
            }
        }
        Ok(())
    }

    /// Pings of an address from host3's workload and from behind leaf2.
    pub async fn pings(&self, address: &str) -> Result<Vec<Pings>> {
        let mut pings = Vec::new();
        for (node, netns) in self.askers {
            pings.push(match netns {
                Some(netns) => Pings::start(&self.lab, node, netns, address, PING).await?,
                None => Pings::of_node(&self.lab, node, address, PING).await?,
            });
        }
        settle(&pings, 50).await?;
        Ok(pings)
    }

    /// Moves the port under pings: waits until the move is over and all answers come again. More than three moves in 180 s
    /// need `--force`, and what a busy machine costs is measured here and not a reason to go back.
    pub async fn migrate(&self, to: Home, pings: &[Pings]) -> Result<Moved> {
        let marks = pings.iter().map(Pings::mark).collect::<Result<Vec<_>>>()?;
        let more = ["--force", "--max-loss", "20s", "--window", "1s", "-o", "json"];
        let words = [&["causeway", "port", "migrate", PORT], &to.words()[..], &more].concat();
        let said = self.lab.json("ctl", &words).await?;
        ensure!(said["phase"] == "hold" || said["phase"] == "done", "{said}");
        settle(pings, 20).await?;
        self.over().await?;
        let costs =
            pings.iter().zip(marks).map(|(ping, mark)| ping.cost(mark)).collect::<Result<Vec<_>>>()?;
        Ok(Moved { said, costs })
    }

    /// What is refused, in words.
    pub async fn refused(&self, to: Home) -> Result<String> {
        let words = [&["causeway", "port", "migrate", PORT], &to.words()[..]].concat();
        match self.lab.exec("ctl", &words).await {
            Ok(said) => anyhow::bail!("moved to {to:?}: {said}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// The last move of the port has ended where it should.
    pub async fn over(&self) -> Result<()> {
        wait_for("the move is over", SOON, async || {
            let moves = self.lab.json("ctl", &["causeway", "port", "moves", "-o", "json"]).await?;
            let of = |m: &&Value| m["port"].as_str() == Some("default/web/db-1");
            let found = moves.as_array().and_then(|all| all.iter().find(of)).context("no move")?;
            ensure!(found["phase"] == "done", "it is in {}: {}", found["phase"], found["reason"]);
            Ok(())
        })
        .await
    }

    /// What a switch's zebra knows of the port's MAC.
    pub async fn zebra(&self, leaf: &str) -> Result<Value> {
        let show = format!("show evpn mac vni 100 mac {} json", self.mac);
        self.lab.json(leaf, &["vtysh", "-c", &show]).await
    }

    /// All routes of the port's MAC as the route reflector has them: next hop, sequence, whether with the address.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let show = ["vtysh", "-c", "show bgp l2vpn evpn route type macip"];
        Ok(routes::read(&self.lab.exec("spine1", &show).await?, &self.mac))
    }

    /// No switch, host or machine knows the port anywhere but at home, and all routes say the same. Gives the controller's
    /// sequence, which nobody exceeds; a switch that knew nothing of the MAC when it came has begun anew at 0, and with the same
    /// next hop contradicts nobody.
    pub async fn nothing_is_stale(&self, home: Home) -> Result<u32> {
        let (_, vtep) = VTEPS[if home.leaf() == "leaf1" { 0 } else { 1 }];
        for (leaf, _) in VTEPS {
            wait_for(&format!("{leaf} knows the port at {} alone", home.leaf()), SOON, async || {
                self.switch_knows(leaf, home, vtep).await
            })
            .await?;
        }
        for host in HOSTS {
            wait_for(&format!("{host} knows the port at {} alone", home.host()), SOON, async || {
                let fdb = self.lab.exec(host, &["bridge", "fdb", "show"]).await?;
                let here = of_mac(&fdb, &self.mac);
                let uplink = here.iter().filter(|l| l.contains("dev eth1")).count();
                match host == home.host() {
                    true => ensure!(!here.is_empty() && uplink == 0, "{here:#?}"),
                    false => ensure!(uplink == here.len(), "{here:#?}"),
                }
                Ok(())
            })
            .await?;
        }
        for (node, netns) in self.askers {
            let show = [&inside(netns)[..], &["ip", "neigh", "show", &self.ipv4]].concat();
            let known = self.lab.exec(node, &show).await?;
            ensure!(known.contains(&self.mac) && known.lines().count() == 1, "{node}: {known}");
        }
        wait_for("one next hop, and nobody above the controller", SOON, async || {
            let routes = self.routes().await?;
            let ours = routes.iter().find(|r| r.rd == OUR_RD && r.with_address);
            let sequence =
                ours.with_context(|| format!("the controller announces nothing: {routes:#?}"))?.sequence;
            let same = |r: &Route| r.next_hop == vtep && r.sequence <= sequence && !r.sticky;
            ensure!(routes.iter().all(same), "{routes:#?}");
            Ok(sequence)
        })
        .await
    }

    async fn switch_knows(&self, leaf: &str, home: Home, vtep: &str) -> Result<()> {
        let fdb = self.lab.exec(leaf, &["bridge", "fdb", "show"]).await?;
        let entries = of_mac(&fdb, &self.mac);
        let master: Vec<_> = entries.iter().filter(|l| l.contains(" master ")).collect();
        let neighbours = self.lab.exec(leaf, &["ip", "neigh", "show", &self.ipv4]).await?;
        ensure!(neighbours.lines().all(|l| l.contains(&self.mac)), "{neighbours}");
        let zebra = self.zebra(leaf).await?;
        let zebra = &zebra[&self.mac];
        if leaf == home.leaf() {
            // The tunnel's own entry of before may stay: frames go by the bridge's.
            let port = format!("dev {} ", home.wire());
            ensure!(master.len() == 1 && master[0].contains(&port), "{entries:#?}");
            ensure!(zebra["type"] == "local", "{zebra}");
        } else {
            ensure!(master.len() == 1 && master[0].contains("dev vx100 "), "{entries:#?}");
            let tunnels: Vec<_> = entries.iter().filter(|l| l.contains(" dst ")).collect();
            ensure!(tunnels.len() == 1 && tunnels[0].contains(&format!("dst {vtep} ")), "{entries:#?}");
            ensure!(zebra["type"] == "remote" && zebra["remoteVtep"] == vtep, "{zebra}");
        }
        Ok(())
    }

    /// For whoever has to find out why something is not as it should be.
    pub async fn all_that_is_known(&self) -> String {
        let mut said = String::new();
        for command in [["get", "port", PORT, "-o", "json"].as_slice(), &["port", "moves", "-o", "json"]] {
            let command = [&["causeway"], command].concat();
            said += &self.lab.exec("ctl", &command).await.unwrap_or_else(|error| format!("{error:#}"));
        }
        let routes = self.routes().await;
        said += &format!("routes: {routes:#?}\n");
        for node in HOSTS.into_iter().chain(VTEPS.map(|(leaf, _)| leaf)) {
            let look = "ip -o link | cut -c 1-150; bridge fdb | grep -v -e 33:33 -e 01:00; ip neigh";
            let found = self.lab.shell(node, look).await.unwrap_or_else(|error| format!("{error:#}"));
            let log = self.lab.log(node).await.unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            said += &format!("{node}:\n{found}\nlast words first:\n{}\n", tail.join("\n"));
        }
        said
    }
}

/// Waits until all pings are answered without a gap.
pub async fn settle(pings: &[Pings], more: usize) -> Result<()> {
    for ping in pings {
        ping.settle(more).await?;
    }
    Ok(())
}

fn of_mac<'a>(fdb: &'a str, mac: &str) -> Vec<&'a str> {
    fdb.lines().filter(|l| l.starts_with(mac)).collect()
}
