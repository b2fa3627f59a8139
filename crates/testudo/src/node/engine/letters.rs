//! Letters of the peers, handed to whom they concern.

use testudo_packet::bucket::NodeId;

use super::Engine;
use crate::node::clock;
use crate::node::coordination::{self, Letter};

impl Engine {
    pub(super) fn take_letter(&mut self, from: NodeId, bytes: &[u8]) {
        let now = clock::now();
        let input = match Letter::decode(bytes) {
            Ok(Letter::Agreement(bytes)) => coordination::Input::Message { from, bytes },
            Ok(Letter::Loads { time, loads }) => coordination::Input::Loads { from, time, loads },
            Ok(Letter::Interfaces(macs)) => {
                self.parts.stations.note(from, macs);
                return self.write_stations();
            }
            Ok(Letter::Renew) => return self.parts.streams.handle_renewal_wanted(now, from),
            Ok(Letter::Verify { number }) => return self.verify_for(from, number),
            Ok(Letter::Verified { number, verification }) => {
                return self.note_verified(from, number, verification);
            }
            Err(error) => {
                if let Some(held_back) = self.refused.admit(now) {
                    let peer = self.parts.cluster.member(from);
                    tracing::warn!(peer, %error, held_back, "a letter was refused");
                }
                return;
            }
        };
        // Letters are repeated if they matter.
        let _ = self.parts.coordination.send(input);
    }

    /// Tells a peer by which addresses this node is reached.
    pub(super) fn introduce(&mut self, peer: NodeId) {
        if let Some(macs) = self.parts.stations.own() {
            self.parts.replica.send_letter(peer, &Letter::Interfaces(macs).encode());
        }
    }

    fn write_stations(&mut self) {
        let stations = self.parts.stations.all();
        if let Err(error) = self.parts.datapath.set_peers(&stations) {
            tracing::error!(%error, "packets can't be passed to the peers as they said");
        }
    }
}
