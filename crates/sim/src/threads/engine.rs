//! The engine: it drives the replica, writes slots, and serves the packets that need user space.

use std::collections::BTreeMap;

use testudo_cluster::ownership::Ownership;
use testudo_cluster::replica::{Effect, Refused};
use testudo_packet::bucket::{BucketId, BucketState, Epoch, NodeId};
use testudo_packet::event::Event;
use testudo_packet::flow::FlowKey;
use testudo_packet::tracking::Phase;

use crate::checkers::{bounded, handed_over_whole, kept_back, whole_copies};
use crate::kernel::{Fate, Packet, key};
use crate::machine::{Input, Life, Thread};
use crate::options::{MS, Plant};
use crate::world::World;

/// How often deadlines of streams and moves are looked at.
pub(crate) const TICK: u64 = 100 * MS;

/// The time between two turns.
const TURN: u64 = MS;

/// How long a packet that met a bucket's old slot may still be under way.
const GRACE: u64 = MS;

/// The most packets of a bucket that are held.
const MAX_HELD: usize = 1 << 14;

impl World {
    pub(crate) fn engine(&mut self, node: usize, input: Input) {
        let now = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let replica = &mut daemon.replica;
        match input {
            Input::Tick => {
                let life = daemon.life;
                replica.handle_tick(now);
                self.dial(node);
                self.audit_some(node);
                self.input_at(self.now + TICK, node, life, Input::Tick);
                self.note_due(node);
                if let Err(error) = bounded(self, node).and_then(|()| kept_back(self, node)) {
                    self.fail(|| error);
                }
            }
            Input::Ownership(change) => self.change_owners(node, change),
            Input::Loaded(bucket, epoch) => self.load(node, bucket, epoch),
            Input::ReadOut(bucket, reading) => {
                if self.options.plant != Plant::ReadOutForgotten {
                    self.read_out(node);
                }
                if let Some(daemon) = &mut self.machines[node].daemon {
                    daemon.replica.handle_read_out(bucket, reading);
                }
            }
            Input::Queues => {
                daemon.looks = false;
                self.look_at_queues(node);
            }
            Input::Yielded(bucket) => {
                self.look_at_queues(node);
                let machine = &mut self.machines[node];
                let packets = machine.kernel.take_reported(bucket);
                if let Some(daemon) = &mut machine.daemon {
                    daemon.replica.handle_yielded(bucket, packets);
                }
            }
            Input::Turn => daemon.waits = false,
            Input::Post(to, bytes) => replica.send_letter(to, &bytes),
            Input::Accept(stream) => self.accept(node, stream),
            Input::Bytes(stream, side) => self.bytes(node, stream, side),
            Input::HangUp(stream, side) => self.hear_hang_up(node, stream, side),
            _ => return,
        }
        self.do_effects(node);
        self.go_on_with_moves(node);
        self.go_on_with_determining(node);
        self.pump(node);
        self.note_acknowledged(node);
        self.note_dropped(node);
    }

    /// An engine turns each millisecond; here, if there is anything to be done then.
    pub(crate) fn turn_soon(&mut self, node: usize) {
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        if !std::mem::replace(&mut daemon.waits, true) {
            let life = daemon.life;
            self.input_at(self.now + TURN, node, life, Input::Turn);
        }
    }

    fn go_on_with_moves(&mut self, node: usize) {
        let now = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        daemon.replica.handle_moves(now);
        if daemon.replica.moving().0 > 0 {
            self.turn_soon(node);
        }
        self.do_effects(node);
    }

    fn change_owners(&mut self, node: usize, change: Ownership) {
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let taken: Vec<_> = match &change {
            Ownership::TakeOver { buckets } => buckets.clone(),
            _ => Vec::new(),
        };
        if self.verbose
            && let Ownership::OwnerChanged { buckets } = &change
        {
            let now: Vec<_> = buckets.iter().map(|(b, s)| (b.0, s.owner.0, s.epoch.0)).collect();
            println!("{:>12.3} ms  node {node} sees {now:?}", self.now as f64 / MS as f64);
        }
        let before = whole_copies(&daemon.replica, taken.iter().map(|(bucket, _)| *bucket));
        daemon.replica.handle_ownership(change);
        if taken.is_empty() {
            return;
        }
        if self.options.plant == Plant::TakenEmpty {
            for (bucket, _) in &taken {
                self.spoil(node, *bucket);
            }
        }
        self.note_kept(node, &before);
        self.say(node, || {
            format!("takes {:?}", taken.iter().map(|(b, _)| b.0).collect::<Vec<_>>())
        });
        let planned = taken.iter().filter(|(_, slot)| {
            slot.previous != NodeId::NONE && self.machines[usize::from(slot.previous.0)].is_up()
        });
        let planned = planned.count();
        self.tally.add("buckets taken from nodes that are up", planned as u64);
        self.tally.add("buckets taken over or first taken", (taken.len() - planned) as u64);
        for (bucket, slot) in taken {
            self.note_inherited(node, bucket);
            self.note_taken_by(bucket, slot.epoch);
            self.note_taken(node, bucket);
        }
    }

    fn load(&mut self, node: usize, bucket: BucketId, epoch: Epoch) {
        let machine = &mut self.machines[node];
        let Some(daemon) = &mut machine.daemon else { return };
        let slot = daemon.replica.slot(bucket);
        if slot.owner == machine.cluster.node() && slot.epoch == epoch {
            machine.kernel.install(daemon.replica.table().bucket(bucket));
        }
        daemon.replica.handle_loaded(bucket, epoch);
    }

    /// Takes in what the kernel has for the daemon.
    pub(crate) fn look_at_queues(&mut self, node: usize) {
        self.take_events(node);
        let machine = &mut self.machines[node];
        let lost = std::mem::take(&mut machine.kernel.events_lost);
        if lost > 0 {
            self.audit_all(node);
        }
        self.expire(node);
        self.tell_due(node);
        for packet in std::mem::take(&mut self.machines[node].kernel.upcalls) {
            self.serve(node, packet);
        }
        // Whoever compares the tables next has heard of what these have done.
        if self.options.hears_at_once {
            self.take_events(node);
        }
    }

    fn take_events(&mut self, node: usize) {
        while let Some(event) = self.machines[node].kernel.events.pop_front() {
            let swallowed = match self.options.plant {
                Plant::Swallowed(per_mille) => self.rng.chance(per_mille),
                _ => false,
            };
            if !swallowed {
                self.take_event(node, event);
            }
        }
    }

    fn tell_due(&mut self, node: usize) {
        let now = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        if self.options.plant == Plant::DueForgotten {
            return;
        }
        let waiting = daemon.replica.replication().waiting;
        daemon.replica.handle_due(now);
        // At once: a stream that comes up later tells of them in another way.
        if daemon.replica.replication().waiting != waiting {
            self.note_due(node);
        }
    }

    fn take_event(&mut self, node: usize, event: Event) {
        let now = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let record = event.record;
        let before = daemon.replica.table().find(record.bucket, &record.key).is_some();
        match daemon.replica.handle_event(now, event) {
            Ok(()) => {
                if let Err(error) = self.check_event(node, &record, before) {
                    self.fail(|| error);
                }
                self.note_event(node, record);
            }
            // Of a bucket that was given up meanwhile.
            Err(Refused::NotOwner { .. }) => {}
            Err(error) => {
                self.fail(|| {
                    format!("node {node} does not take its own flow {record:?} over: {error}")
                });
            }
        }
    }

    /// Takes flows that are over out of the node table.
    fn expire(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let Some(daemon) = &mut machine.daemon else { return };
        let mut over = Vec::new();
        machine.kernel.flows.retain(|_, record| {
            let keep = record.state.phase != Phase::TimeWait;
            if !keep && daemon.replica.handle_expired(record).is_ok() {
                over.push(record.key.initiator.port);
            }
            keep
        });
        over.into_iter().for_each(|port| self.acknowledged.end(port));
    }

    /// A packet that needs user space is handled by the same rules, with the common table at hand.
    fn serve(&mut self, node: usize, packet: Packet) {
        let machine = &mut self.machines[node];
        let bucket = machine.kernel.bucket(&packet);
        let slot = machine.kernel.slots[bucket];
        let Some(daemon) = &mut machine.daemon else { return };
        let fate = if slot.owner != machine.cluster.node() {
            machine.kernel.meet(self.now, packet)
        } else if !machine.kernel.leased(self.now) {
            Fate::Dropped
        } else if slot.state == BucketState::Holding {
            let held = daemon.held.entry(BucketId(bucket as u16)).or_default();
            if held.len() < MAX_HELD {
                held.push(packet);
                self.tally.count("packets held");
                Fate::Waits
            } else {
                Fate::Dropped
            }
        } else {
            let (table, id) = (daemon.replica.table(), BucketId(bucket as u16));
            let known = table.get(id, &key(packet.port));
            if slot.state == BucketState::Loading {
                machine.kernel.install(known.into_iter());
            }
            let looks = self.options.plant != Plant::RepliesForgotten;
            let taken = |reply: &FlowKey| {
                // What the flow itself had when it was last told of is free for it.
                looks
                    && table.of_packet(id, reply).is_some_and(|other| other.key != key(packet.port))
            };
            machine.kernel.handle(packet, taken)
        };
        self.account(node, packet, fate);
    }

    pub(crate) fn do_effects(&mut self, node: usize) {
        while let Some(daemon) = &mut self.machines[node].daemon
            && let Some(effect) = daemon.replica.poll_effect()
        {
            self.do_effect(node, effect);
        }
    }

    fn do_effect(&mut self, node: usize, effect: Effect) {
        let Some(life) = self.machines[node].life() else { return };
        let mail = |input| Some((Thread::Engine, input));
        let mail = match effect {
            Effect::SetBucket { bucket, slot } => {
                self.machines[node].kernel.set_slot(bucket, slot);
                if slot.state == BucketState::Yielding {
                    self.note_yielding(node, bucket);
                }
                self.check(node, Some(usize::from(bucket.0)));
                None
            }
            Effect::Clear { bucket } => {
                self.machines[node].kernel.clear(bucket);
                None
            }
            Effect::Install { bucket, epoch } => {
                let at = self.now + self.rng.within(0..20 * MS);
                self.input_at(at, node, life, Input::Loaded(bucket, epoch));
                None
            }
            Effect::Yield { bucket, slot } => {
                self.machines[node].kernel.set_slot(bucket, slot);
                self.say(node, || format!("yields {bucket} to {}", slot.owner.0));
                let at = self.now + GRACE + self.rng.within(0..MS);
                self.input_at(at, node, life, Input::Yielded(bucket));
                None
            }
            Effect::ReleaseHeld { bucket, handled } => {
                self.release_held(node, bucket, &handled);
                None
            }
            Effect::DiscardHeld { bucket } => {
                self.discard_held(node, bucket);
                None
            }
            Effect::GivenUp { bucket, epoch } => mail(Input::GivenUp(bucket, epoch)),
            Effect::Delivered { bucket, epoch } => mail(Input::Delivered(bucket, epoch)),
            Effect::HandedOver { bucket, from, since } => {
                self.tally.count("buckets handed over");
                if let Err(error) = handed_over_whole(self, usize::from(from.0), node, bucket) {
                    self.fail(|| error);
                }
                mail(Input::HandedOver(bucket, from, since))
            }
            Effect::Synced { version } => mail(Input::Synced(version)),
            Effect::Letter { from, bytes } => mail(Input::Letter(from, bytes)),
            Effect::Released { incarnation } => mail(Input::Released(incarnation)),
            Effect::Close { connection, error } => {
                self.sync_errors.push(error);
                let daemon = self.machines[node].daemon.as_ref();
                if let Some(&(id, side)) = daemon.and_then(|d| d.streams.get(&connection)) {
                    self.hang_up(id, side);
                }
                None
            }
            effect => {
                self.note_effect(node, life, effect);
                None
            }
        };
        if let Some((thread, input)) = mail {
            self.mail(node, thread, input);
        }
    }

    /// What no other thread has a part in.
    fn note_effect(&mut self, node: usize, life: Life, effect: Effect) {
        match effect {
            Effect::ReadOut { bucket, reading } => {
                self.tally.count("buckets read out");
                let at = self.now + self.rng.within(0..20 * MS);
                self.input_at(at, node, life, Input::ReadOut(bucket, reading));
            }
            Effect::Place { wish, record } => {
                self.place(node, wish, record);
                self.turn_soon(node);
            }
            Effect::Determined { number, outcome } => self.note_determined(node, number, outcome),
            Effect::TakenBare { bucket, .. } => self.note_bare(node, bucket),
            Effect::Diverged { peer, bucket } => self.note_diverged(node, peer, bucket),
            Effect::Repaired { repair, .. } => {
                self.tally.count("divergences repaired");
                let millis = repair.took.as_millis() as u64;
                self.tally.most("most milliseconds of a repair", millis);
            }
            _ => {}
        }
    }

    /// The bucket is this node's: what it held is handled, but for what the owner before has handled.
    fn release_held(&mut self, node: usize, bucket: BucketId, handled: &[u64]) {
        self.look_at_queues(node);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let held = daemon.held.remove(&bucket).unwrap_or_default();
        let mut done: BTreeMap<u64, u32> = BTreeMap::new();
        for &hash in handled {
            *done.entry(hash).or_default() += 1;
        }
        self.say(node, || format!("releases {} of {bucket}, but {done:?}", held.len()));
        for packet in held {
            match done.get_mut(&packet.id).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => {
                    self.tally.count("packets released");
                    self.serve(node, packet);
                }
            }
        }
    }

    fn discard_held(&mut self, node: usize, bucket: BucketId) {
        self.look_at_queues(node);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let held = daemon.held.remove(&bucket).unwrap_or_default();
        self.tally.add("packets held in vain", held.len() as u64);
    }
}
