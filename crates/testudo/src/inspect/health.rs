//! `testudo health`: what a node lives by, and how that is.
//!
//! With `--config` no daemon is asked: this process watches as one would with that file, and prints
//! each change. That is for choosing probes and limits before a node is put into service.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::columns::{Column, render};
use super::{Connection, InspectError};
use crate::config;
use crate::control::protocol::{Health, HealthItem, HealthState};
use crate::node::clock;
use crate::node::health::{Parts, Snapshot, Watcher};

/// How far apart looks at what the watcher has published are.
const LOOK: Duration = Duration::from_millis(20);

/// Show what a node lives by: links, probes, load, peers, coordinator
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Ask no daemon; watch as one with this configuration would, and print each change
    #[arg(short, long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// End after so many seconds, instead of never
    #[arg(long = "for", value_name = "SECONDS", requires = "config")]
    seconds: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<(), InspectError> {
    if let Some(file) = &args.config {
        let config = config::load(file)?;
        let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        return watch(args, config, end);
    }
    let health = args.connection.open()?.health()?;
    args.connection.print(&health, render_health)
}

/// Prints what the watcher finds, and again whenever that changes. What only a daemon knows of, peers
/// and coordinator, stays unknown.
fn watch(args: &Args, config: config::Config, end: Option<Instant>) -> Result<(), InspectError> {
    let name = config.own_member().name.clone();
    let watcher = Watcher::start(Parts {
        interfaces: config.interfaces.into_iter().map(|interface| interface.name).collect(),
        probes: config.probes,
        health: config.health,
        // Only a daemon has read it.
        certificate: false,
        on_change: Box::new(|_| {}),
    })?;
    let handle = watcher.handle();
    let mut shown: Option<Arc<Snapshot>> = None;
    while end.is_none_or(|end| Instant::now() < end) {
        let snapshot = handle.snapshot();
        if shown.as_ref().is_none_or(|shown| !Arc::ptr_eq(shown, &snapshot)) {
            let health = Health::new(name.clone(), &snapshot, clock::now());
            args.connection.print(&health, |health| render_health(health) + "\n")?;
            shown = Some(snapshot);
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Names have blanks and reasons are sentences, so the words that scripts look for come first.
fn render_health(health: &Health) -> String {
    let columns = [
        Column::Left("STATE"),
        Column::Right("FOR-S"),
        Column::Left("ITEM"),
        Column::Left("REASON"),
    ];
    let row = |item: &HealthItem| {
        let state = match item.state {
            HealthState::Good => "good",
            HealthState::Warning => "warning",
            HealthState::Bad => "bad",
            HealthState::Unknown => "unknown",
        };
        let seconds = (item.for_ms / 1000).to_string();
        [state.to_owned(), seconds, item.name.clone(), item.reason.clone()]
    };
    let rows: Vec<_> = health.items.iter().map(row).collect();
    let fit = if health.fit { "fit" } else { "not fit" };
    format!("{} is {fit}\n\n{}", health.node, render(columns, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_names_what_is_bad() {
        let item = |name: &str, state, reason: &str, for_ms| HealthItem {
            name: name.into(),
            state,
            reason: reason.into(),
            for_ms,
        };
        let health = Health {
            node: "n1".into(),
            fit: false,
            items: vec![
                item("link in0", HealthState::Good, "up, with a carrier", 61_999),
                item("link out0", HealthState::Bad, "up, without a carrier", 400),
                item("sync", HealthState::Unknown, "not reported yet", 62_000),
            ],
        };
        let text = "\
n1 is not fit

STATE    FOR-S  ITEM       REASON
good        61  link in0   up, with a carrier
bad          0  link out0  up, without a carrier
unknown     62  sync       not reported yet
";
        assert_eq!(render_health(&health), text);
    }
}
