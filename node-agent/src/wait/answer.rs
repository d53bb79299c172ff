//! What is to be said of ports. Pure.

use std::collections::BTreeSet;

use causeway_proto::PortKey;

use super::book::Book;
use super::{Leg, Level};
use crate::local::Local;

/// How it stands: all there, or what the first of them waits for.
pub(super) fn stand(
    local: &Local,
    book: &Book,
    ports: &BTreeSet<PortKey>,
    level: Level,
) -> Result<String, (Leg, String)> {
    for id in ports {
        port(local, book, id, level).map_err(|(leg, text)| (leg, format!("port {id}: {text}")))?;
    }
    Ok(ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

fn port(local: &Local, book: &Book, id: &PortKey, level: Level) -> Result<(), (Leg, String)> {
    let Some(port) = local.ports.get(id) else {
        return Err(match local.rejected.get(id) {
            Some((_, why)) => (Leg::Host, why.clone()),
            None => (Leg::Allocation, "it is not bound to this node".into()),
        });
    };
    if let Some(problem) = &port.problem {
        return Err((Leg::Host, problem.clone()));
    }
    if level == Level::Programmed {
        return Ok(());
    }
    let known = book.levels.get(id).filter(|known| known.generation == port.generation);
    if known.is_some_and(|known| known.reaches(level)) {
        return Ok(());
    }
    let advertised = known.is_some_and(|known| known.reaches(Level::Advertised));
    let (leg, text) = match known {
        Some(known) if advertised => (Leg::Probe, known.probe.clone()),
        Some(known) => (Leg::Fabric, known.fabric.clone()),
        None => (Leg::Fabric, String::new()),
    };
    let text = match (book.connected, text.is_empty()) {
        (false, _) => format!("no controller is connected, which alone knows whether it is {level}"),
        (true, true) => format!("the controller has not said that it is {level}"),
        (true, false) => text,
    };
    Err((leg, text))
}

#[cfg(test)]
mod tests {
    use causeway_proto::{Mac, Vni, v1};

    use super::super::book::Keeper;
    use super::*;
    use crate::dev::Dev;
    use crate::local::LocalPort;
    use crate::model::{Attach, NetnsRef};

    fn local(problem: Option<&str>) -> Local {
        let port = LocalPort {
            vni: Vni::try_from(100).unwrap(),
            mac: Mac::new([2, 0, 0, 0, 0, 9]),
            addresses: BTreeSet::new(),
            netns: NetnsRef::Pid(1),
            interface: Dev::new("eth0"),
            attach: Attach::VxlanBridge,
            generation: 2,
            problem: problem.map(str::to_owned),
        };
        Local { ports: [("web/a".parse().unwrap(), port)].into(), ..Local::default() }
    }

    #[test]
    fn each_leg_is_named() {
        let ports: BTreeSet<PortKey> = ["web/a".parse().unwrap()].into();
        let mut keeper = Keeper::open(None);
        let say = |local: &Local, keeper: &Keeper, level| {
            let book = keeper.book().borrow().clone();
            stand(local, &book, &ports, level).map_err(|(leg, text)| format!("{leg}: {text}"))
        };
        let none = Local::default();
        assert_eq!(
            say(&none, &keeper, Level::Programmed).unwrap_err(),
            "allocation: port default/web/a: it is not bound to this node"
        );
        assert_eq!(
            say(&local(Some("no namespace")), &keeper, Level::Proven).unwrap_err(),
            "host: port default/web/a: no namespace"
        );
        let good = local(None);
        assert_eq!(
            say(&good, &keeper, Level::Programmed).unwrap(),
            "default/web/a",
            "without any controller"
        );
        assert!(say(&good, &keeper, Level::Advertised).unwrap_err().contains("no controller is connected"));
        keeper.set_connected(true);
        assert!(say(&good, &keeper, Level::Advertised).unwrap_err().contains("has not said"));
        let mut tell = |generation, level: v1::ReadyLevel| {
            let ports = vec![v1::PortLevel {
                port: "default/web/a".into(),
                generation,
                level: level.into(),
                fabric: "no peer".into(),
                probe: "h2 hears nothing".into(),
            }];
            keeper.take(&v1::PortLevels { all: false, ports });
            say(&good, &keeper, Level::Proven)
        };
        assert!(tell(1, v1::ReadyLevel::Proven).unwrap_err().contains("has not said"), "of an older binding");
        assert_eq!(tell(2, v1::ReadyLevel::Programmed).unwrap_err(), "fabric: port default/web/a: no peer");
        assert_eq!(
            tell(2, v1::ReadyLevel::Advertised).unwrap_err(),
            "probe: port default/web/a: h2 hears nothing"
        );
        assert!(tell(2, v1::ReadyLevel::Proven).is_ok());
    }
}
