//! Somebody sits between two members, passes their TLS records on, and does to one of them whatever can be
//! done without a key. The stream ends and is counted, nothing but what honest streams carry gets into a
//! table, and both know each other again as soon as they are let.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::thread;

use testudo_cluster::ownership::Ownership;
use testudo_cluster::replica::Rejected;
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

use super::*;

const HEAD_BYTES: usize = 5;

/// A type of records.
const CHANGE_OF_CIPHERS: u8 = 20;

/// Counters by their names.
type Counts = Vec<(&'static str, u64)>;

/// What is done to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// A bit of what it carries is flipped; which byte, and which bit, by these numbers.
    Flip(usize, u8),
    /// So much of it is passed on, by this number, and then both connections end.
    Cut(usize),
    /// It is passed on twice.
    Repeat,
    /// It is passed on behind the one that follows it.
    Swap,
    /// It is not passed on.
    Drop,
}

/// What is done, and to which record: towards whom, and how many have gone there before, since the
/// connection began or the attack was made ready.
#[derive(Clone, Copy, Debug)]
struct Attack {
    towards: usize,
    record: u32,
    act: Act,
}

#[derive(Debug, Default)]
struct Plan {
    attack: Option<Attack>,
    /// How many records were passed on towards each node.
    passed: [u32; 2],
    /// Of which type the record was that something was done to.
    struck: Option<u8>,
    sockets: Vec<TcpStream>,
}

impl Plan {
    /// What is to be done to the next record towards a node.
    fn next(&mut self, towards: usize, kind: u8) -> Option<Act> {
        let record = self.passed[towards];
        self.passed[towards] += 1;
        let due = |attack: &Attack| (attack.towards, attack.record) == (towards, record);
        let act = self.attack.take_if(|attack| due(attack)).map(|attack| attack.act);
        self.struck = act.map(|_| kind).or(self.struck);
        act
    }
}

/// Passes the records of one direction on.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    towards: usize,
    plan: &Mutex<Plan>,
) -> io::Result<()> {
    let mut held: Option<Vec<u8>> = None;
    loop {
        let mut record = vec![0; HEAD_BYTES];
        from.read_exact(&mut record)?;
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(HEAD_BYTES + length, 0);
        from.read_exact(&mut record[HEAD_BYTES..])?;
        let act = plan.lock().unwrap().next(towards, record[0]);
        match act {
            Some(Act::Flip(byte, bit)) => record[HEAD_BYTES + byte % length] ^= 1 << (bit % 8),
            Some(Act::Cut(at)) => {
                to.write_all(&record[..1 + at % (record.len() - 1)])?;
                return Ok(());
            }
            Some(Act::Repeat) => to.write_all(&record)?,
            Some(Act::Swap) => {
                held = Some(record);
                continue;
            }
            Some(Act::Drop) => continue,
            None => {}
        }
        to.write_all(&record)?;
        if let Some(held) = held.take() {
            to.write_all(&held)?;
        }
    }
}

/// Somebody who listens where node 1 looks for node 0.
struct Relay(Arc<Mutex<Plan>>);

impl Relay {
    /// Gives where it listens, too.
    fn new(to: SocketAddr) -> (Self, SocketAddr) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 9, 66], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let relay = Self(Arc::clone(&plan));
        thread::spawn(move || {
            while let Ok((dialled, _)) = listener.accept() {
                let Ok(there) = TcpStream::connect(to) else { return };
                let copy = |socket: &TcpStream| socket.try_clone().unwrap();
                let ends = [copy(&there), copy(&dialled)];
                let mut now = plan.lock().unwrap();
                (now.passed, now.sockets) = ([0; 2], ends.into());
                drop(now);
                for (towards, from, to) in [(1, copy(&there), copy(&dialled)), (0, dialled, there)]
                {
                    let plan = Arc::clone(&plan);
                    thread::spawn(move || {
                        let ends = [copy(&from), copy(&to)];
                        let _over = pass(from, to, towards, &plan);
                        ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
                    });
                }
            }
        });
        (relay, address)
    }

    /// Ends the connections that it has.
    fn cut(&self) {
        let sockets = std::mem::take(&mut self.0.lock().unwrap().sockets);
        sockets.iter().for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
    }
}

/// The owner of bucket `number % 4` has this flow: node 0 of the even ones.
fn flow(number: u16, sequence: u32) -> FlowRecord {
    let end = |last: u32, port| Endpoint { address: Address::v4(0x0a00_0000 + last), port };
    let bucket = BucketId(number % 4);
    FlowRecord {
        translation: None,
        bucket,
        epoch: slot(bucket).epoch,
        key: FlowKey {
            initiator: end(1, 40_000 + number),
            responder: end(2, 443),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase: Phase::Established, confirmed: true, rule: 1, sequence },
    }
}

fn slot(bucket: BucketId) -> BucketSlot {
    let owner = NodeId((bucket.0 % 2) as u8);
    let epoch = Epoch(0x100 + u32::from(owner.0));
    BucketSlot { owner, previous: NodeId::NONE, state: BucketState::Loading, epoch }
}

fn own(node: &mut Node) {
    let slots = |own: bool| {
        let all = (0..4).map(BucketId).map(|bucket| (bucket, slot(bucket)));
        all.filter(|(_, slot)| (slot.owner == node.number) == own).collect()
    };
    let (ours, theirs) = (slots(true), slots(false));
    node.replica.handle_ownership(Ownership::TakeOver { buckets: ours });
    node.replica.handle_ownership(Ownership::OwnerChanged { buckets: theirs });
}

/// Two members, and somebody between them.
struct Between {
    nodes: [Node; 2],
    relay: Relay,
    /// How often each flow has changed.
    sequence: u32,
    _place: Place,
}

const FLOWS: std::ops::Range<u16> = 0..8;

impl Between {
    fn new(story: &str) -> Self {
        let (mut net, place) = (Net::new(), Place::new(story));
        place.authority("own", &["n1", "n2", "n3"]);
        let a = Node::member(&mut net, &place, "own", 0);
        let (relay, address) = Relay::new(net.addresses[0]);
        net.addresses[0] = address;
        let b = Node::member(&mut net, &place, "own", 1);
        let mut between = Self { nodes: [a, b], relay, sequence: 0, _place: place };
        between.nodes.iter_mut().for_each(own);
        between.change();
        between.meet();
        between
    }

    /// Each flow changes at its owner.
    fn change(&mut self) {
        self.sequence += 1;
        for number in FLOWS {
            let (kind, record) = (EventKind::Updated, flow(number, self.sequence));
            let owner = &mut self.nodes[usize::from(number % 2)];
            owner.replica.handle_event(clock::now(), Event { kind, record }).unwrap();
        }
    }

    /// Each node takes a turn. No table ever has what its owner has not said.
    fn turn(&mut self) {
        for node in &mut self.nodes {
            node.turn();
            for record in node.replica.table().iter() {
                let number = record.key.initiator.port - 40_000;
                assert!(FLOWS.contains(&number), "{record:?}");
                assert!((1..=self.sequence).contains(&record.state.sequence), "{record:?}");
                assert_eq!(record, flow(number, record.state.sequence));
            }
            assert_eq!(node.replica.peer(NodeId(1 - node.number.0)).rejected, Rejected::default());
        }
    }

    /// Until both know each other, and the same.
    fn meet(&mut self) {
        let begun = Instant::now();
        let mut impatient = Instant::now();
        loop {
            let [a, b] = &self.nodes;
            let tables =
                [a, b].map(|node| (node.replica.table().len(), node.replica.table().digest()));
            let all = (FLOWS.len(), tables[0].1);
            if a.knows(1) && b.knows(0) && tables == [all; 2] {
                break;
            }
            assert!(begun.elapsed() < LIMIT, "{self:?}");
            self.turn();
            self.hurry(&mut impatient);
        }
        for node in &self.nodes {
            let peer = node.replica.peer(NodeId(1 - node.number.0));
            assert_eq!(peer.comparisons.diverged, 0, "{self:?}");
        }
    }

    /// Who waits for what does not come runs out of time early.
    fn hurry(&mut self, since: &mut Instant) {
        if since.elapsed() > Duration::from_millis(100) {
            *since = Instant::now();
            self.nodes.iter_mut().for_each(|node| node.ahead += 1000);
        }
    }

    /// Whether an attack was made and has been counted.
    fn has_come_of(&self, attack: Attack, before: &[Counts; 2]) -> bool {
        let plan = self.relay.0.lock().unwrap();
        let (made, struck) = (plan.attack.is_none(), plan.struck);
        drop(plan);
        // A connection that ends within a handshake is none's fault. A change of ciphers means nothing in
        // TLS 1.3, and may be missing.
        let harmless = matches!(attack.act, Act::Cut(_)) || struck == Some(CHANGE_OF_CIPHERS);
        made && (self.counted() != *before || harmless)
    }

    /// How often each node has counted something, of whatever kind.
    fn counted(&self) -> [Counts; 2] {
        [0, 1].map(|node| {
            let Node { streams, lost, .. } = &self.nodes[node];
            let counters = streams.counters();
            let named = counters.named().filter(|(name, _)| *name != "tls_handshakes");
            named.chain([("lost", *lost as u64)]).collect()
        })
    }

    /// Makes an attack, before the stream begins or while it is in use, and gives what has risen at each node
    /// since then, when both know each other again.
    fn attack(&mut self, attack: Attack, early: bool) -> [Counts; 2] {
        if early {
            self.relay.cut();
            let begun = Instant::now();
            while self.nodes[0].knows(1) || self.nodes[1].knows(0) {
                assert!(begun.elapsed() < LIMIT, "{self:?}");
                self.turn();
                if !(self.nodes[0].knows(1) || self.nodes[1].knows(0)) {
                    break;
                }
            }
        }
        let before = self.counted();
        {
            let mut plan = self.relay.0.lock().unwrap();
            (plan.attack, plan.struck, plan.passed) = (Some(attack), None, [0; 2]);
        }
        let begun = Instant::now();
        let mut impatient = Instant::now();
        while !self.has_come_of(attack, &before) {
            assert!(begun.elapsed() < LIMIT, "{attack:?}, early {early}: {self:?}");
            self.change();
            self.turn();
            self.hurry(&mut impatient);
        }
        self.meet();
        let after = self.counted();
        [0, 1].map(|node| {
            let pairs = before[node].iter().zip(&after[node]);
            let risen = pairs.map(|(before, after)| (before.0, after.1 - before.1));
            risen.filter(|(_, count)| *count > 0).collect()
        })
    }
}

impl std::fmt::Debug for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let passed = self.relay.0.lock().unwrap().passed;
        write!(f, "records passed on {passed:?}, counted {:?}", self.counted())
    }
}

fn risen(counts: &Counts, name: &str) -> u64 {
    counts.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count)
}

/// Numbers by a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound) as usize
    }

    fn act(&mut self, which: usize) -> Act {
        match which {
            0 => Act::Flip(self.below(1 << 14), self.below(8) as u8),
            1 => Act::Cut(self.below(1 << 14)),
            2 => Act::Repeat,
            3 => Act::Swap,
            _ => Act::Drop,
        }
    }
}

const ACTS: usize = 5;

fn seed(test: &str) -> Draw {
    let drawn = || u64::from(std::process::id()) << 32 | u64::from(clock::now().0 as u32);
    let seed = std::env::var("TESTUDO_SEED").map_or_else(|_| drawn(), |seed| seed.parse().unwrap());
    println!("TESTUDO_SEED={seed} cargo test -p testudo --bin testudo between::{test}");
    Draw(seed)
}

#[test]
fn records_that_are_changed_end_a_stream_that_was_open() {
    let mut draw = seed("records_that_are_changed_end_a_stream_that_was_open");
    let mut between = Between::new("between-open");
    for (towards, which) in (0..2).flat_map(|towards| (0..ACTS).map(move |which| (towards, which)))
    {
        let act = draw.act(which);
        let attack = Attack { towards, record: draw.below(3) as u32, act };
        let counts = between.attack(attack, false);
        println!("{attack:?}: {counts:?}");
        // Each node has lost the other once, and the one that heard it has found out why.
        assert_eq!(counts.each_ref().map(|counts| risen(counts, "lost")), [1; 2], "{attack:?}");
        let found = risen(&counts[towards], "tls_broken");
        assert_eq!(found, u64::from(!matches!(act, Act::Cut(_))), "{attack:?}");
    }
}

#[test]
fn records_that_are_changed_within_a_handshake_open_no_stream() {
    let mut draw = seed("records_that_are_changed_within_a_handshake_open_no_stream");
    let mut between = Between::new("between-handshake");
    for round in 0..ACTS * 2 {
        let act = draw.act(round % ACTS);
        let attack = Attack { towards: draw.below(2), record: draw.below(4) as u32, act };
        let counts = between.attack(attack, true);
        println!("{attack:?}: {counts:?}");
    }
}
