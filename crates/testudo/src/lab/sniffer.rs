//! Reading frames off a link, and telling which of them are the load's.
//!
//! Invariant: nothing is hidden. A frame that the reader was too slow for is missing from its counts,
//! which makes a packet look lost, never one that was lost look delivered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};

use super::netns::Namespace;
use super::traffic::PORT;

/// How long a reader may take to notice that it is to end.
const TICK_MILLIS: i64 = 20;
/// What a link's reader holds while it does not run.
const BUFFER: usize = 64 << 20;
/// The largest frame that is looked at; the load's are far smaller.
pub const FRAME: usize = 2048;
const ETHERNET: usize = 14;
/// The kernel's mark of a frame that the link sends (linux/if_packet.h).
const OUTGOING: u8 = 4;

/// A socket that gets a copy of every frame that a link receives.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
    index: usize,
}

/// A TCP or UDP packet of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Whether it is on its way to the server.
    pub up: bool,
    /// What is behind the UDP header; of a TCP packet, its header too.
    pub payload: &'a [u8],
}

/// The address of a link of the calling thread's namespace, as packet sockets know it.
pub fn link_address(link: &str) -> Result<LinkAddr> {
    getifaddrs()
        .context("list the links")?
        .filter(|entry| entry.interface_name == link)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no link {link} here; expected one"))
}

/// A packet socket for all of a link's frames, both ways.
pub fn packet_socket(link: &LinkAddr) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .context("open a packet socket")?;
    bind(socket.as_raw_fd(), link).context("bind a packet socket to a link")?;
    Ok(socket)
}

impl Sniffer {
    /// Begin to read `link`, a link of the calling thread's namespace.
    pub fn open(link: &str) -> Result<Sniffer> {
        let address = link_address(link)?;
        let socket = packet_socket(&address)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("widen a packet socket")?;
        let tick = TimeVal::milliseconds(TICK_MILLIS);
        setsockopt(&socket, sockopt::ReceiveTimeout, &tick).context("limit a packet socket")?;
        Ok(Sniffer { socket, index: address.ifindex() })
    }

    /// As [`Self::next`], but waits no longer than this.
    pub fn next_within<'a>(
        &self,
        buffer: &'a mut [u8; FRAME],
        limit: Option<Duration>,
    ) -> Result<Option<&'a [u8]>> {
        if let Some(limit) = limit {
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let limit = TimeSpec::from_duration(limit);
            match ppoll(&mut fds, Some(limit), None) {
                Ok(0) | Err(Errno::EINTR) => return Ok(None),
                Ok(_) => {}
                Err(errno) => {
                    return Err(io::Error::from(errno)).context("wait for a packet socket");
                }
            }
        }
        self.next(buffer)
    }

    /// The next frame that the link received; nothing if none comes for a moment.
    pub fn next<'a>(&self, buffer: &'a mut [u8; FRAME]) -> Result<Option<&'a [u8]>> {
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) {
            Ok((length, Some(from))) => {
                let wanted = from.ifindex() == self.index && from.pkttype() != OUTGOING;
                Ok(wanted.then(|| &buffer[..length]))
            }
            Ok((_, None)) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => Ok(None),
            Err(errno) => Err(io::Error::from(errno)).context("read a packet socket"),
        }
    }
}

/// The load's packet in `frame`, if there is one. The lab's hosts send neither VLAN tags, nor
/// fragments, nor extension headers.
pub fn dissect(frame: &[u8]) -> Option<Packet<'_>> {
    let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let network = frame.get(ETHERNET..)?;
    let (protocol, transport) = match i32::from(kind) {
        libc::ETH_P_IP => {
            let header = usize::from(network.first()? & 0xf) * 4;
            let length = usize::from(u16::from_be_bytes([*network.get(2)?, *network.get(3)?]));
            (*network.get(9)?, network.get(header..length)?)
        }
        libc::ETH_P_IPV6 => {
            let length = usize::from(u16::from_be_bytes([*network.get(4)?, *network.get(5)?]));
            (*network.get(6)?, network.get(40..40 + length)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
    let (source, destination) = (port(0)?, port(2)?);
    let payload = match i32::from(protocol) {
        libc::IPPROTO_UDP => transport.get(8..)?,
        libc::IPPROTO_TCP => transport,
        _ => return None,
    };
    let up = destination == PORT;
    (up || source == PORT).then_some(Packet { protocol, up, payload })
}

/// Threads that count the load's packets on links.
#[derive(Debug)]
pub struct Counter {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<Result<()>>>>,
}

impl Counter {
    /// Begin to count what `links` of `namespace` receive.
    pub fn start(namespace: &Namespace, links: Vec<String>) -> Result<Counter> {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for link in links {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            threads.push(namespace.spawn("counter", move || -> Result<()> {
                let sniffer = Sniffer::open(&link)?;
                let mut buffer = [0; FRAME];
                while !stop.load(Ordering::Relaxed) {
                    let packet = sniffer.next(&mut buffer)?.and_then(dissect);
                    count.fetch_add(u64::from(packet.is_some()), Ordering::Relaxed);
                }
                Ok(())
            })?);
        }
        Ok(Counter { stop, count, threads })
    }

    /// Stop, and give the number of packets.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a counting thread panicked"))???;
        }
        Ok(self.count.load(Ordering::Relaxed))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u16, network: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(network);
        frame
    }

    /// UDP from port 9 to port 7000 with a payload of three bytes.
    const UDP: [u8; 11] = [0, 9, 0x1b, 0x58, 0, 11, 0, 0, b'a', b'b', b'c'];

    fn v4() -> Vec<u8> {
        let mut network = vec![0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17];
        network.resize(20, 0);
        network.extend_from_slice(&UDP);
        // Ethernet pads short frames.
        network.resize(46, 0);
        frame(0x0800, &network)
    }

    #[test]
    fn a_packet_of_the_load_is_known_by_its_port() {
        let expected = Packet { protocol: 17, up: true, payload: b"abc" };
        assert_eq!(dissect(&v4()), Some(expected));
        let mut v6 = vec![0x60, 0, 0, 0, 0, 11, 17, 64];
        v6.resize(40, 0);
        v6.extend_from_slice(&UDP);
        assert_eq!(dissect(&frame(0x86dd, &v6)), Some(expected));
        let mut back = v4();
        back[34..38].copy_from_slice(&[0x1b, 0x58, 0, 9]);
        assert_eq!(dissect(&back).map(|packet| packet.up), Some(false));
        back[34] = 0;
        assert_eq!(dissect(&back), None, "another port");
    }

    #[test]
    fn a_frame_that_ends_early_is_nothing() {
        let whole = v4();
        for length in 0..ETHERNET + 31 {
            assert_eq!(dissect(&whole[..length]), None, "{length}");
        }
    }
}
