//! What a move costs behind switches that learn by themselves: a VM on one host, a container on another, the same address and
//! MAC, under pings from a host and from bare metal. Beside it what people do who have no such thing: stop a container here
//! and start it there, without any announcement, and with the kernel's own (`arp_notify`).

use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_tests::lab::Switches;
use causeway_tests::moving::{Home, Moving};
use causeway_tests::traffic::Pings;

use crate::report::{Aim, Report, middle, percentile};

/// What is moved by hand: no address and no MAC of ours.
const ADDRESS: &str = "10.100.0.240";
const HOSTS: [&str; 2] = ["host1", "host2"];
/// A bridge with the uplink and a container, made by hand; silent, and down.
const BY_HAND: &str = "ip netns add hand; ip netns exec hand sysctl -qw net.ipv6.conf.default.disable_ipv6=1; \
     ip link add br-hand type bridge stp_state 0 mcast_snooping 0; ip link set br-hand addrgenmode none; \
     ip link set eth1 master br-hand up; \
     ip link add hand type veth peer name eth0 netns hand address 02:00:00:00:00:f0; \
     ip link set hand addrgenmode none master br-hand; ip link set hand up; ip link set br-hand up; \
     ip -n hand address add 10.100.0.240/24 dev eth0";
const AGAIN: &str = "ip link del br-hand; ip netns del hand";
const NOTIFY: &str = "ip netns exec hand sysctl -qw net.ipv4.conf.eth0.arp_notify=1";
/// A move without announcement is over when the askers ask again: after 15 to 45 s, and 8 s until they give up the old.
const FOUND: Duration = Duration::from_secs(150);

/// How often everything is moved.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Moves by Causeway, on each FRR.
    #[arg(long, default_value_t = 25)]
    moves: usize,
    /// Moves by hand of each kind, on each FRR; one without announcement takes most of a minute.
    #[arg(long, default_value_t = 3)]
    by_hand: usize,
}

pub(crate) async fn run(report: &mut Report, options: Options) -> Result<()> {
    for (switches, name) in [(Switches::Frr8, "FRR 8.4"), (Switches::Frr10, "FRR 10.7")] {
        let fabric = Moving::up(switches).await?;
        println!("\n== {name}: by hand");
        let (silent, notified) = by_hand(&fabric, options.by_hand).await?;
        println!("\n== {name}: by Causeway");
        let (mut ours, lost, duplicates) = by_us(&fabric, options.moves).await?;
        fabric.lab.down().await?;

        let moves = format!("{name}, {} moves", options.moves);
        let mut notified_all = notified.clone();
        let peer = ("by hand with arp_notify", middle(notified));
        let why = || {
            "on processors that are free it takes some 10 ms from the source's last packet to the switch in the store, and 10 ms \
             from there to the switches' forwarding entries; what is beyond is waiting for a processor"
                .to_owned()
        };
        report.versus(&format!("{moves}: p50"), percentile(&mut ours, 0.5), "ms", peer, Aim::Below(50.0));
        report.explain(why);
        let unannounced = ("by hand, unannounced", middle(silent.clone()));
        report.versus(
            &format!("{moves}: p99"),
            percentile(&mut ours, 0.99),
            "ms",
            unannounced,
            Aim::Below(200.0),
        );
        report.add(&format!("{moves}: longest"), percentile(&mut ours, 1.0), "ms", Aim::Below(500.0));
        report.add(&format!("{moves}: packets lost by a move, mean"), lost, "packets", Aim::None);
        report.add(&format!("{moves}: answers that came twice"), duplicates, "packets", Aim::Below(1.0));
        report.add(
            &format!("{name}, by hand with arp_notify: longest"),
            percentile(&mut notified_all, 1.0),
            "ms",
            Aim::None,
        );
        let mut silent = silent;
        report.add(
            &format!("{name}, by hand, unannounced: longest"),
            percentile(&mut silent, 1.0),
            "ms",
            Aim::None,
        );
    }
    Ok(())
}

/// Milliseconds of silence of moves without announcement, and with the kernel's own.
async fn by_hand(fabric: &Moving, moves: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    for host in HOSTS {
        fabric.lab.shell(host, BY_HAND).await?;
    }
    let mut home = 0;
    fabric.lab.exec(HOSTS[home], &["ip", "-n", "hand", "link", "set", "eth0", "up"]).await?;
    let pings = fabric.pings(ADDRESS).await?;
    let mut all = [Vec::new(), Vec::new()];
    for (notify, silent) in all.iter_mut().enumerate() {
        if notify == 1 {
            for host in HOSTS {
                fabric.lab.shell(host, NOTIFY).await?;
            }
        }
        let how = ["unannounced", "arp_notify"][notify];
        for number in 1..=moves {
            let marks = pings.iter().map(Pings::mark).collect::<Result<Vec<_>>>()?;
            fabric.lab.exec(HOSTS[home], &["ip", "-n", "hand", "link", "set", "eth0", "down"]).await?;
            home = 1 - home;
            fabric.lab.exec(HOSTS[home], &["ip", "-n", "hand", "link", "set", "eth0", "up"]).await?;
            let mut longest = 0.0_f64;
            for (ping, mark) in pings.iter().zip(marks) {
                ping.settle_within(50, FOUND).await?;
                let cost = ping.cost(mark)?;
                println!("{how}, move {number} to {}: {}: {cost:?}", HOSTS[home], ping.who());
                longest = longest.max(cost.silent.as_secs_f64() * 1e3);
            }
            silent.push(longest);
        }
    }
    drop(pings);
    for host in HOSTS {
        fabric.lab.shell(host, AGAIN).await?;
    }
    let [silent, notified] = all;
    Ok((silent, notified))
}

/// Milliseconds of silence of each move, packets lost by one, answers that came twice in all.
async fn by_us(fabric: &Moving, moves: usize) -> Result<(Vec<f64>, f64, f64)> {
    let vm = fabric.place().await?;
    let pings = fabric.pings(&fabric.ipv4).await?;
    let (mut silent, mut lost, mut duplicates, mut home) = (Vec::new(), 0, 0, Home::Vm1);
    for number in 1..=moves {
        home = if home == Home::Vm1 { Home::Container2 } else { Home::Vm1 };
        let moved = fabric.migrate(home, &pings).await?;
        println!(
            "move {number} to {home:?}: {:.1} ms, {} lost: {:?}",
            moved.silent_ms(),
            moved.lost(),
            moved.costs
        );
        silent.push(moved.silent_ms());
        lost += moved.lost();
        duplicates += moved.duplicates();
    }
    ensure!(!silent.is_empty(), "no moves");
    fabric.nothing_is_stale(home).await?;
    drop((pings, vm));
    Ok((silent, lost as f64 / moves as f64, duplicates as f64))
}
