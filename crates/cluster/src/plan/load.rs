//! What a bucket costs the node that owns it.
//!
//! Traffic is counted in four ways that can't be compared; what they have in common is the processor
//! time that they take. So a load is turned into nanoseconds of CPU for each second: a pure number that
//! adds up over buckets.
//!
//! Invariant: a cost and a rate are finite and never negative.
//!
//! Limits: the prices are those of one kind of machine and only their ratios matter. Prices of the
//! rules and of the translation that a packet meets are not told apart.

use std::time::Duration;

/// Handling one packet: a native XDP redirect over two veth hops, its generator included, as measured
/// on the development machines.
pub const PACKET_NS: f64 = 80.0;

/// One new flow: creating its entry and replicating it. Taken from Linux conntrack's 2.1 µs for a full
/// handshake on the same machines; replicas are not included.
pub const NEW_FLOW_NS: f64 = 2_000.0;

/// One byte: an assumption, that of memory crossed once at 20 GB/s. XDP touches headers only, but
/// drivers and copies to user space touch the rest.
pub const BYTE_NS: f64 = 0.05;

/// One tunnel for a second: an assumption, that of one new flow a second for its timers, keepalives and
/// renewed keys.
pub const TUNNEL_NS: f64 = 2_000.0;

/// What was counted for a bucket over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Packets handled.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flows that began.
    pub new_flows: u64,
    /// Tunnels (ESP, AH, ISAKMP) that are there: a level, not a count of events.
    pub tunnels: u64,
}

impl Load {
    /// Nanoseconds of CPU for each second, if this was counted over `time`. 0 if that is no time.
    #[must_use]
    pub fn cost(&self, time: Duration) -> f64 {
        if time.is_zero() {
            return 0.0;
        }
        let events = self.packets as f64 * PACKET_NS
            + self.bytes as f64 * BYTE_NS
            + self.new_flows as f64 * NEW_FLOW_NS;
        events / time.as_secs_f64() + self.tunnels as f64 * TUNNEL_NS
    }
}

/// Costs of all buckets, smoothed: the influence of a measurement halves in `half_life`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    half_life: Duration,
    costs: Vec<f64>,
    measured: bool,
}

impl Rates {
    /// Rates of `buckets` buckets of which nothing is known yet. No half-life means no smoothing.
    #[must_use]
    pub fn new(buckets: u32, half_life: Duration) -> Self {
        Self { half_life, costs: vec![0.0; buckets as usize], measured: false }
    }

    /// Takes in what was counted over the last `time`, by bucket. What is missing counts as no load,
    /// what is too much is ignored. The first measurement stands for itself.
    pub fn observe(&mut self, loads: &[Load], time: Duration) {
        if time.is_zero() {
            return;
        }
        let halvings = time.as_secs_f64() / self.half_life.as_secs_f64();
        let keep = if self.measured { 0.5f64.powf(halvings) } else { 0.0 };
        for (bucket, cost) in self.costs.iter_mut().enumerate() {
            let seen = loads.get(bucket).map_or(0.0, |load| load.cost(time));
            *cost = *cost * keep + seen * (1.0 - keep);
        }
        self.measured = true;
    }

    /// The costs, by bucket.
    #[must_use]
    pub fn costs(&self) -> &[f64] {
        &self.costs
    }
}
