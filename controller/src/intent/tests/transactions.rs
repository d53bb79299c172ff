//! Much at once, and many at once.

use super::*;

#[tokio::test]
async fn a_thousand_records_are_several_transactions() {
    let world = World::new(65_000).await;
    let mut specs: Vec<Spec> = (1..=400).map(|n| Spec::Network(network(&format!("n{n}"), n))).collect();
    specs.extend(
        (1..=400)
            .map(|n| Spec::Subnet(subnet(&format!("n{n}"), &format!("10.{}.{}.0/24", n / 200, n % 200)))),
    );
    let applied = world.apply(specs.clone()).await.unwrap();
    assert_eq!(applied.outcomes.len(), 800);
    let snapshot = world.state.snapshot();
    let rds: std::collections::BTreeSet<u16> =
        snapshot.networks.values().map(|n| n.value.rd_number).collect();
    assert_eq!((rds.len(), snapshot.subnets.len()), (400, 400));
    assert!(world.apply(specs).await.unwrap().outcomes.iter().all(|o| o.action == Action::Unchanged));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appliers_get_unique_numbers_and_no_overlap() {
    let world = World::new(65_000).await;
    world.apply(vec![Spec::Network(network("web", 9_999))]).await.unwrap();
    let mut tasks = Vec::new();
    for n in 1..=12u32 {
        let intent = world.intent.clone();
        tasks.push(tokio::spawn(async move {
            // Half of the prefixes overlap with another one; all networks want numbers.
            let length = if n % 2 == 0 { 24 } else { 23 };
            let specs = vec![
                Spec::Network(network(&format!("n{n}"), n)),
                Spec::Subnet(subnet("web", &format!("10.0.{}.0/{length}", (n / 2) * 2))),
            ];
            loop {
                match intent.apply(&resources(specs.clone()), false).await {
                    Err(error) if error.retryable() => {}
                    other => return other.is_ok(),
                }
            }
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += usize::from(task.await.unwrap());
    }
    let listing = world.store.list("intent/subnet/").await.unwrap();
    let prefixes: Vec<causeway_proto::Prefix> = listing
        .entries
        .iter()
        .map(|e| e.key.trim_start_matches("intent/subnet/default/web/").parse().unwrap())
        .collect();
    for (i, a) in prefixes.iter().enumerate() {
        assert!(prefixes[i + 1..].iter().all(|b| !a.overlaps(*b)), "{prefixes:?}");
    }
    assert_eq!(done, prefixes.len());
    let networks = world.store.list("intent/network/").await.unwrap().entries;
    let rds: std::collections::BTreeSet<u16> = networks
        .iter()
        .map(|e| serde_json::from_slice::<crate::model::Network>(&e.value).unwrap().rd_number)
        .collect();
    assert_eq!(rds.len(), networks.len());
}
