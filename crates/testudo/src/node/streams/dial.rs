//! When a peer is dialled.
//!
//! Once there is a stream it is dialled again only for a *renewal*: a second stream, by new
//! certificates, which takes the place of the first when the peer has proved on it who it is. Until then
//! the first one works on.

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

/// How far apart renewals are at least, in milliseconds: a peer can ask for them.
const RENEWAL_MILLIS: u64 = 1000;

/// What is done about a second stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// Nothing.
    Unwanted,
    /// It is due then.
    Due(Nanos),
    /// It is dialled.
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
    renewal: Renewal,
    /// Before that no renewal begins.
    rests: Nanos,
}

impl Dial {
    /// A peer that is due at once.
    pub const fn new(peer: NodeId, address: SocketAddr) -> Self {
        Self {
            peer,
            address,
            state: State::Idle(Nanos(0)),
            pause: FIRST_PAUSE,
            renewal: Renewal::Unwanted,
            rests: Nanos(0),
        }
    }

    /// Whether the peer is to be dialled now.
    pub fn is_due(&self, now: Nanos) -> bool {
        match (self.state, self.renewal) {
            (State::Idle(due), _) | (State::Dialled(_), Renewal::Due(due)) => now >= due,
            (State::Dialled(_), _) => false,
        }
    }

    /// Has a second stream set up, which takes the place of the first.
    pub fn renew(&mut self, now: Nanos) {
        if let (State::Dialled(_), Renewal::Unwanted) = (self.state, self.renewal) {
            self.renewal = Renewal::Due(now.max(self.rests));
        }
    }

    /// Whether this is a stream of this peer's, the one in use or the next.
    pub fn has(&self, token: Token) -> bool {
        self.state == State::Dialled(token) || self.renewal == Renewal::Dialled(token)
    }

    /// Whether the peer has not been reached since it was dialled in vain.
    pub fn has_failed(&self) -> bool {
        self.pause > FIRST_PAUSE
    }

    /// There is a stream now, or a second one; says whether it is that.
    pub fn dialled(&mut self, now: Nanos, token: Token) -> bool {
        match self.state {
            State::Idle(_) => self.state = State::Dialled(token),
            State::Dialled(_) => {
                self.renewal = Renewal::Dialled(token);
                self.rests = now.plus_millis(RENEWAL_MILLIS);
            }
        }
        self.renewal == Renewal::Dialled(token)
    }

    /// A stream is gone, which may be the second one.
    pub fn ended(&mut self, now: Nanos, token: Token) {
        match (self.state, self.renewal) {
            (_, Renewal::Dialled(second)) if second == token => {
                self.renewal = Renewal::Due(now.max(self.rests));
            }
            (State::Dialled(first), Renewal::Dialled(second)) if first == token => {
                (self.state, self.renewal) = (State::Dialled(second), Renewal::Unwanted);
            }
            (State::Dialled(first), _) if first == token => self.rest(now),
            _ => {}
        }
    }

    /// The peer could not even be dialled.
    pub fn failed(&mut self, now: Nanos) {
        match self.state {
            State::Idle(_) => self.rest(now),
            // The stream in use stays for as long as it may.
            State::Dialled(_) => self.renewal = Renewal::Due(now.plus_millis(RENEWAL_MILLIS)),
        }
    }

    /// There is no stream. The pause grows from failure to failure.
    fn rest(&mut self, now: Nanos) {
        self.state = State::Idle(now.plus_millis(self.pause.as_millis() as u64));
        self.renewal = Renewal::Unwanted;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The peer was reached by this stream and has proved who it is.
    pub fn succeeded(&mut self, token: Token) {
        self.pause = FIRST_PAUSE;
        if self.renewal == Renewal::Dialled(token) {
            (self.state, self.renewal) = (State::Dialled(token), Renewal::Unwanted);
        }
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
            assert!(!dial.dialled(now, Token(1)));
            assert!(!dial.is_due(now.plus_millis(10_000)));
            dial.ended(now, Token(1));
            assert!(dial.has_failed());
            assert!(!dial.has(Token(1)));
            assert!(!dial.is_due(now.plus_millis(pause - 1)));
            now = now.plus_millis(pause);
            assert!(dial.is_due(now), "{pause}");
        }
        dial.dialled(now, Token(2));
        assert!(dial.has(Token(2)));
        dial.succeeded(Token(2));
        assert!(!dial.has_failed());
        dial.ended(now, Token(2));
        assert!(dial.is_due(now.plus_millis(50)));
    }

    fn dialled() -> Dial {
        let mut dial = Dial::new(NodeId(1), "10.99.0.1:7400".parse().unwrap());
        dial.dialled(Nanos(0), Token(1));
        dial.succeeded(Token(1));
        dial
    }

    #[test]
    fn a_second_stream_takes_the_place_of_the_first_when_it_is_there() {
        let mut dial = dialled();
        let now = Nanos(0).plus_millis(5000);
        dial.renew(now);
        assert!(dial.is_due(now));
        assert!(dial.dialled(now, Token(2)));
        assert!(!dial.is_due(now.plus_millis(10_000)) && dial.has(Token(1)) && dial.has(Token(2)));
        dial.succeeded(Token(2));
        assert!(dial.has(Token(2)) && !dial.has(Token(1)));
        // The first one ends then, and nothing is made of it.
        dial.ended(now, Token(1));
        assert!(!dial.is_due(now.plus_millis(10_000)));
        // The next one has to wait, however often it is asked for.
        dial.renew(now);
        dial.renew(now);
        assert!(!dial.is_due(now.plus_millis(RENEWAL_MILLIS - 1)));
        assert!(dial.is_due(now.plus_millis(RENEWAL_MILLIS)));
    }

    #[test]
    fn a_first_stream_that_ends_early_leaves_its_place_to_the_second() {
        let mut dial = dialled();
        dial.renew(Nanos(0));
        dial.dialled(Nanos(0), Token(2));
        dial.ended(Nanos(0), Token(1));
        assert!(!dial.is_due(Nanos(0).plus_millis(10_000)) && dial.has(Token(2)));
        dial.ended(Nanos(0), Token(2));
        assert!(dial.is_due(Nanos(0).plus_millis(50)));
    }

    #[test]
    fn a_second_stream_that_fails_is_tried_again_and_the_first_one_stays() {
        let mut dial = dialled();
        dial.renew(Nanos(0));
        dial.dialled(Nanos(0), Token(2));
        dial.ended(Nanos(0), Token(2));
        assert!(dial.has(Token(1)) && !dial.is_due(Nanos(0)));
        assert!(dial.is_due(Nanos(0).plus_millis(RENEWAL_MILLIS)));
        dial.failed(Nanos(0));
        assert!(dial.has(Token(1)) && dial.is_due(Nanos(0).plus_millis(RENEWAL_MILLIS)));
    }
}
