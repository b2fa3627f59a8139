//! SIGINT and SIGTERM: the benchmark ends at the next occasion, and what it has made goes with it.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

static CAUGHT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on the signals only set a mark.
pub fn listen() -> Result<()> {
    let caught = CAUGHT.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, caught.clone())?;
    }
    Ok(())
}

/// An error if one has come.
pub fn check() -> Result<()> {
    match CAUGHT.get() {
        Some(caught) if caught.load(Ordering::Relaxed) => bail!("interrupted"),
        _ => Ok(()),
    }
}
