//! Routes for tests.

use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Vni};

use crate::route::{Attributes, Esi, Pmsi, Route, RouteDistinguisher, RouteKey, RouteTarget};

pub(crate) fn attributes() -> Attributes {
    Attributes {
        next_hop: IpAddr::from([10, 98, 0, 1]),
        vni: Some(Vni::try_from(110).unwrap()),
        l3_vni: None,
        route_targets: vec!["65000:110".parse::<RouteTarget>().unwrap()],
        sequence: 0,
        sticky: false,
        router_mac: None,
        default_gateway: false,
        pmsi: None,
        esi: Esi::default(),
        gateway: None,
    }
}

pub(crate) fn rd() -> RouteDistinguisher {
    RouteDistinguisher::new([10, 99, 0, 100].into(), 110)
}

pub(crate) fn key(host: u32) -> RouteKey {
    let [a, b, c, d] = host.to_be_bytes();
    RouteKey::MacIp {
        rd: rd(),
        etag: 0,
        mac: Mac::new([2, 0, a, b, c, d]),
        ip: Some(IpAddr::from([10 + a, b, c, d])),
    }
}

pub(crate) fn mac_ip(host: impl Into<u32>) -> Route {
    Route { key: key(host.into()), attributes: Arc::new(attributes()) }
}

pub(crate) fn imet(vtep: IpAddr) -> Route {
    let vni = Vni::try_from(110).unwrap();
    let attributes =
        Attributes { next_hop: vtep, pmsi: Some(Pmsi { vni, tunnel: vtep }), vni: None, ..attributes() };
    Route { key: RouteKey::Imet { rd: rd(), etag: 0, originator: vtep }, attributes: Arc::new(attributes) }
}
