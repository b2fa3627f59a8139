//! The life of a flow: TCP from SYN to TIME_WAIT, SCTP in the same phases ([`crate::association`]), and
//! question-and-answer for all else.
//!
//! The functions here are pure: phase and packet in, step out. They follow the packets that a
//! middlebox sees (RFC 9293 §3.3.2 as seen from between the ends), so a phase is what is known of
//! both ends together, not the state of one of them.
//!
//! A packet that the last owner has seen may be unknown to a node that has just taken the flow over.
//! So nothing is refused only because the step before it is missing: an acknowledgement in
//! [`Phase::SynSent`] passes. Sequence numbers are looked at before, in [`crate::window`], which also says what a
//! packet's flags are worth.

use crate::flow::{Direction, Protocol};

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// TCP: the initiator's SYN was seen.
    SynSent = 1,
    /// TCP: the responder's SYN was seen.
    SynReceived = 2,
    /// TCP: the initiator has acknowledged it.
    Established = 3,
    /// TCP: the initiator has closed its side.
    FinOriginal = 4,
    /// TCP: the responder has closed its side.
    FinReply = 5,
    /// TCP: both have closed, the last acknowledgement is awaited.
    LastAck = 6,
    /// TCP: over; late duplicates are awaited.
    TimeWait = 7,
    /// TCP: over by a reset.
    Reset = 8,
    /// Not TCP: only the initiator has spoken.
    Unreplied = 9,
    /// Not TCP: both have spoken.
    Replied = 10,
}

/// Every phase, in the order of its number.
pub const PHASES: [Phase; 10] = [
    Phase::SynSent,
    Phase::SynReceived,
    Phase::Established,
    Phase::FinOriginal,
    Phase::FinReply,
    Phase::LastAck,
    Phase::TimeWait,
    Phase::Reset,
    Phase::Unreplied,
    Phase::Replied,
];

impl Phase {
    /// The phase of this number, if there is one.
    #[inline(always)]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Established,
            4 => Self::FinOriginal,
            5 => Self::FinReply,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Reset,
            9 => Self::Unreplied,
            10 => Self::Replied,
            _ => return None,
        })
    }

    /// Whether the flow is over and only its timeout is awaited.
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::TimeWait | Self::Reset)
    }

    /// Whether nothing is lost that both ends rely on if the flow is dropped: it is half open, has not been answered, or
    /// was ended by a reset.
    #[inline(always)]
    pub const fn is_expendable(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived | Self::Unreplied | Self::Reset)
    }

    /// The phase as operators read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinOriginal => "fin-original",
            Self::FinReply => "fin-reply",
            Self::LastAck => "last-ack",
            Self::TimeWait => "time-wait",
            Self::Reset => "reset",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
        }
    }
}

/// The control bits of a TCP header (RFC 9293 §3.1) that a flow's life depends on; of a packet of SCTP those that do the
/// same ([`crate::wire::sctp::flags`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// SCTP: a path is tried. TCP's push flag, which stands here, says nothing of a flow's life.
    pub const HEARTBEAT: Self = Self(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Self = Self(0x10);

    /// Whether this flag is set.
    #[inline(always)]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Whether the flags stand together in a way that no TCP sends (RFC 9293 §3.10.7): two of SYN,
    /// FIN and RST, or neither of SYN, RST and ACK.
    #[inline(always)]
    pub const fn is_nonsense(self) -> bool {
        let control = self.0 & (Self::SYN.0 | Self::FIN.0 | Self::RST.0);
        control & control.wrapping_sub(1) != 0
            || self.0 & (Self::SYN.0 | Self::RST.0 | Self::ACK.0) == 0
    }
}

/// What a packet does to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the flow stays in its phase.
    Stay,
    /// The flow goes to another phase.
    Go(Phase),
    /// A new flow begins under the key of one that is over.
    Reopen,
}

/// The phase of a flow whose first packet this is; `None` if no flow can begin with it.
#[inline(always)]
pub fn first(protocol: Protocol, flags: TcpFlags) -> Option<Phase> {
    match protocol {
        Protocol::TCP => {}
        Protocol::SCTP if flags.has(TcpFlags::HEARTBEAT) => return Some(Phase::Unreplied),
        Protocol::SCTP => {}
        _ => return Some(Phase::Unreplied),
    }
    let begins = flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::ACK);
    if begins { Some(Phase::SynSent) } else { None }
}

/// The phase of a flow that is first met in its middle: what can be said of both ends by this packet.
#[inline(always)]
pub fn met(protocol: Protocol, flags: TcpFlags) -> Phase {
    if let Some(phase) = first(protocol, flags) {
        phase
    } else if flags.has(TcpFlags::RST) {
        Phase::Reset
    } else if flags.has(TcpFlags::FIN) {
        Phase::FinOriginal
    } else {
        Phase::Established
    }
}

/// What a packet with these flags, travelling this way, does to a flow in this phase.
#[inline(always)]
pub fn step(phase: Phase, direction: Direction, flags: TcpFlags) -> Step {
    match phase {
        Phase::Unreplied if matches!(direction, Direction::Reply) => Step::Go(Phase::Replied),
        Phase::Unreplied | Phase::Replied => Step::Stay,
        _ => tcp_step(phase, direction, flags),
    }
}

#[inline(always)]
fn tcp_step(phase: Phase, direction: Direction, flags: TcpFlags) -> Step {
    let original = matches!(direction, Direction::Original);
    if flags.has(TcpFlags::RST) {
        return if phase.is_closed() { Step::Stay } else { Step::Go(Phase::Reset) };
    }
    let syn = flags.has(TcpFlags::SYN);
    let ack = flags.has(TcpFlags::ACK);
    let fin = flags.has(TcpFlags::FIN);
    match phase {
        Phase::SynSent if !original && syn => Step::Go(Phase::SynReceived),
        // The SYN of the responder went through the owner before us.
        Phase::SynSent if !original && ack => Step::Go(Phase::Established),
        Phase::SynReceived if original && ack && !syn && !fin => Step::Go(Phase::Established),
        Phase::SynReceived | Phase::Established if fin && original => Step::Go(Phase::FinOriginal),
        Phase::SynReceived | Phase::Established if fin => Step::Go(Phase::FinReply),
        Phase::FinOriginal if fin && !original => Step::Go(Phase::LastAck),
        Phase::FinReply if fin && original => Step::Go(Phase::LastAck),
        Phase::LastAck if ack && !fin => Step::Go(Phase::TimeWait),
        Phase::TimeWait | Phase::Reset if syn && !ack && original => Step::Reopen,
        _ => Step::Stay,
    }
}

/// How long a flow is kept without a packet, in seconds, by protocol and phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP before the handshake is complete.
    pub tcp_opening: u32,
    /// TCP between the handshake and the first FIN.
    pub tcp_established: u32,
    /// TCP from the first FIN on.
    pub tcp_closing: u32,
    /// TCP after the last acknowledgement.
    pub tcp_time_wait: u32,
    /// TCP after a reset.
    pub tcp_reset: u32,
    /// SCTP before the cookie has been echoed.
    pub sctp_opening: u32,
    /// SCTP between that and the first SHUTDOWN.
    pub sctp_established: u32,
    /// SCTP from the first SHUTDOWN on, and after an ABORT.
    pub sctp_closing: u32,
    /// ICMP queries.
    pub icmp: u32,
    /// GRE that has not been answered.
    pub gre_unreplied: u32,
    /// GRE that has been answered.
    pub gre_replied: u32,
    /// ESP and AH, of which each direction is a flow of its own.
    pub ipsec: u32,
    /// UDP and all else that has not been answered.
    pub unreplied: u32,
    /// UDP and all else that has been answered.
    pub replied: u32,
}

impl Default for Timeouts {
    /// RFC 5382 REQ-5 for established TCP (at least 2 hours 4 minutes; 5 days as other trackers
    /// do), RFC 4787 REQ-5 for UDP (at least 2 minutes once both have spoken), RFC 5508 REQ-1 for ICMP queries (at least
    /// a minute). An association of SCTP says something each half minute unless it is told not to (RFC 9260 §16,
    /// HB.interval). GRE as other trackers have it. A peer that looks for a dead one by RFC 3706 does so within minutes.
    fn default() -> Self {
        Self {
            tcp_opening: 60,
            tcp_established: 432_000,
            tcp_closing: 120,
            tcp_time_wait: 120,
            tcp_reset: 10,
            sctp_opening: 60,
            sctp_established: 3600,
            sctp_closing: 60,
            icmp: 60,
            gre_unreplied: 30,
            gre_replied: 180,
            ipsec: 300,
            unreplied: 30,
            replied: 120,
        }
    }
}

impl Timeouts {
    /// The timeout of a flow of this protocol in this phase, in seconds.
    #[must_use]
    pub const fn of(&self, protocol: Protocol, phase: Phase) -> u32 {
        match protocol {
            Protocol::SCTP => self.of_sctp(phase),
            Protocol::ICMP | Protocol::ICMPV6 => self.icmp,
            Protocol::GRE if matches!(phase, Phase::Unreplied) => self.gre_unreplied,
            Protocol::GRE => self.gre_replied,
            Protocol::ESP | Protocol::AH => self.ipsec,
            _ => self.of_phase(phase),
        }
    }

    const fn of_sctp(&self, phase: Phase) -> u32 {
        match phase {
            Phase::SynSent | Phase::SynReceived => self.sctp_opening,
            Phase::Established => self.sctp_established,
            Phase::Unreplied | Phase::Replied => self.of_phase(phase),
            _ => self.sctp_closing,
        }
    }

    const fn of_phase(&self, phase: Phase) -> u32 {
        match phase {
            Phase::SynSent | Phase::SynReceived => self.tcp_opening,
            Phase::Established => self.tcp_established,
            Phase::FinOriginal | Phase::FinReply | Phase::LastAck => self.tcp_closing,
            Phase::TimeWait => self.tcp_time_wait,
            Phase::Reset => self.tcp_reset,
            Phase::Unreplied => self.unreplied,
            Phase::Replied => self.replied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Original, Reply};

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const RST: TcpFlags = TcpFlags::RST;
    const SYN_ACK: TcpFlags = TcpFlags(0x12);
    const FIN_ACK: TcpFlags = TcpFlags(0x11);

    fn walk(packets: &[(Direction, TcpFlags)]) -> Phase {
        let mut phase = first(Protocol::TCP, packets[0].1).expect("a first packet");
        for &(direction, flags) in &packets[1..] {
            phase = match step(phase, direction, flags) {
                Step::Stay => phase,
                Step::Go(next) => next,
                Step::Reopen => Phase::SynSent,
            };
        }
        phase
    }

    #[test]
    fn a_connection_opens_talks_and_closes() {
        let mut packets = std::vec![(Original, SYN)];
        assert_eq!(walk(&packets), Phase::SynSent);
        for (packet, phase) in [
            ((Reply, SYN_ACK), Phase::SynReceived),
            ((Original, ACK), Phase::Established),
            ((Original, ACK), Phase::Established),
            ((Original, FIN_ACK), Phase::FinOriginal),
            ((Reply, ACK), Phase::FinOriginal),
            ((Reply, FIN_ACK), Phase::LastAck),
            ((Original, ACK), Phase::TimeWait),
            ((Reply, FIN_ACK), Phase::TimeWait),
            ((Original, SYN), Phase::SynSent),
        ] {
            packets.push(packet);
            assert_eq!(walk(&packets), phase, "after {packets:?}");
        }
    }

    #[test]
    fn the_responder_may_close_first() {
        let open = [(Original, SYN), (Reply, SYN_ACK), (Original, ACK)];
        assert_eq!(walk(&[&open[..], &[(Reply, FIN_ACK)]].concat()), Phase::FinReply);
        let both = [&open[..], &[(Reply, FIN_ACK), (Original, FIN_ACK)]].concat();
        assert_eq!(walk(&both), Phase::LastAck);
    }

    #[test]
    fn a_reset_ends_every_open_phase() {
        for phase in PHASES {
            let open = !phase.is_closed() && phase < Phase::Unreplied;
            let expected = if open { Step::Go(Phase::Reset) } else { step(phase, Original, ACK) };
            assert_eq!(step(phase, Original, RST), expected, "{phase:?}");
        }
    }

    #[test]
    fn a_taken_over_handshake_completes_without_its_middle() {
        assert_eq!(walk(&[(Original, SYN), (Original, ACK)]), Phase::SynSent);
        assert_eq!(walk(&[(Original, SYN), (Original, ACK), (Reply, ACK)]), Phase::Established);
    }

    #[test]
    fn no_connection_begins_in_the_middle() {
        for flags in [ACK, SYN_ACK, FIN_ACK, RST] {
            assert_eq!(first(Protocol::TCP, flags), None);
        }
        assert_eq!(first(Protocol::UDP, TcpFlags(0)), Some(Phase::Unreplied));
    }

    #[test]
    fn a_flow_met_in_its_middle_is_where_its_packet_says() {
        for (flags, phase) in [
            (SYN, Phase::SynSent),
            (SYN_ACK, Phase::Established),
            (ACK, Phase::Established),
            (FIN_ACK, Phase::FinOriginal),
            (RST, Phase::Reset),
        ] {
            assert_eq!(met(Protocol::TCP, flags), phase, "{flags:?}");
        }
        assert_eq!(met(Protocol::UDP, TcpFlags(0)), Phase::Unreplied);
    }

    #[test]
    fn contradictory_flags_are_nonsense() {
        // 0x29 is the "Xmas" scan (FIN, PSH, URG); no TCP sends FIN without ACK.
        for flags in [0x00, 0x01, 0x03, 0x05, 0x06, 0x07, 0x13, 0x29] {
            assert!(TcpFlags(flags).is_nonsense(), "{flags:#04x}");
        }
        for flags in [0x02, 0x04, 0x10, 0x11, 0x12, 0x14, 0x18, 0xc2] {
            assert!(!TcpFlags(flags).is_nonsense(), "{flags:#04x}");
        }
    }

    #[test]
    fn protocols_have_timeouts_of_their_own() {
        let (timeouts, all) = (Timeouts::default(), PHASES);
        for (protocol, expected) in [
            (Protocol::SCTP, [60, 60, 3600, 60, 60, 60, 60, 60, 30, 120]),
            (Protocol::ICMP, [60; 10]),
            (Protocol::ICMPV6, [60; 10]),
            (Protocol::GRE, [180, 180, 180, 180, 180, 180, 180, 180, 30, 180]),
            (Protocol::ESP, [300; 10]),
            (Protocol::UDP, [60, 60, 432_000, 120, 120, 120, 120, 10, 30, 120]),
        ] {
            assert_eq!(all.map(|phase| timeouts.of(protocol, phase)), expected, "{protocol:?}");
        }
    }

    #[test]
    fn every_phase_has_its_number_and_a_timeout() {
        for phase in PHASES {
            assert_eq!(Phase::from_bits(phase as u8), Some(phase));
            assert!(Timeouts::default().of(Protocol::TCP, phase) > 0);
        }
        assert_eq!(Phase::from_bits(0), None);
        assert_eq!(Phase::from_bits(11), None);
    }
}
