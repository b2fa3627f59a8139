//! The state of the configured interfaces, as soon as the kernel tells of a change.
//!
//! The kernel announces changes of links on a netlink socket. What it says there is not read, only
//! that it says something; then all interfaces are looked at. So a lost announcement (the socket tells
//! when that happens) costs nothing, and there is one way of looking, not two.
//!
//! Invariant: interfaces are those of the network namespace of the thread that opens and looks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::Finding;

/// How many announcements are taken at a time. A flood of them is looked at once a turn.
const MAX_ANNOUNCEMENTS: usize = 256;

/// Looks after some interfaces.
#[derive(Debug)]
pub struct Links {
    announcements: OwnedFd,
    /// Names, and the numbers that they had first.
    names: Vec<(String, Option<u32>)>,
}

/// An interface as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    number: u32,
    flags: InterfaceFlags,
}

impl Links {
    /// Looks after interfaces of these names from now on.
    pub fn open(names: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let announcements = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(announcements.as_raw_fd(), &NetlinkAddr::new(0, libc::RTMGRP_LINK as u32))?;
        let number = |name: String| {
            let number = if_nametoindex(name.as_str()).ok();
            (name, number)
        };
        Ok(Self { announcements, names: names.into_iter().map(number).collect() })
    }

    /// Empties the socket, so that it is readable again when something happens after this.
    pub fn acknowledge(&self) {
        let mut buffer = [0; 4096];
        for _ in 0..MAX_ANNOUNCEMENTS {
            match recv(self.announcements.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // ENOBUFS: some were lost. The look that follows shows what they told of.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// How each interface is, by name.
    pub fn look(&self) -> Vec<(&str, Finding)> {
        let all = match getifaddrs() {
            Ok(all) => all.map(|entry| (entry.interface_name, entry.flags)).collect::<Vec<_>>(),
            Err(errno) => {
                let reason = || Finding::Wrong(format!("the interfaces can't be listed: {errno}"));
                return self.names.iter().map(|(name, _)| (name.as_str(), reason())).collect();
            }
        };
        let look = |(name, first): &'_ (String, Option<u32>)| {
            let number = if_nametoindex(name.as_str()).ok();
            let flags = all.iter().find(|(other, _)| other == name).map(|(_, flags)| *flags);
            let seen = number.zip(flags).map(|(number, flags)| Seen { number, flags });
            judge(*first, seen)
        };
        self.names.iter().map(|entry| (entry.0.as_str(), look(entry))).collect()
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.announcements.as_fd()
    }
}

fn judge(first: Option<u32>, seen: Option<Seen>) -> Finding {
    let Some(Seen { number, flags }) = seen else {
        return Finding::Wrong("there is no such interface".into());
    };
    match first {
        Some(first) if first == number => {}
        // The packet handling went with the interface that had the name before.
        Some(first) => {
            return Finding::Wrong(format!(
                "it is another interface now, number {number}; expected number {first}, which \
                 packets are handled on"
            ));
        }
        None => {
            return Finding::Wrong(
                "it came after the node, which does not handle its packets".into(),
            );
        }
    }
    if !flags.contains(InterfaceFlags::IFF_UP) {
        Finding::Wrong("it is set down".into())
    } else if !flags.contains(InterfaceFlags::IFF_RUNNING) {
        Finding::Wrong("it is up, without a carrier".into())
    } else {
        Finding::Well("it is up, with a carrier".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_well_when_it_can_carry_packets() {
        let seen = |number, flags| Some(Seen { number, flags });
        let (up, running) = (InterfaceFlags::IFF_UP, InterfaceFlags::IFF_RUNNING);
        let wrong = |words: &str| Finding::Wrong(words.to_owned());
        let cases = [
            (Some(7), seen(7, up | running), Finding::Well("it is up, with a carrier".into())),
            (Some(7), seen(7, up), wrong("it is up, without a carrier")),
            (Some(7), seen(7, running), wrong("it is set down")),
            (Some(7), None, wrong("there is no such interface")),
            (None, None, wrong("there is no such interface")),
        ];
        for (first, seen, expected) in cases {
            assert_eq!(judge(first, seen), expected, "{seen:?}");
        }
        assert!(matches!(judge(Some(7), seen(8, up | running)), Finding::Wrong(_)));
        assert!(matches!(judge(None, seen(8, up | running)), Finding::Wrong(_)));
    }

    #[test]
    fn the_loopback_is_found_and_a_stranger_is_not() {
        let links = Links::open(["lo".to_owned(), "nothere0".to_owned()]).unwrap();
        links.acknowledge();
        let found = links.look();
        assert_eq!(found[1].1, Finding::Wrong("there is no such interface".into()));
        assert_ne!(found[0].1, found[1].1);
    }
}
