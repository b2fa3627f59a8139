//! Random conversations: mostly what two ends say to each other, and now and then what they would not.

use super::frames::{ACK, FIN, Load, Packet, RST, SYN, Segment};

/// A stream of numbers from a seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below this one.
    pub fn below(&mut self, bound: u32) -> u32 {
        (self.next() % u64::from(bound)) as u32
    }

    pub fn one_in(&mut self, chances: u32) -> bool {
        self.below(chances) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
}

/// What one end knows of itself.
#[derive(Clone, Copy)]
struct End {
    first: u32,
    next: u32,
    /// How far the other end has let it send.
    limit: u32,
    window: u16,
    shift: Option<u8>,
}

/// Two ends, of which each hears at once what the other has said.
struct Talk {
    dice: Dice,
    ends: [End; 2],
    packets: Vec<Packet>,
}

const MOST: usize = 30;

/// What happens on both ends, in an order that the dice say. Ends that keep to the rules do the first ones alone.
const USUAL: [fn(&mut Talk, usize); 8] = [
    Talk::data,
    Talk::data,
    Talk::data,
    Talk::acknowledges,
    Talk::acknowledges,
    Talk::sends_again,
    Talk::other_window,
    Talk::keeps_alive,
];
const ODD: [fn(&mut Talk, usize); 9] = [
    Talk::above,
    Talk::below,
    Talk::acknowledges_unsent,
    Talk::acknowledges_late,
    Talk::resets,
    Talk::closes,
    Talk::begins_in_the_midst,
    Talk::answers_again,
    Talk::resets,
];

/// A trace; end 0 speaks first, mostly.
pub fn trace(dice: &mut Dice) -> Vec<Packet> {
    match dice.below(20) {
        0 => loose(dice, |_| Load::Udp(20)),
        1 => loose(dice, |dice| Load::Echo { reply: dice.one_in(2) }),
        2 => in_the_midst(dice),
        _ => connection(dice),
    }
}

/// Packets of which each may come at any time.
fn loose(dice: &mut Dice, load: impl Fn(&mut Dice) -> Load) -> Vec<Packet> {
    let packet = |dice: &mut Dice| Packet {
        what: "datagram",
        from: dice.below(2) as usize,
        load: load(dice),
    };
    (0..8).map(|_| packet(dice)).collect()
}

fn ends(dice: &mut Dice) -> [End; 2] {
    [0, 1].map(|_| {
        let first = dice.pick(&[1000, 0xffff_ff00, 0x7fff_ff00, dice.0 as u32]);
        let window = dice.pick(&[0xffff, 8000, 500, 29_200]);
        let shift = dice.pick(&[None, Some(0), Some(2), Some(7), Some(14)]);
        End { first, next: first, limit: first, window, shift }
    })
}

/// A flow whose first packets are no SYN.
fn in_the_midst(dice: &mut Dice) -> Vec<Packet> {
    let ends = ends(dice);
    let mut talk = Talk { dice: Dice(dice.next()), ends, packets: Vec::new() };
    for flags in [ACK, SYN | ACK, RST, FIN | ACK, RST | ACK] {
        let from = talk.dice.below(2) as usize;
        talk.says("not the first of a flow", from, flags, 0);
    }
    talk.opens();
    talk.packets
}

fn connection(dice: &mut Dice) -> Vec<Packet> {
    let ends = ends(dice);
    let mut talk = Talk { dice: Dice(dice.next()), ends, packets: Vec::new() };
    // Some keep to the rules to the end, some at first, some never.
    let quiet = talk.dice.below(4) as usize * 6;
    talk.opens();
    while talk.packets.len() < MOST {
        let from = talk.dice.below(2) as usize;
        let odd = talk.packets.len() >= quiet && talk.dice.one_in(3);
        let step = if odd { talk.dice.pick(&ODD) } else { talk.dice.pick(&USUAL) };
        step(&mut talk, from);
        if talk.dice.one_in(25) {
            talk.closes(from);
            talk.closes(1 - from);
            talk.acknowledges(from);
        }
    }
    let mut packets = talk.packets;
    for at in 4..packets.len() {
        if dice.one_in(15) {
            packets.swap(at - 1, at);
        }
    }
    packets
}

impl Talk {
    fn shift(&self, from: usize) -> u8 {
        let [a, b] = self.ends.map(|end| end.shift);
        if a.is_some() && b.is_some() { self.ends[from].shift.unwrap_or(0) } else { 0 }
    }

    /// The window of an end, in bytes.
    fn window(&self, from: usize) -> u32 {
        u32::from(self.ends[from].window) << self.shift(from)
    }

    fn sends(&mut self, what: &'static str, from: usize, segment: Segment) {
        self.packets.push(Packet { what, from, load: Load::Tcp(segment) });
    }

    /// A segment in its place.
    fn segment(&self, from: usize, flags: u8, data: u16) -> Segment {
        let own = &self.ends[from];
        let syn = flags & SYN != 0;
        let acknowledged = if flags & ACK != 0 { self.ends[1 - from].next } else { 0 };
        let shift = own.shift.filter(|_| syn);
        Segment { flags, sequence: own.next, acknowledged, window: own.window, shift, data }
    }

    /// Sends a segment in its place, and goes on behind it.
    fn says(&mut self, what: &'static str, from: usize, flags: u8, data: u16) {
        let segment = self.segment(from, flags, data);
        self.ends[from].next = segment.end();
        if flags & ACK != 0 {
            let shift = if flags & SYN != 0 { 0 } else { self.shift(from) };
            let room = u32::from(segment.window) << shift;
            self.ends[1 - from].limit = segment.acknowledged.wrapping_add(room);
        }
        self.sends(what, from, segment);
    }

    fn opens(&mut self) {
        self.says("SYN", 0, SYN, 0);
        if self.dice.one_in(12) {
            let again = Segment { sequence: self.ends[0].first, ..self.segment(0, SYN, 0) };
            self.sends("SYN again", 0, again);
        }
        match self.dice.below(20) {
            0 => {
                self.says("SYN at once", 1, SYN, 0);
                for from in [0, 1] {
                    let answer = self.segment(from, SYN | ACK, 0);
                    let sequence = self.ends[from].first;
                    self.sends("SYN/ACK of both", from, Segment { sequence, ..answer });
                }
                return;
            }
            1 => {
                let reset = self.segment(1, RST | ACK, 0);
                let off = self.dice.pick(&[0, 0, 1, 5000]);
                let acknowledged = reset.acknowledged.wrapping_add(off);
                self.sends("refused", 1, Segment { sequence: 0, acknowledged, ..reset });
            }
            2 => {
                let challenge = self.segment(1, ACK, 0);
                let acknowledged = challenge.acknowledged.wrapping_add(777);
                self.sends("old connection's ACK", 1, Segment { acknowledged, ..challenge });
                let reset = Segment { sequence: acknowledged, ..self.segment(0, RST, 0) };
                self.sends("reset of it", 0, reset);
            }
            3 => self.acknowledges_late(0),
            4 => self.data(1),
            _ => {}
        }
        self.says("SYN/ACK", 1, SYN | ACK, 0);
        if self.dice.one_in(12) {
            let again = self.segment(1, SYN | ACK, 0);
            let sequence = self.ends[1].first;
            self.sends("SYN/ACK again", 1, Segment { sequence, ..again });
        }
        self.says("ACK", 0, ACK, 0);
    }

    fn data(&mut self, from: usize) {
        let End { next, limit, .. } = self.ends[from];
        // A closed window is probed with a byte.
        let room = (limit.wrapping_sub(next) as i32).clamp(1, 1400) as u32;
        let bytes = 1 + self.dice.below(room) as u16;
        self.says("data", from, ACK, bytes);
    }

    fn acknowledges(&mut self, from: usize) {
        self.says("acknowledgement", from, ACK, 0);
    }

    fn sends_again(&mut self, from: usize) {
        let earlier = self.packets.iter().rev().filter(|packet| packet.from == from);
        let few: Vec<_> = earlier.take(4).copied().collect();
        if !few.is_empty() {
            let packet = self.dice.pick(&few);
            self.packets.push(Packet { what: "sent again", ..packet });
        }
    }

    fn other_window(&mut self, from: usize) {
        self.ends[from].window = self.dice.pick(&[0, 1, 500, 8000, 0xffff]);
        self.says("other window", from, ACK, 0);
    }

    fn keeps_alive(&mut self, from: usize) {
        let data = self.dice.below(2) as u16;
        let sequence = self.ends[from].next.wrapping_sub(1);
        let segment = Segment { sequence, ..self.segment(from, ACK, data) };
        self.sends("keep-alive", from, segment);
    }

    /// A distance about a window of this end, or far from it.
    fn distance(&mut self, of: usize) -> u32 {
        let window = self.window(of);
        let about = self.dice.pick(&[0, 1, 2, 0xffff_ffff, 0xffff_fffe, 1000, 70_000]);
        self.dice.pick(&[window, window, window / 2, 66_000]).wrapping_add(about)
    }

    fn above(&mut self, from: usize) {
        let sequence = self.ends[from].next.wrapping_add(self.distance(1 - from));
        let data = self.dice.pick(&[0, 1, 100]);
        let segment = Segment { sequence, ..self.segment(from, ACK, data) };
        self.sends("about a window ahead", from, segment);
    }

    fn below(&mut self, from: usize) {
        let sequence = self.ends[from].next.wrapping_sub(self.distance(1 - from));
        let data = self.dice.pick(&[0, 1, 100]);
        let segment = Segment { sequence, ..self.segment(from, ACK, data) };
        self.sends("about a window behind", from, segment);
    }

    fn acknowledges_unsent(&mut self, from: usize) {
        let ahead = self.dice.pick(&[1, 2, 1000, 100_000, 0x7000_0000]);
        let acknowledged = self.ends[1 - from].next.wrapping_add(ahead);
        let segment = Segment { acknowledged, ..self.segment(from, ACK, 0) };
        self.sends("acknowledges what was not sent", from, segment);
    }

    fn acknowledges_late(&mut self, from: usize) {
        let behind = self.distance(from);
        let acknowledged = self.ends[1 - from].next.wrapping_sub(behind);
        let segment = Segment { acknowledged, ..self.segment(from, ACK, 0) };
        self.sends("late acknowledgement", from, segment);
    }

    fn resets(&mut self, from: usize) {
        let flags = self.dice.pick(&[RST, RST, RST | ACK]);
        let window = self.window(1 - from);
        let far = self.distance(1 - from);
        let backwards = far.wrapping_neg();
        let off = self.dice.pick(&[0, 0, 1, 10, window / 2, far, backwards, 0xffff_ffff]);
        let segment = self.segment(from, flags, 0);
        let acknowledged = if self.dice.one_in(4) { 0 } else { segment.acknowledged };
        let sequence = segment.sequence.wrapping_add(off);
        self.sends("reset", from, Segment { sequence, acknowledged, ..segment });
    }

    fn closes(&mut self, from: usize) {
        self.says("FIN", from, FIN | ACK, 0);
    }

    fn begins_in_the_midst(&mut self, from: usize) {
        let own = self.ends[from];
        let ahead = self.dice.pick(&[1, 1000, 0x1000_0000, 0x9000_0000]);
        let sequence = self.dice.pick(&[own.first, own.next, own.next.wrapping_add(ahead)]);
        self.sends("SYN", from, Segment { sequence, ..self.segment(from, SYN, 0) });
        match self.dice.below(4) {
            0 => self.says("challenge", 1 - from, ACK, 0),
            1 => {
                let acknowledged = sequence.wrapping_add(1);
                let reset = Segment { acknowledged, ..self.segment(1 - from, RST | ACK, 0) };
                self.sends("refused", 1 - from, reset);
            }
            2 => {
                self.ends[from].first = sequence;
                self.ends[from].next = sequence.wrapping_add(1);
                let first = self.dice.pick(&[77_000, self.ends[1 - from].next.wrapping_add(99)]);
                self.ends[1 - from].first = first;
                self.ends[1 - from].next = first;
                self.says("SYN/ACK", 1 - from, SYN | ACK, 0);
                self.says("ACK", from, ACK, 0);
            }
            _ => {}
        }
    }

    fn answers_again(&mut self, from: usize) {
        let first = self.ends[from].first;
        let sequence = self.dice.pick(&[first, first.wrapping_add(5000), self.ends[from].next]);
        self.sends("SYN/ACK", from, Segment { sequence, ..self.segment(from, SYN | ACK, 0) });
    }
}
