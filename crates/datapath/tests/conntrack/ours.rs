//! The same frames through both builds of Testudo's pipeline.

use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::likenesses::Likenesses;
use testudo_datapath::user::UserDatapath;
use testudo_datapath::{Datapath, NodeTable, Settings};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::flow::{Endpoint, FlowKey, Protocol};
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::Phase;
use testudo_packet::verdict::{DropReason, Verdict};

use super::frames::{Ends, GATEWAY};

const BUCKETS: u32 = 64;
const LOOPBACK: u32 = 1;
const XDP_DROP: u32 = 1;

pub struct Testudo {
    kernel: KernelDatapath,
    user: UserDatapath,
}

fn set_up(datapath: &mut impl Datapath) {
    let slot = BucketSlot {
        owner: NodeId(1),
        previous: NodeId::NONE,
        state: BucketState::Active,
        epoch: Epoch(1),
    };
    for bucket in 0..BUCKETS as u16 {
        datapath.set_bucket(BucketId(bucket), slot);
    }
    datapath.set_lease(Nanos(u64::MAX));
    datapath.set_rules(&[Rule::any(Action::Accept)]).expect("few rules");
}

fn settings() -> Settings {
    Settings {
        node: NodeId(1),
        secret: *b"a cluster secret",
        buckets: BUCKETS,
        grounds: Grounds::default(),
        cluster_mac: Mac::from_bytes(GATEWAY),
        table_slots: 65_536,
        answers: Vec::new(),
        mode: Mode::Shared,
        pools: Vec::new(),
        likenesses: Likenesses::default().into(),
    }
}

fn now() -> Nanos {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    Nanos(Duration::from(nix::time::clock_gettime(clock).expect("a clock")).as_nanos() as u64)
}

impl Testudo {
    pub fn new() -> Self {
        let mut kernel = KernelDatapath::load(settings()).expect("the kernel backend");
        let mut user = UserDatapath::new(settings()).expect("the user-space backend");
        set_up(&mut kernel);
        set_up(&mut user);
        Self { kernel, user }
    }

    /// Whether it forwards a frame, or why it drops it; both builds say the same.
    pub fn judges(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let verdict = self.user.handle(&mut frame.to_vec(), LOOPBACK, now());
        let mut out = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = self.kernel.program().expect("loaded").test_run(options).expect("a test run");
        let judged = match verdict {
            Verdict::Forward => Ok(()),
            Verdict::Drop(reason) => Err(reason),
            other => panic!("{other:?} for {frame:02x?}"),
        };
        let dropped = result.return_value == XDP_DROP;
        assert_eq!(dropped, judged.is_err(), "{judged:?} by the host build alone: {frame:02x?}");
        // Nobody reads them.
        self.user.drain_events(&mut |_| ());
        self.kernel.drain_events(&mut |_| ());
        judged
    }

    /// Where the flow of TCP between these ends is in its life, and which of them began it.
    pub fn phase(&self, ends: &Ends) -> Option<(Phase, usize)> {
        self.phase_of(ends, Protocol::TCP)
    }

    /// The same of another protocol with ports.
    pub fn phase_of(&self, ends: &Ends, protocol: Protocol) -> Option<(Phase, usize)> {
        let end =
            |side: usize| Endpoint { address: ends.addresses[side].into(), port: ends.ports[side] };
        let key = |from, to| FlowKey { initiator: end(from), responder: end(to), protocol };
        let found = |from| {
            let key = key(from, 1 - from);
            let view = self.user.table().get(&key)?;
            (view.record.key == key).then_some((view.record.state.phase, from))
        };
        found(0).or_else(|| found(1))
    }
}
