//! One client of the control socket, without its I/O: bytes in, replies out.
//!
//! Drive it like this: while [`Session::wants_input`], give what was read to
//! [`Session::handle_bytes`], or the end of it to [`Session::handle_end`]; write
//! [`Session::output`] and report it to [`Session::written`]; close when [`Session::is_over`].
//!
//! Invariant: at most one request and one reply are kept. A client that does not read its reply is
//! not read from either, so it costs [`MAX_REQUEST`] and one reply, never more.

use std::time::{Duration, Instant};

use super::protocol::{MAX_REQUEST, Reply, Request};

/// How long a client may keep still: neither ask nor read its reply.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// One client.
#[derive(Debug)]
pub(super) struct Session {
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// No more requests are taken; it ends with its last reply.
    ending: bool,
    deadline: Instant,
}

impl Session {
    /// A client that has just come.
    pub fn new(now: Instant) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self { input, output, written: 0, ending: false, deadline: now + PATIENCE }
    }

    /// A client that is told why it is not served, and no more.
    pub fn turned_away(now: Instant, reason: &str) -> Self {
        let mut session = Self::new(now);
        session.reply(&Reply::error(reason));
        session.ending = true;
        session
    }

    /// Whether more bytes are of use now.
    pub fn wants_input(&self) -> bool {
        !self.ending && self.output.is_empty()
    }

    /// What is to be written next.
    pub fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// Whether the client is to be let go.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline || (self.ending && self.output.is_empty())
    }

    /// Takes note that the client has gone.
    pub fn abandon(&mut self) {
        self.output = Vec::new();
        self.ending = true;
    }

    /// When the client is let go if it keeps still.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes bytes that the client sent.
    pub fn handle_bytes(
        &mut self,
        now: Instant,
        bytes: &[u8],
        answer: &mut dyn FnMut(Request) -> Reply,
    ) {
        self.deadline = now + PATIENCE;
        self.input.extend_from_slice(bytes);
        self.answer_next(answer);
    }

    /// Takes note that the client sends nothing more. What it sent without a newline is a request.
    pub fn handle_end(&mut self, answer: &mut dyn FnMut(Request) -> Reply) {
        if !self.input.is_empty() {
            self.input.push(b'\n');
            self.answer_next(answer);
        }
        self.ending = true;
    }

    /// Takes note that this many bytes of [`Session::output`] are written.
    pub fn written(
        &mut self,
        now: Instant,
        count: usize,
        answer: &mut dyn FnMut(Request) -> Reply,
    ) {
        self.deadline = now + PATIENCE;
        self.written += count;
        if self.written >= self.output.len() {
            // A reply can be large and the next small: its memory is given back.
            self.output = Vec::new();
            self.written = 0;
            self.answer_next(answer);
        }
    }

    /// Answers the first whole line, if there is one and the reply before it is written.
    fn answer_next(&mut self, answer: &mut dyn FnMut(Request) -> Reply) {
        if !self.output.is_empty() {
            return;
        }
        let Some(end) = self.input.iter().position(|&byte| byte == b'\n') else {
            if self.input.len() >= MAX_REQUEST {
                self.overlong();
            }
            return;
        };
        if end >= MAX_REQUEST {
            return self.overlong();
        }
        let line: Vec<u8> = self.input.drain(..=end).collect();
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => answer(request),
            Err(error) => Reply::error(format!(
                "no request: {error}; expected {{\"cmd\":\"status\"}}, \"buckets\" or \"flows\""
            )),
        };
        self.reply(&reply);
    }

    /// Where the next request begins is not known any more, so this was the last.
    fn overlong(&mut self) {
        self.input = Vec::new();
        self.ending = true;
        let reason = format!("a request of {MAX_REQUEST} bytes and more; expected a shorter line");
        self.reply(&Reply::error(reason));
    }

    fn reply(&mut self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).unwrap_or_else(|error| {
            serde_json::json!({ "error": format!("no JSON: {error}; the fault is the node's") })
                .to_string()
                .into_bytes()
        });
        line.push(b'\n');
        self.output = line;
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with what it was asked.
    fn echo(request: Request) -> Reply {
        Reply::error(format!("{request:?}"))
    }

    fn drain(session: &mut Session, now: Instant) -> String {
        let text = String::from_utf8(session.output().to_vec()).unwrap();
        session.written(now, text.len(), &mut echo);
        text
    }

    const STATUS: &[u8] = b"{\"cmd\":\"status\"}\n";

    #[test]
    fn requests_are_answered_one_after_the_other() {
        let now = Instant::now();
        let mut session = Session::new(now);
        session.handle_bytes(now, &STATUS[..5], &mut echo);
        assert_eq!(session.output(), b"");
        assert!(session.wants_input());
        session.handle_bytes(now, &[&STATUS[5..], b"{\"cmd\":\"buckets\"}\n"].concat(), &mut echo);
        assert!(!session.wants_input(), "the first reply is not written yet");
        assert_eq!(drain(&mut session, now), "{\"error\":\"Status\"}\n");
        assert_eq!(drain(&mut session, now), "{\"error\":\"Buckets { bucket: None }\"}\n");
        assert_eq!(session.output(), b"");
        assert!(session.wants_input() && !session.is_over(now));
    }

    #[test]
    fn an_end_without_a_newline_is_a_request_too() {
        let now = Instant::now();
        let mut session = Session::new(now);
        session.handle_bytes(now, &STATUS[..STATUS.len() - 1], &mut echo);
        session.handle_end(&mut echo);
        assert!(!session.is_over(now));
        assert_eq!(drain(&mut session, now), "{\"error\":\"Status\"}\n");
        assert!(session.is_over(now));
    }

    #[test]
    fn nonsense_is_refused_and_the_next_request_answered() {
        let now = Instant::now();
        let mut session = Session::new(now);
        for nonsense in
            ["\n", "{}\n", "{\"cmd\":\"reboot\"}\n", "{\"cmd\":\"status\",\"x\":1}\n", "\u{7f}\n"]
        {
            session.handle_bytes(now, nonsense.as_bytes(), &mut echo);
            let reply = drain(&mut session, now);
            assert!(reply.starts_with("{\"error\":\"no request: "), "{nonsense:?}: {reply}");
        }
        session.handle_bytes(now, STATUS, &mut echo);
        assert_eq!(drain(&mut session, now), "{\"error\":\"Status\"}\n");
    }

    #[test]
    fn an_overlong_request_is_the_last() {
        let now = Instant::now();
        let mut session = Session::new(now);
        session.handle_bytes(now, &vec![b' '; MAX_REQUEST - 1], &mut echo);
        assert_eq!(session.output(), b"");
        session.handle_bytes(now, b" ", &mut echo);
        assert!(drain(&mut session, now).contains("65536 bytes and more; expected a shorter line"));
        assert!(session.is_over(now));
    }

    #[test]
    fn who_keeps_still_is_let_go() {
        let now = Instant::now();
        let mut session = Session::new(now);
        assert!(!session.is_over(now + PATIENCE - Duration::from_millis(1)));
        assert!(session.is_over(now + PATIENCE));
        session.handle_bytes(now + PATIENCE / 2, STATUS, &mut echo);
        assert!(!session.is_over(now + PATIENCE));
        assert!(session.is_over(now + PATIENCE * 2), "it does not read its reply");
    }
}
