//! Ctrl-C and SIGTERM: noticed, not obeyed on the spot.
//!
//! Invariant: a run that is told to end leaves by the way of an error, so everything that it built is
//! removed by the same code as after any other failure. Waits look here several times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const STEP: Duration = Duration::from_millis(10);

/// The run was told to end.
#[derive(Debug, thiserror::Error)]
#[error("told to end")]
pub struct Interrupted;

/// Whether this process has been told to end.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, note the signals that ask for an end.
    pub fn listen() -> Result<Interrupt> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .with_context(|| format!("listen for signal {signal}"))?;
        }
        Ok(Interrupt(flag))
    }

    /// An error if one has come.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Wait until `done`, at most for `limit`. Says whether it was done.
    pub fn wait(&self, limit: Duration, mut done: impl FnMut() -> bool) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while !done() {
            self.check()?;
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(STEP);
        }
        Ok(true)
    }
}
