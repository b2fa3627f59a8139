//! Watch the nodes through a run.
//!
//! Invariant: a node that is known to be dead, stopped or not asked for is not watched, and says
//! nothing about the run; every other node is asked about ten times a second, and what it answers is
//! kept as maximum and as the last answer.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::narrator::Narrator;
use super::running::{ask, role_name};
use super::state::Node;
use crate::control::protocol::Status;

const PERIOD: Duration = Duration::from_millis(100);
/// The period when every answer costs a node a walk over a large table.
const RARELY: Duration = Duration::from_secs(3);

/// What has been seen so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The last answer of every node, of a node that is not watched any more too.
    pub latest: Vec<Option<Status>>,
    /// Answers.
    pub samples: u64,
    /// Questions to watched nodes that were not answered.
    pub unanswered: u64,
    /// Which nodes did not answer when they were last asked.
    pub silent: Vec<bool>,
    /// The most entries in a node table of buckets that its node did not own.
    pub foreign: u64,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<Node>,
    watched: Vec<AtomicBool>,
    stop: AtomicBool,
    seen: Mutex<Seen>,
    narrator: Narrator,
}

/// The thread that asks.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Begin to watch all `nodes`; tell the narrator when buckets move. With `rarely`, ask a node
    /// every few seconds only.
    pub fn start(nodes: &[Node], narrator: &Narrator, rarely: bool) -> Sampler {
        let period = if rarely { RARELY } else { PERIOD };
        let shared = Arc::new(Shared {
            nodes: nodes.to_vec(),
            watched: nodes.iter().map(|_| AtomicBool::new(true)).collect(),
            stop: AtomicBool::new(false),
            seen: Mutex::new(Seen {
                latest: vec![None; nodes.len()],
                silent: vec![false; nodes.len()],
                ..Seen::default()
            }),
            narrator: narrator.clone(),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    shared.sample();
                    let due = Instant::now() + period;
                    while Instant::now() < due && !shared.stop.load(Ordering::Relaxed) {
                        thread::sleep(PERIOD.min(period));
                    }
                }
            }
        });
        Sampler { shared, thread: Some(thread) }
    }

    /// Watch a node, or don't. An answer that is under way does not count any more.
    pub fn watch(&self, node: usize, watched: bool) {
        let _seen = self.shared.seen();
        self.shared.watched[node].store(watched, Ordering::Relaxed);
    }

    /// Whether a node is watched.
    pub fn watches(&self, node: usize) -> bool {
        self.shared.watched[node].load(Ordering::Relaxed)
    }

    /// Ask the watched nodes now, and give everything seen.
    pub fn now(&self) -> Seen {
        self.shared.sample();
        self.seen()
    }

    /// Everything seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen().clone()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; there is nothing to undo.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            if !self.watched[index].load(Ordering::Relaxed) {
                continue;
            }
            let answer = ask(&node.control);
            let mut seen = self.seen();
            if !self.watched[index].load(Ordering::Relaxed) {
                continue;
            }
            match answer {
                Ok(status) => seen.take(index, status, &node.name, &self.narrator),
                Err(error) => {
                    seen.unanswered += 1;
                    if !mem::replace(&mut seen.silent[index], true) {
                        self.narrator.say(&format!("{} gives no status: {error}", node.name));
                    }
                }
            }
        }
    }
}

impl Seen {
    fn take(&mut self, index: usize, status: Status, name: &str, narrator: &Narrator) {
        self.samples += 1;
        self.silent[index] = false;
        let foreign = status.node_table.foreign;
        if foreign > self.foreign {
            narrator.say(&format!("{name} has {foreign} entries of buckets that it does not own"));
        }
        self.foreign = self.foreign.max(foreign);
        if let Some(before) = &self.latest[index] {
            if before.buckets.owned != status.buckets.owned {
                narrator.say(&format!(
                    "{name} owns {} buckets (was {})",
                    status.buckets.owned, before.buckets.owned
                ));
            }
            if before.role != status.role {
                narrator.say(&format!(
                    "{name} is {} (was {})",
                    role_name(status.role),
                    role_name(before.role)
                ));
            }
        }
        self.latest[index] = Some(status);
    }
}
