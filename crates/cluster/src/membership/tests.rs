//! Stories of pauses by agreement, in a world of three nodes whose clocks stand apart.
//!
//! The world has for each node what a kernel has: a lease and slots, which stay when the process ends.
//! After every millisecond it looks whether two nodes act on one bucket.

use super::*;
use crate::config::{MAX_PAUSE, Replicas, Settings, Timing};
use crate::map::{Command, Reason};
use crate::ownership::Ownership;
use testudo_packet::bucket::BucketSlot;

const BUCKETS: u32 = 8;
const MS: u64 = 1_000_000;

struct Machine {
    cluster: Arc<Cluster>,
    membership: Option<Membership>,
    lease: Nanos,
    slots: Vec<BucketSlot>,
    /// How far its clock is ahead.
    ahead: u64,
    notices: Vec<Notice>,
}

struct World {
    now: u64,
    machines: Vec<Machine>,
    map: Arc<Map>,
    under_way: Vec<(usize, usize, Vec<u8>)>,
    cut: Vec<(usize, usize)>,
    /// What is sent to this node stays under way, in `slowed`.
    slow: Option<usize>,
    slowed: Vec<Vec<u8>>,
}

fn cluster(node: u8, nodes: u8) -> Arc<Cluster> {
    let settings = Settings {
        name: "stories".into(),
        label: String::new(),
        secret: [7; 16],
        members: (0..nodes).map(|node| format!("n{node}")).collect(),
        weights: vec![100; usize::from(nodes)],
        witnesses: NodeSet::default(),
        min_voters: 2,
        node: NodeId(node),
        buckets: BUCKETS,
        replicas: Replicas::All,
        timing: Timing {
            lease: Duration::from_millis(100),
            takeover: Duration::from_millis(160),
            ..Timing::default()
        },
        max_flows: 10,
    };
    Arc::new(Cluster::new(settings).unwrap())
}

impl World {
    /// A cluster in which bucket `b` is of node `b`, and of the next ones after it.
    fn formed(nodes: u8) -> Self {
        let mut world = Self {
            now: 1000 * MS,
            machines: Vec::new(),
            map: Arc::new(cluster(0, nodes).first_map()),
            under_way: Vec::new(),
            cut: Vec::new(),
            slow: None,
            slowed: Vec::new(),
        };
        for node in 0..nodes {
            world.machines.push(Machine {
                cluster: cluster(node, nodes),
                membership: None,
                lease: Nanos(0),
                slots: vec![BucketSlot::VACANT; BUCKETS as usize],
                ahead: u64::from(node) * 77_777 * MS,
                notices: Vec::new(),
            });
            world.begin(usize::from(node), 100 + u64::from(node));
        }
        world.run(400);
        let lives = (0..nodes).map(|n| (NodeId(n), Incarnation(100 + u64::from(n)))).collect();
        let order = |bucket: u16| (0..nodes).map(move |n| NodeId((n + bucket as u8) % nodes));
        let lists = (0..BUCKETS as u16).map(|b| (BucketId(b), order(b).collect())).collect();
        let mut map = Map::clone(&world.map);
        map.apply(&Command::Admit { basis: Version(0), lives }).unwrap();
        let (basis, settled, reason) = (Version(1), Version(0), Reason::Formed);
        map.apply(&Command::Assign { basis, settled, lists, reason }).unwrap();
        world.agree(map);
        world.run(300);
        assert!((0..usize::from(nodes)).all(|node| world.acts(node, node)));
        world
    }

    fn agree(&mut self, map: Map) {
        self.map = Arc::new(map);
        for node in 0..self.machines.len() {
            self.tell(node);
        }
    }

    /// The node learns the map, and that its table is complete.
    fn tell(&mut self, node: usize) {
        let (now, map) = (self.clock(node), self.map.clone());
        if let Some(membership) = &mut self.machines[node].membership {
            membership.handle_synced(now, Some(map.version()));
            membership.handle_map(now, map);
        }
    }

    fn clock(&self, node: usize) -> Nanos {
        Nanos(self.now + self.machines[node].ahead)
    }

    /// Its process begins a life of which nobody knows.
    fn begin(&mut self, node: usize, life: u64) {
        let now = self.clock(node);
        let machine = &mut self.machines[node];
        machine.lease = Nanos(0);
        machine.slots.fill(BucketSlot::VACANT);
        machine.membership = Some(Membership::new(machine.cluster.clone(), Incarnation(life), now));
        self.tell(node);
    }

    /// The machine loses its power.
    fn kill(&mut self, node: usize) {
        self.machines[node].membership = None;
        self.machines[node].lease = Nanos(0);
    }

    /// Its process has stopped for its successor; the kernel goes on.
    fn freeze(&mut self, node: usize) -> Vec<u8> {
        let now = self.clock(node);
        let mut membership = self.machines[node].membership.take().unwrap();
        membership.freeze(now).unwrap().encode()
    }

    fn resume(&mut self, node: usize, bytes: &[u8]) {
        let now = self.clock(node);
        let machine = &mut self.machines[node];
        let frozen = Frozen::decode(&machine.cluster, bytes).unwrap();
        assert_eq!(frozen.encode(), bytes);
        assert_eq!(frozen.slots(), machine.slots);
        let resumed = Membership::resume(machine.cluster.clone(), &frozen, now);
        machine.membership = Some(resumed.unwrap());
        self.tell(node);
    }

    /// Asks for the longest pause, and waits until it is granted.
    fn ask(&mut self, node: usize) {
        let now = self.clock(node);
        let membership = self.machines[node].membership.as_mut().unwrap();
        assert_eq!(membership.freeze(now), Err(Unsettled::NoPause));
        membership.handle_pause(now, MAX_PAUSE);
        for _ in 0..60 {
            self.run(1);
            if self.membership(node).paused_until(self.clock(node)).is_some() {
                return;
            }
        }
        panic!("no pause was granted");
    }

    fn membership(&self, node: usize) -> &Membership {
        self.machines[node].membership.as_ref().unwrap()
    }

    fn isolate(&mut self, a: usize, b: usize) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Whether a node acts on a bucket now.
    fn acts(&self, node: usize, bucket: usize) -> bool {
        let machine = &self.machines[node];
        self.clock(node) < machine.lease && machine.slots[bucket].owner == NodeId(node as u8)
    }

    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now += MS;
            for (from, to, datagram) in std::mem::take(&mut self.under_way) {
                let now = self.clock(to);
                if self.slow == Some(to) {
                    self.slowed.push(datagram);
                    continue;
                }
                if !self.cut.contains(&(from, to))
                    && let Some(membership) = &mut self.machines[to].membership
                {
                    let _ = membership.handle_datagram(now, &datagram);
                    self.carry_out(to);
                }
            }
            for node in 0..self.machines.len() {
                let now = self.clock(node);
                if let Some(membership) = &mut self.machines[node].membership
                    && now >= membership.next_wakeup()
                {
                    membership.handle_tick(now);
                }
                self.carry_out(node);
            }
            for bucket in 0..BUCKETS as usize {
                let acting = (0..self.machines.len()).filter(|&node| self.acts(node, bucket));
                let acting: Vec<_> = acting.collect();
                assert!(acting.len() <= 1, "{acting:?} act on {bucket} at {} ms", self.now / MS);
            }
        }
    }

    fn carry_out(&mut self, node: usize) {
        let now = self.clock(node);
        let Machine { membership: Some(membership), lease, slots, notices, .. } =
            &mut self.machines[node]
        else {
            return;
        };
        while let Some(output) = membership.poll_output() {
            match output {
                Output::SetLease(deadline) => *lease = deadline,
                Output::Send { to, datagram } => {
                    self.under_way.push((node, usize::from(to.0), datagram));
                }
                Output::Notice(notice) => notices.push(notice),
                Output::Ownership(
                    Ownership::TakeOver { buckets } | Ownership::OwnerChanged { buckets },
                ) => buckets.iter().for_each(|&(b, slot)| slots[usize::from(b.0)] = slot),
                Output::Ownership(Ownership::Release { buckets, incarnation }) => {
                    buckets.iter().for_each(|b| slots[usize::from(b.0)] = BucketSlot::VACANT);
                    membership.handle_released(now, incarnation);
                }
                Output::Ownership(_) => {}
            }
        }
    }

    fn suspected(&self, node: usize) -> bool {
        let suspected = Notice::Suspected(NodeId(node as u8));
        self.machines.iter().any(|machine| machine.notices.contains(&suspected))
    }
}

#[test]
fn a_process_that_is_replaced_in_an_agreed_pause_is_not_missed() {
    for (nodes, pause) in [(3, 1000), (3, 2500), (2, 1000), (5, 0)] {
        let mut world = World::formed(nodes);
        let incarnation = world.membership(0).incarnation();
        world.ask(0);
        world.run(50);
        let frozen = world.freeze(0);
        for _ in 0..pause {
            world.run(1);
            assert!((0..usize::from(nodes)).all(|node| world.acts(node, node)), "{nodes}");
        }
        world.resume(0, &frozen);
        world.run(100);
        assert!(!world.membership(0).is_pausing(), "the peers answer");
        world.run(400);
        assert!((0..usize::from(nodes)).all(|node| world.acts(node, node)));
        assert!((0..usize::from(nodes)).all(|node| !world.suspected(node)));
        assert_eq!(world.membership(0).incarnation(), incarnation);
        assert!(world.machines[0].lease <= Nanos(world.clock(0).0 + 100 * MS), "the usual length");
        // The others wait no longer than they always do.
        if nodes > 2 {
            world.kill(0);
            world.run(250);
            assert!((1..usize::from(nodes)).any(|node| world.acts(node, 0)));
        }
    }
}

#[test]
fn a_process_that_goes_without_a_word_is_succeeded() {
    let mut world = World::formed(3);
    world.machines[0].membership = None;
    world.run(250);
    assert!(world.acts(1, 0), "its kernel has stopped, and its successor acts");
}

#[test]
fn a_process_that_never_comes_back_is_succeeded_after_the_pause() {
    let mut world = World::formed(3);
    world.ask(0);
    drop(world.freeze(0));
    world.run(MAX_PAUSE.as_millis() as u64 - 200);
    assert!(world.acts(0, 0), "its kernel goes on");
    world.run(400);
    assert!(world.acts(1, 0));
    assert!(!world.acts(0, 0));
}

#[test]
fn a_pause_that_is_taken_back_leaves_the_usual_wait() {
    let mut world = World::formed(3);
    world.ask(0);
    let now = world.clock(0);
    world.machines[0].membership.as_mut().unwrap().handle_pause_ended(now);
    world.run(50);
    assert!(world.machines[0].lease <= Nanos(world.clock(0).0 + 100 * MS));
    // The kernel goes on with what it has; the checker sees whether that is too long.
    world.machines[0].membership = None;
    world.run(250);
    assert!(world.acts(1, 0));
}

#[test]
fn what_was_granted_before_a_pause_ended_lengthens_no_lease_after_it() {
    for again in [false, true] {
        let mut world = World::formed(3);
        world.ask(0);
        world.run(30);
        // Grants are still under way when it changes its mind and the others hear of that.
        world.slow = Some(0);
        world.run(25);
        let granted = std::mem::take(&mut world.slowed);
        let now = world.clock(0);
        world.machines[0].membership.as_mut().unwrap().handle_pause_ended(now);
        world.run(3);
        world.isolate(0, 1);
        world.isolate(0, 2);
        if again {
            let now = world.clock(0);
            world.machines[0].membership.as_mut().unwrap().handle_pause(now, MAX_PAUSE);
        }
        for datagram in granted {
            let now = world.clock(0);
            world.machines[0].membership.as_mut().unwrap().handle_datagram(now, &datagram).unwrap();
        }
        world.run(1000);
        assert!(world.acts(1, 0));
    }
}

#[test]
fn a_voter_that_has_forgotten_a_pause_still_waits_for_its_end() {
    let mut world = World::formed(3);
    world.isolate(0, 2);
    world.ask(0);
    let frozen = world.freeze(0);
    // The one voter that has granted the pause begins a new life, and the other never knew of it.
    world.run(20);
    world.begin(1, 555);
    // The lease ends before the wait does, by what clocks may differ in so long a time.
    world.run(MAX_PAUSE.as_millis() as u64 * 95 / 100);
    assert!(world.acts(0, 0));
    world.cut.clear();
    world.resume(0, &frozen);
    world.run(500);
    assert!(world.acts(0, 0), "it was never fenced");
}

#[test]
fn a_new_life_of_who_has_offered_to_wait_is_not_counted_on() {
    for cut_after in (1..120).step_by(9) {
        let mut world = World::formed(5);
        // Two have offered to wait for node 1, and nobody else hears it: its lease rests on them.
        world.isolate(1, 2);
        world.isolate(1, 4);
        world.ask(0);
        world.ask(3);
        world.run(40);
        drop((world.freeze(0), world.freeze(3)));
        world.run(120);
        assert!(world.acts(1, 1));
        // A new life of one of them hears it, and then not any more.
        world.begin(0, 555);
        world.run(cut_after);
        world.isolate(0, 1);
        world.run(1000);
        assert!(world.acts(2, 1) || cut_after < 60, "{cut_after}");
    }
}

#[test]
fn what_can_not_be_resumed_is_refused() {
    let mut world = World::formed(3);
    world.ask(0);
    let bytes = world.freeze(0);
    let now = world.clock(0);
    let frozen = Frozen::decode(&cluster(0, 3), &bytes).unwrap();
    for cut in 0..bytes.len() - world.map.encode().len() {
        assert!(Frozen::decode(&cluster(0, 3), &bytes[..cut]).is_err());
    }
    let refusal = |cluster, now| Membership::resume(cluster, &frozen, now).unwrap_err();
    assert!(matches!(refusal(cluster(1, 3), now), ResumeError::Other { .. }));
    assert!(matches!(refusal(cluster(0, 4), now), ResumeError::Other { .. }));
    let late = refusal(cluster(0, 3), Nanos(frozen.lease().0 + 5 * MS));
    assert_eq!(late, ResumeError::Late { late: Duration::from_millis(5) });
    assert!(late.to_string().contains("over for 5ms"), "{late}");
    let cut = Frozen::decode(&cluster(0, 3), &bytes[..bytes.len() - 1]).unwrap();
    let refused = Membership::resume(cluster(0, 3), &cut, now).unwrap_err();
    assert!(matches!(refused, ResumeError::Map(_)), "{refused}");
}
