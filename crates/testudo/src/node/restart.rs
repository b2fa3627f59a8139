//! `testudo node restart`: all that comes before the process is replaced.
//!
//! A thread of its own waits, so that nobody else does: for the new program to look at the
//! configuration, and for buckets that are on their way. Then the operator is told that it begins. The new program
//! runs beside this process and has its programs for the kernel verified, over memory that this one lends it; that takes
//! seconds. Then the others are asked for a pause, and the engine hands over.
//!
//! Invariant: until the engine has executed the new program, everything can be taken back, and is. While the others wait
//! nothing is done that takes long.

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use testudo_cluster::config::MAX_PAUSE;

use super::engine::HandOverError;
use super::handover::Successor;
use super::mailbox::Sender;
use super::question::Question;
use super::{engine, heartbeat};
use crate::operate::order::{Answers, Refusal};

/// How long the new program may look at the configuration.
const CHECK: Duration = Duration::from_secs(2);
/// How long it may prepare: seconds where nobody else wants the processor.
const PREPARE: Duration = Duration::from_secs(120);
/// How long buckets may be on their way.
const MOVES: Duration = Duration::from_secs(1);
/// How long the others may take to grant a pause.
const GRANT: Duration = Duration::from_secs(1);
/// How long a thread of this process may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// How long the process goes on at least after the operator was answered, so that the answer arrives.
const FAREWELL: Duration = Duration::from_millis(100);

/// Who has this process replaced.
#[derive(Clone, Debug)]
pub struct Restarter {
    successor: Arc<Successor>,
    engine: Sender<engine::Input>,
    heartbeats: Sender<heartbeat::Input>,
    busy: Arc<AtomicBool>,
}

impl Restarter {
    /// One that has not begun.
    pub fn new(
        successor: Successor,
        engine: Sender<engine::Input>,
        heartbeats: Sender<heartbeat::Input>,
    ) -> Self {
        Self { successor: Arc::new(successor), engine, heartbeats, busy: Arc::default() }
    }

    /// Begins; the answer is given when nothing stands against it any more.
    pub fn begin(&self, answers: Answers<()>) {
        if self.busy.swap(true, Ordering::AcqRel) {
            let refusal =
                Refusal::new("this node is handing itself over already", "to wait for it");
            return answers.give(Err(refusal));
        }
        let own = self.clone();
        let spawned = thread::Builder::new().name("restart".into()).spawn(move || {
            own.hand_over(answers);
            own.busy.store(false, Ordering::Release);
        });
        if let Err(error) = spawned {
            // The answer went with the thread: the operator is told that there was none in time.
            tracing::error!(%error, "no thread to restart by");
            self.busy.store(false, Ordering::Release);
        }
    }

    fn hand_over(&self, answers: Answers<()>) {
        if let Err(refusal) = self.look() {
            return answers.give(Err(refusal));
        }
        let program = self.successor.executable().display();
        tracing::info!(%program, "this process hands over to a new one");
        answers.give(Ok(()));
        thread::sleep(FAREWELL);
        let why = match self.prepare() {
            // A move may have begun meanwhile; the pause is asked for all the while.
            Ok(()) => self.replace(),
            Err(refusal) => refusal.to_string(),
        };
        tracing::error!(why, "this process could not hand over, and goes on as before");
        self.stay();
    }

    /// Comes back only to say why this process was not replaced.
    fn replace(&self) -> String {
        let end = Instant::now() + MOVES;
        loop {
            match self.try_hand_over() {
                Some(error) if error.is_passing() && Instant::now() < end => thread::sleep(LOOK),
                Some(error) => return error.to_string(),
                None => return "the engine did not come to it".to_owned(),
            }
        }
    }

    fn try_hand_over(&self) -> Option<HandOverError> {
        let (failed, failure) = mpsc::sync_channel(1);
        let successor = self.successor.clone();
        self.engine.send(engine::Input::HandOver { successor, failed }).ok()?;
        failure.recv_timeout(MAX_PAUSE).ok()
    }

    /// Nothing comes of it: the usual waits hold again.
    fn stay(&self) {
        // If there is no room for it, the pause ends by itself, and what is lent is in nobody's way.
        let _ = self.heartbeats.send(heartbeat::Input::PauseEnded);
        let _ = self.engine.send(engine::Input::TakeBack);
    }

    /// Whether anything stands against it that can be seen at once.
    fn look(&self) -> Result<(), Refusal> {
        self.check()?;
        self.wait_for_moves()?;
        let granted = self.ask_for_a_pause();
        // It is asked for again when it is needed.
        let _ = self.heartbeats.send(heartbeat::Input::PauseEnded);
        granted
    }

    fn prepare(&self) -> Result<(), Refusal> {
        self.verify_ahead()?;
        self.wait_for_moves()?;
        self.ask_for_a_pause()
    }

    /// Has the new program verify its programs for the kernel.
    fn verify_ahead(&self) -> Result<(), Refusal> {
        let expected = "the new program to have its programs verified beside this one";
        let refused = |seen: String| Refusal::new(seen, expected);
        let lent = ask(&self.engine, engine::Input::Lend);
        let lent = lent.ok_or_else(|| refused("the engine does not answer".to_owned()))?;
        let Some(number) = lent.map_err(|error| refused(error.to_string()))? else { return Ok(()) };
        let begun = Instant::now();
        run(self.successor.prepare(number), PREPARE, &self.successor, expected)?;
        let millis = begun.elapsed().as_millis();
        tracing::info!(millis, "the new program is prepared");
        Ok(())
    }

    /// Has the new program look at the configuration.
    fn check(&self) -> Result<(), Refusal> {
        let expected = "a program that takes this node's configuration";
        run(self.successor.check(), CHECK, &self.successor, expected)
    }

    fn wait_for_moves(&self) -> Result<(), Refusal> {
        let end = Instant::now() + MOVES;
        loop {
            match ask(&self.engine, |answers| engine::Input::Ask(Question::Moving(answers))) {
                Some(0) => return Ok(()),
                None => {
                    return Err(Refusal::new("the engine does not answer", "to be asked again"));
                }
                Some(count) if Instant::now() >= end => {
                    let seen = format!("{count} buckets are on their way, or loading");
                    return Err(Refusal::new(seen, "all to have arrived"));
                }
                Some(_) => thread::sleep(LOOK),
            }
        }
    }

    fn ask_for_a_pause(&self) -> Result<(), Refusal> {
        let sent = self.heartbeats.send(heartbeat::Input::Pause(MAX_PAUSE));
        sent.map_err(|_| no_pause("the heartbeat thread takes no orders now"))?;
        let end = Instant::now() + GRANT;
        loop {
            match self.pause()? {
                (_, true) => return Ok(()),
                (false, _) => return Err(no_pause("this node holds no lease")),
                _ if Instant::now() >= end => {
                    return Err(no_pause("no majority of the voters has granted a pause"));
                }
                _ => thread::sleep(LOOK),
            }
        }
    }

    /// Whether a pause is asked for, which ends with the lease; and whether it is granted.
    fn pause(&self) -> Result<(bool, bool), Refusal> {
        let state = ask(&self.heartbeats, heartbeat::Input::AskPause);
        state.ok_or_else(|| no_pause("the heartbeat thread does not answer"))
    }
}

/// Asks a thread of this process; nothing if it does not answer.
fn ask<M, T>(mailbox: &Sender<M>, question: impl FnOnce(mpsc::SyncSender<T>) -> M) -> Option<T> {
    let (answers, answer) = mpsc::sync_channel(1);
    mailbox.send(question(answers)).ok()?;
    answer.recv_timeout(ANSWER).ok()
}

fn no_pause(seen: &str) -> Refusal {
    Refusal::new(seen, "a member with a lease, and voters that keep its place for a while")
}

/// Runs the new program beside this one, to its end.
fn run(
    mut command: Command,
    patience: Duration,
    successor: &Successor,
    expected: &'static str,
) -> Result<(), Refusal> {
    let program = successor.executable().display();
    let child = command.spawn();
    let child = child.map_err(|error| Refusal::new(format!("{program}: {error}"), expected))?;
    match finish(child, patience) {
        Ok(None) => Ok(()),
        Ok(Some(said)) => {
            Err(Refusal::new(format!("{program} refuses: {}", said.trim()), expected))
        }
        Err(why) => Err(Refusal::new(format!("{program}: {why}"), expected)),
    }
}

/// Waits for a program; gives what it complained of, if it did.
fn finish(mut child: Child, patience: Duration) -> Result<Option<String>, String> {
    let end = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < end => thread::sleep(LOOK),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it was not done within {patience:?}"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then(|| format!("{said} ({})", output.status)))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn finished(script: &str) -> Result<Option<String>, String> {
        let mut command = Command::new("sh");
        finish(command.args(["-c", script]).stderr(Stdio::piped()).spawn().unwrap(), CHECK)
    }

    #[test]
    fn a_program_is_heard_and_not_waited_for_for_ever() {
        assert_eq!(finished("exit 0"), Ok(None));
        let said = finished("echo no such key >&2; exit 2").unwrap().unwrap();
        assert!(said.contains("no such key") && said.contains("exit status: 2"), "{said}");
        let begun = Instant::now();
        assert!(finished("exec sleep 60").unwrap_err().contains("within 2s"));
        assert!(begun.elapsed() < CHECK * 3);
    }
}
