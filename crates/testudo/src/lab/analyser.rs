//! The analysers of `tap` mode: what each node passed to its own.
//!
//! Invariant: every numbered datagram that a node passes to its analyser is counted there, by flow,
//! direction and number; so "each packet reached exactly one analyser" is a sum over the nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use nix::libc;

use super::plan::{ANALYSER_LINK, Host};
use super::sniffer::{FRAME, Sniffer, dissect};
use super::topology::Topology;
use super::traffic::Load;
use super::traffic::numbered::Arrived;
use super::traffic::wire::{Kind, Message};

/// What one analyser got of one flow.
#[derive(Debug, Clone, Default)]
pub struct Got {
    /// From the client to the server.
    pub up: Arrived,
    /// Back again.
    pub down: Arrived,
}

/// One reader a node.
#[derive(Debug)]
pub struct Analysers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Result<Vec<Got>>>>>,
}

impl Analysers {
    /// Begin to read. Times are counted from `start`.
    pub fn start(topology: &Topology, load: Load, start: Instant) -> Result<Analysers> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for number in 1..=topology.plan().nodes {
            let stop = Arc::clone(&stop);
            let work = move || read(load, start, &stop);
            let node = topology.namespace(Host::Node(number))?;
            threads.push(node.spawn("analyser", work)?);
        }
        Ok(Analysers { stop, threads })
    }

    /// Stop. Gives what each node's analyser got, flow by flow.
    pub fn finish(mut self) -> Result<Vec<Vec<Got>>> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads.drain(..);
        threads
            .map(|thread| thread.join().map_err(|_| anyhow!("an analyser panicked"))??)
            .collect::<Result<_>>()
            .context("an analyser")
    }
}

impl Drop for Analysers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read(load: Load, start: Instant, stop: &AtomicBool) -> Result<Vec<Got>> {
    let sniffer = Sniffer::open(ANALYSER_LINK)?;
    let mut got = vec![Got::default(); load.flows as usize];
    let mut buffer = [0; FRAME];
    while !stop.load(Ordering::Relaxed) {
        let packet = sniffer.next(&mut buffer)?.and_then(dissect);
        let Some(packet) = packet.filter(|p| i32::from(p.protocol) == libc::IPPROTO_UDP) else {
            continue;
        };
        let Some(message) = Message::from_datagram(packet.payload, load.seed) else { continue };
        let Some(flow) = got.get_mut(message.connection as usize) else { continue };
        let now = start.elapsed().as_micros() as u64;
        match (message.kind, packet.up) {
            (Kind::Ask, true) => flow.up.note(message.number, now),
            (Kind::Answer, false) => flow.down.note(message.number, now),
            _ => false,
        };
    }
    Ok(got)
}
