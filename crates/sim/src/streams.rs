//! Byte streams between daemons: in order, in pieces, with a window, and over when an end is.

use std::collections::VecDeque;

use testudo_cluster::replica::{ConnectionId, Side};
use testudo_cluster::sync::layout::{HEAD_BYTES, Head, kind};
use testudo_packet::bucket::NodeId;

use crate::machine::{Input, Life};
use crate::options::{MS, Plant};
use crate::world::World;

/// How many bytes may be under way in one direction.
const WINDOW: usize = 8192;

/// A stream, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One end; what it has sent is under way to the other.
pub(crate) struct End {
    node: usize,
    life: Life,
    connection: Option<ConnectionId>,
    open: bool,
    /// Whether its part of the handshake has been sent: all that follows is frames.
    greeted: bool,
    pieces: VecDeque<Vec<u8>>,
    under_way: usize,
    /// When the last piece sent arrives.
    until: u64,
}

impl End {
    fn new(node: usize, life: Life) -> Self {
        let (open, greeted, pieces) = (true, false, VecDeque::new());
        Self { node, life, connection: None, open, greeted, pieces, under_way: 0, until: 0 }
    }
}

impl World {
    fn no_stream(&self, a: usize, b: usize) -> bool {
        self.cut.streams[a][b] || self.cut.streams[b][a]
    }

    /// Dials the peers that are to be dialled and are not.
    pub(crate) fn dial(&mut self, from: usize) {
        let Some(daemon) = &self.machines[from].daemon else { return };
        let (life, peers) = (daemon.life, daemon.replica.connects_to().collect::<Vec<_>>());
        let dialled = daemon.streams.values().filter(|(_, side)| *side == 0);
        let ends = dialled.filter_map(|(id, _)| self.streams.get(id));
        let connected: Vec<_> = ends.filter(|ends| ends[0].open).map(|ends| ends[1].node).collect();
        for peer in peers.into_iter().map(|peer| usize::from(peer.0)) {
            if connected.contains(&peer) || self.no_stream(from, peer) {
                continue;
            }
            let Some(theirs) = self.machines[peer].life() else { continue };
            self.streams_made += 1;
            let id = StreamId(self.streams_made);
            let (at, nonce) = (self.machines[from].read(self.now), self.rng.bytes());
            let Some(daemon) = &mut self.machines[from].daemon else { return };
            let side = Side::Dialled(NodeId(peer as u8));
            let Ok(connection) = daemon.replica.handle_connected(at, side, nonce) else { return };
            daemon.streams.insert(connection, (id, 0));
            let mut ends = [End::new(from, life), End::new(peer, theirs)];
            ends[0].connection = Some(connection);
            self.streams.insert(id, ends);
            let at = self.now + self.way();
            self.input_at(at, peer, theirs, Input::Accept(id));
        }
    }

    pub(crate) fn accept(&mut self, node: usize, id: StreamId) {
        let (at, nonce) = (self.machines[node].read(self.now), self.rng.bytes());
        let Some(ends) = self.streams.get_mut(&id) else { return };
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        match daemon.replica.handle_connected(at, Side::Accepted, nonce) {
            Ok(connection) => {
                ends[1].connection = Some(connection);
                daemon.streams.insert(connection, (id, 1));
            }
            Err(_) => self.hang_up(id, 1),
        }
        // What the dialler said while this end was not yet there.
        let ends = self.streams.get(&id);
        for _ in 0..ends.map_or(0, |ends| ends[0].pieces.len()) {
            self.bytes(node, id, 0);
        }
    }

    /// Takes from the daemon what its streams can carry.
    pub(crate) fn pump(&mut self, node: usize) {
        let Some(daemon) = &self.machines[node].daemon else { return };
        let streams: Vec<_> = daemon.streams.iter().map(|(&c, &s)| (c, s)).collect();
        for (connection, (id, side)) in streams {
            let Some(ends) = self.streams.get_mut(&id) else { continue };
            let at = self.machines[node].read(self.now);
            let Some(daemon) = &mut self.machines[node].daemon else { return };
            let room = WINDOW.saturating_sub(ends[side].under_way);
            let mut out = Vec::new();
            let open = daemon.replica.is_open(connection);
            if daemon.replica.poll_transmit(at, connection, &mut out, room) == 0 {
                continue;
            }
            let greeted = std::mem::replace(&mut ends[side].greeted, open);
            if greeted && self.options.plant == Plant::ChangesLost {
                lose_changes(&mut out);
            }
            ends[side].under_way += out.len();
            self.tally.add("bytes of streams", out.len() as u64);
            // Streams have no borders between messages.
            let rest = out.split_off(self.rng.index(out.len()));
            for piece in [out, rest].into_iter().filter(|piece| !piece.is_empty()) {
                self.carry(id, side, piece);
            }
        }
    }

    fn carry(&mut self, id: StreamId, side: usize, piece: Vec<u8>) {
        let way = self.way();
        let Some(ends) = self.streams.get_mut(&id) else { return };
        let (from, to) = (ends[side].node, ends[1 - side].node);
        let slow = self.machines[from].slow.max(self.machines[to].slow);
        let at = ends[side].until.max(self.now + way + slow);
        ends[side].until = at;
        ends[side].pieces.push_back(piece);
        let life = ends[1 - side].life;
        self.input_at(at, to, life, Input::Bytes(id, side));
    }

    /// The next piece that end `side` has sent arrives at `node`, unless the way is cut: then it is
    /// sent again, until the sender loses patience.
    pub(crate) fn bytes(&mut self, node: usize, id: StreamId, side: usize) {
        let Some(ends) = self.streams.get(&id) else { return };
        let Some(connection) = ends[1 - side].connection else { return };
        let (sender, life) = (ends[side].node, ends[1 - side].life);
        if self.no_stream(sender, node) {
            if self.rng.chance(100) {
                self.hang_up(id, side);
            } else {
                self.input_at(self.now + 20 * MS, node, life, Input::Bytes(id, side));
            }
            return;
        }
        let Some(ends) = self.streams.get_mut(&id) else { return };
        let Some(piece) = ends[side].pieces.pop_front() else { return };
        ends[side].under_way -= piece.len();
        let at = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let result = daemon.replica.handle_bytes(at, connection, &piece);
        if let Err(error) = result {
            self.sync_errors.push(error);
            self.hang_up(id, 1 - side);
        }
        // There is room again.
        if self.machines[sender].is_up() {
            self.pump(sender);
        }
    }

    /// End `side` closes its stream.
    pub(crate) fn hang_up(&mut self, id: StreamId, side: usize) {
        let at = self.now + self.way();
        let Some(ends) = self.streams.get_mut(&id) else { return };
        if !std::mem::replace(&mut ends[side].open, false) {
            return;
        }
        self.tally.count("streams ended");
        ends.iter_mut().for_each(|end| end.pieces.clear());
        let (mine, theirs) = (&ends[side], &ends[1 - side]);
        let (node, life, connection) = (mine.node, mine.life, mine.connection);
        if theirs.open {
            let (node, life) = (theirs.node, theirs.life);
            self.input_at(at, node, life, Input::HangUp(id, 1 - side));
        } else {
            self.streams.remove(&id);
        }
        if let Some(daemon) = &mut self.machines[node].daemon
            && daemon.life == life
            && let Some(connection) = connection
        {
            daemon.replica.handle_closed(connection);
            daemon.streams.remove(&connection);
        }
    }

    /// A daemon hears that the other end has closed a stream, if it can hear that.
    pub(crate) fn hear_hang_up(&mut self, node: usize, id: StreamId, side: usize) {
        let Some(ends) = self.streams.get(&id) else { return };
        let life = ends[side].life;
        if self.no_stream(ends[1 - side].node, node) {
            let at = self.now + 50 * MS;
            return self.input_at(at, node, life, Input::HangUp(id, side));
        }
        self.hang_up(id, side);
    }

    /// All streams of a daemon that is no more.
    pub(crate) fn hang_up_all(&mut self, node: usize) {
        let open = |(&id, ends): (&StreamId, &[End; 2])| {
            (0..2).find(|&side| ends[side].open && ends[side].node == node).map(|side| (id, side))
        };
        for (id, side) in self.streams.iter().filter_map(open).collect::<Vec<_>>() {
            self.hang_up(id, side);
        }
    }
}

/// Puts a frame that means nothing in the place of each change of a flow.
fn lose_changes(out: &mut [u8]) {
    let mut rest = out;
    while let Some((head, behind)) = rest.split_first_chunk_mut::<HEAD_BYTES>() {
        let Head { kind, size, count } = Head::from_bytes(*head);
        if let kind::INTRODUCE_4 | kind::INTRODUCE_6 | kind::CHANGE = kind {
            head[0] = UNKNOWN_KIND;
        }
        let items = usize::from(size) * usize::from(count);
        rest = &mut behind[items..];
    }
}

/// Of a kind that is skipped, and acknowledged.
const UNKNOWN_KIND: u8 = 0x3f;
