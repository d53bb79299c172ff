//! Token buckets, the way through an intermediate device, and what the kernel says of them, as rtnetlink messages.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};

use super::{Found, HANDLE, Led, Shape};
use crate::dev::{Dev, LINK_GROUP};
use crate::netlink::message::Request;

const OWN: TcHandle = TcHandle { major: HANDLE, minor: 0 };
/// What comes in, for an `ingress` and for a `clsact` qdisc.
pub(super) const INCOMING: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_INGRESS };
/// `tcm_info` of our filter: its priority, and all protocols (`ETH_P_ALL`, network order).
const FILTER: u32 = (HANDLE as u32) << 16 | (libc::ETH_P_ALL as u16).to_be() as u32;

/// Attributes of `tbf` (`TCA_TBF_*`).
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
/// Bytes of `struct tc_tbf_qopt`: two rates of 12, limit, buffer, mtu.
const TBF_SIZE: usize = 36;
/// `TC_LINKLAYER_ETHERNET`: no table of transmission times is needed.
const ETHERNET: u8 = 1;

pub(super) fn message(index: u32, parent: TcHandle, handle: TcHandle) -> TcMessage {
    // The kernel's own type is signed; indexes are positive.
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent;
    message.header.handle = handle;
    message
}

/// A token bucket as root of a device, new or changed in place: nothing that waits is lost.
pub(crate) fn set_bucket(index: u32, shape: &Shape) -> Request {
    let mut message = message(index, TcHandle::ROOT, OWN);
    let mut parms = [0; TBF_SIZE];
    parms[1] = ETHERNET;
    let rate32 = u32::try_from(shape.rate).unwrap_or(u32::MAX);
    parms[8..12].copy_from_slice(&rate32.to_ne_bytes());
    parms[24..28].copy_from_slice(&shape.limit.to_ne_bytes());
    let nla = |kind, bytes: &[u8]| TcOption::Other(DefaultNla::new(kind, bytes.to_vec()));
    let mut options = vec![nla(TBF_PARMS, &parms), nla(TBF_BURST, &shape.burst.to_ne_bytes())];
    if rate32 == u32::MAX {
        options.push(nla(TBF_RATE64, &shape.rate.to_ne_bytes()));
    }
    message.attributes = vec![TcAttribute::Kind("tbf".into()), TcAttribute::Options(options)];
    (RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes our root qdisc away.
pub(crate) fn del_bucket(index: u32) -> Request {
    (RouteNetlinkMessage::DelQueueDiscipline(message(index, TcHandle::ROOT, OWN)), 0)
}

/// An intermediate device, down.
pub(crate) fn add_ifb(dev: &Dev) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(dev.to_string()),
        LinkAttribute::Group(LINK_GROUP),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    (RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

pub(super) const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// Where filters on what comes in hang.
pub(crate) fn add_ingress(index: u32) -> Request {
    let mut message = message(index, TcHandle::INGRESS, INGRESS);
    message.attributes = vec![TcAttribute::Kind("ingress".into())];
    (RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes it away, with all filters.
pub(crate) fn del_ingress(index: u32) -> Request {
    (RouteNetlinkMessage::DelQueueDiscipline(message(index, TcHandle::INGRESS, INGRESS)), 0)
}

/// The action that passes frames through another device.
pub(super) fn mirred(to: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.generic = TcActionGeneric::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}

/// Passes all that comes in through another device.
pub(crate) fn add_redirect(index: u32, to: u32) -> Request {
    // `match u32 0 0`: every frame. Not every kernel has matchall.
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut message = message(index, INCOMING, TcHandle::UNSPEC);
    message.header.info = FILTER;
    message.attributes = vec![
        TcAttribute::Kind("u32".into()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(selector)),
            TcOption::U32(TcFilterU32Option::Action(vec![mirred(to)])),
        ]),
    ];
    (RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes our filters away.
pub(crate) fn del_redirect(index: u32) -> Request {
    let mut message = message(index, INCOMING, TcHandle::UNSPEC);
    message.header.info = FILTER;
    (RouteNetlinkMessage::DelTrafficFilter(message), 0)
}

/// All qdiscs of the host.
pub(crate) fn get_qdiscs() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())
}

/// All filters on what comes in at a device.
pub(crate) fn get_filters(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetTrafficFilter(message(index, INCOMING, TcHandle::UNSPEC))
}

/// What it is.
pub(super) fn kind(message: &TcMessage) -> &str {
    message
        .attributes
        .iter()
        .find_map(|a| if let TcAttribute::Kind(kind) = a { Some(kind.as_str()) } else { None })
        .unwrap_or_default()
}

/// True for the qdisc where filters on what comes in hang.
pub(crate) fn is_ingress(message: &TcMessage) -> bool {
    matches!(kind(message), "ingress" | "clsact")
}

/// What a qdisc is as root of its device; `None` if it is no root.
pub(crate) fn root(message: &TcMessage) -> Option<Found> {
    if message.header.parent != TcHandle::ROOT {
        return None;
    }
    Some(match message.header.handle {
        // The kernel's default.
        TcHandle { major: 0, .. } => Found::None,
        OWN if kind(message) == "tbf" => bucket(message).unwrap_or(Found::Damaged),
        _ => Found::Foreign,
    })
}

fn bucket(message: &TcMessage) -> Option<Found> {
    let options = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    })?;
    let TcOption::Other(options) = options else { return None };
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let (mut rate, mut rate64, mut limit) = (None, None, None);
    for nla in NlasIterator::new(&bytes[..]).flatten() {
        let value = nla.value();
        match nla.kind() {
            TBF_PARMS => {
                let word = |at: usize| Some(u32::from_ne_bytes(value.get(at..at + 4)?.try_into().ok()?));
                (rate, limit) = (word(8), word(24));
            }
            TBF_RATE64 => rate64 = value.try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    Some(Found::Ours { rate: rate64.or(rate.map(u64::from))?, limit: limit?, led: Led::ByFilter })
}

/// Of a filter: whether it is ours, and the device that it passes frames through. `None` for what is no rule.
pub(crate) fn redirect(message: &TcMessage) -> Option<(bool, Option<u32>)> {
    let options = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let ours = message.header.info == FILTER;
    let actions = options.iter().filter_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    });
    let options = actions.flatten().flat_map(|action| &action.attributes).filter_map(|a| match a {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    let to = options.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
        _ => None,
    });
    // u32 lists its hash table as a filter of its own, of the same priority.
    (to.is_some() || !ours).then_some((ours, to))
}
