//! Frames, whatever they hold, through the packet pipeline over a table that is soon full.
//!
//! An input is a run of records; each is a head of [`HEAD`] bytes and a frame. The head says how
//! long the frame is, what happens to the node before it (time passes, a bucket changes hands, what
//! is silent expires), and who the frame is sent to. So a mutation of one byte leaves the other packets
//! what they were. Each input runs in every reception mode.
//!
//! After each frame: every packet is counted once, under one counter, and once more when it has waited
//! for a decision; the table's count is the number of the flows in it; a flow's bucket is, or has been,
//! this node's; a frame that was not answered has not changed, but for its addresses on the link if it
//! was passed. In `tap` mode nothing is answered, passed or left to the stack. At the end everything
//! expires and the table is empty.

#![no_main]

use libfuzzer_sys::fuzz_target;
use testudo_datapath::likenesses::Likenesses;
use testudo_datapath::pools::Pool;
use testudo_datapath::user::UserDatapath;
use testudo_datapath::{Answer, BucketSet, Datapath, NodeTable, Settings, Station};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::env::Mac;
use testudo_packet::event::Occurrence;
use testudo_packet::flow::{Address, Endpoint, FlowKey};
use testudo_packet::packet_hash::PacketHash;
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Ports, Rule};
use testudo_packet::tracking::{Phase, Timeouts};
use testudo_packet::verdict::Verdict;

/// Kind of event, its argument, length of the frame in two bytes.
const HEAD: usize = 4;
const BUCKETS: u16 = 16;
const SLOTS: u32 = 64;
const NODE: NodeId = NodeId(1);
const CLUSTER_MAC: [u8; 6] = [0x02, 0x74, 0x65, 0x73, 0x00, 0x01];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// Longer frames are cut: no interface gives them.
const MAX_FRAME: usize = 4096;

struct Fuzzed {
    mode: Mode,
    datapath: UserDatapath,
    now: Nanos,
    handled: u64,
    /// Packets that have gone up, and those of them that have been decided.
    up: u64,
    decided: u64,
    /// Fragments that have waited in vain or found no room to.
    in_vain: u64,
}

fuzz_target!(|input: &[u8]| {
    for mode in [Mode::Shared, Mode::Steered, Mode::Tap { interface: 2 }] {
        run(mode, input);
    }
});

fn run(mode: Mode, input: &[u8]) {
    let mut fuzzed = Fuzzed::new(mode);
    let mut rest = input;
    while let Some((&[kind, argument, high, low], behind)) = rest.split_first_chunk::<HEAD>() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(behind.len()).min(MAX_FRAME);
        let (frame, next) = behind.split_at(length);
        fuzzed.happen(kind, argument);
        fuzzed.handle(frame, kind);
        rest = next;
    }
    fuzzed.end();
}

impl Fuzzed {
    fn new(mode: Mode) -> Self {
        let own = Mac::from_bytes(OWN_MAC);
        let answer = |address| Answer { interface: 1, address, own };
        let sources = vec![Address::v4(0xc000_0201), Address { high: 0x2001_0db8 << 32, low: 1 }];
        // Of one class; whoever comes to either is sent to either.
        let service = [(0x0a14_0201, 80), (0x0a14_0202, 8080)]
            .map(|(address, port)| Endpoint { address: Address::v4(address), port });
        let settings = Settings {
            node: NODE,
            secret: *b"a cluster secret",
            buckets: u32::from(BUCKETS),
            grounds: Grounds::default(),
            cluster_mac: Mac::from_bytes(CLUSTER_MAC),
            table_slots: SLOTS,
            pools: vec![
                Pool::of_sources(sources.clone()),
                Pool { sources, backends: service.to_vec(), mapping: None },
            ],
            likenesses: Likenesses::new(&[service.to_vec()], &[]).into(),
            answers: vec![
                answer(Address::v4(0x0a0a_0001)),
                answer(Address { high: 0xfd10 << 48, low: 1 }),
            ],
            mode,
        };
        let mut datapath = UserDatapath::new(settings).expect("good settings");
        let refused = Ports { first: 9, last: 9 };
        let rules = [
            Rule { destination_ports: refused, ..Rule::any(Action::Drop) },
            Rule {
                destination_ports: Ports { first: 80, last: 80 },
                source_pool: 2,
                ..Rule::any(Action::Accept)
            },
            // Half of all other flows are translated.
            Rule {
                source_ports: Ports { first: 0, last: 40_002 },
                source_pool: 1,
                ..Rule::any(Action::Accept)
            },
            Rule::any(Action::Accept),
        ];
        datapath.set_rules(&rules).expect("few rules");
        datapath.set_lease(Nanos(u64::MAX));
        let station = |node, mac| Station { interface: 1, node, mac: Mac::from_bytes(mac) };
        let stations = [station(NODE, OWN_MAC), station(NodeId(2), PEER_MAC)];
        datapath.set_peers(&stations).expect("two stations");
        let local = "10.10.2.3".parse().expect("an address");
        datapath.set_local_addresses(&[local]).expect("one address");
        let mut fuzzed =
            Self { mode, datapath, now: Nanos(1), handled: 0, up: 0, decided: 0, in_vain: 0 };
        for bucket in 0..BUCKETS {
            let owner = if bucket % 4 == 3 { NodeId(2) } else { NODE };
            fuzzed.set_bucket(bucket, owner, BucketState::Active);
        }
        fuzzed
    }

    fn set_bucket(&mut self, bucket: u16, owner: NodeId, state: BucketState) {
        let before = self.datapath.bucket(BucketId(bucket));
        let slot = BucketSlot { owner, previous: before.owner, state, epoch: before.epoch.next() };
        self.datapath.set_bucket(BucketId(bucket), slot);
    }

    /// What happens to the node between two packets.
    fn happen(&mut self, kind: u8, argument: u8) {
        let bucket = u16::from(argument) % BUCKETS;
        match kind & 0x0f {
            1 => self.now = self.now.plus_millis(u64::from(argument) * 1000),
            2 => {
                self.datapath.table().expire(self.now, &Timeouts::default(), &mut |_| {});
            }
            3 => self.set_bucket(bucket, NODE, BucketState::Loading),
            4 => self.set_bucket(bucket, NODE, BucketState::Active),
            5 => {
                self.set_bucket(bucket, NodeId(2), BucketState::Active);
                let mut lost = BucketSet::new(u32::from(BUCKETS));
                lost.insert(BucketId(bucket));
                self.datapath.table().clear(&lost);
            }
            6 => self.datapath.set_lease(Nanos(u64::from(argument & 1) * u64::MAX)),
            7 => self.answer_upcalls(argument),
            8 => self.set_bucket(bucket, NODE, BucketState::Holding),
            9 => self.set_bucket(bucket, NODE, BucketState::Yielding),
            10 => self.release(bucket, argument),
            11 => self.handled += self.datapath.discard_held(BucketId(bucket)) as u64,
            _ => {}
        }
    }

    /// Decides the packets that went up; some of their flows are known elsewhere.
    fn answer_upcalls(&mut self, argument: u8) {
        let mut known = |bucket: BucketId, key: &FlowKey| {
            let phase = if argument & 2 == 0 { Phase::Established } else { Phase::Replied };
            let state = FlowState { phase, confirmed: true, rule: 1, sequence: 40 };
            let record =
                FlowRecord { translation: None, bucket, epoch: Epoch(4), key: *key, state };
            (argument & 1 == 0).then_some(record)
        };
        self.datapath.handle_upcalls(self.now, &mut known);
        self.decide();
        self.check();
    }

    /// Counts what has been decided of packets that went up; says how many they were.
    fn decide(&mut self) -> u64 {
        let decided = self.datapath.take_released().len() as u64;
        let early = ["drop.fragment-early", "drop.fragment-full"];
        let counters = self.datapath.counters();
        let in_vain = counters.iter().filter(|(name, _)| early.contains(name));
        let in_vain: u64 = in_vain.map(|(_, count)| count).sum();
        let settled = decided + in_vain - self.in_vain;
        self.in_vain = in_vain;
        self.decided += settled;
        self.handled += settled;
        assert!(self.decided <= self.up, "more were decided than went up");
        decided
    }

    /// A bucket has come, or another node has it after all; some of its packets were handled elsewhere.
    fn release(&mut self, bucket: u16, argument: u8) {
        let owner = if argument & 0x40 == 0 { NODE } else { NodeId(2) };
        let state = if argument & 0x20 == 0 { BucketState::Active } else { BucketState::Loading };
        self.set_bucket(bucket, owner, state);
        if owner != NODE {
            let mut lost = BucketSet::new(u32::from(BUCKETS));
            lost.insert(BucketId(bucket));
            self.datapath.table().clear(&lost);
        }
        let mut elsewhere = |hash: PacketHash| hash.0 % 2 == 0;
        let bucket = BucketId(bucket);
        let released =
            self.datapath.release_held(self.now, bucket, &mut elsewhere, &mut |_, _| None);
        let decided = self.decide();
        assert!(decided >= (released.sent + released.dropped) as u64);
        assert_eq!(self.datapath.held(bucket), 0);
        self.handled += released.skipped as u64;
        self.check();
    }

    fn handle(&mut self, frame: &[u8], kind: u8) {
        let mut sent = frame.to_vec();
        let destination = if kind & 0x40 == 0 { CLUSTER_MAC } else { OWN_MAC };
        if kind & 0x80 == 0 && sent.len() >= 6 {
            sent[..6].copy_from_slice(&destination);
        }
        if kind & 0x20 != 0 && sent.len() >= 12 {
            sent[6..12].copy_from_slice(&PEER_MAC);
        }
        let mut after = sent.clone();
        let verdict = self.datapath.handle(&mut after, 1, self.now);
        self.handled += 1;
        self.up += u64::from(matches!(verdict, Verdict::Upcall(_)));
        assert_eq!(after.len(), sent.len());
        match verdict {
            Verdict::Answer => {}
            Verdict::Pass(_) => assert_eq!(after[12..], sent[12..], "more than the link changed"),
            // Its flow may be translated; the link's header is for whoever sends it on.
            Verdict::Forward => assert_eq!(after[..14], sent[..14], "the link changed"),
            _ => assert_eq!(after, sent, "{verdict:?} changed the frame"),
        }
        let elsewhere = matches!(verdict, Verdict::Answer | Verdict::Pass(_) | Verdict::Stack);
        assert!(self.mode.is_inline() || !elsewhere, "{verdict:?} of a tap");
        assert!(self.mode == Mode::Steered || !matches!(verdict, Verdict::Pass(_)));
        self.check();
    }

    fn check(&mut self) {
        let counted: u64 = self.datapath.counters().iter().map(|(_, count)| count).sum();
        assert_eq!(counted, self.handled, "packets and counters");
        let mut flows = 0;
        let table = self.datapath.table();
        table.scan(&mut |view| {
            flows += 1;
            let slot = self.datapath.bucket(view.record.bucket);
            assert_eq!(slot.owner, NODE, "a flow of bucket {}", view.record.bucket);
            assert!(table.get(&view.record.key).is_some(), "a flow that is not found");
            let reply = table.get(&view.record.reply_key()).map(|view| view.record.key);
            let replies = view.record.translation.is_none() || reply == Some(view.record.key);
            assert!(replies, "replies that are another flow's");
        });
        assert_eq!(table.len(), flows);
        assert!(flows <= table.capacity());
        let drained = self.datapath.drain_events(&mut |occurrence| {
            if let Occurrence::Flow(event) = occurrence {
                let mut back = testudo_packet::event::Event::from_words(event.to_words());
                if let Some(back) = &mut back {
                    // Which the words do not hold.
                    back.record.translation = event.record.translation;
                }
                assert_eq!(back, Some(event));
            }
        });
        assert_eq!(drained.lost, 0);
    }

    fn end(&mut self) {
        let whole_life = u64::from(u32::MAX) * 1000;
        let later = self.now.plus_millis(whole_life);
        self.datapath.table().expire(later, &Timeouts::default(), &mut |_| {});
        assert!(self.datapath.table().is_empty());
        self.check();
    }
}
