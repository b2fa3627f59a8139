//! When a peer is dialled.

use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;
use testudo_packet::bucket::{Nanos, NodeId};

/// The pause before a peer is dialled again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no stream; the next is due then.
    Idle(Nanos),
    /// There is a stream, at least a hope of one.
    Dialled(Token),
}

/// A peer that this node dials.
#[derive(Debug)]
pub struct Dial {
    /// The peer.
    pub peer: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    state: State,
    pause: Duration,
}

impl Dial {
    /// A peer that is due at once.
    pub const fn new(peer: NodeId, address: SocketAddr) -> Self {
        Self { peer, address, state: State::Idle(Nanos(0)), pause: FIRST_PAUSE }
    }

    /// Whether the peer is to be dialled now.
    pub fn is_due(&self, now: Nanos) -> bool {
        matches!(self.state, State::Idle(due) if now >= due)
    }

    /// Whether the peer has not been reached since it was dialled in vain.
    pub fn has_failed(&self) -> bool {
        self.pause > FIRST_PAUSE
    }

    /// The stream to the peer.
    pub const fn stream(&self) -> Option<Token> {
        match self.state {
            State::Idle(_) => None,
            State::Dialled(token) => Some(token),
        }
    }

    /// There is a stream now.
    pub const fn dialled(&mut self, token: Token) {
        self.state = State::Dialled(token);
    }

    /// There is none now. The pause grows from failure to failure.
    pub fn failed(&mut self, now: Nanos) {
        self.state = State::Idle(now.plus_millis(self.pause.as_millis() as u64));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The peer was reached and has proved who it is.
    pub const fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_begin_anew_after_a_success() {
        let mut dial = Dial::new(NodeId(1), "10.99.0.1:7400".parse().unwrap());
        assert!(dial.is_due(Nanos(0)));
        let mut now = Nanos(0);
        for pause in [50, 100, 200, 400, 800, 1000, 1000] {
            dial.dialled(Token(1));
            assert!(!dial.is_due(now.plus_millis(10_000)));
            dial.failed(now);
            assert!(dial.has_failed());
            assert_eq!(dial.stream(), None);
            assert!(!dial.is_due(now.plus_millis(pause - 1)));
            now = now.plus_millis(pause);
            assert!(dial.is_due(now), "{pause}");
        }
        dial.dialled(Token(2));
        assert_eq!(dial.stream(), Some(Token(2)));
        dial.succeeded();
        assert!(!dial.has_failed());
        dial.failed(now);
        assert!(dial.is_due(now.plus_millis(50)));
    }
}
