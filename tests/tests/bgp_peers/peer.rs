//! A neighbour of our speaker, whichever it is, and how it names what it was told.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use causeway_bgp::{Route, RouteKey};
use causeway_tests::frr::Frr;
pub(crate) use causeway_tests::frr::FrrVersion;
use causeway_tests::gobgp::GoBgp;
pub(crate) use causeway_tests::gobgp::GoBgpVersion;
use causeway_tests::netns::Netns;

/// Which neighbour a test is run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Frr(FrrVersion),
    GoBgp(GoBgpVersion),
}

/// How the neighbour is configured towards us.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Session over IPv6.
    pub(crate) v6: bool,
    /// Our AS number as the neighbour expects it.
    pub(crate) our_asn: u32,
    /// The neighbour's.
    pub(crate) asn: u32,
    /// TCP MD5 key.
    pub(crate) password: Option<&'static str>,
    /// GTSM for one hop.
    pub(crate) gtsm: bool,
    /// The neighbour waits for us to connect.
    pub(crate) passive: bool,
    /// Its hold time in seconds.
    pub(crate) hold: u16,
    /// GoBGP: route target constraint (RFC 4684).
    pub(crate) constraint: bool,
    /// GoBGP: graceful restart, and with it End-of-RIB.
    pub(crate) graceful: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            v6: false,
            our_asn: 65000,
            asn: 65000,
            password: None,
            gtsm: false,
            passive: false,
            hold: 30,
            constraint: false,
            graceful: false,
        }
    }
}

impl Setup {
    /// Our address and the neighbour's.
    pub(crate) fn addresses(&self) -> (IpAddr, IpAddr) {
        let (ours, theirs) = if self.v6 { ("fd00:9::1", "fd00:9::2") } else { ("10.9.0.1", "10.9.0.2") };
        (ours.parse().unwrap(), theirs.parse().unwrap())
    }

    pub(crate) fn ebgp(&self) -> bool {
        self.asn != self.our_asn
    }

    fn frr(&self) -> String {
        let (us, _) = self.addresses();
        let keepalive = self.hold / 3;
        let mut text = format!(
            "debug bgp neighbor-events\ndebug bgp updates in\nrouter bgp {}\n bgp router-id 10.9.0.2\n \
             no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n neighbor {us} remote-as {}\n \
             neighbor {us} timers {keepalive} {}\n neighbor {us} timers connect 1\n \
             neighbor {us} advertisement-interval 0\n",
            self.asn, self.our_asn, self.hold
        );
        for (set, line) in [
            (self.password.is_some(), format!("password {}", self.password.unwrap_or(""))),
            (self.gtsm, "ttl-security hops 1".to_string()),
            (self.passive, "passive".to_string()),
        ] {
            if set {
                let _ = writeln!(text, " neighbor {us} {line}");
            }
        }
        let _ = write!(
            text,
            " address-family l2vpn evpn\n  neighbor {us} activate\n  \
             advertise-all-vni\n exit-address-family\nexit\n"
        );
        text
    }

    fn gobgp(&self) -> String {
        let (us, them) = self.addresses();
        let family = |name: &str| {
            let restart = "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n";
            format!(
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n{}",
                if self.graceful { restart } else { "" }
            )
        };
        let restart = "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 20\n";
        let mut families = family("l2vpn-evpn");
        if self.constraint {
            families += &family("rtc");
        }
        if self.graceful {
            families.insert_str(0, restart);
        }
        format!(
            "[global.config]\nas = {}\nrouter-id = \"10.9.0.2\"\nlocal-address-list = [\"{them}\"]\n\
             [[neighbors]]\n[neighbors.config]\nneighbor-address = \"{us}\"\npeer-as = {}\nauth-password = \"{}\"\n\
             [neighbors.timers.config]\nconnect-retry = 1\nhold-time = {}\nkeepalive-interval = {}\n\
             idle-hold-time-after-reset = 1\n\
             [neighbors.transport.config]\npassive-mode = {}\nlocal-address = \"{them}\"\n\
             [neighbors.ttl-security.config]\nenabled = {}\nttl-min = 255\n{families}",
            self.asn,
            self.our_asn,
            self.password.unwrap_or(""),
            self.hold,
            self.hold / 3,
            self.passive,
            self.gtsm,
        )
    }
}

/// A running neighbour.
#[derive(Debug)]
pub(crate) struct Peer {
    daemon: Daemon,
    setup: Setup,
    us: String,
}

#[derive(Debug)]
enum Daemon {
    Frr(Frr),
    GoBgp(GoBgp),
}

impl Peer {
    pub(crate) async fn start(kind: Kind, netns: &Netns, setup: &Setup) -> Result<Peer> {
        let daemon = match kind {
            Kind::Frr(version) => Daemon::Frr(Frr::start(netns, version, &setup.frr()).await?),
            Kind::GoBgp(version) => Daemon::GoBgp(GoBgp::start(netns, version, &setup.gobgp()).await?),
        };
        Ok(Peer { daemon, setup: setup.clone(), us: setup.addresses().0.to_string() })
    }

    /// `kill -9` of all its daemons, and a fresh start.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        match &mut self.daemon {
            Daemon::Frr(frr) => frr.restart(&self.setup.frr()).await,
            Daemon::GoBgp(gobgp) => gobgp.restart(&self.setup.gobgp()).await,
        }
    }

    pub(crate) fn pause(&self) -> Result<()> {
        match &self.daemon {
            Daemon::Frr(frr) => frr.pause(),
            Daemon::GoBgp(gobgp) => gobgp.pause(),
        }
    }

    pub(crate) fn resume(&self) -> Result<()> {
        match &self.daemon {
            Daemon::Frr(frr) => frr.resume(),
            Daemon::GoBgp(gobgp) => gobgp.resume(),
        }
    }

    /// The FRR this is.
    pub(crate) fn frr(&self) -> Result<&Frr> {
        match &self.daemon {
            Daemon::Frr(frr) => Ok(frr),
            Daemon::GoBgp(_) => anyhow::bail!("not an FRR"),
        }
    }

    /// The GoBGP this is, if it is one.
    pub(crate) fn gobgp(&self) -> Option<&GoBgp> {
        match &self.daemon {
            Daemon::Frr(_) => None,
            Daemon::GoBgp(gobgp) => Some(gobgp),
        }
    }

    /// An error unless the neighbour itself sees the session as Established.
    pub(crate) async fn established(&self) -> Result<()> {
        match &self.daemon {
            Daemon::Frr(frr) => {
                let shown = frr.json(&format!("show bgp neighbors {} json", self.us)).await?;
                let state = &shown[&self.us]["bgpState"];
                ensure!(state == "Established", "FRR says {state}");
            }
            Daemon::GoBgp(gobgp) => {
                let shown = gobgp.json(&["neighbor", &self.us]).await?;
                // 6 is ESTABLISHED in both versions' API.
                let state = &shown["state"]["session_state"];
                ensure!(*state == 6, "GoBGP says state {state}");
            }
        }
        Ok(())
    }

    /// How many routes it has from us.
    pub(crate) async fn count(&self) -> Result<u64> {
        match &self.daemon {
            Daemon::Frr(frr) => {
                let shown = frr.json("show bgp l2vpn evpn summary json").await?;
                let count = &shown["peers"][&self.us]["pfxRcd"];
                count.as_u64().with_context(|| format!("no count in {shown}"))
            }
            Daemon::GoBgp(gobgp) => {
                let shown = gobgp.json(&["neighbor", &self.us]).await?;
                // Absent when zero.
                Ok(shown["afi_safis"][0]["state"]["received"].as_u64().unwrap_or(0))
            }
        }
    }

    /// Its routes, ours and its own, as it names them, with its words about each.
    pub(crate) async fn routes(&self) -> Result<BTreeMap<String, String>> {
        let mut routes: BTreeMap<String, String> = BTreeMap::new();
        match &self.daemon {
            Daemon::Frr(frr) => {
                let mut key = String::new();
                for line in frr.vtysh("show bgp l2vpn evpn route detail").await?.lines() {
                    if let Some(name) = line.strip_prefix("BGP routing table entry for ") {
                        key = name.trim().to_string();
                    } else {
                        let text = routes.entry(key.clone()).or_default();
                        text.push_str(line.trim());
                        text.push('\n');
                    }
                }
                // FRR prints a heading without paths for the inner nodes of its tree.
                routes.retain(|_, text| !text.contains("(0 available"));
            }
            Daemon::GoBgp(gobgp) => {
                for line in gobgp.cli(&["global", "rib", "-a", "evpn"]).await?.lines() {
                    let Some(at) = line.find("[type:") else { continue };
                    let (key, text) = line[at..].split_once(' ').unwrap_or((&line[at..], ""));
                    routes.insert(key.replace("[ip:<nil>]", ""), text.to_string());
                }
            }
        }
        Ok(routes)
    }

    /// An error unless it has this route with all its attributes.
    pub(crate) async fn has(&self, route: &Route) -> Result<()> {
        let routes = self.routes().await?;
        let (key, parts) = match &self.daemon {
            Daemon::Frr(_) => as_frr(route, self.setup.ebgp()),
            Daemon::GoBgp(_) => as_gobgp(route),
        };
        let text = routes.get(&key).with_context(|| format!("no {key} among {:#?}", routes.keys()))?;
        for part in parts {
            ensure!(text.contains(&part), "'{part}' is missing in what it says about {key}: {text}");
        }
        Ok(())
    }

    /// An error if it has this route.
    pub(crate) async fn lacks(&self, route: &Route) -> Result<()> {
        let key = match &self.daemon {
            Daemon::Frr(_) => as_frr(route, self.setup.ebgp()).0,
            Daemon::GoBgp(_) => as_gobgp(route).0,
        };
        ensure!(!self.routes().await?.contains_key(&key), "{key} is still there");
        Ok(())
    }

    /// Asks us for our routes again (a ROUTE-REFRESH). GoBGP cannot be made to send one.
    pub(crate) async fn ask_refresh(&self) -> Result<()> {
        self.frr()?.vtysh(&format!("clear bgp l2vpn evpn {} soft in", self.us)).await?;
        Ok(())
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// FRR's name of a route and what it must say about it.
fn as_frr(route: &Route, ebgp: bool) -> (String, Vec<String>) {
    let attributes = &route.attributes;
    let rd = route.key.rd();
    let key = match &route.key {
        RouteKey::MacIp { etag, mac, ip: None, .. } => format!("{rd}:[2]:[{etag}]:[48]:[{mac}]"),
        RouteKey::MacIp { etag, mac, ip: Some(ip), .. } => {
            format!("{rd}:[2]:[{etag}]:[48]:[{mac}]:[{}]:[{ip}]", bits(*ip))
        }
        RouteKey::Imet { etag, originator, .. } => {
            format!("{rd}:[3]:[{etag}]:[{}]:[{originator}]", bits(*originator))
        }
        RouteKey::IpPrefix { etag, prefix, .. } => {
            let text = prefix.to_string();
            let (address, length) = text.split_once('/').unwrap();
            format!("{rd}:[5]:[{etag}]:[{length}]:[{address}]")
        }
        other => panic!("never announced: {other:?}"),
    };
    let mut parts =
        vec![format!("{} from", attributes.next_hop), "ET:8".to_string(), "Origin IGP".to_string()];
    parts.extend(attributes.route_targets.iter().map(|rt| format!("RT:{rt}")));
    if !ebgp {
        parts.push("localpref 100".to_string());
    }
    match (attributes.vni, attributes.l3_vni, attributes.pmsi) {
        (_, _, Some(pmsi)) => {
            parts.push(format!("PMSI Tunnel Type: Ingress Replication, label: {}", pmsi.vni))
        }
        (Some(vni), Some(l3), _) => parts.push(format!("VNI {vni}/{l3}")),
        (Some(vni), None, _) => parts.push(format!("VNI {vni}")),
        _ => {}
    }
    if attributes.sequence > 0 || attributes.sticky {
        let sticky = if attributes.sticky { ", sticky MAC" } else { "" };
        parts.push(format!("MM:{}{sticky}", attributes.sequence));
    }
    parts.extend(attributes.router_mac.map(|mac| format!("Rmac:{mac}")));
    if attributes.default_gateway {
        parts.push("Default Gateway".to_string());
    }
    (key, parts)
}

/// GoBGP's name of a route and what it must say about it.
fn as_gobgp(route: &Route) -> (String, Vec<String>) {
    let attributes = &route.attributes;
    let rd = route.key.rd();
    let key = match &route.key {
        RouteKey::MacIp { etag, mac, ip, .. } => {
            // GoBGP 3 shows a missing address as "<nil>", which is taken off when its routes are read.
            let ip = ip.map_or(String::new(), |ip| format!("[ip:{ip}]"));
            format!("[type:macadv][rd:{rd}][etag:{etag}][mac:{mac}]{ip}")
        }
        RouteKey::Imet { etag, originator, .. } => {
            format!("[type:multicast][rd:{rd}][etag:{etag}][ip:{originator}]")
        }
        RouteKey::IpPrefix { etag, prefix, .. } => {
            format!("[type:Prefix][rd:{rd}][etag:{etag}][prefix:{prefix}]")
        }
        other => panic!("never announced: {other:?}"),
    };
    let mut parts = vec![attributes.next_hop.to_string(), "[VXLAN]".to_string(), "Origin: i".to_string()];
    parts.extend(attributes.route_targets.iter().map(|rt| format!("[{rt}]")));
    match (attributes.vni, attributes.l3_vni, attributes.pmsi) {
        (_, _, Some(pmsi)) => {
            parts.push(format!("Pmsi: type: ingress-repl, label: {}, tunnel-id: {}", pmsi.vni, pmsi.tunnel));
        }
        (Some(vni), Some(l3), _) => parts.push(format!("[{vni},{l3}]")),
        (Some(vni), None, _) => parts.push(format!("[{vni}]")),
        _ => {}
    }
    if attributes.sequence > 0 || attributes.sticky {
        let sticky = if attributes.sticky { ", sticky" } else { "" };
        parts.push(format!("[mac-mobility: {}{sticky}]", attributes.sequence));
    }
    parts.extend(attributes.router_mac.map(|mac| format!("[router's mac: {mac}]")));
    if attributes.default_gateway {
        parts.push("[default-gateway]".to_string());
    }
    (key, parts)
}
