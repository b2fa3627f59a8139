//! The engine's part in replacing this process: all that is under way is brought to its end, and what
//! is left is what the next process finds. Before that its memory is lent to the next program, which has its own programs
//! for the kernel verified over it.
//!
//! Invariant: from the moment at which the membership rests until the new program runs, nobody in this
//! process changes a slot or says anything to a peer. If it comes to nothing, the membership goes on
//! only after all that was left is taken back.

use std::sync::mpsc;
use std::time::Duration;

use testudo_cluster::membership::{Frozen, Unsettled};
use testudo_datapath::kernel::nameless::NamelessFileSystem;
use testudo_datapath::realtime;
use testudo_packet::bucket::{BucketId, BucketState};

use super::{Engine, Parts};
use crate::node::handover::{Handover, Successor};
use crate::node::{clock, heartbeat};

/// How long the membership may take to come to rest.
const REST: Duration = Duration::from_millis(500);

/// How much of the lease has to be left: a program that starts takes some time.
const LEAST: Duration = Duration::from_secs(1);

/// Why this process can't be replaced. It goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The heartbeat thread hangs, or its mailbox is full.
    #[error("the heartbeat thread did not come to rest within {REST:?}")]
    Restless,
    /// Something has begun since it was looked after.
    #[error(transparent)]
    Unsettled(#[from] Unsettled),
    /// A bucket is not where the membership takes it to be.
    #[error("bucket {0} is on its way, or loading; expected none to be")]
    Bucket(BucketId),
    /// The pause is nearly over.
    #[error("only {0:?} of the pause are left; expected at least {LEAST:?}")]
    Late(Duration),
    /// The packet handling can't be left.
    #[error(transparent)]
    Datapath(#[from] testudo_datapath::Error),
    /// The operating system refuses.
    #[error("{what}: {source}")]
    Os {
        /// What can't be done.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

impl HandOverError {
    /// Whether it will be over in a moment.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Bucket(_) | Self::Unsettled(Unsettled::Moving))
    }
}

impl Engine {
    /// Replaces this process; comes back only to say why that failed.
    pub(super) fn hand_over(&mut self, successor: &Successor) -> HandOverError {
        // Dropped at the end: the heartbeat thread then goes on.
        let (_hold, held) = mpsc::sync_channel(0);
        let frozen = match self.freeze(held) {
            Ok(frozen) => frozen,
            Err(error) => return error,
        };
        // From here on the cluster waits for this thread, and for what it becomes.
        let _ = realtime::hurry();
        let error = match self.leave(&frozen) {
            Ok(number) => {
                let source = successor.replace(number);
                // It has no other owner than its number; what can't be closed is of no consequence.
                let _ = nix::unistd::close(number);
                HandOverError::Os { what: "the new program can't be executed", source }
            }
            Err(error) => error,
        };
        if let Err(error) = self.parts.datapath.leave_nothing() {
            tracing::error!(%error, "what was left could not be taken back");
        }
        let _ = realtime::hurry_no_more();
        error
    }

    fn freeze(&mut self, held: mpsc::Receiver<()>) -> Result<Frozen, HandOverError> {
        let (answers, answer) = mpsc::sync_channel(1);
        let sent = self.parts.heartbeats.send(heartbeat::Input::Freeze { answers, held });
        sent.map_err(|_| HandOverError::Restless)?;
        Ok(answer.recv_timeout(REST).map_err(|_| HandOverError::Restless)??)
    }

    /// Lends the memory of packet handling in a file system of this number, until it is taken back.
    pub(super) fn lend(&mut self) -> Result<Option<i32>, testudo_datapath::Error> {
        let Parts { datapath, cluster, .. } = &self.parts;
        if cluster.is_witness(cluster.node()) {
            return Ok(None);
        }
        let file_system = NamelessFileSystem::make()?;
        let number = file_system.number();
        datapath.lend_in(&NamelessFileSystem::directory(number))?;
        self.lent = Some(file_system);
        Ok(Some(number))
    }

    /// Brings to an end what the membership has told, and leaves all there is; gives the number of the handover.
    fn leave(&mut self, frozen: &Frozen) -> Result<i32, HandOverError> {
        while self.read_mail() {}
        self.perform_effects();
        self.check_rest(frozen)?;
        let now = clock::now();
        self.drain_events(now);
        self.handle_upcalls(now);
        self.begin_commits(now);
        self.cut_commits_short(None);
        let left = clock::between(now, frozen.lease());
        if left < LEAST {
            return Err(HandOverError::Late(left));
        }
        // A witness has lent nothing, and has nothing to leave.
        let packets = self.lent.as_ref().map(NamelessFileSystem::number);
        let Parts { datapath, stations, .. } = &mut self.parts;
        if let Some(number) = packets {
            datapath.leave_in(&NamelessFileSystem::directory(number))?;
        }
        let handover =
            Handover { packets, stations: stations.peers(), membership: frozen.encode() };
        let what = "no file to hand over in";
        handover.leave().map_err(|source| HandOverError::Os { what, source })
    }

    /// Whether every bucket is where the membership takes it to be, and complete.
    fn check_rest(&self, frozen: &Frozen) -> Result<(), HandOverError> {
        let Parts { replica, datapath, cluster, .. } = &self.parts;
        for (told, bucket) in frozen.slots().iter().zip((0..=u16::MAX).map(BucketId)) {
            let slot = replica.slot(bucket);
            let packets = datapath.bucket(bucket);
            let mine = told.owner == cluster.node();
            let same =
                [slot, packets].iter().all(|s| (s.owner, s.epoch) == (told.owner, told.epoch));
            if !same || mine && packets.state != BucketState::Active || replica.is_leaving(bucket) {
                return Err(HandOverError::Bucket(bucket));
            }
        }
        match replica.moving() {
            (0, 0) => Ok(()),
            _ => Err(Unsettled::Moving.into()),
        }
    }
}
