//! The ordered rules that decide whether a flow may begin.
//!
//! The first rule that a flow's first packet matches decides; if none does, the packet is dropped.
//! Rules are read one at a time from wherever they are kept, so no build needs them all in one
//! place. A rule is a fixed number of words; prefixes are stored with their masks, which makes a
//! comparison four instructions and no branch on the prefix length.

use crate::bucket::Nanos;
use crate::env::RuleVisitor;
use crate::flow::{Address, FlowKey, Protocol};
use crate::set::{SetId, Sets};

/// The most rules that a packet is compared with.
pub const MAX_RULES: u32 = 1024;

/// How many first packets go up at most within about a second because a rule refuses them. More are dropped
/// without a word: a flood of them is to cost no more than that.
pub const MAX_REPORTS: u32 = 1000;

/// The word that counts what goes up, as it is after one more packet; `None` if that is one too many. Two CPUs
/// that count at once may count one packet: the bound is no exact one.
#[inline(always)]
pub const fn note_report(word: u64, now: Nanos) -> Option<u64> {
    let second = now.0 >> 30 & 0xffff_ffff;
    if word >> 32 != second {
        Some(second << 32 | 1)
    } else if (word as u32) < MAX_REPORTS {
        Some(word + 1)
    } else {
        None
    }
}

/// What a rule says about a flow that matches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The flow may begin.
    Accept,
    /// It may not.
    Drop,
    /// It may not, and whoever wants it is told so.
    Reject,
}

/// Whether the packet that creates a flow waits for the peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Commit {
    /// It goes on at once; the peers are told meanwhile.
    #[default]
    Async,
    /// It goes on when the peers have said that they know the flow.
    Sync,
}

/// A set of addresses that share their first bits. One that takes others in which begin at the same address comes
/// before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    value: Address,
    mask: Address,
}

impl Prefix {
    /// Every address of both families.
    pub const ANY: Self =
        Self { value: Address { high: 0, low: 0 }, mask: Address { high: 0, low: 0 } };

    /// The addresses that share the first `length` bits of `address`; for IPv4 a length up to 32,
    /// else up to 128. `None` if the length is larger, or if `address` has bits set beyond it.
    pub const fn new(address: Address, length: u8) -> Option<Self> {
        let length = if address.is_v4() { length as u32 + 96 } else { length as u32 };
        let mask = match length {
            0 => 0,
            1..=128 => u128::MAX << (128 - length),
            _ => return None,
        };
        if address.to_bits() & !mask != 0 {
            return None;
        }
        Some(Self { value: address, mask: Address::from_bits(mask) })
    }

    /// The first address.
    pub const fn address(&self) -> Address {
        self.value
    }

    /// How many bits of 128 the addresses share; IPv4 counts in its mapped form.
    pub const fn length(&self) -> u8 {
        (self.mask.high.count_ones() + self.mask.low.count_ones()) as u8
    }

    /// Whether the address is inside.
    pub const fn contains(&self, address: Address) -> bool {
        self.differs(address) == 0
    }

    /// The bits in which the address is outside; 0 if it is not.
    #[inline(always)]
    const fn differs(&self, address: Address) -> u64 {
        (address.high & self.mask.high ^ self.value.high)
            | (address.low & self.mask.low ^ self.value.low)
    }
}

/// Which way the first packet of a flow goes through the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// The number of the interface that it comes in by.
    pub input: u32,
    /// The number of the interface that the node's routes send it out by; 0 if that is not known.
    pub output: u32,
}

impl Links {
    /// In by this interface, and out by one that is not known.
    pub const fn input(input: u32) -> Self {
        Self { input, output: 0 }
    }
}

/// An inclusive range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// Every port.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };
}

/// One rule. A flow matches it if it matches every part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What to do.
    pub action: Action,
    /// What the first packet of a flow that it accepts waits for.
    pub commit: Commit,
    /// The protocol, or any.
    pub protocol: Option<Protocol>,
    /// Where the first packet comes from.
    pub source: Prefix,
    /// Where it goes to.
    pub destination: Prefix,
    /// The set that the source has to be in besides, if there is one.
    pub source_set: Option<SetId>,
    /// As `source_set`, of the destination.
    pub destination_set: Option<SetId>,
    /// The source port; for ICMP the identifier.
    pub source_ports: Ports,
    /// The destination port; for ICMP the identifier.
    pub destination_ports: Ports,
    /// The number of the interface that the first packet comes in by, or any.
    pub interface: Option<u32>,
    /// The number of the interface that routes send the first packet out by, or any.
    pub egress: Option<u32>,
    /// What the source of flows that it accepts is translated to: the number of a pool of addresses, from 1 on;
    /// 0: it is not translated.
    pub source_pool: u16,
    /// Whether user space is to hear of the first packets that it refuses.
    pub reports: bool,
    /// What user space knows the rule by. Its low 16 bits are the number that flows remember.
    pub mark: u64,
}

/// How many 64-bit words a rule takes.
pub const RULE_WORDS: usize = 13;

const ACCEPT: u64 = 1 << 40;
const HAS_PROTOCOL: u64 = 1 << 41;
const HAS_INTERFACE: u64 = 1 << 42;
const SYNC: u64 = 1 << 43;
const POOL_SHIFT: u32 = 48;
const REJECT: u64 = 1 << 44;
const REPORTS: u64 = 1 << 45;
/// Of a word of its own.
const HAS_EGRESS: u64 = 1 << 32;

impl Rule {
    /// A rule that every flow matches.
    pub const fn any(action: Action) -> Self {
        Self {
            action,
            commit: Commit::Async,
            protocol: None,
            source: Prefix::ANY,
            destination: Prefix::ANY,
            source_set: None,
            destination_set: None,
            source_ports: Ports::ANY,
            destination_ports: Ports::ANY,
            interface: None,
            egress: None,
            source_pool: 0,
            reports: false,
            mark: 0,
        }
    }

    /// Whether a flow that begins with a packet of this key on this interface matches.
    #[inline(always)]
    pub fn matches(&self, sets: &impl Sets, key: &FlowKey, links: Links) -> bool {
        matches_words(&self.to_words(), sets, key, links)
    }

    /// The rule as words.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; RULE_WORDS] {
        let ports = self.source_ports.first as u64
            | (self.source_ports.last as u64) << 16
            | (self.destination_ports.first as u64) << 32
            | (self.destination_ports.last as u64) << 48;
        let mut flags = match self.action {
            Action::Accept => ACCEPT,
            Action::Drop => 0,
            Action::Reject => REJECT,
        };
        if self.reports {
            flags |= REPORTS;
        }
        if let Commit::Sync = self.commit {
            flags |= SYNC;
        }
        if let Some(protocol) = self.protocol {
            flags |= HAS_PROTOCOL | (protocol.0 as u64) << 32;
        }
        if let Some(interface) = self.interface {
            flags |= HAS_INTERFACE | interface as u64;
        }
        flags |= (self.source_pool as u64) << POOL_SHIFT;
        [
            self.source.value.high,
            self.source.value.low,
            self.source.mask.high,
            self.source.mask.low,
            self.destination.value.high,
            self.destination.value.low,
            self.destination.mask.high,
            self.destination.mask.low,
            ports,
            flags,
            self.mark,
            set_number(self.source_set) as u64 | (set_number(self.destination_set) as u64) << 32,
            match self.egress {
                Some(egress) => HAS_EGRESS | egress as u64,
                None => 0,
            },
        ]
    }

    /// The rule that [`Rule::to_words`] made these words of.
    pub fn from_words(words: &[u64; RULE_WORDS]) -> Self {
        let [s0, s1, s2, s3, d0, d1, d2, d3, ports, flags, mark, sets, egress] = *words;
        let range = |first: u64, last: u64| Ports { first: first as u16, last: last as u16 };
        Self {
            action: action_of(words),
            commit: commit_of(words),
            protocol: match flags & HAS_PROTOCOL {
                0 => None,
                _ => Some(Protocol((flags >> 32) as u8)),
            },
            source: prefix(s0, s1, s2, s3),
            destination: prefix(d0, d1, d2, d3),
            source_set: SetId::new(sets as u32),
            destination_set: SetId::new((sets >> 32) as u32),
            source_ports: range(ports, ports >> 16),
            destination_ports: range(ports >> 32, ports >> 48),
            interface: if flags & HAS_INTERFACE == 0 { None } else { Some(flags as u32) },
            egress: if egress & HAS_EGRESS == 0 { None } else { Some(egress as u32) },
            source_pool: pool_of(words),
            reports: flags & REPORTS != 0,
            mark,
        }
    }
}

#[inline(always)]
const fn set_number(set: Option<SetId>) -> u32 {
    match set {
        Some(set) => set.0.get(),
        None => 0,
    }
}

#[inline(always)]
fn prefix(value_high: u64, value_low: u64, mask_high: u64, mask_low: u64) -> Prefix {
    Prefix {
        value: Address { high: value_high, low: value_low },
        mask: Address { high: mask_high, low: mask_low },
    }
}

/// [`Rule::matches`] on the words of a rule, as the pipeline reads them. Sets are asked last.
#[inline(always)]
pub fn matches_words(
    words: &[u64; RULE_WORDS],
    sets: &impl Sets,
    key: &FlowKey,
    links: Links,
) -> bool {
    matches_alone(words, key, links) && (words[11] == 0 || is_in_sets(words[11], sets, key))
}

/// Whether both ends are in the sets of a rule that has some.
#[inline(always)]
fn is_in_sets(numbers: u64, sets: &impl Sets, key: &FlowKey) -> bool {
    let (source, destination) = (numbers as u32, (numbers >> 32) as u32);
    (source == 0 || sets.contains(source, key.initiator.address))
        && (destination == 0 || sets.contains(destination, key.responder.address))
}

/// Whether all matches but sets.
#[inline(always)]
fn matches_alone(words: &[u64; RULE_WORDS], key: &FlowKey, links: Links) -> bool {
    let [s0, s1, s2, s3, d0, d1, d2, d3, ports, flags, ..] = *words;
    let (source, destination) = (key.initiator, key.responder);
    // Both addresses at once: one after the other, all words would be kept on the stack until their turn comes,
    // and the verifier gives no more of that.
    let differs = prefix(s0, s1, s2, s3).differs(source.address)
        | prefix(d0, d1, d2, d3).differs(destination.address);
    differs == 0
        && (flags & HAS_PROTOCOL == 0 || (flags >> 32) as u8 == key.protocol.0)
        && (flags & HAS_INTERFACE == 0 || flags as u32 == links.input)
        && (words[12] == 0 || words[12] == HAS_EGRESS | links.output as u64)
        && source.port >= ports as u16
        && source.port <= (ports >> 16) as u16
        && destination.port >= (ports >> 32) as u16
        && destination.port <= (ports >> 48) as u16
}

/// What the rule of these words says.
#[inline(always)]
pub const fn action_of(words: &[u64; RULE_WORDS]) -> Action {
    match words[9] & (ACCEPT | REJECT) {
        ACCEPT => Action::Accept,
        0 => Action::Drop,
        _ => Action::Reject,
    }
}

/// Whether user space is to hear of the first packets that the rule of these words refuses: to be told, or
/// to tell whoever has sent them.
#[inline(always)]
const fn goes_up(words: &[u64; RULE_WORDS]) -> bool {
    words[9] & (REPORTS | REJECT) != 0
}

/// What the first packet of a flow waits for that the rule of these words accepts.
#[inline(always)]
pub const fn commit_of(words: &[u64; RULE_WORDS]) -> Commit {
    if words[9] & SYNC != 0 { Commit::Sync } else { Commit::Async }
}

/// What the source of flows is translated to that the rule of these words accepts.
#[inline(always)]
pub const fn pool_of(words: &[u64; RULE_WORDS]) -> u16 {
    (words[9] >> POOL_SHIFT) as u16
}

/// What the rule says that a flow has matched first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The number that flows remember.
    pub number: u16,
    /// Where the rule is kept.
    pub index: u32,
    /// What the source is translated to; 0: it is not.
    pub pool: u16,
    /// What becomes of the flow.
    pub outcome: Outcome,
}

/// What becomes of a flow that wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It may, and its first packet waits for this.
    Accept(Commit),
    /// It may not.
    Drop,
    /// It may not, and user space is to hear of it.
    Report,
}

/// Finds the first rule that a flow matches.
#[derive(Clone, Copy, Debug)]
pub struct FirstMatch<'a, S> {
    sets: &'a S,
    key: &'a FlowKey,
    links: Links,
    /// The rule's number, its index and, above them, 1 for accept, 2 for drop, 3 for accept when the peers
    /// know or 4 for drop and tell, and above that its pool; 0 while there is none.
    found: u64,
}

impl<'a, S> FirstMatch<'a, S> {
    /// For a flow that begins with a packet of this key by these links, and rules with these sets.
    #[inline(always)]
    pub const fn new(sets: &'a S, key: &'a FlowKey, links: Links) -> Self {
        Self { sets, key, links, found: 0 }
    }

    /// The rule, if there is one.
    #[inline(always)]
    pub const fn matched(&self) -> Option<Matched> {
        let (number, index) = (self.found as u16, (self.found >> 16) as u16 as u32);
        let pool = (self.found >> 48) as u16;
        let outcome = match (self.found >> 32) as u16 {
            0 => return None,
            1 => Outcome::Accept(Commit::Async),
            2 => Outcome::Drop,
            3 => Outcome::Accept(Commit::Sync),
            _ => Outcome::Report,
        };
        Some(Matched { number, index, pool, outcome })
    }
}

impl<S: Sets> RuleVisitor for FirstMatch<'_, S> {
    #[inline(always)]
    fn visit(&mut self, index: u32, words: &[u64; RULE_WORDS]) -> bool {
        if !matches_words(words, self.sets, self.key, self.links) {
            return true;
        }
        let outcome = match (action_of(words), commit_of(words)) {
            (Action::Accept, Commit::Async) => 1,
            (Action::Accept, Commit::Sync) => 3,
            _ if goes_up(words) => 4,
            _ => 2,
        };
        self.found = (pool_of(words) as u64) << 48
            | outcome << 32
            | (index as u16 as u64) << 16
            | words[10] & 0xffff;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Endpoint;
    use core::net::IpAddr;

    struct NoSets;

    impl Sets for NoSets {
        fn contains(&self, _set: u32, _address: Address) -> bool {
            false
        }
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn key(source: &str, destination: &str, port: u16) -> FlowKey {
        FlowKey {
            initiator: Endpoint { address: address(source), port: 40_000 },
            responder: Endpoint { address: address(destination), port },
            protocol: Protocol::TCP,
        }
    }

    #[test]
    fn each_part_of_a_rule_can_refuse() {
        let rule = Rule {
            protocol: Some(Protocol::TCP),
            source: Prefix::new(address("10.1.0.0"), 16).unwrap(),
            destination: Prefix::new(address("10.2.0.0"), 24).unwrap(),
            destination_ports: Ports { first: 80, last: 443 },
            source_ports: Ports { first: 1024, last: u16::MAX },
            interface: Some(4),
            ..Rule::any(Action::Accept)
        };
        let good = key("10.1.255.1", "10.2.0.9", 443);
        assert!(rule.matches(&NoSets, &good, Links::input(4)));
        assert!(!rule.matches(&NoSets, &good, Links::input(5)));
        assert!(!rule.matches(
            &NoSets,
            &FlowKey { protocol: Protocol::UDP, ..good },
            Links::input(4)
        ));
        assert!(!rule.matches(&NoSets, &key("10.3.0.1", "10.2.0.9", 443), Links::input(4)));
        assert!(!rule.matches(&NoSets, &key("10.1.0.1", "10.2.1.9", 443), Links::input(4)));
        assert!(!rule.matches(&NoSets, &key("10.1.0.1", "10.2.0.9", 444), Links::input(4)));
        assert!(!rule.matches(&NoSets, &key("10.1.0.1", "10.2.0.9", 79), Links::input(4)));
        assert!(!rule.matches(&NoSets, &key("::10.1.0.1", "10.2.0.9", 80), Links::input(4)));
        assert_eq!(action_of(&rule.to_words()), Action::Accept);
        assert_eq!(action_of(&Rule::any(Action::Drop).to_words()), Action::Drop);
    }

    #[test]
    fn a_rule_may_ask_for_the_way_out() {
        let rule = Rule { egress: Some(9), ..Rule::any(Action::Accept) };
        let key = key("10.1.0.1", "10.2.0.9", 80);
        let by = |output| rule.matches(&NoSets, &key, Links { input: 4, output });
        assert_eq!([by(9), by(4), by(0)], [true, false, false]);
    }

    /// Set 1 has all hosts that end in 1, set 2 in 2; each look-up is counted.
    #[derive(Default)]
    struct Endings(core::cell::Cell<u32>);

    impl Sets for Endings {
        fn contains(&self, set: u32, address: Address) -> bool {
            self.0.set(self.0.get() + 1);
            address.low & 0xff == u64::from(set)
        }
    }

    #[test]
    fn a_set_is_asked_when_all_else_matches() {
        let rule = Rule {
            destination_ports: Ports { first: 80, last: 80 },
            source_set: SetId::new(1),
            destination_set: SetId::new(2),
            ..Rule::any(Action::Accept)
        };
        let sets = Endings::default();
        for (source, destination, port, matches, asked) in [
            ("10.0.0.1", "10.0.0.2", 80, true, 2),
            ("10.0.0.2", "10.0.0.2", 80, false, 1),
            ("10.0.0.1", "10.0.0.1", 80, false, 2),
            ("10.0.0.1", "10.0.0.2", 81, false, 0),
        ] {
            let before = sets.0.get();
            let seen = rule.matches(&sets, &key(source, destination, port), Links::input(1));
            assert_eq!((seen, sets.0.get() - before), (matches, asked), "{source} {destination}");
        }
    }

    #[test]
    fn words_give_the_rule_back() {
        let plain = Rule { interface: Some(u32::MAX), ..Rule::any(Action::Accept) };
        let sync =
            Rule { commit: Commit::Sync, protocol: Some(Protocol(255)), source_pool: 3, ..plain };
        let out = Rule { egress: Some(u32::MAX), ..plain };
        let sets =
            Rule { source_set: SetId::new(7), destination_set: SetId::new(u32::MAX), ..plain };
        let reject = Rule { action: Action::Reject, reports: true, mark: u64::MAX - 1, ..plain };
        for rule in [plain, sync, sets, out, reject, Rule { action: Action::Drop, ..plain }] {
            assert_eq!(Rule::from_words(&rule.to_words()), rule);
        }
        let key = key("10.1.0.1", "10.2.0.9", 80);
        let mut first = FirstMatch::new(&NoSets, &key, Links::input(u32::MAX));
        assert!(!first.visit(2047, &Rule { protocol: None, mark: 7 << 16 | 9, ..sync }.to_words()));
        let outcome = Outcome::Accept(Commit::Sync);
        assert_eq!(first.matched(), Some(Matched { number: 9, index: 2047, pool: 3, outcome }));
    }

    #[test]
    fn user_space_hears_of_what_is_rejected_or_reported() {
        let key = key("10.1.0.1", "10.2.0.9", 80);
        for (action, reports, outcome) in [
            (Action::Drop, false, Outcome::Drop),
            (Action::Drop, true, Outcome::Report),
            (Action::Reject, false, Outcome::Report),
            (Action::Accept, true, Outcome::Accept(Commit::Async)),
        ] {
            let mut first = FirstMatch::new(&NoSets, &key, Links::input(1));
            first.visit(3, &Rule { reports, ..Rule::any(action) }.to_words());
            assert_eq!(first.matched().map(|rule| rule.outcome), Some(outcome), "{action:?}");
        }
    }

    #[test]
    fn so_many_go_up_in_a_second_and_no_more() {
        let second = |n: u64| Nanos(n << 30);
        let mut word = 0;
        for n in 0..MAX_REPORTS {
            word = note_report(word, Nanos(second(7).0 + u64::from(n))).expect("room");
        }
        assert_eq!(note_report(word, Nanos(second(8).0 - 1)), None);
        assert!(note_report(word, second(8)).is_some());
    }

    #[test]
    fn any_is_both_families_and_zero_lengths_are_one() {
        let v4 = Prefix::new(address("0.0.0.0"), 0).unwrap();
        let v6 = Prefix::new(address("2001:db8::"), 32).unwrap();
        let contains = |prefix: Prefix, text| prefix.differs(address(text)) == 0;
        assert!(contains(Prefix::ANY, "10.0.0.1"));
        assert!(contains(Prefix::ANY, "2001:db8::1"));
        assert!(contains(v4, "10.0.0.1") && !contains(v4, "2001:db8::1"));
        assert!(contains(v6, "2001:db8::1") && !contains(v6, "10.0.0.1"));
    }

    #[test]
    fn a_prefix_with_host_bits_or_a_wrong_length_is_refused() {
        assert_eq!(Prefix::new(address("10.0.0.1"), 24), None);
        assert_eq!(Prefix::new(address("10.0.0.0"), 33), None);
        assert_eq!(Prefix::new(address("2001:db8::1"), 64), None);
        assert_eq!(Prefix::new(address("2001:db8::"), 129), None);
        assert!(Prefix::new(address("10.0.0.1"), 32).is_some());
    }
}
