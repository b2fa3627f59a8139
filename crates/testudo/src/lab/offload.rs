//! Which work a veth leaves to its peer: device features over the ethtool netlink family.
//!
//! Two things hold on a veth whose frames go through XDP, and both fail silently when they don't:
//!
//! * a frame must be complete when it leaves: checksum computed and no larger than the MTU, since the
//!   other end's XDP program sees it as it is (`complete_frames`);
//! * a veth receives what was *redirected* to its peer only while its own receive side polls, that is
//!   with an XDP program or with GRO on (`receive_redirects`).
//!
//! Generic netlink is used and not the older `SIOCETHTOOL`, which can't be called without unsafe code.

use nix::libc;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Error, Netlink, Request, attributes};

/// linux/ethtool_netlink.h
const VERSION: u8 = 1;
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const HEADER_DEVICE_NAME: u16 = 2;
const HEADER_FLAGS: u16 = 3;
const FLAG_OMIT_REPLY: u32 = 2;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// What leaves a frame unfinished when it is sent.
const TRANSMIT: [&str; 7] = [
    "tx-checksum-ip-generic",
    "tx-checksum-sctp",
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
];

/// The device features of one network namespace.
#[derive(Debug)]
pub struct Offloads {
    netlink: Netlink,
    family: u16,
}

impl Offloads {
    /// The devices of the calling thread's namespace, also for later uses from other threads.
    pub fn open() -> Result<Offloads, Error> {
        let mut netlink = Netlink::open(SockProtocol::NetlinkGeneric)?;
        let family = find_family(&mut netlink)?;
        Ok(Offloads { netlink, family })
    }

    /// From now on `link` sends only frames that are complete.
    pub fn complete_frames(&mut self, link: &str) -> Result<(), Error> {
        self.set(link, &TRANSMIT, false)
    }

    /// From now on `link` receives also what is redirected to its peer.
    pub fn receive_redirects(&mut self, link: &str) -> Result<(), Error> {
        self.set(link, &["rx-gro"], true)
    }

    fn set(&mut self, link: &str, features: &[&str], on: bool) -> Result<(), Error> {
        let verb = if on { "on" } else { "off" };
        let action = format!("turn {verb} {} of {link}", features.join(", "));
        let request = Request::new(action, self.family, 0)
            .raw(&[FEATURES_SET, VERSION, 0, 0])
            .nested(FEATURES_HEADER, |header| {
                header.string(HEADER_DEVICE_NAME, link).number(HEADER_FLAGS, FLAG_OMIT_REPLY)
            })
            .nested(FEATURES_WANTED, |wanted| {
                wanted.nested(BITSET_BITS, |bits| {
                    features.iter().fold(bits, |bits, name| {
                        bits.nested(BITS_BIT, |bit| {
                            let bit = bit.string(BIT_NAME, name);
                            if on { bit.attribute(BIT_VALUE, &[]) } else { bit }
                        })
                    })
                })
            });
        self.netlink.request(request).map(drop)
    }
}

fn find_family(netlink: &mut Netlink) -> Result<u16, Error> {
    let action = "find the ethtool family";
    let request = Request::new(action, libc::GENL_ID_CTRL as u16, 0)
        .raw(&[libc::CTRL_CMD_GETFAMILY as u8, VERSION, 0, 0])
        .string(libc::CTRL_ATTR_FAMILY_NAME as u16, "ethtool");
    let replies = netlink.request(request)?;
    let reply = replies.first().and_then(|reply| reply.get(4..)).unwrap_or_default();
    attributes(reply)
        .find(|(kind, _)| *kind == libc::CTRL_ATTR_FAMILY_ID as u16)
        .and_then(|(_, value)| value.first_chunk::<2>())
        .map(|id| u16::from_ne_bytes(*id))
        .ok_or_else(|| Error::Broken {
            action: action.into(),
            reason: "expected a family number in reply, saw none".into(),
        })
}
