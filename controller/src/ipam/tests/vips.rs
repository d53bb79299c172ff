//! VIPs whose holder does not say what they say.

use super::*;
use crate::model::{Binding, Port};

const V: &str = "intent/port/default/web/v";
const B: &str = "intent/port/default/web/b";

impl Rig {
    async fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        serde_json::from_str(&self.get(path).await.unwrap()).unwrap()
    }

    async fn generation(&self, port: &str) -> u64 {
        self.read::<Binding>(&format!("intent/binding/default/web/{port}")).await.generation
    }

    async fn with_vip() -> Rig {
        let rig = Rig::new().await;
        let vip = CreatePort { vip: true, ..CreatePort::new(key("v")) };
        rig.ports.create(vec![vip]).await.remove(0).unwrap();
        let (_, at) = rig.ports.hold(key("v"), Some(key("a"))).await.unwrap();
        rig.state.wait_for(at).await.unwrap();
        rig
    }
}

#[tokio::test]
async fn a_vip_and_its_holder_say_the_same_again() {
    let rig = Rig::with_vip().await;
    assert_eq!(rig.problems().await, [], "it is right as it is written");
    let wrong = [(Problem::VipHolder, "VIP default/web/v".to_owned())];
    let (a, b): (Port, Port) = (rig.read(A).await, rig.read(B).await);
    let before = rig.generation("a").await;
    // Somebody has put an older copy of the holder back, and another port thinks that it holds the VIP.
    rig.put(A, serde_json::to_vec(&Port { held: Vec::new(), ..a.clone() }).unwrap()).await;
    rig.put(B, serde_json::to_vec(&Port { held: a.held.clone(), ..b }).unwrap()).await;
    assert_eq!(rig.problems().await, wrong);
    assert_eq!(rig.fix().await, []);
    assert_eq!(rig.read::<Port>(A).await.held, a.held);
    assert_eq!(rig.read::<Port>(B).await.held, []);
    assert!(rig.generation("a").await > before, "who answers is announced anew");
    for port in ["a", "b", "v"] {
        assert_eq!(rig.told(port).await[0], (EventKind::Repaired, "op@host".to_owned()), "{port}");
    }
    // What was put right goes on as always.
    let (held, at) = rig.ports.hold(key("v"), Some(key("b"))).await.unwrap();
    assert_eq!(held.port.vip.unwrap().holder, Some(key("b")));
    rig.state.wait_for(at).await.unwrap();
    assert_eq!(rig.problems().await, []);
}

#[tokio::test]
async fn a_vip_whose_holder_is_gone_is_nobodys_and_can_be_given_again() {
    let rig = Rig::with_vip().await;
    let announced = rig.generation("a").await;
    for path in [A, ADDRESS_A, MAC_A, "intent/binding/default/web/a"] {
        rig.delete(path).await;
    }
    let found = rig.problems().await;
    assert_eq!(found, [(Problem::VipHolder, "VIP default/web/v".to_owned())]);
    assert_eq!(rig.fix().await, []);
    let vip = rig.read::<Port>(V).await.vip.unwrap();
    assert_eq!(vip.holder, None);
    assert!(vip.floor <= announced, "its binding is gone, and with it what it was announced with");
    let newest = rig.store.get(V).await.unwrap().unwrap().revision;
    rig.state.wait_for(newest).await.unwrap();
    let (_, at) = rig.ports.hold(key("v"), Some(key("b"))).await.unwrap();
    rig.state.wait_for(at).await.unwrap();
    assert_eq!(rig.problems().await, []);
}

/// A VIP goes to and fro while the books are checked: nothing is found, and nothing repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_that_changes_hands_is_no_finding() {
    let rig = Rig::with_vip().await;
    rig.is_right_during(|ports| async move {
        for holder in [Some("b"), None, Some("a")] {
            ports.hold(key("v"), holder.map(key)).await.unwrap();
        }
    })
    .await;
}
