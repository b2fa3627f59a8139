//! Sync links that lose, delay, or pass no streams.
//!
//! The kernels that labs run on need not have `netem`. So a relay stands between a node's port and the
//! sync segment's bridge: a pair of links, and a thread each way that reads whole frames from one side
//! and sends them on the other. What it does to them can be changed while it runs.
//!
//! Invariant: frames of one direction keep their order. A relay whose queue is full loses frames and
//! counts nothing: to the nodes it is a link, and links lose.
//!
//! Why streams can be stopped alone: it is what a peer looks like that reads nothing any more and whose
//! heartbeats go on.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, send};

use super::fault;
use super::links::{End, Links};
use super::netns::{self, Namespace};
use super::offload::Offloads;
use super::plan::{Host, Segment};
use super::random::Random;
use super::sniffer::{FRAME, Sniffer, link_address, packet_socket};
use super::state::State;
use super::topology::Topology;

/// How many frames wait in a direction at most.
const QUEUE: usize = 4096;
/// Offset of the protocol in an Ethernet frame with an IPv4 header, as sync addresses are.
const PROTOCOL: usize = 23;

/// What is done to frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Impairment {
    /// How many of a thousand are lost.
    pub loss: u32,
    /// How long each takes.
    pub delay: Duration,
    /// Whether those of TCP streams are lost, all of them.
    pub no_streams: bool,
}

#[derive(Debug, Default)]
struct Knobs {
    loss: AtomicU32,
    delay_micros: AtomicU32,
    no_streams: AtomicBool,
}

impl Knobs {
    fn set(&self, impairment: Impairment) {
        let micros = u32::try_from(impairment.delay.as_micros()).unwrap_or(u32::MAX);
        self.loss.store(impairment.loss, Ordering::Relaxed);
        self.delay_micros.store(micros, Ordering::Relaxed);
        self.no_streams.store(impairment.no_streams, Ordering::Relaxed);
    }

    /// When a frame goes on; never if it is lost.
    fn pass(&self, frame: &[u8], random: &mut Random) -> Option<Instant> {
        let stream = frame.get(PROTOCOL).is_some_and(|&p| i32::from(p) == libc::IPPROTO_TCP);
        let lost = random.between(0, 1000) < self.loss.load(Ordering::Relaxed).into();
        if lost || stream && self.no_streams.load(Ordering::Relaxed) {
            return None;
        }
        let delay = self.delay_micros.load(Ordering::Relaxed);
        Some(Instant::now() + Duration::from_micros(delay.into()))
    }
}

/// The relays of all sync links.
#[derive(Debug)]
pub struct Impaired {
    nodes: Vec<Arc<Knobs>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Result<()>>>>,
}

impl Impaired {
    /// Puts a relay into each node's sync link; it changes nothing yet.
    pub fn insert(topology: &Topology, state: &State, seed: u64) -> Result<Impaired> {
        let switch = topology.namespace(Host::Switch)?;
        let mut links = switch.run(Links::open)??;
        let mut offloads = switch.run(Offloads::open)??;
        let mut impaired = Impaired {
            nodes: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        for (index, node) in state.nodes.iter().enumerate() {
            let port = fault::port(state, index, Segment::Sync);
            let (near, far) = (format!("{}-near", node.name), format!("{}-far", node.name));
            let end = |name| End { name, mac: None };
            links.add_veth(end(&near), end(&far), File::open(netns::path(switch.name()))?)?;
            let own = topology.namespace(Host::Node(index as u8 + 1))?;
            own.run(Offloads::open)??.complete_frames(Segment::Sync.node_link())?;
            for link in [&port, &near, &far] {
                offloads.complete_frames(link)?;
            }
            links.detach(&port)?;
            links.attach(&far, Segment::Sync.bridge())?;
            for link in [&near, &far] {
                links.set_up(link, true)?;
            }
            let knobs = Arc::new(Knobs::default());
            for (from, to) in [(port.clone(), near.clone()), (near, port)] {
                let seed = seed.wrapping_add(impaired.threads.len() as u64);
                impaired.relay(&switch, from, to, Arc::clone(&knobs), seed)?;
            }
            impaired.nodes.push(knobs);
        }
        Ok(impaired)
    }

    fn relay(
        &mut self,
        switch: &Namespace,
        from: String,
        to: String,
        knobs: Arc<Knobs>,
        seed: u64,
    ) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        let work = move || relay(&from, &to, &knobs, Random::new(seed), &stop);
        self.threads.push(switch.spawn("relay", work)?);
        Ok(())
    }

    /// From now on this is done to all frames of a node's sync link, both ways.
    pub fn set(&self, node: usize, impairment: Impairment) {
        self.nodes[node].set(impairment);
    }

    /// The same for all nodes.
    pub fn set_all(&self, impairment: Impairment) {
        self.nodes.iter().for_each(|knobs| knobs.set(impairment));
    }

    /// Why a relay does not work any more, if one does not.
    pub fn failure(&mut self) -> Option<String> {
        let ended = self.threads.iter().position(JoinHandle::is_finished)?;
        Some(match self.threads.swap_remove(ended).join() {
            Ok(Ok(Ok(()))) => "a relay ended".to_owned(),
            Ok(Ok(Err(error)) | Err(error)) => format!("a relay stopped: {error:#}"),
            Err(_) => "a relay panicked".to_owned(),
        })
    }
}

impl Drop for Impaired {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What went wrong there is told by `failure`, while the run is judged.
            let _ = thread.join();
        }
    }
}

fn relay(from: &str, to: &str, knobs: &Knobs, mut random: Random, stop: &AtomicBool) -> Result<()> {
    let source = Sniffer::open(from)?;
    let sink = packet_socket(&link_address(to)?)?;
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = [0; FRAME];
    while !stop.load(Ordering::Relaxed) {
        let wait = queue.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        if let Some(frame) = source.next_within(&mut buffer, wait)?
            && queue.len() < QUEUE
            && let Some(due) = knobs.pass(frame, &mut random)
        {
            queue.push_back((due, frame.to_vec()));
        }
        while queue.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let Some((_, frame)) = queue.pop_front() else { break };
            match send(sink.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT) {
                // A link that is down loses what is sent to it.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ENETDOWN) => {}
                Err(errno) => {
                    return Err(io::Error::from(errno)).context("send on a relayed link");
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_lost_as_often_as_told_and_streams_alone_when_told_so() {
        let (knobs, mut random) = (Knobs::default(), Random::new(7));
        let mut passed = |knobs: &Knobs, protocol: i32| {
            let mut frame = [0; 60];
            frame[PROTOCOL] = protocol as u8;
            (0..10_000).filter(|_| knobs.pass(&frame, &mut random).is_some()).count()
        };
        assert_eq!(passed(&knobs, libc::IPPROTO_TCP), 10_000);
        knobs.set(Impairment { loss: 200, ..Impairment::default() });
        assert!((7_800..8_200).contains(&passed(&knobs, libc::IPPROTO_UDP)));
        knobs.set(Impairment { no_streams: true, ..Impairment::default() });
        assert_eq!(passed(&knobs, libc::IPPROTO_UDP), 10_000);
        assert_eq!(passed(&knobs, libc::IPPROTO_TCP), 0);
        knobs.set(Impairment { delay: Duration::from_secs(3600), ..Impairment::default() });
        let due = knobs.pass(&[0; 60], &mut random).unwrap();
        assert!(due > Instant::now() + Duration::from_secs(3000));
    }
}
