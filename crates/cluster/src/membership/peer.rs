//! What a node remembers of one peer.
//!
//! Two memories are kept apart. A [`View`] is what the peer last said, and fades. A [`Place`] is what
//! this node has promised about the peer's place in the cluster, and only moves forward: open, bound
//! to one life, fenced.

use crate::heartbeat::{Heartbeat, HeartbeatError, Incarnation, Role};
use crate::time::after;
use std::time::Duration;
use testudo_packet::bucket::{Nanos, NodeId};

/// What this node has promised about a peer's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// No life of the peer has been heard.
    #[default]
    Open,
    /// This life may own.
    Bound(Incarnation),
    /// No life will ever be supported again.
    Fenced,
}

/// What a peer said, proved to be sent not before `at`.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// When this node, by its own clock, sent what the heartbeat echoes.
    pub(super) at: Nanos,
    /// The heartbeat.
    pub(super) said: Heartbeat,
}

/// A heartbeat of this node that a peer supports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Support {
    /// When this node sent it.
    pub(super) sent: Nanos,
    /// The life of the peer that supports it.
    pub(super) by: Incarnation,
    /// Whether that life has been there since the cluster was formed.
    pub(super) founder: bool,
}

/// The newest heartbeat of a peer, whether or not it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    pub(super) incarnation: Incarnation,
    pub(super) sequence: u64,
    pub(super) sent: Nanos,
    /// Whether it was shown to be recent, so that it could be supported.
    pub(super) counted: bool,
}

/// One peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) latest: Option<Latest>,
    pub(super) view: Option<View>,
    pub(super) place: Place,
    /// When the life that the place is bound to was last heard.
    pub(super) heard: Nanos,
    pub(super) suspected: bool,
    pub(super) support: Option<Support>,
    /// How many heartbeats were sent to it.
    pub(super) sequence: u64,
    /// Since when another life speaks while the known one is still heard.
    pub(super) rival_since: Option<Nanos>,
}

impl Peer {
    /// Forgets all but what the next echo needs.
    pub(super) fn forget(&mut self) {
        let latest = self.latest.map(|latest| Latest { counted: false, ..latest });
        *self = Self { latest, sequence: self.sequence, ..Self::default() };
    }

    /// What the peer said, if that was not too long ago.
    pub(super) fn fresh(&self, now: Nanos, freshness: Duration) -> Option<&Heartbeat> {
        let view = self.view.as_ref()?;
        (now <= after(view.at, freshness)).then_some(&view.said)
    }

    /// Rejects what is late or from a life that is not the one listened to.
    pub(super) fn admit(
        &mut self,
        now: Nanos,
        freshness: Duration,
        said: &Heartbeat,
    ) -> Result<(), HeartbeatError> {
        let Some(latest) = self.latest else { return Ok(()) };
        let (from, known) = (said.from, latest.incarnation);
        if said.incarnation == known {
            if said.sequence > latest.sequence {
                return Ok(());
            }
            return Err(HeartbeatError::Late { from, seen: said.sequence, known: latest.sequence });
        }
        // A life that is still heard is not given up for one that merely claims to follow it.
        if self.fresh(now, freshness).is_some_and(|view| view.incarnation == known) {
            self.rival_since.get_or_insert(now);
            return Err(HeartbeatError::OtherLife { from, seen: said.incarnation, known });
        }
        self.rival_since = None;
        Ok(())
    }

    /// Whether two lives of this peer have spoken side by side for so long that they must be two
    /// processes.
    pub(super) fn is_doubled(&self, now: Nanos, freshness: Duration) -> bool {
        self.rival_since.is_some_and(|since| now > after(since, freshness * 2))
    }

    /// Takes note of the place after the peer has been heard; says whether it was fenced by it.
    pub(super) fn bind(&mut self, now: Nanos, said: &Heartbeat) -> bool {
        match self.place {
            Place::Open if said.role == Role::Standby => {
                self.place = Place::Fenced;
                return true;
            }
            Place::Open => self.place = Place::Bound(said.incarnation),
            // The life itself says that it will never own.
            Place::Bound(bound) if bound == said.incarnation && said.role == Role::Standby => {
                self.place = Place::Fenced;
                return true;
            }
            Place::Bound(bound) if bound == said.incarnation => {}
            // The bound life may still be running on its lease: only silence ends it.
            Place::Bound(_) | Place::Fenced => return false,
        }
        self.heard = now;
        self.suspected = false;
        false
    }
}

/// What operators see of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// How it is.
    pub state: PeerState,
    /// Its role by its own word.
    pub role: Option<Role>,
    /// How long ago it sent what was last heard of it, at most; `None` if never heard.
    pub heard: Option<Duration>,
}

/// How a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Heard not long ago.
    Alive,
    /// Not heard, or not any more.
    Silent,
    /// Its place is fenced, and it is not heard.
    Fenced,
}

impl PeerState {
    /// The state as operators read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Silent => "silent",
            Self::Fenced => "fenced",
        }
    }
}
