//! What a datapath in ordinary memory is told of routes; the kernel's build asks the kernel.

use std::collections::HashMap;

use testudo_packet::flow::{Address, FlowKey};
use testudo_packet::reverse_path::ReversePath;
use testudo_packet::rule::Prefix;
use testudo_packet::wire;

use crate::frame::SliceFrame;

/// Where packets go out, and what interfaces ask of those that come in.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// In order, each with the number of its interface; 0 where there is none, as for the node's own addresses.
    routes: Option<Vec<(Prefix, u32)>>,
    checks: HashMap<u32, ReversePath>,
}

impl Routes {
    /// Replaces the routes. The first prefix that has a packet's destination says the interface.
    pub fn set(&mut self, routes: Vec<(Prefix, u32)>) {
        self.routes = Some(routes);
    }

    /// Replaces what interfaces ask of the sources of first packets.
    pub fn set_checks(&mut self, checks: &HashMap<u32, ReversePath>) {
        self.checks.clone_from(checks);
    }

    /// Whether any interface asks anything.
    pub fn is_asked(&self) -> bool {
        !self.checks.is_empty()
    }

    /// Whether the source of a first packet is routed back as the interface asks. As long as nothing is known of routes,
    /// it is.
    pub fn comes_back(&self, key: &FlowKey, interface: u32) -> bool {
        let check = self.checks.get(&interface).copied().unwrap_or_default();
        self.routes.is_none() || check.passes(interface, self.by(key.initiator.address))
    }

    /// The interface that a packet would go out by; 0 if there is no route.
    pub fn egress(&self, frame: &mut [u8]) -> u32 {
        if self.routes.is_none() {
            return 0;
        }
        let frame = SliceFrame(frame);
        let destination =
            wire::parse_link(&frame).ok().and_then(|link| wire::destination(&frame, &link));
        destination.and_then(|destination| self.by(destination)).unwrap_or(0)
    }

    fn by(&self, address: Address) -> Option<u32> {
        let mut routes = self.routes.iter().flatten();
        let found = routes.find(|(prefix, _)| prefix.contains(address));
        found.map(|(_, interface)| *interface).filter(|interface| *interface != 0)
    }
}
