//! New connections: whole TCP handshakes, made of frames that no stack has seen.
//!
//! One thread plays both ends. It sends the SYNs of a batch by the client's link, the answers by the
//! server's, the last acknowledgements by the client's again; the ends keep nothing, so their cost is
//! that of sending a frame. A frame that is sent into a veth is handled by the gateway's kernel before
//! the call returns, or soon after, on the same processor; so the thread's time is the sender's *and* the
//! gateway's work with packets. What sending alone costs is measured by sending the same frames to a
//! gateway that drops them.
//!
//! Invariant: connection `n` has the same addresses and ports in every run, and is opened once.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, socket,
};

use crate::interrupt;
use crate::measure;
use crate::processors;
use crate::site::{CLIENTS, END_LINKS, SERVER, Site};

/// Connections of which no frame waits for another's answer. Three times as many frames fit a veth's
/// ring of 256.
const BATCH: u32 = 32;
/// Ports of each of the clients' addresses.
const PORTS: u32 = 40_000;
const FIRST_PORT: u16 = 20_000;
const SERVER_PORT: u16 = 80;
const FRAME: usize = 14 + 20 + 20;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

/// What was sent, and what that took.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// From the first frame to the last.
    pub took: Duration,
    /// Processor time of the thread: its own, and the gateway's work with packets.
    pub busy: Duration,
}

/// Opens connections `0..count` through a gateway whose links have these MACs, so many a second.
pub fn open(site: &Site, gateway: [[u8; 6]; 2], count: u32, rate: u32) -> Result<Sent> {
    let client = site.namespace("client")?.run(|| sender(END_LINKS[0]))??;
    let server = site.namespace("server")?.run(|| sender(END_LINKS[1]))??;
    std::thread::scope(|scope| {
        let work = || {
            processors::keep_to(processors::PACKETS)?;
            send_all(&client, &server, gateway, count, rate)
        };
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn send_all(
    client: &OwnedFd,
    server: &OwnedFd,
    gateway: [[u8; 6]; 2],
    count: u32,
    rate: u32,
) -> Result<Sent> {
    let mut frames = [template(); BATCH as usize];
    let busy = measure::thread()?;
    let begun = Instant::now();
    let mut first = 0;
    while first < count {
        interrupt::check()?;
        let batch = first..count.min(first + BATCH);
        let due = Duration::from_secs_f64(f64::from(first) / f64::from(rate));
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        for (socket, mac, flags) in
            [(client, gateway[0], SYN), (server, gateway[1], SYN_ACK), (client, gateway[0], ACK)]
        {
            for (frame, number) in frames.iter_mut().zip(batch.clone()) {
                frame[..6].copy_from_slice(&mac);
                fill(frame, number, flags);
            }
            send_batch(socket, &frames[..batch.len()])?;
        }
        first = batch.end;
    }
    Ok(Sent { took: begun.elapsed(), busy: measure::thread()?.saturating_sub(busy) })
}

fn send_batch(socket: &OwnedFd, frames: &[[u8; FRAME]]) -> Result<()> {
    let mut sent = 0;
    while sent < frames.len() {
        let rest: Vec<_> = frames[sent..].iter().map(|frame| [IoSlice::new(frame)]).collect();
        let nowhere = vec![None; rest.len()];
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(rest.len(), None);
        let fd = socket.as_raw_fd();
        match sendmmsg(fd, &mut headers, &rest, &nowhere, [], MsgFlags::empty()) {
            Ok(results) => sent += results.count(),
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
            Err(errno) => return Err(io::Error::from(errno)).context("send a batch of frames"),
        }
    }
    Ok(())
}

/// A socket that only sends, by a link of the calling thread's namespace.
fn sender(link: &str) -> Result<OwnedFd> {
    let address = getifaddrs()
        .context("list the links")?
        .filter(|entry| entry.interface_name == link)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no link {link}"))?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .context("open a packet socket")?;
    bind(socket.as_raw_fd(), &address).context("bind a packet socket to a link")?;
    Ok(socket)
}

/// What all frames have in common.
fn template() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xfd]);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6]);
    // A header of five words; a window.
    frame[46] = 0x50;
    frame[48..50].copy_from_slice(&[0xff, 0xff]);
    frame
}

/// Makes the frame the one of a connection's handshake that has these flags.
fn fill(frame: &mut [u8; FRAME], number: u32, flags: u8) {
    let client = (u32::from_be_bytes(CLIENTS) + 1 + number / PORTS).to_be_bytes();
    let port = (FIRST_PORT + (number % PORTS) as u16).to_be_bytes();
    // The first sequence numbers: any will do, but they have to fit together.
    let (ours, theirs) = (number, number ^ 0x5555_5555);
    let (from, to, sequence, acknowledged) = match flags {
        SYN => ((client, port), (SERVER, SERVER_PORT.to_be_bytes()), ours, 0),
        SYN_ACK => {
            ((SERVER, SERVER_PORT.to_be_bytes()), (client, port), theirs, ours.wrapping_add(1))
        }
        _ => {
            let to = (SERVER, SERVER_PORT.to_be_bytes());
            ((client, port), to, ours.wrapping_add(1), theirs.wrapping_add(1))
        }
    };
    frame[24..26].fill(0);
    frame[26..30].copy_from_slice(&from.0);
    frame[30..34].copy_from_slice(&to.0);
    let sum = checksum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&sum);
    frame[34..36].copy_from_slice(&from.1);
    frame[36..38].copy_from_slice(&to.1);
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[42..46].copy_from_slice(&acknowledged.to_be_bytes());
    frame[47] = flags;
    frame[50..52].fill(0);
    // The pseudo header: both addresses, the protocol, the length (RFC 9293 §3.1).
    let sum = checksum(&frame[26..54], 6 + 20);
    frame[50..52].copy_from_slice(&sum);
}

fn checksum(bytes: &[u8], start: u32) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>() + start;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// Which connection has this client: the opposite of what [`open`] does.
pub fn number(client: [u8; 4], port: u16) -> Option<u32> {
    let address = u32::from_be_bytes(client).checked_sub(u32::from_be_bytes(CLIENTS) + 1)?;
    let port = port.checked_sub(FIRST_PORT).filter(|&port| u32::from(port) < PORTS)?;
    address.checked_mul(PORTS)?.checked_add(u32::from(port))
}

/// Which connections a table has. A table is as it should be if it has each once and no other.
pub struct Roll {
    seen: Vec<bool>,
    strangers: u32,
    twice: u32,
}

impl Roll {
    /// Nobody was seen yet of so many connections.
    pub fn new(count: u32) -> Self {
        Self { seen: vec![false; count as usize], strangers: 0, twice: 0 }
    }

    /// A table has this established connection, or another entry.
    pub fn note(&mut self, connection: Option<u32>) {
        match connection.and_then(|number| self.seen.get_mut(number as usize)) {
            Some(seen) if *seen => self.twice += 1,
            Some(seen) => *seen = true,
            None => self.strangers += 1,
        }
    }

    /// What is wrong with the table, if anything is.
    pub fn complaint(&self) -> Option<String> {
        let missing = self.seen.iter().filter(|seen| !**seen).count();
        let wrong = missing > 0 || self.strangers > 0 || self.twice > 0;
        wrong.then(|| {
            format!(
                "{missing} of {} missing or not established, {} others, {} twice",
                self.seen.len(),
                self.strangers,
                self.twice
            )
        })
    }
}
