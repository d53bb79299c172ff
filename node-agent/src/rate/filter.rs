//! Filters that lead frames of one port to the device that limits them, as rtnetlink messages.

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, Nla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::lead::{Instruction, RECEIVERS, SENDERS, Side};
use super::message::{INCOMING, INGRESS, kind, message, mirred};
use crate::netlink::message::Request;

const OUTGOING: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_EGRESS };

/// Attributes of a `bpf` filter (`TCA_BPF_*`).
const BPF_ACT: u16 = 1;
const BPF_OPS_LEN: u16 = 4;
const BPF_OPS: u16 = 5;
/// Attributes of an action (`TCA_ACT_*`), and of `mirred` (`TCA_MIRRED_*`).
const ACT_OPTIONS: u16 = 2;
const MIRRED_PARMS: u16 = 2;
/// Where in `struct tc_mirred` the device's index is.
const MIRRED_INDEX: usize = 24;
/// Flags in the type of an attribute.
const TYPE_MASK: u16 = 0x3fff;

/// A filter of ours, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Index of the link that it is at.
    pub(crate) link: u32,
    pub(crate) side: Side,
    pub(crate) priority: u16,
    pub(crate) handle: TcHandle,
    /// Index of the device that it leads to; 0: one that is gone.
    pub(crate) to: u32,
    pub(crate) program: Vec<Instruction>,
}

fn parent(side: Side) -> TcHandle {
    if side == Side::Ingress { INCOMING } else { OUTGOING }
}

/// `tcm_info`: priority, and all protocols (`ETH_P_ALL`, network order).
fn info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from((libc::ETH_P_ALL as u16).to_be())
}

/// Where filters on what comes in and on what goes out hang.
pub(crate) fn add_clsact(link: u32) -> Request {
    let mut message = message(link, TcHandle::INGRESS, INGRESS);
    message.attributes = vec![TcAttribute::Kind("clsact".into())];
    (RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// True for the qdisc where filters on both sides hang.
pub(crate) fn is_clsact(message: &TcMessage) -> bool {
    kind(message) == "clsact"
}

/// Leads frames that the program means to another device.
pub(crate) fn add_filter(link: u32, side: Side, priority: u16, program: &[Instruction], to: u32) -> Request {
    let mut operations = Vec::with_capacity(program.len() * 8);
    for Instruction { code, jt, jf, k } in program {
        operations.extend(code.to_ne_bytes());
        operations.extend([*jt, *jf]);
        operations.extend(k.to_ne_bytes());
    }
    let count = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let action = mirred(to);
    let mut bytes = vec![0; action.buffer_len()];
    action.emit(&mut bytes);
    let nla = |kind, bytes: Vec<u8>| TcOption::Other(DefaultNla::new(kind, bytes));
    let mut message = message(link, parent(side), TcHandle::UNSPEC);
    message.header.info = info(priority);
    message.attributes = vec![
        TcAttribute::Kind("bpf".into()),
        TcAttribute::Options(vec![
            nla(BPF_ACT, bytes),
            nla(BPF_OPS_LEN, count.to_ne_bytes().to_vec()),
            nla(BPF_OPS, operations),
        ]),
    ];
    (RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes one away.
pub(crate) fn del_filter(filter: &Filter) -> Request {
    let mut message = message(filter.link, parent(filter.side), filter.handle);
    message.header.info = info(filter.priority);
    message.attributes = vec![TcAttribute::Kind("bpf".into())];
    (RouteNetlinkMessage::DelTrafficFilter(message), 0)
}

/// All filters on one side of a link.
pub(crate) fn get_filters(link: u32, side: Side) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetTrafficFilter(message(link, parent(side), TcHandle::UNSPEC))
}

/// A filter of ours; `None` for one of others, and for what is no rule.
pub(crate) fn parse(message: &TcMessage, side: Side) -> Option<Filter> {
    let priority = (message.header.info >> 16) as u16;
    let ours = [SENDERS, RECEIVERS].contains(&priority) && message.header.info == info(priority);
    if !ours || kind(message) != "bpf" || message.header.handle == TcHandle::UNSPEC {
        return None;
    }
    let (mut program, mut to) = (None, 0);
    let options = message.attributes.iter().filter_map(|a| match a {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    for option in options.flatten() {
        let mut value = vec![0; option.value_len()];
        option.emit_value(&mut value);
        match option.kind() & TYPE_MASK {
            BPF_OPS => program = Some(operations(&value)),
            BPF_ACT => to = target(&value).unwrap_or(0),
            _ => {}
        }
    }
    Some(Filter {
        link: message.header.index.cast_unsigned(),
        side,
        priority,
        handle: message.header.handle,
        to,
        program: program?,
    })
}

fn operations(bytes: &[u8]) -> Vec<Instruction> {
    let one = |b: &[u8]| Instruction {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(8).map(one).collect()
}

/// The device of the first action that redirects.
fn target(actions: &[u8]) -> Option<u32> {
    let inner = |bytes: &[u8], wanted: u16| -> Option<Vec<u8>> {
        let mut all = NlasIterator::new(bytes).flatten();
        all.find(|n| n.kind() & TYPE_MASK == wanted).map(|n| n.value().to_vec())
    };
    let first = NlasIterator::new(actions).flatten().next().map(|n| n.value().to_vec())?;
    let parms = inner(&inner(&first, ACT_OPTIONS)?, MIRRED_PARMS)?;
    let index = parms.get(MIRRED_INDEX..MIRRED_INDEX + 4)?;
    Some(u32::from_ne_bytes(index.try_into().ok()?))
}
