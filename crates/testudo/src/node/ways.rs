//! Tells the engine that the kernel sends packets other ways: a route, a neighbour, a link has changed.
//!
//! What has changed is not read. Each flow's next packet asks the kernel anew, which costs it a tenth of a microsecond.

use std::thread;

use nix::libc;
use nix::sys::socket::SockProtocol;
use testudo_packet::hop::RAISED_AFTER;

use super::engine::Input;
use super::mailbox::Sender;
use crate::netlink::{Error, Notices};

/// Whatever `bpf_fib_lookup` looks at.
const GROUPS: [u32; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
];

/// The kernel's announcements, and who is told.
#[derive(Debug)]
pub struct Ways {
    notices: Notices,
    engine: Sender<Input>,
}

impl Ways {
    /// Hears of changes from now on.
    pub fn listen(engine: Sender<Input>) -> Result<Self, Error> {
        Ok(Self { notices: Notices::of(SockProtocol::NetlinkRoute, &GROUPS)?, engine })
    }

    /// Tells of them, once in [`RAISED_AFTER`] at most, as long as there is a socket.
    pub fn run(self) {
        loop {
            if let Err(errno) = self.notices.wait() {
                tracing::error!(%errno, "changes of routes are not heard of any more; flows meet them within two seconds");
                return;
            }
            // A full mailbox is emptied within milliseconds.
            while self.engine.send(Input::WaysChanged).is_err() {
                thread::sleep(RAISED_AFTER);
            }
            thread::sleep(RAISED_AFTER);
        }
    }
}
