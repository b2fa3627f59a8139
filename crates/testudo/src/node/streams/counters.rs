//! How many streams were refused, and why.

use crate::node::credentials::refusal::Reason;

/// They only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams at whose other end a certificate was believed.
    pub handshakes: u64,
    /// Streams that were set up anew because there are new certificates.
    pub renewed: u64,
    /// Streams that were ended because that did not come about in time.
    pub outdated: u64,
    /// New certificates of this node that can't be used.
    pub files_refused: u64,
    /// Streams at whose other end a certificate was believed, and which then had something on them that the
    /// peer can't have sent like that; or the peer has found such a thing.
    pub broken: u64,
    /// Streams on which a peer was not believed inside, or said what the protocol does not know.
    pub sync_refused: u64,
    refused: [u64; Reason::ALL.len()],
}

impl Counters {
    /// Counts a stream that did not come about.
    pub const fn refuse(&mut self, reason: Reason) {
        self.refused[reason as usize] += 1;
    }

    /// Each by its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self { handshakes, renewed, outdated, files_refused, broken, sync_refused, refused } =
            *self;
        let refused = Reason::ALL.into_iter().zip(refused);
        let others = [
            ("tls_handshakes", handshakes),
            ("tls_renewed", renewed),
            ("tls_outdated", outdated),
            ("tls_files_refused", files_refused),
            ("tls_broken", broken),
            ("sync_refused", sync_refused),
        ];
        others.into_iter().chain(refused.map(|(reason, count)| (reason.counter(), count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        for reason in Reason::ALL {
            let mut counters = Counters::default();
            counters.refuse(reason);
            let counted: Vec<_> = counters.named().filter(|(_, count)| *count > 0).collect();
            assert_eq!(counted, [(reason.counter(), 1)]);
        }
    }
}
