//! What a node remembers of one peer.
//!
//! Two memories are kept apart. A [`View`] is what the peer last said, and fades. A [`Place`] is what
//! this node has promised about the life that the peer's place was given to by agreement, and only
//! moves forward until the place is given to another life.

use crate::config::MAX_PAUSE;
use crate::heartbeat::{Heartbeat, HeartbeatError, Incarnation, Role};
use crate::map::{Admission, Version};
use crate::time::after;
use std::time::Duration;
use testudo_packet::bucket::{Nanos, NodeId};

/// What this node has promised about the admitted life of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody was ever admitted.
    #[default]
    Vacant,
    /// This life may own, since then by this node's clock.
    Kept(Admission, Nanos),
    /// This life will never be supported again.
    Fenced(Admission),
}

impl Place {
    pub(super) fn life(&self) -> Option<Incarnation> {
        match self {
            Self::Vacant => None,
            Self::Kept(admission, _) | Self::Fenced(admission) => Some(admission.life),
        }
    }
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
    /// Until when the support lasts, whatever the peer hears of this node later.
    pub(super) firm: Nanos,
    /// Until when it lasts because this node has announced a pause. Of no worth any more when it ends
    /// the pause.
    pub(super) asked: Nanos,
    /// The life of the peer that supports it.
    pub(super) by: Incarnation,
    /// Since when that life has been a member by agreement.
    pub(super) standing: Option<Version>,
}

impl Support {
    /// Until when the support lasts.
    pub(super) fn end(&self) -> Nanos {
        self.firm.max(self.asked)
    }
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

/// How far a life of a peer has come with the bucket map. It never goes back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) life: Incarnation,
    pub(super) version: Version,
    pub(super) settled: Version,
}

/// One peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) latest: Option<Latest>,
    pub(super) view: Option<View>,
    pub(super) place: Place,
    /// When the life that the place belongs to was last heard.
    pub(super) heard: Nanos,
    /// How long it may be silent after that, by its own word.
    pub(super) pause: Duration,
    /// This node has promised not to suspect it before.
    pub(super) promised: Nanos,
    pub(super) suspected: bool,
    pub(super) support: Option<Support>,
    pub(super) progress: Option<Progress>,
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

    /// Takes note of what the peer says: how far it has come, and that its life is there.
    pub(super) fn listen(&mut self, now: Nanos, said: &Heartbeat) {
        let Heartbeat { incarnation: life, version, settled, .. } = *said;
        let known = self.progress.filter(|known| known.life == life);
        let (old, before) = known.map_or_else(Default::default, |p| (p.version, p.settled));
        self.progress =
            Some(Progress { life, version: version.max(old), settled: settled.max(before) });
        if self.place.life() == Some(life) {
            self.heard = now;
            self.pause = said.pause.min(MAX_PAUSE);
        }
    }

    /// How far the life that the place belongs to has come.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.progress.filter(|progress| self.place.life() == Some(progress.life))
    }

    /// The place belongs to this life, as an earlier process has known; what was heard of it is over.
    pub(super) fn take_back(&mut self, now: Nanos, admission: Admission, fenced: bool) {
        self.place = match fenced {
            true => Place::Fenced(admission),
            false => Place::Kept(admission, now),
        };
    }

    /// The place belongs to this life from now on.
    pub(super) fn give(&mut self, now: Nanos, admission: Admission) {
        if self.place.life() == Some(admission.life) {
            return;
        }
        self.place = Place::Kept(admission, now);
        self.suspected = false;
        self.support = None;
        self.promised = Nanos(0);
        // It may have been heard before it was admitted.
        let view = self.view.filter(|view| view.said.incarnation == admission.life);
        self.heard = view.map_or(Nanos(0), |view| view.at);
        self.pause = view.map_or(Duration::ZERO, |view| view.said.pause.min(MAX_PAUSE));
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

/// What the planner has to know of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The node.
    pub node: NodeId,
    /// The life that speaks now, if one does.
    pub life: Option<Incarnation>,
    /// Whether that life may grant and fence.
    pub ready: bool,
    /// Whether it holds a lease.
    pub lease: bool,
    /// Whether it is fit to own buckets.
    pub fit: bool,
    /// Whether its common table is complete.
    pub synced: bool,
    /// Whether the life that its place belongs to can't own anything any more, by the word of a
    /// majority of the voters; also if it never had one.
    pub gone: bool,
    /// By which version of the map the life that its place belongs to goes.
    pub version: Version,
    /// Which version it has settled.
    pub settled: Version,
}
