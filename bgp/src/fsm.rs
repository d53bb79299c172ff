//! The boundary to the state machine crate: nothing outside this module names `rustbgpd_fsm`. One machine per
//! connection, from the moment TCP is up until it is closed; connecting, retrying and collisions belong to the peer
//! task. Pure: no sockets, no clock.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use crate_fsm::{Action, Event, NegotiatedSession, Session, TimerType};
use rustbgpd_fsm as crate_fsm;

use crate::codec::{self, Fault, Notification, Open};
use crate::config::{PeerConfig, SpeakerConfig};
use crate::speaker::SessionState;

/// What happens to a connection.
#[derive(Debug)]
pub(crate) enum Input {
    /// TCP is up.
    Started,
    Open(Open),
    Keepalive,
    /// An UPDATE could be read.
    Update,
    /// A ROUTE-REFRESH could be read.
    Refresh,
    Notification(Notification),
    /// The peer closed the connection, or it broke.
    Closed,
    HoldExpired,
    KeepaliveDue,
}

/// The two timers a connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    Hold,
    Keepalive,
}

/// What is to be done, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// One whole message.
    Send(Bytes),
    /// (Re)start, or with `None` stop.
    Timer(Timer, Option<Duration>),
    State(SessionState),
    Established(Box<Agreed>),
    /// Send what is queued, then close. Last of all.
    Close,
}

/// What the two OPENs agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) router_id: Ipv4Addr,
    pub(crate) asn: u32,
    /// Zero: no KEEPALIVEs.
    pub(crate) hold_time: Duration,
    pub(crate) four_octet_as: bool,
    pub(crate) extended_message: bool,
    pub(crate) refresh: bool,
    pub(crate) enhanced_refresh: bool,
    /// The peer keeps our routes over our restart, or at least knows how to.
    pub(crate) peer_graceful: bool,
    /// Its own restart, if it said that it may come back with its state (RFC 4724 §3), for our family.
    pub(crate) restart: Option<Restart>,
    /// Routes are sent only where the target was asked for (RFC 4684).
    pub(crate) constraint: bool,
    /// Also a NOTIFICATION leaves routes in place (RFC 8538).
    pub(crate) notification_graceful: bool,
}

/// The peer's graceful-restart capability for EVPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restart {
    /// How long after losing it its routes are kept at most.
    pub(crate) time: Duration,
    /// F bit: it kept its forwarding state over the restart it has just done.
    pub(crate) forwarding: bool,
    /// R bit: it has just restarted.
    pub(crate) restarted: bool,
}

/// State machine of one connection.
#[derive(Debug)]
pub(crate) struct Machine {
    session: Session,
    /// The OPEN says "I have restarted" (R bit).
    restarting: bool,
    /// We offered graceful restart.
    graceful: bool,
    closed: bool,
}

impl Machine {
    pub(crate) fn new(speaker: &SpeakerConfig, peer: &PeerConfig, restarting: bool) -> Self {
        let mut config = crate_fsm::PeerConfig::new(speaker.asn, peer.asn, speaker.router_id);
        // RFC 4271 §4.2: at least 3 s, or 0 for none.
        config.hold_time = seconds(peer.hold_time).max(3);
        config.families = vec![(crate::codec::Family::AFI, crate::codec::Family::SAFI)];
        // A peer may lack the other family, never this one.
        config.required_families.clone_from(&config.families);
        if peer.route_target_constraint {
            config.families.push(codec::CONSTRAINT);
        }
        config.disable_ipv4_unicast = true;
        config.graceful_restart = peer.restart_time.is_some();
        // Twelve bits (RFC 4724 §3).
        config.gr_restart_time = peer.restart_time.map_or(0, seconds).min(4095);
        Machine {
            session: Session::new(config),
            restarting,
            graceful: peer.restart_time.is_some(),
            closed: false,
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> SessionState {
        if self.closed { SessionState::Idle } else { state(self.session.state()) }
    }

    /// Takes one step.
    pub(crate) fn handle(&mut self, input: Input) -> Vec<Output> {
        if self.closed {
            return Vec::new();
        }
        let event = match input {
            Input::Started => {
                // The machine wants to open the connection itself; here it is open already.
                self.session.handle_event(Event::ManualStart);
                Event::TcpConnectionConfirmed
            }
            Input::Open(open) => Event::OpenReceived(open.0),
            Input::Keepalive => Event::KeepaliveReceived,
            Input::Update => Event::UpdateReceived,
            Input::Refresh => Event::RouteRefreshReceived {
                afi: crate::codec::Family::AFI,
                safi: crate::codec::Family::SAFI,
            },
            Input::Notification(n) => Event::NotificationReceived(n.into_wire()),
            Input::Closed => Event::TcpConnectionFails,
            Input::HoldExpired => Event::HoldTimerExpires,
            Input::KeepaliveDue => Event::KeepaliveTimerExpires,
        };
        let actions = self.session.handle_event(event);
        self.translate(actions)
    }

    /// Ends the connection with a NOTIFICATION of ours.
    pub(crate) fn stop(&mut self, notification: &Notification) -> Vec<Output> {
        if std::mem::replace(&mut self.closed, true) {
            return Vec::new();
        }
        vec![Output::Send(notification.encode()), Output::Close]
    }

    /// Ends the connection for a message that cannot be accepted.
    pub(crate) fn fail(&mut self, fault: &Fault) -> Vec<Output> {
        self.stop(&fault.notification)
    }

    fn translate(&mut self, actions: Vec<Action>) -> Vec<Output> {
        let mut outputs = Vec::with_capacity(actions.len());
        for action in actions {
            match action {
                Action::SendOpen(open) => match Open(open).encode(self.restarting) {
                    Ok(octets) => outputs.push(Output::Send(octets)),
                    Err(fault) => {
                        outputs.extend(self.fail(&fault));
                        return outputs;
                    }
                },
                Action::SendKeepalive => outputs.push(Output::Send(codec::keepalive())),
                Action::SendNotification(n) => {
                    outputs.push(Output::Send(Notification::from_wire(n).encode()));
                }
                Action::StartTimer(timer, secs) => {
                    let time = Duration::from_secs(u64::from(secs));
                    outputs.extend(own_timer(timer).map(|timer| Output::Timer(timer, Some(time))));
                }
                Action::StopTimer(timer) => {
                    outputs.extend(own_timer(timer).map(|timer| Output::Timer(timer, None)));
                }
                Action::StateChanged { new, .. } => outputs.push(Output::State(state(new))),
                Action::SessionEstablished(negotiated) => {
                    outputs.push(Output::Established(Box::new(self.agreed(&negotiated))));
                }
                Action::CloseTcpConnection => self.closed = true,
                // Connecting is not the machine's here, session-down follows from Close, and a stale timer is none.
                _ => {}
            }
        }
        // Idle or Active after the start: this connection is over, whatever the machine would try next.
        if matches!(state(self.session.state()), SessionState::Idle | SessionState::Active) {
            self.closed = true;
        }
        if self.closed {
            outputs.push(Output::Close);
        }
        outputs
    }

    fn agreed(&self, negotiated: &NegotiatedSession) -> Agreed {
        let family = negotiated
            .peer_gr_families
            .iter()
            .find(|f| (f.afi, f.safi) == (crate::codec::Family::AFI, crate::codec::Family::SAFI));
        Agreed {
            router_id: negotiated.peer_router_id,
            asn: negotiated.peer_asn,
            hold_time: Duration::from_secs(u64::from(negotiated.hold_time)),
            four_octet_as: negotiated.four_octet_as,
            extended_message: negotiated.peer_extended_message,
            refresh: negotiated.peer_route_refresh,
            enhanced_refresh: negotiated.peer_enhanced_route_refresh,
            peer_graceful: self.graceful && codec::offers_graceful_restart(&negotiated.peer_capabilities),
            restart: family.filter(|_| self.graceful).map(|family| Restart {
                time: Duration::from_secs(u64::from(negotiated.peer_restart_time)),
                forwarding: family.forwarding_preserved,
                restarted: negotiated.peer_restart_state,
            }),
            constraint: negotiated.negotiated_families.contains(&codec::CONSTRAINT),
            notification_graceful: negotiated.peer_notification_gr,
        }
    }
}

fn own_timer(timer: TimerType) -> Option<Timer> {
    match timer {
        TimerType::Hold => Some(Timer::Hold),
        TimerType::Keepalive => Some(Timer::Keepalive),
        _ => None,
    }
}

fn state(state: crate_fsm::SessionState) -> SessionState {
    match state {
        crate_fsm::SessionState::Idle => SessionState::Idle,
        crate_fsm::SessionState::Connect => SessionState::Connect,
        crate_fsm::SessionState::Active => SessionState::Active,
        crate_fsm::SessionState::OpenSent => SessionState::OpenSent,
        crate_fsm::SessionState::OpenConfirm => SessionState::OpenConfirm,
        crate_fsm::SessionState::Established => SessionState::Established,
    }
}

fn seconds(time: Duration) -> u16 {
    u16::try_from(time.as_secs()).unwrap_or(u16::MAX)
}
