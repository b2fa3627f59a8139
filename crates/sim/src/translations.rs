//! Which flows are translated, and what to: the choice that a node makes for a flow's first packet.
//!
//! As in the packet pipeline (`testudo_datapath::pools`): the port that replies come to is of the flow's bucket, and no
//! other flow that the node knows of has it, be it in its kernel or in its common table. A bucket has as many such ports
//! as flows that are translated, so a choice often meets one that is taken, and always finds one that is free.

use testudo_packet::entry::{FlowRecord, Translation};
use testudo_packet::flow::{Address, Endpoint, FlowKey};

use crate::kernel::key;
use crate::options::{Options, Plant};

/// The address that translated flows come from.
const OUTSIDE: u32 = 0x0a00_00fe;

/// How flows of a cluster are translated.
#[derive(Clone, Copy, Debug)]
pub struct Translations {
    on: bool,
    flows: usize,
    buckets: usize,
    plant: Plant,
}

impl Translations {
    /// As the options say.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let Options { translates: on, flows, buckets, plant, .. } = *options;
        Self { on, flows: flows as usize, buckets: buckets as usize, plant }
    }

    /// None is.
    #[must_use]
    pub const fn none() -> Self {
        Self { on: false, flows: 0, buckets: 1, plant: Plant::None }
    }

    /// Whether the flow of a port is translated: every other one of each bucket, but none that nodes determine.
    #[must_use]
    pub fn concern(&self, port: u16) -> bool {
        let port = usize::from(port);
        self.on && port < self.flows && (port / self.buckets).is_multiple_of(2)
    }

    /// How many ports replies of a bucket's flows can come to.
    fn count(&self, bucket: usize) -> usize {
        (bucket..self.flows).step_by(2 * self.buckets).count()
    }

    /// What a flow is translated to; `taken` says whether another one has replies of a key. `None`: nothing is left.
    /// `start`: where the search begins.
    pub fn choose(
        &self,
        port: u16,
        start: u64,
        taken: impl Fn(&FlowKey) -> bool,
    ) -> Option<Translation> {
        let bucket = usize::from(port) % self.buckets;
        let count = self.count(bucket);
        let strays = usize::from(self.plant == Plant::ClassIgnored);
        let outside = |at: usize| bucket + strays + self.buckets * ((start as usize + at) % count);
        let flow = key(port);
        let mut candidates = (0..count).map(|at| Translation {
            source: Endpoint { address: Address::v4(OUTSIDE), port: outside(at) as u16 },
            destination: flow.responder,
        });
        let free = |to: &Translation| !taken(&to.reply_key(flow.protocol));
        candidates.find(free)
    }

    /// The bucket of a reply.
    #[must_use]
    pub fn bucket_of_reply(&self, record: &FlowRecord) -> usize {
        usize::from(record.reply_key().responder.port) % self.buckets
    }
}
