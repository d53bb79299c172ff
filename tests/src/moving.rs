//! The lab `migrate` under test: a port that is a VM on host1 and a container on host2, who asks for it from two places, and
//! what switches and hosts know of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

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
}

impl Home {
    /// The host.
    pub fn host(self) -> &'static str {
        if self == Home::Vm1 { "host1" } else { "host2" }
    }

    /// The host's switch.
    pub fn leaf(self) -> &'static str {
        if self == Home::Vm1 { "leaf1" } else { "leaf2" }
    }

    fn words(self) -> [&'static str; 4] {
        match self {
            Home::Vm1 => ["--to", "host1:vm", "--interface", TAP],
            Home::Vm2 => ["--to", "host2:vm", "--interface", TAP],
            Home::Container2 => ["--to", "host2:container", "--netns", NETNS],
        }
    }
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
        Ok(Moving { lab, ipv4, mac })
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

    /// The port answers host3's workload and bm1.
    pub async fn answers(&self) -> Result<()> {
        let ping = ["ping", "-n", "-c", "1", "-W", "1", &self.ipv4];
        for (node, inside) in [("host3", &["ip", "netns", "exec", "ask"][..]), ("bm1", &[])] {
            let what = format!("the port answers {node}");
            let answered =
                wait_for(&what, SOON, async || self.lab.exec(node, &[inside, &ping].concat()).await);
            if let Err(error) = answered.await {
                return Err(error.context(self.all_that_is_known().await));
            }
        }
        Ok(())
    }

    /// Pings of an address from host3's workload and from bm1.
    pub async fn pings(&self, address: &str) -> Result<Vec<Pings>> {
        let pings = vec![
            Pings::start(&self.lab, "host3", "ask", address, PING).await?,
            Pings::of_node(&self.lab, "bm1", address, PING).await?,
        ];
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
        Ok(routes(&self.lab.exec("spine1", &show).await?, &self.mac))
    }

    /// No switch, host or machine knows the port anywhere but at home, and all routes say the same. Gives the controller's
    /// sequence, which nobody exceeds; a switch that knew nothing of the MAC when it came has begun anew at 0, and with the same
    /// next hop contradicts nobody.
    pub async fn nothing_is_stale(&self, home: Home) -> Result<u32> {
        let (_, vtep) = VTEPS[if home == Home::Vm1 { 0 } else { 1 }];
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
        for (node, inside) in [("host3", &["ip", "netns", "exec", "ask"][..]), ("bm1", &[])] {
            let known = self.lab.exec(node, &[inside, &["ip", "neigh", "show", &self.ipv4]].concat()).await?;
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
            let port = "dev eth3 ";
            ensure!(master.len() == 1 && master[0].contains(port), "{entries:#?}");
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

/// A type 2 route of a MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who announces it.
    pub rd: String,
    /// The VTEP.
    pub next_hop: String,
    /// Of the MAC mobility community; 0 without one.
    pub sequence: u32,
    /// The MAC must not move.
    pub sticky: bool,
    /// It has an address, too.
    pub with_address: bool,
}

/// Reads FRR's table: a line with the RD, one with the prefix, one with the next hop, one with communities.
fn routes(text: &str, mac: &str) -> Vec<Route> {
    let (mut found, mut rd, mut open) = (Vec::<Route>::new(), String::new(), false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Route Distinguisher: ") {
            rd = name.trim().to_string();
        } else if line.contains("[2]:[") {
            open = line.contains(mac);
            if open {
                let with_address = line.contains(":[32]:[");
                let rd = rd.clone();
                found.push(Route { rd, next_hop: String::new(), sequence: 0, sticky: false, with_address });
            }
        } else if let (true, Some(route)) = (open, found.last_mut()) {
            let mut words = line.split_whitespace();
            if route.next_hop.is_empty() {
                route.next_hop = words.next().unwrap_or_default().to_string();
            }
            for word in line.split_whitespace() {
                if let Some(number) = word.strip_prefix("MM:") {
                    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
                    route.sequence = digits.parse().unwrap_or_default();
                    route.sticky |= line.contains("sticky");
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let text = "\
Route Distinguisher: 10.254.0.7:1
*>i[2]:[0]:[48]:[02:ca:0a:64:00:01]:[32]:[10.100.0.1]
                    10.255.0.2               0    100      0 i
                    RT:65000:100 ET:8 MM:6
Route Distinguisher: 10.255.0.2:2
*>i[2]:[0]:[48]:[02:ca:0a:64:00:01]
                    10.255.0.2               0    100      0 i
                    RT:65000:100 ET:8 MM:1, sticky MAC
*>i[2]:[0]:[48]:[1a:5d:3d:df:88:2c]
                    10.255.0.3               0    100      0 i
                    RT:65000:100 ET:8
";
        let found = routes(text, "02:ca:0a:64:00:01");
        let seen: Vec<_> = found
            .iter()
            .map(|r| (r.rd.as_str(), r.next_hop.as_str(), r.sequence, r.sticky, r.with_address))
            .collect();
        assert_eq!(
            seen,
            [("10.254.0.7:1", "10.255.0.2", 6, false, true), ("10.255.0.2:2", "10.255.0.2", 1, true, false)]
        );
    }
}
