//! Sends packets that user space has decided on.
//!
//! With a known next hop a packet leaves through a packet socket, as the XDP program would send it.
//! Without one it goes to the node's own stack through a raw IP socket: the stack finds the
//! neighbour, and keeps the packet meanwhile.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use testudo_packet::env::{Frame, Mac};
use testudo_packet::pipeline::{self, NotDirect};
use testudo_packet::verdict::Counter;
use testudo_packet::wire::{self, Payload};

use crate::frame::SliceFrame;
use crate::kernel::upcall::NextHop;

/// The sockets; made once, in the network namespace of the node.
#[derive(Debug)]
pub struct Sender {
    link: OwnedFd,
    v4: OwnedFd,
    v6: OwnedFd,
}

fn socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a system call that takes numbers.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send_to<A>(socket: &OwnedFd, bytes: &[u8], address: &A) -> io::Result<()> {
    // SAFETY: both pointers go with the lengths of what they point to.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
            std::ptr::from_ref(address).cast(),
            size_of::<A>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Sender {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            // Protocol 0: it sends, and receives nothing.
            link: socket(libc::AF_PACKET, 0)?,
            v4: socket(libc::AF_INET, libc::IPPROTO_RAW)?,
            v6: socket(libc::AF_INET6, libc::IPPROTO_RAW)?,
        })
    }

    /// Sends a packet that the pipeline let pass, and says which way it went.
    pub fn send(&self, frame: &mut [u8], next_hop: Option<NextHop>) -> io::Result<Counter> {
        let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "not an IP packet");
        let link = wire::parse_link(&SliceFrame(frame)).map_err(|_| unreadable())?;
        if pipeline::check_direct(&SliceFrame(frame), &link) == Err(NotDirect::Hops) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no hop left"));
        }
        if let Some(hop) = next_hop {
            let mut view = SliceFrame(&mut *frame);
            if pipeline::forward(&mut view, &link, hop.source, hop.destination).is_ok() {
                self.send_link(frame, hop)?;
                return Ok(Counter::Forwarded);
            }
        }
        self.send_ip(frame, link.offset as usize, link.payload)?;
        Ok(Counter::ForwardedByStack)
    }

    /// Has the node's own stack send an IP packet, without its link header.
    pub fn send_by_stack(&self, frame: &mut [u8]) -> io::Result<()> {
        let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "not an IP packet");
        let link = wire::parse_link(&SliceFrame(frame)).map_err(|_| unreadable())?;
        self.send_ip(frame, link.offset as usize, link.payload)
    }

    /// Sends a frame out of an interface as it is.
    pub fn send_as_is(&self, frame: &[u8], interface: u32) -> io::Result<()> {
        let short = || io::Error::new(io::ErrorKind::InvalidData, "shorter than its link header");
        let destination = *frame.first_chunk().ok_or_else(short)?;
        let destination = Mac::from_bytes(destination);
        self.send_link(frame, NextHop { interface, source: destination, destination })
    }

    fn send_link(&self, frame: &[u8], hop: NextHop) -> io::Result<()> {
        let mut address = [0u8; 8];
        address[..6].copy_from_slice(&hop.destination.to_bytes());
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: hop.interface as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: address,
        };
        send_to(&self.link, frame, &address)
    }

    fn send_ip(&self, frame: &mut [u8], at: usize, payload: Payload) -> io::Result<()> {
        let short = || io::Error::new(io::ErrorKind::InvalidData, "shorter than an IP header");
        let view = SliceFrame(&mut *frame);
        if payload == Payload::V4 {
            let destination = view.u32(at as u32 + 16).ok_or_else(short)?;
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: destination.to_be() },
                sin_zero: [0; 8],
            };
            return send_to(&self.v4, &frame[at..], &address);
        }
        let destination = frame.get(at + 24..at + 40).ok_or_else(short)?;
        let address = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as u16,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: destination.try_into().map_err(|_| short())? },
            sin6_scope_id: 0,
        };
        send_to(&self.v6, &frame[at..], &address)
    }
}
