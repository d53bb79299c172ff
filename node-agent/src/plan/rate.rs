//! Limits of ports.

use super::{Phase, Planner};
use crate::dev::Dev;
use crate::model::{Key, Port, Rate};
use crate::op::Op;
use crate::rate::{Direction, Found, Led, Shape, Shaping};

/// The steps that bring the limits on a host side to `rate`, and why they cannot, if so. `found` is what the host side
/// has now; [`Shaping::orphaned`] if it is made anew.
pub(crate) fn rate_steps(rate: Rate, mtu: u32, dev: &Dev, found: Shaping) -> (Vec<Op>, Option<String>) {
    let (mut ops, mut problem) = (Vec::new(), None);
    for direction in [Direction::In, Direction::Out] {
        let led = Led::ByFilter;
        let set = |shape| Op::Rate { dev: dev.clone(), direction, shape, led };
        match (Shape::new(rate.of(direction), mtu), found.of(direction)) {
            (None, Found::None | Found::Foreign) => {}
            (None, _) => ops.push(set(None)),
            (Some(want), have) if want.found(led) == have => {}
            (Some(_), Found::Foreign) => {
                let what = match direction {
                    Direction::In => format!("a qdisc on {dev} is"),
                    Direction::Out => format!("interface {} is", dev.shaper()),
                };
                problem = Some(format!("its rate cannot be limited: {what} not Causeway's; delete it"));
            }
            (Some(want), _) => ops.push(set(Some(want))),
        }
    }
    (ops, problem)
}

impl Planner<'_> {
    /// Brings the limits of a port to what they shall be.
    pub(super) fn rates(&mut self, port: &Port, dev: &Dev) {
        self.limits(port.rate, port.mtu, dev, Phase::Ports);
    }

    /// Takes what is left of a port's limits away, after the port itself.
    pub(super) fn unlimit(&mut self, dev: &Dev) {
        self.limits(Rate::default(), 0, dev, Phase::RemoveEntries);
    }

    fn limits(&mut self, rate: Rate, mtu: u32, dev: &Dev, phase: Phase) {
        let found = self.observed.rates.get(dev).copied().unwrap_or_default();
        let replaced = self.new_ports.contains(dev) || self.removed.contains(dev);
        let found = if replaced { found.orphaned() } else { found };
        let (ops, problem) = rate_steps(rate, mtu, dev, found);
        for op in ops {
            self.push(phase, op);
        }
        if let Some(problem) = problem {
            self.problems.insert(Key::Port(dev.clone()), problem);
        }
    }
}
