//! Who leads: the node whose lease holds the leader's key.
//!
//! Invariant: this node believes that it leads only until shortly before its lease can end, counted
//! from the moment before it last asked etcd to prolong it.

use std::time::{Duration, Instant};

use testudo_packet::bucket::NodeId;

use super::CALL;
use super::client::{CallError, Client, get, is_there, put};
use super::keys::Keys;

pub struct Leadership {
    key: String,
    node: NodeId,
    length: Duration,
    lease: Option<Lease>,
    /// Not before then does it stand for election.
    abstains_until: Option<Instant>,
}

struct Lease {
    number: String,
    /// When it was last certainly in force.
    asked: Instant,
    holds_key: bool,
}

impl Leadership {
    pub fn new(keys: &Keys, node: NodeId, length: Duration) -> Self {
        Self { key: keys.leader(), node, length, lease: None, abstains_until: None }
    }

    /// How often [`Self::renew`] is due.
    pub fn interval(&self) -> Duration {
        self.length / 5
    }

    /// Whether this node leads at the moment.
    pub fn leads(&self, now: Instant) -> bool {
        let certain = self.length - 2 * CALL;
        self.lease.as_ref().is_some_and(|lease| {
            lease.holds_key && now.saturating_duration_since(lease.asked) < certain
        })
    }

    /// Keeps the lease, and stands for election if the place is free.
    pub fn renew(&mut self, client: &mut Client, now: Instant) -> Result<(), CallError> {
        if self.abstains_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        if let Some(lease) = &mut self.lease {
            if client.keep_alive(&lease.number)? {
                lease.asked = now;
            } else {
                self.lease = None;
            }
        }
        if self.lease.is_none() {
            let number = client.grant(self.length)?;
            self.lease = Some(Lease { number, asked: now, holds_key: false });
        }
        self.stand(client)
    }

    /// Takes the place if it is free, and finds out whose it is if it isn't: it may be this node's
    /// by a call that was not answered, or no longer this node's because someone removed the key.
    pub fn stand(&mut self, client: &mut Client) -> Result<(), CallError> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let name = self.node.0.to_string();
        let write = [put(&self.key, name.as_bytes(), Some(&lease.number))];
        let is_free = [is_there(&self.key, false)];
        let outcome = client.transact(&is_free, &write, &[get(&self.key)])?;
        let holder = outcome.reads.first().and_then(|pairs| pairs.first());
        lease.holds_key = outcome.succeeded || holder.is_some_and(|p| p.lease == lease.number);
        Ok(())
    }

    /// Gives the place back at once, and doesn't want it for a while.
    pub fn step_down(&mut self, client: &mut Client, now: Instant) -> Result<(), CallError> {
        self.abstains_until = Some(now + 2 * self.length);
        match self.lease.take() {
            Some(lease) => client.revoke(&lease.number),
            None => Ok(()),
        }
    }
}
