//! ICMP echoes: the packets and the socket that they go through.
//!
//! The socket is a raw one. The kernel's "ping" sockets would do without privilege, but the range of
//! groups that may open them is empty unless an administrator has set it, root not excepted; the
//! daemon has the privilege anyway.
//!
//! Invariant: an answer counts only if it carries the identifier and the token of this socket; a raw
//! socket also sees the answers to everybody else's questions. The source address is chosen by the
//! kernel's routes, so it is the node's own: the cluster's addresses are on no interface.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::BindToDevice;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket};

/// Type, code, checksum, identifier, sequence (RFC 792, RFC 4443 §4.1), then the token.
const BYTES: usize = 16;

/// How many datagrams are taken at a time: what others cause must not keep the thread here.
const MAX_DATAGRAMS: usize = 64;

/// Tells this socket's questions from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The identifier.
    pub identifier: u16,
    /// What has to come back.
    pub token: u64,
}

/// A way to one target.
#[derive(Debug)]
pub struct Echo {
    // A raw socket, which is connected, sent to and received from like any datagram socket.
    socket: UdpSocket,
    is_ipv4: bool,
    mark: Mark,
}

impl Echo {
    /// A way to a target, by an interface if one is given.
    pub fn open(target: IpAddr, interface: Option<&str>, mark: Mark) -> io::Result<Self> {
        let (family, protocol) = match target {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Raw, flags, protocol)?;
        if let Some(interface) = interface {
            setsockopt(&socket, BindToDevice, &interface.into())?;
        }
        let scope = interface.map_or(Ok(0), if_nametoindex)?;
        let socket = UdpSocket::from(socket);
        socket.connect(match target {
            IpAddr::V4(_) => SocketAddr::new(target, 0),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, 0, 0, scope).into(),
        })?;
        Ok(Self { socket, is_ipv4: target.is_ipv4(), mark })
    }

    /// Asks.
    pub fn send(&self, sequence: u16) -> io::Result<()> {
        self.socket.send(&request(self.is_ipv4, self.mark, sequence)).map(drop)
    }

    /// The numbers of the questions that were answered since this was last asked.
    pub fn receive(&self) -> Vec<u16> {
        let mut answers = Vec::new();
        let mut buffer = [0; 256];
        for _ in 0..MAX_DATAGRAMS {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    answers.extend(answer(self.is_ipv4, self.mark, &buffer[..length]));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What an earlier question has led to, or an interruption.
                Err(_) => {}
            }
        }
        answers
    }
}

impl AsFd for Echo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn request(is_ipv4: bool, mark: Mark, sequence: u16) -> [u8; BYTES] {
    let mut packet = [0; BYTES];
    packet[0] = if is_ipv4 { 8 } else { 128 };
    packet[4..6].copy_from_slice(&mark.identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[8..].copy_from_slice(&mark.token.to_be_bytes());
    if is_ipv4 {
        // For IPv6 the kernel does it, since the sum covers addresses that it chooses (RFC 3542 §3.1).
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The internet checksum (RFC 1071).
fn checksum(packet: &[u8; BYTES]) -> u16 {
    let words = packet.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The number of the question that a datagram answers, if it does. IPv4 ones begin with their IP
/// header, IPv6 ones do not (raw(7), RFC 3542 §3).
fn answer(is_ipv4: bool, mark: Mark, datagram: &[u8]) -> Option<u16> {
    let message = if is_ipv4 {
        let words = datagram.first()? & 0x0f;
        datagram.get(usize::from(words) * 4..)?
    } else {
        datagram
    };
    let message: &[u8; BYTES] = message.get(..BYTES)?.try_into().ok()?;
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let kind = if is_ipv4 { 0 } else { 129 };
    let ours = word(4) == mark.identifier && message[8..] == mark.token.to_be_bytes();
    (message[0] == kind && message[1] == 0 && ours).then(|| word(6))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { identifier: 0x1234, token: 0x0102_0304_0506_0708 };

    #[test]
    fn a_question_has_a_checksum_that_sums_up_to_nothing() {
        let packet = request(true, MARK, 7);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(checksum(&packet), 0);
        assert_eq!(request(false, MARK, 7)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn only_the_answer_to_an_own_question_counts() {
        for is_ipv4 in [true, false] {
            let header = if is_ipv4 { vec![0x45; 20] } else { Vec::new() };
            let mut reply = [header.clone(), request(is_ipv4, MARK, 7).to_vec()].concat();
            assert_eq!(answer(is_ipv4, MARK, &reply), None, "a question");
            reply[header.len()] = if is_ipv4 { 0 } else { 129 };
            assert_eq!(answer(is_ipv4, MARK, &reply), Some(7));
            for other in [Mark { identifier: 1, ..MARK }, Mark { token: 1, ..MARK }] {
                assert_eq!(answer(is_ipv4, other, &reply), None);
            }
            for cut in 0..reply.len() {
                assert_eq!(answer(is_ipv4, MARK, &reply[..cut]), None, "cut at {cut}");
            }
        }
    }
}
