//! Pauses by agreement: asking for one, granting one, coming back from one. Why none of it lets two
//! nodes own a bucket stands in [`super`].
//!
//! Invariant: before a heartbeat asks for less than the one before, the lease and all support that
//! rests on the asking have been cut to the usual length.
//!
//! Limits: a pause that is asked for and neither begun nor withdrawn ends by itself after twice its
//! length.

use super::lease::Terms;
use super::peer::{Peer, Place, Support};
use super::{Membership, Role};
use crate::config::MAX_PAUSE;
use crate::heartbeat::Heartbeat;
use crate::time::{after, since};
use std::time::Duration;
use testudo_packet::bucket::{Nanos, NodeId};

/// A pause that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pausing {
    /// How long it may be.
    pub(super) ask: Duration,
    /// Since when this process asks. Grants of earlier heartbeats are for other pauses.
    pub(super) since: Nanos,
    /// Whether it was another process that began it: it ends as soon as the peers answer again.
    pub(super) resumed: bool,
}

/// How long a process that comes back may ask for more time, until it is heard.
const RETURN: Duration = Duration::from_secs(1);

impl Membership {
    /// Begins to ask for a pause of so long, at most [`MAX_PAUSE`].
    pub fn handle_pause(&mut self, now: Nanos, ask: Duration) {
        self.advance(now);
        if self.pausing.is_none() {
            let ask = ask.min(MAX_PAUSE);
            self.pausing = Some(Pausing { ask, since: self.now, resumed: false });
        }
        self.judge();
        self.hurry();
    }

    /// The pause that was asked for is not needed, or is over.
    pub fn handle_pause_ended(&mut self, now: Nanos) {
        self.advance(now);
        self.end_pause();
        self.judge();
    }

    /// Until when this node may be silent, once the pause that it has asked for is granted for the
    /// most part.
    #[must_use]
    pub fn paused_until(&self, now: Nanos) -> Option<Nanos> {
        let pausing = self.pausing.filter(|pausing| !pausing.resumed)?;
        let deadline = self.lease.deadline();
        let granted = self.role() == Role::Member
            && self.lease.is_held()
            && since(deadline, now) >= pausing.ask * 3 / 4;
        granted.then_some(deadline)
    }

    /// Whether a pause is asked for.
    #[must_use]
    pub fn is_pausing(&self) -> bool {
        self.pausing.is_some()
    }

    /// What heartbeats ask for and offer.
    pub(super) fn announced(&self) -> (Duration, Duration) {
        match self.pausing {
            None => (Duration::ZERO, Duration::ZERO),
            Some(Pausing { ask, resumed: true, .. }) => (ask, Duration::ZERO),
            Some(Pausing { ask, .. }) => (ask, ask),
        }
    }

    /// By whose and what right leases are granted to this node, if it is a member.
    pub(super) fn terms(&self) -> Option<Terms> {
        let me = self.cluster.node();
        let admission = self.map.admission(me).filter(|_| self.role() == Role::Member)?;
        let wait = self.pausing.map_or(Duration::ZERO, |pausing| pausing.ask);
        Some(Terms {
            me,
            voters: self.map.voters(),
            voters_since: self.map.voters_since(),
            standing: admission.since,
            own: self.cluster.timing().lease_within(wait),
        })
    }

    /// What a peer's grant is worth.
    pub(super) fn support(&self, said: &Heartbeat) -> Support {
        let Heartbeat { incarnation: by, standing, echo_sent: sent, patience, offer, .. } = *said;
        let timing = self.cluster.timing();
        let lasts = |wait: Duration| after(sent, timing.lease_within(wait.min(MAX_PAUSE)));
        let mine = self.pausing.is_some_and(|pausing| sent >= pausing.since);
        let asked = if mine { lasts(patience) } else { Nanos(0) };
        Support { sent, firm: lasts(offer), asked, by, standing }
    }

    /// A new life of a peer remembers no offer.
    pub(super) fn mistrust(&mut self, peer: NodeId) {
        let length = self.cluster.timing().lease;
        if let Some(support) = &mut self.peers[usize::from(peer.0)].support {
            support.firm = support.firm.min(after(support.sent, length));
        }
        // It may rest on an offer that a later grant has covered up.
        self.lease.shorten(after(self.now, length));
    }

    /// How long a peer may be silent before this node suspects it.
    pub(super) fn patience_with(&self, node: NodeId) -> Duration {
        let takeover = self.cluster.timing().takeover;
        let peer = &self.peers[usize::from(node.0)];
        if self.has_disowned(node, peer) {
            takeover
        } else if peer.heard == Nanos(0) {
            takeover.max(MAX_PAUSE)
        } else {
            takeover.max(peer.pause)
        }
    }

    /// How old what a peer said may be to go by it in planning.
    pub(super) fn silence_of(&self, peer: &Peer) -> Duration {
        self.cluster.timing().takeover.max(peer.pause)
    }

    /// Whether another life of a node says that the one which its place belongs to has ended.
    fn has_disowned(&self, node: NodeId, peer: &Peer) -> bool {
        let Place::Kept(admission, _) = peer.place else { return false };
        let said = peer.fresh(self.now, self.cluster.timing().freshness());
        said.is_some_and(|said| said.incarnation != admission.life && self.is_fenced_by(said, node))
    }

    /// Whether a pause is over.
    pub(super) fn judge_pause(&mut self) {
        let Some(Pausing { ask, since, resumed }) = self.pausing else { return };
        let lost = !self.lease.is_held();
        let late = self.now >= after(since, if resumed { RETURN } else { ask * 2 });
        if lost || late || resumed && self.is_heard() {
            self.end_pause();
        }
    }

    /// Whether the peers' answers keep the lease in force by themselves.
    fn is_heard(&self) -> bool {
        let Some(terms) = self.terms() else { return false };
        let length = self.cluster.timing().lease;
        let usual = Terms { own: length, ..terms };
        let end = |support: &Support| after(support.sent, length);
        self.lease.granted(self.now, &self.peers, &usual, end) >= after(self.now, length / 2)
    }

    fn end_pause(&mut self) {
        if self.pausing.take().is_none() {
            return;
        }
        for support in self.peers.iter_mut().filter_map(|peer| peer.support.as_mut()) {
            support.asked = Nanos(0);
        }
        self.lease.shorten(after(self.now, self.cluster.timing().lease));
        self.hurry();
    }
}
