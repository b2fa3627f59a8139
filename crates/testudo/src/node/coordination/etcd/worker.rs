//! The thread that talks to etcd: requests in, answers out, a lease to keep.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use testudo_coordinator::StateMachine;
use ureq::tls::TlsConfig;

use super::client::Client;
use super::keys::Keys;
use super::leadership::Leadership;
use super::log::{Log, LogError};
use super::{Answer, Flags, MAX_ANSWERS, MAX_REQUESTS, Request, Settings};

/// How soon answers that found no room are tried again.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a command is tried.
const TENACITY: Duration = Duration::from_secs(5);

pub struct Worker<M> {
    client: Client,
    log: Log<M>,
    leadership: Leadership,
    outbox: SyncSender<Answer<M>>,
    /// What is not yet written, and since when; at most [`MAX_REQUESTS`].
    commands: VecDeque<(Vec<u8>, Instant)>,
    changed: bool,
    told_leads: bool,
    troubles: VecDeque<String>,
    /// The last trouble, so that the same one is told once.
    last_trouble: Option<String>,
}

impl<M: StateMachine> Worker<M> {
    pub fn new(
        settings: Settings,
        tls: Option<TlsConfig>,
        machine: M,
        outbox: SyncSender<Answer<M>>,
    ) -> Self {
        let keys = Keys::new(&settings.prefix, &settings.cluster);
        Self {
            client: Client::new(settings.endpoints, tls),
            leadership: Leadership::new(&keys, settings.node, settings.lease),
            log: Log::new(keys, machine, settings.snapshot_after),
            outbox,
            commands: VecDeque::new(),
            changed: false,
            told_leads: false,
            troubles: VecDeque::new(),
            last_trouble: None,
        }
    }

    /// Works until it is stopped or the node is gone.
    pub fn run(mut self, inbox: &Receiver<Request>, flags: &Flags) {
        let mut due = Instant::now();
        while !flags.stop.load(Ordering::Relaxed) {
            if Instant::now() >= due {
                due = Instant::now() + self.leadership.interval();
                self.renew();
            }
            let is_told = self.tell();
            let wait = due.saturating_duration_since(Instant::now());
            let wait = if is_told { wait } else { wait.min(PATIENCE) };
            match inbox.recv_timeout(wait) {
                Err(RecvTimeoutError::Disconnected) => break,
                Ok(request) => {
                    // Before looking: what comes later is worth another look.
                    if matches!(request, Request::Look) {
                        flags.hinted.store(false, Ordering::Release);
                    }
                    self.serve(request);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let result = self.leadership.step_down(&mut self.client, Instant::now());
        self.note(result.map_err(LogError::from));
        self.tell();
    }

    fn renew(&mut self) {
        let result = self.leadership.renew(&mut self.client, Instant::now());
        // While etcd is silent, time is too short to ask it for anything else.
        if self.note(result.map_err(LogError::from)) {
            self.look();
            self.write();
        }
        self.expire();
    }

    /// Gives up on commands that have waited too long.
    fn expire(&mut self) {
        while self.commands.front().is_some_and(|(_, since)| since.elapsed() >= TENACITY) {
            self.commands.pop_front();
            self.log.give_up();
            self.trouble("a command may not have been agreed on: etcd did not take it".to_owned());
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Propose(command) => {
                if self.commands.len() < MAX_REQUESTS {
                    self.commands.push_back((command, Instant::now()));
                    self.write();
                } else {
                    self.trouble("a command was dropped: too many wait for etcd".to_owned());
                }
            }
            Request::StepDown => {
                let result = self.leadership.step_down(&mut self.client, Instant::now());
                self.note(result.map_err(LogError::from));
            }
            Request::Look => {
                self.look();
                let result = self.leadership.stand(&mut self.client);
                self.note(result.map_err(LogError::from));
            }
        }
    }

    /// Writes commands in their order. One that etcd does not take now is tried again later.
    fn write(&mut self) {
        while let Some((command, since)) = self.commands.front() {
            match self.log.append(&mut self.client, command) {
                Ok(()) => {}
                Err(LogError::Call(_)) if since.elapsed() < TENACITY => return,
                Err(error) => {
                    self.log.give_up();
                    self.trouble(format!("a command may not have been agreed on: {error}"));
                }
            }
            self.commands.pop_front();
        }
    }

    fn look(&mut self) {
        let result = self.log.catch_up(&mut self.client);
        if self.note(result) && self.leadership.leads(Instant::now()) {
            let result = self.log.cut(&mut self.client);
            self.note(result);
        }
    }

    /// Tells trouble when it is new; says whether there was none.
    fn note(&mut self, result: Result<(), LogError>) -> bool {
        match result {
            Ok(()) => self.last_trouble = None,
            Err(error) => {
                let error = error.to_string();
                if self.last_trouble.as_ref() != Some(&error) {
                    self.last_trouble = Some(error.clone());
                    self.trouble(error);
                }
                return false;
            }
        }
        true
    }

    fn trouble(&mut self, trouble: String) {
        if self.troubles.len() < MAX_ANSWERS {
            self.troubles.push_back(trouble);
        }
    }

    /// Hands out answers as long as there is room; says whether there was.
    fn tell(&mut self) -> bool {
        self.changed |= self.log.take_changed();
        if self.changed {
            if self.outbox.try_send(Answer::Changed(self.log.machine().clone())).is_err() {
                return false;
            }
            self.changed = false;
        }
        let leads = self.leadership.leads(Instant::now());
        if leads != self.told_leads {
            if self.outbox.try_send(Answer::Leads(leads)).is_err() {
                return false;
            }
            self.told_leads = leads;
        }
        while let Some(trouble) = self.troubles.front() {
            if self.outbox.try_send(Answer::Trouble(trouble.clone())).is_err() {
                return false;
            }
            self.troubles.pop_front();
        }
        true
    }
}
