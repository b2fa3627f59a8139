//! What becomes of a packet, and why.

use crate::bucket::NodeId;
use crate::stage::Stage;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to its next hop; in `tap` mode to the analyser, unchanged.
    Forward,
    /// To the node that owns its bucket, out of the interface that it came in by; the frame carries
    /// that node's address already and is otherwise what it was.
    Pass(NodeId),
    /// Nowhere.
    Drop(DropReason),
    /// To the node's own network stack, untouched.
    Stack,
    /// Back out of the interface that it came in by; the frame has been turned into the answer.
    Answer,
    /// Up to user space, whole.
    Upcall(UpcallReason),
    /// Not decided here but by another stage; nothing has been changed or counted for it.
    Stage(Stage),
}

/// Why a packet goes up to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UpcallReason {
    /// Its bucket is still loading and its flow is not in the node table yet.
    Loading = 1,
    /// Another writer held the flow's place in the table for too long.
    Contended = 2,
    /// Its bucket is on its way here and another node still handles it.
    Held = 3,
    /// It begins a flow that the peers are to know before.
    Commit = 4,
    /// It begins a flow that is translated, and user space chooses to what; or it is an ICMP error about such a flow.
    Translate = 5,
    /// A rule refuses it, and whoever has sent it is to hear of that, or the log is.
    Refused = 6,
    /// A fragment that has come before the first of its packet, or with which a flow would begin.
    Fragment = 7,
    /// It is of a translated flow, larger than its next hop takes, and not to be cut: its sender is to hear of that.
    TooLarge = 8,
}

impl UpcallReason {
    /// The reason of this number, if there is one.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            1 => Some(Self::Loading),
            2 => Some(Self::Contended),
            3 => Some(Self::Held),
            4 => Some(Self::Commit),
            5 => Some(Self::Translate),
            6 => Some(Self::Refused),
            7 => Some(Self::Fragment),
            8 => Some(Self::TooLarge),
            _ => None,
        }
    }
}

macro_rules! reasons {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// Why a packet was dropped. Each has a counter of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $doc] $variant,)* }

        /// Every reason, in the order of its number.
        pub const DROP_REASONS: &[DropReason] = &[$(DropReason::$variant,)*];

        impl DropReason {
            /// The reason as counters and operators name it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    NotOwner "drop.not-owner" "Another node owns the bucket; in `shared` mode the normal case.",
    NoLease "drop.no-lease" "This node owns the bucket, but its lease has run out.",
    Truncated "drop.truncated" "A header reaches beyond the end of the frame.",
    BadHeader "drop.bad-header" "A header contradicts itself or the frame.",
    BadAddress "drop.bad-address" "An address that no forwarded packet may carry.",
    BadFlags "drop.bad-flags" "TCP flags that no TCP sends.",
    Fragment "drop.fragment" "An ICMP error about a fragment that is not the first.",
    ExtensionHeaders "drop.extension-headers" "More IPv6 extension headers than are followed.",
    Unsupported "drop.unsupported" "A protocol or message that is not forwarded.",
    NotFirst "drop.not-first" "No flow is known, and none can begin with this packet.",
    Rule "drop.rule" "A rule says so.",
    NoRule "drop.no-rule" "No rule lets it in.",
    TableFull "drop.table-full" "No room for another flow near its place in the node table.",
    UpcallFull "drop.upcall-full" "User space does not take packets fast enough.",
    NoRoute "drop.no-route" "The node has no route to the destination.",
    HoldFull "drop.hold-full" "Too many packets wait for a bucket that is on its way here.",
    HoldDiscarded "drop.hold-discarded" "It waited for a bucket that did not come after all.",
    PassedTwice "drop.passed-twice" "Another node passed it here, and the bucket is not here either.",
    NoPeer "drop.no-peer" "Its owner, or this node, has no known address on the interface that it came in by.",
    Internal "drop.internal" "A limit of this build that should not be reachable.",
    CommitFull "drop.commit-full" "Too many packets wait for the peers to know their flows.",
    Unrelated "drop.unrelated" "An ICMP error that is about no packet of a known flow.",
    NoPort "drop.no-port" "The flow is to be translated, and no endpoint is free for it, or its protocol has no ports.",
    Untranslated "drop.untranslated" "It belongs to a translated flow and does not carry the endpoints that it should.",
    FragmentEarly "drop.fragment-early" "A fragment whose first one has not come soon enough.",
    FragmentFull "drop.fragment-full" "Too many fragments wait for their first ones.",
    FragmentLength "drop.fragment-length" "A fragment of no length that one can have where it is.",
    FragmentOverlap "drop.fragment-overlap" "A fragment with bytes that have come before, or of a packet that had one.",
    FragmentRefused "drop.fragment-refused" "A fragment of a packet whose first one was dropped.",
    FragmentTiny "drop.fragment-tiny" "A first fragment without all of its headers, or one that would change them.",
    OutOfWindow "drop.out-of-window" "A TCP segment whose numbers can't be of its connection.",
    BadState "drop.bad-state" "A TCP segment that can't be of its connection as far as that has come.",
    TooLarge "drop.too-large" "Larger than its next hop takes, not to be cut, and too many senders were told so already.",
    HalfOpenLimit "drop.half-open-limit" "Its source has begun as many flows that nobody has answered as it may.",
    SourceLimit "drop.source-limit" "Its source has as many translated flows as it may.",
    UpcallLimit "drop.upcall-limit" "Its source has sent as many packets up as it may while others wait for user space.",
    BadTag "drop.bad-tag" "An SCTP packet with a verification tag that is not its association's.",
    ReversePath "drop.reverse-path" "Its source is not routed back as the interface asks that it came in by.",
}

/// What is counted of packets; each drop reason has its counter behind these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Sent straight to the next hop.
    Forwarded = 0,
    /// Let through, but sent by the node's stack: it finds the neighbour, or tells the sender why not.
    ForwardedByStack = 1,
    /// For the node's own stack.
    Stack = 2,
    /// Turned into an answer.
    Answered = 3,
    /// Passed up to user space.
    Upcall = 4,
    /// Passed to the node that owns its bucket.
    Passed = 5,
    /// Held, and left out when the bucket came: its last owner had handled it.
    Skipped = 6,
}

const PLAIN_COUNTERS: [&str; 7] =
    ["forwarded", "forwarded-by-stack", "stack", "answered", "upcall", "passed", "skipped"];

/// How many counters there are.
pub const COUNTERS: u32 = (PLAIN_COUNTERS.len() + DROP_REASONS.len()) as u32;

impl DropReason {
    /// The number of the reason's counter.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        PLAIN_COUNTERS.len() as u32 + self as u32
    }
}

/// The name of the counter of this number.
pub fn counter_name(counter: u32) -> Option<&'static str> {
    let index = counter as usize;
    let reason = || Some(DROP_REASONS.get(index.checked_sub(PLAIN_COUNTERS.len())?)?.name());
    PLAIN_COUNTERS.get(index).copied().or_else(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_dense() {
        for (index, reason) in DROP_REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            let named_so = DROP_REASONS.iter().filter(|other| other.name() == reason.name());
            assert_eq!(named_so.count(), 1);
        }
    }
}
