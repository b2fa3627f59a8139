//! Netlink: one request, one acknowledged answer.
//!
//! Invariant: a [`Netlink`] speaks to the network namespace in which it was opened, whichever thread
//! uses it later; each request has a sequence number of its own, and a reply with another number is
//! not taken for its answer.
//!
//! A dozen message shapes are needed, nearly all by the lab. They are written here from the kernel's own layout (a fixed
//! header, then typed attributes padded to four bytes) rather than with a library, since the
//! libraries split the rtnetlink and ethtool families over several crates and bring an async runtime.
//! Limit: no multi-part dumps beyond what one receive buffer after the other gives; of notifications only that they came.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Attribute flag: the value is attributes itself.
const NESTED: u16 = 1 << 15;
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Why a netlink request failed. Nothing was changed by the request, in either case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel answered with an error.
    #[error("the kernel refused to {action}: {errno}")]
    Refused {
        /// What was asked.
        action: String,
        /// Its answer.
        errno: Errno,
    },
    /// The socket failed, or the answer was not netlink.
    #[error("netlink, asked to {action}: {reason}")]
    Broken {
        /// What was asked.
        action: String,
        /// What was seen instead of an answer.
        reason: String,
    },
}

impl Error {
    /// The kernel's error number, where the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } => Some(*errno),
            Error::Broken { .. } => None,
        }
    }
}

/// A message under construction: type, flags, fixed header, attributes.
#[derive(Debug)]
pub struct Request {
    action: String,
    bytes: Vec<u8>,
}

impl Request {
    /// A request of message type `kind` that is to be acknowledged; `action` ("create the bridge
    /// inside") is what errors will say.
    pub fn new(action: impl Into<String>, kind: u16, flags: i32) -> Request {
        let mut bytes = vec![0; HEADER];
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Request { action: action.into(), bytes }
    }

    /// Append raw bytes: the family's fixed header.
    pub fn raw(mut self, bytes: &[u8]) -> Request {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Append one attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Append a NUL-terminated string attribute.
    pub fn string(self, kind: u16, value: &str) -> Request {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Append a 32-bit attribute in host byte order.
    pub fn number(self, kind: u16, value: u32) -> Request {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Append an attribute whose value is what `fill` appends.
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Request) -> Request) -> Request {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = (filled.bytes.len() - start) as u16;
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One netlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Open a socket of `protocol` in the calling thread's network namespace.
    pub fn open(protocol: SockProtocol) -> Result<Netlink, Error> {
        Self::bound(protocol, 0)
    }

    fn bound(protocol: SockProtocol, groups: u32) -> Result<Netlink, Error> {
        let broken = |errno: Errno| Error::Broken {
            action: "open a socket".into(),
            reason: errno.to_string(),
        };
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
                .map_err(broken)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(broken)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Send `request`; give the payload of every reply that came before the acknowledgement.
    pub fn request(&mut self, request: Request) -> Result<Vec<Vec<u8>>, Error> {
        let Request { action, mut bytes } = request;
        let broken = |reason: String| Error::Broken { action: action.clone(), reason };
        self.sequence += 1;
        let length = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())
            .map_err(|errno| broken(format!("send: {errno}")))?;

        let mut replies = Vec::new();
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let received = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(broken(format!("receive: {errno}"))),
            };
            for message in messages(&buffer[..received]) {
                if message.sequence != self.sequence {
                    continue;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => match status(message.payload) {
                        Some(0) => return Ok(replies),
                        Some(code) => {
                            let errno = Errno::from_raw(-code);
                            return Err(Error::Refused { action, errno });
                        }
                        None => return Err(broken("an error message without a code".into())),
                    },
                    libc::NLMSG_DONE => return Ok(replies),
                    _ => replies.push(message.payload.to_vec()),
                }
            }
        }
    }
}

/// Tells of changes that the kernel announces.
#[derive(Debug)]
pub struct Notices(OwnedFd);

impl Notices {
    /// What is announced to these groups of `protocol`, 1 to 31, in the calling thread's network namespace.
    pub fn of(protocol: SockProtocol, groups: &[u32]) -> Result<Self, Error> {
        let groups = groups.iter().fold(0, |all, group| all | 1 << (group - 1));
        Ok(Self(Netlink::bound(protocol, groups)?.socket))
    }

    /// Waits for the next one, and takes in what else there is. More than the socket had room for is a notice, too.
    pub fn wait(&self) -> Result<(), Errno> {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut flags = MsgFlags::empty();
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, flags) {
                Ok(_) | Err(Errno::ENOBUFS) => flags = MsgFlags::MSG_DONTWAIT,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

fn status(payload: &[u8]) -> Option<i32> {
    payload.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code))
}

/// The messages of one datagram; stops at the first malformed one.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload: rest.get(HEADER..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `rest`, as (type, value); stops at the first malformed one.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_lengths_cover_their_content() {
        let request = Request::new("test", 16, 0)
            .string(3, "eth0")
            .nested(18, |r| r.string(1, "veth").number(2, 7));
        let body = &request.bytes[HEADER..];
        let outer: Vec<_> = attributes(body).collect();
        assert_eq!(outer[0], (3, b"eth0\0".as_slice()));
        assert_eq!(outer[1].0, 18);
        let inner: Vec<_> = attributes(outer[1].1).collect();
        assert_eq!(inner, [(1, b"veth\0".as_slice()), (2, 7u32.to_ne_bytes().as_slice())]);
        assert_eq!(outer.len(), 2);
    }

    #[test]
    fn malformed_input_ends_the_walk() {
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(messages(&[255; 20]).count(), 0);
        assert_eq!(messages(&[0; 20]).count(), 0);
    }
}
