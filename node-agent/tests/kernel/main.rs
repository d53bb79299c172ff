//! The data plane on the real kernel, in private network namespaces. Needs root.

mod acd;
mod adopt;
mod attach;
mod divert;
mod drift;
mod guard;
mod host;
mod lan;
mod moves;
mod netns;
mod probe;
mod program;
mod rate;
mod retry;
mod routed;
mod routing;
mod scale;
mod several;
mod standby;
mod switch;
mod tap;
mod vip;
mod vlan;
mod vtep_tap;
mod wait;
