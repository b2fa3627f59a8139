//! A node in a story.

use std::collections::BTreeMap;
use std::net::IpAddr;

use testudo_datapath::likenesses::Likenesses;
use testudo_datapath::pools::Pool;
use testudo_datapath::user::UserDatapath;
use testudo_datapath::{Answer, Datapath, EntryView, NodeTable, Settings};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::env::Mac;
use testudo_packet::event::{Event, EventKind, Handled, Occurrence};
use testudo_packet::flow::{Endpoint, FlowKey, Protocol};
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::Phase;
use testudo_packet::verdict::Verdict;

use crate::packets::{CLUSTER_MAC, End};

pub const INSIDE: u32 = 1;
pub const OUTSIDE: u32 = 2;
pub const BUCKETS: u32 = 64;
pub const EPOCH: Epoch = Epoch(5);
/// The cluster's addresses, on both interfaces.
pub const CLUSTER_V4: &str = "10.10.0.1";
pub const CLUSTER_V6: &str = "fd10::1";
/// The node's own address on the link ends in its number.
pub const fn own_mac(node: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, node]
}

/// One packet of a story and all that it does.
pub struct Row {
    /// What a bystander would say.
    pub what: &'static str,
    /// The interface that it comes in by.
    pub interface: u32,
    pub frame: Vec<u8>,
    pub verdict: Verdict,
    /// The story's flow afterwards.
    pub entry: Option<Seen>,
    /// What peers are told.
    pub event: Option<EventKind>,
}

/// What an entry says: phase, whether the responder has answered, the number of changes, packets
/// and bytes from the initiator and from the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(pub Phase, pub bool, pub u32, pub [u64; 2], pub [u64; 2]);

/// A node that owns all buckets and holds a lease for the whole story.
pub struct Node {
    pub datapath: UserDatapath,
    pub now: Nanos,
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The flow that begins with a packet from here to there.
pub fn flow(protocol: u8, from: End, to: End) -> FlowKey {
    let end = |(text, port): End| Endpoint { address: address(text).into(), port };
    FlowKey { initiator: end(from), responder: end(to), protocol: Protocol(protocol) }
}

pub fn slot(owner: NodeId, state: BucketState) -> BucketSlot {
    BucketSlot { owner, previous: NodeId::NONE, state, epoch: EPOCH }
}

impl Node {
    /// Node 0; flows may begin inside.
    pub fn new() -> Self {
        let from_inside = Rule { interface: Some(INSIDE), ..Rule::any(Action::Accept) };
        Self::with(0, 1024, &[from_inside])
    }

    /// A node of this number with a table of so many slots.
    pub fn with(node: u8, slots: u32, rules: &[Rule]) -> Self {
        Self::in_mode(Mode::Shared, node, slots, rules)
    }

    /// The same in another reception mode.
    pub fn in_mode(mode: Mode, node: u8, slots: u32, rules: &[Rule]) -> Self {
        Self::with_pools(mode, node, slots, rules, Vec::new())
    }

    /// The same with addresses that sources are translated to.
    pub fn with_pools(mode: Mode, node: u8, slots: u32, rules: &[Rule], pools: Vec<Pool>) -> Self {
        Self::with_likenesses(mode, node, slots, rules, pools, Likenesses::default())
    }

    /// The same with endpoints that are placed alike.
    pub fn with_likenesses(
        mode: Mode,
        node: u8,
        slots: u32,
        rules: &[Rule],
        pools: Vec<Pool>,
        likenesses: Likenesses,
    ) -> Self {
        let answers = [INSIDE, OUTSIDE].into_iter().flat_map(|interface| {
            [CLUSTER_V4, CLUSTER_V6].map(|text| Answer {
                interface,
                address: address(text).into(),
                own: Mac::from_bytes(own_mac(node)),
            })
        });
        let settings = Settings {
            node: NodeId(node),
            secret: *b"a cluster secret",
            buckets: BUCKETS,
            grounds: Grounds::default(),
            cluster_mac: Mac::from_bytes(CLUSTER_MAC),
            table_slots: slots,
            answers: answers.collect(),
            mode,
            pools,
            likenesses: likenesses.into(),
        };
        let mut datapath = UserDatapath::new(settings).expect("good settings");
        datapath.set_rules(rules).expect("few rules");
        datapath.set_lease(Nanos(u64::MAX));
        let mut node = Self { datapath, now: Nanos(0) };
        node.own_all(BucketState::Active);
        node
    }

    /// Gives all buckets to this node.
    pub fn own_all(&mut self, state: BucketState) {
        let own = self.datapath.table().len();
        assert_eq!(own, 0, "a story begins without flows");
        let node = self.number();
        for bucket in 0..BUCKETS as u16 {
            self.datapath.set_bucket(BucketId(bucket), slot(node, state));
        }
    }

    fn number(&self) -> NodeId {
        let owner = self.datapath.bucket(BucketId(0)).owner;
        if owner == NodeId::NONE { NodeId(0) } else { owner }
    }

    /// The counters that are not 0.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.datapath.counters().into_iter().filter(|&(_, count)| count > 0).collect()
    }

    /// What has happened to flows; no packet was reported as handled.
    pub fn events(&mut self) -> Vec<Event> {
        let (events, handled) = self.occurrences();
        assert_eq!(handled, []);
        events
    }

    /// What has happened to flows, and the packets that were reported as handled.
    pub fn occurrences(&mut self) -> (Vec<Event>, Vec<Handled>) {
        let (mut events, mut handled) = (Vec::new(), Vec::new());
        let drained = self.datapath.drain_events(&mut |occurrence| match occurrence {
            Occurrence::Flow(event) => events.push(event),
            Occurrence::Handled(packet) => handled.push(packet),
        });
        assert_eq!((drained.lost, drained.lost_handled), (0, 0));
        assert_eq!((drained.events, drained.handled), (events.len(), handled.len()));
        (events, handled)
    }

    /// Gives one frame to the node a second later, and returns the verdict and what came out. One
    /// counter has moved by one: the verdict's.
    pub fn takes(&mut self, interface: u32, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut before = self.counters();
        self.now = self.now.plus_millis(1000);
        let mut out = frame.to_vec();
        let verdict = self.datapath.handle(&mut out, interface, self.now);
        *before.entry(counter(verdict)).or_default() += 1;
        assert_eq!(self.counters(), before, "{verdict:?}");
        if !matches!(verdict, Verdict::Answer | Verdict::Pass(_)) {
            assert_eq!(out, frame, "{verdict:?} changed the frame");
        }
        (verdict, out)
    }

    /// Gives the story's packets to the node. Nothing but what a row states has changed after it.
    pub fn plays(&mut self, key: FlowKey, rows: Vec<Row>) {
        for Row { what, interface, frame, verdict, entry, event } in rows {
            let (others, before) = (self.others(&key), self.datapath.table().get(&key));
            let (seen, _) = self.takes(interface, &frame);
            assert_eq!(seen, verdict, "{what}");
            let view = self.datapath.table().get(&key);
            assert_eq!(view.map(|view| seen_of(&view)), entry, "{what}");
            assert_eq!(self.others(&key), others, "{what}: another flow has changed");
            let events: Vec<_> = self.events();
            let told = event.map(|kind| Event { kind, record: view.expect("a flow").record });
            assert_eq!(events, told.into_iter().collect::<Vec<_>>(), "{what}");
            if let Some(EntryView { record: FlowRecord { epoch, key: stored, .. }, .. }) = view {
                assert_eq!((epoch, stored), (EPOCH, key), "{what}");
            }
            let touched = before.map(|view| seen_of(&view)) != entry;
            let last_seen = if touched { Some(self.now) } else { before.map(|v| v.last_seen) };
            assert_eq!(view.map(|view| view.last_seen), last_seen, "{what}");
        }
    }

    /// Every entry but the story's.
    fn others(&self, key: &FlowKey) -> Vec<String> {
        let mut others = Vec::new();
        self.datapath.table().scan(&mut |view| {
            if view.record.key != *key {
                others.push(format!("{view:?}"));
            }
        });
        others
    }
}

/// What an entry says.
pub fn seen_of(view: &EntryView) -> Seen {
    let FlowState { phase, confirmed, sequence, .. } = view.record.state;
    let packets = [view.original_packets, view.reply_packets];
    Seen(phase, confirmed, sequence, packets, [view.original_bytes, view.reply_bytes])
}

/// The counter of a verdict.
pub fn counter(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Forward => "forwarded",
        Verdict::Pass(_) => "passed",
        Verdict::Drop(reason) => reason.name(),
        Verdict::Stack => "stack",
        Verdict::Answer => "answered",
        Verdict::Upcall(_) => "upcall",
        Verdict::Stage(stage) => panic!("{stage:?} was not run through"),
    }
}
