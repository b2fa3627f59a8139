//! Replication of new connections: Testudo beside conntrackd, on one machine, in one run.
//!
//! `cargo bench -p testudo --bench replication` sends the same handshakes, made by the same generator,
//! through the same links to a Linux gateway with conntrackd and to a Testudo node, and looks at what
//! it takes until a second gateway knows them all. A rate counts as kept up with if that holds in every
//! round, and a run counts at all only if the tables of both gateways have each connection once, in
//! the state that it is in, and nothing else.
//!
//! After `--`: `--quick` measures little, `--write` puts the result into `docs/`, `--only NAME` leaves
//! the others out, `--at RATE` opens so many connections a second and looks for nothing else. Without cargo's `--bench`, as under `cargo test --benches`, it is always quick. Needs
//! root and the programs `ip`, `ethtool`, `nft`, `conntrack` and `conntrackd`, and says so without them.
//!
//! Invariant: nothing of it is left on the machine: namespaces, daemons, files, the kernel's limits.

mod cluster;
mod conntrackd;
mod generator;
mod interrupt;
mod lag;
mod measure;
#[path = "../../src/lab/netns.rs"]
#[allow(dead_code, reason = "the lab does more with its namespaces")]
mod netns;
mod processors;
mod programs;
mod report;
mod rig;
mod site;
mod spread;
mod table;

use anyhow::{Context, Result};
use serde::Serialize;

use conntrackd::Mode;
use rig::{KINDS, Kind, Run};
use site::Site;

/// What is needed besides the kernel; Debian's packages iproute2, ethtool, nftables, conntrack, conntrackd.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "-V"),
    ("ethtool", "--version"),
    ("nft", "--version"),
    ("conntrack", "--version"),
    ("conntrackd", "-v"),
];

/// How much is measured.
struct Extent {
    rounds: usize,
    /// The rate at which all are compared, in connections a second.
    common: u32,
    /// The rates at which the highest is looked for.
    rates: &'static [u32],
    /// How long connections are opened at a rate, in seconds, and how many at most.
    seconds: u32,
    most: u32,
    /// How many entries become effective on a survivor.
    entries: &'static [u32],
    /// Flows in the common table whose memory is counted.
    flows: u32,
}

const FULL: Extent = Extent {
    rounds: 3,
    common: 40_000,
    rates: &[40_000, 80_000, 120_000, 160_000, 200_000, 250_000, 300_000],
    seconds: 4,
    most: 1_000_000,
    entries: &[10_000, 100_000, 1_000_000],
    flows: 1_000_000,
};
const QUICK: Extent = Extent {
    rounds: 1,
    common: 10_000,
    rates: &[20_000],
    seconds: 1,
    most: 20_000,
    entries: &[2_000],
    flows: 20_000,
};

/// Whose survivors are asked; conntrackd commits in all its modes alike.
const COMMITS: [Kind; 2] = [Kind::Conntrackd(Mode::Ftfw), Kind::Testudo];
/// Entries are put into the tables at this rate before a gateway dies.
const FILL: u32 = 50_000;

/// One gateway's death.
#[derive(Clone, Debug, Serialize)]
pub struct FailOver {
    /// Whose survivor.
    pub name: &'static str,
    /// How many entries.
    pub entries: u32,
    /// From the decision until packets are handled, in milliseconds.
    pub flipped_ms: Option<f64>,
    /// From the decision until all entries are in the table that packets are handled with.
    pub all_ms: f64,
    /// The survivor's processor time, in microseconds an entry.
    pub cost: f64,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// The rate of `common`.
    pub rate: u32,
    /// Runs at one rate for all.
    pub common: Vec<Run>,
    /// Runs at rising rates.
    pub rising: Vec<Run>,
    /// Runs at shares of what was kept up with.
    pub lags: Vec<lag::Lag>,
    /// Deaths.
    pub fail_overs: Vec<FailOver>,
    /// What sending the frames alone costs, in microseconds a connection.
    pub generator: Vec<f64>,
    /// The common table by itself.
    pub table: Vec<table::Figures>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1);
    let mut extent = if has("--quick") || !has("--bench") { QUICK } else { FULL };
    if let Some(rate) = value("--at") {
        let common = rate.parse().with_context(|| format!("--at {rate}; expected a number"))?;
        extent = Extent { common, rates: &[], entries: &[], ..extent };
    }
    if let Some(missing) = programs::missing(&PROGRAMS) {
        println!("skipped: {missing}");
        return Ok(());
    }
    interrupt::listen()?;
    let only = value("--only");
    let chosen = |kind: &Kind| only.is_none_or(|only| kind.name().contains(only.as_str()));
    let kinds: Vec<Kind> = KINDS.into_iter().filter(chosen).collect();
    let mut results = Results { rate: extent.common, ..Results::default() };
    let measured = measure_all(&kinds, &extent, &mut results);
    println!("{}", serde_json::to_string(&results)?);
    print!("{}", report::tables(&results));
    // What was measured before an error stands above.
    measured?;
    if has("--write") {
        report::write(&results)?;
    }
    Ok(())
}

fn measure_all(kinds: &[Kind], extent: &Extent, results: &mut Results) -> Result<()> {
    let _limits = conntrackd::Limits::raise()?;
    let site = Site::build()?;
    for round in 0..extent.rounds {
        results.table.push(table::measure(extent.flows));
        let count = extent.common.saturating_mul(extent.seconds).min(extent.most);
        results.generator.push(generator_alone(&site, count, extent.common)?);
        // In turns, and each time another first.
        for index in 0..kinds.len() {
            let kind = kinds[(index + round) % kinds.len()];
            results.common.push(told(rig::run(&site, kind, extent.common, count)?));
        }
    }
    for &kind in kinds {
        rise(&site, kind, extent, &mut results.rising)?;
    }
    lag::measure(&site, kinds, extent, &results.rising, &mut results.lags)?;
    for &entries in extent.entries {
        for _ in 0..extent.rounds {
            for &kind in kinds.iter().filter(|kind| COMMITS.contains(kind)) {
                results.fail_overs.push(fail_over(&site, kind, entries)?);
            }
        }
    }
    Ok(())
}

/// Goes up the rates until one is not kept up with, or can't be reached.
fn rise(site: &Site, kind: Kind, extent: &Extent, runs: &mut Vec<Run>) -> Result<()> {
    for &rate in extent.rates {
        let count = rate.saturating_mul(extent.seconds).min(extent.most);
        let mut reached = false;
        for _ in 0..extent.rounds {
            let run = told(rig::run(site, kind, rate, count)?);
            let kept_up = run.kept_up();
            reached |= run.reached();
            runs.push(run);
            if !kept_up {
                return Ok(());
            }
        }
        if !reached {
            return Ok(());
        }
    }
    Ok(())
}

fn told(run: Run) -> Run {
    match (&run.figures, run.cost()) {
        (Some(figures), Some(cost)) => eprintln!(
            "{}: {} a second of {}, {:.0} ms behind, {cost:.2} µs of the daemons, {:.2} with packets, \
             {:.0} bytes{}{}",
            run.name,
            figures.sent_per_second as u64,
            run.rate,
            figures.behind_ms,
            figures.packets,
            figures.wire_bytes,
            figures.delays_ms.map_or(String::new(), |[half, most]| format!(
                ", changes known within {half:.2} ms (p50), {most:.2} ms (p99)"
            )),
            if run.kept_up() { "" } else { ": not kept up" }
        ),
        _ => eprintln!(
            "{} at {}: does not count: {}",
            run.name,
            run.rate,
            run.complaint.as_deref().unwrap_or("no figures")
        ),
    }
    run
}

/// What sending costs when the gateway drops every frame.
fn generator_alone(site: &Site, count: u32, rate: u32) -> Result<f64> {
    let nobody = [[2, 0, 0, 0, 0, 0xfc]; 2];
    let sent = generator::open(site, nobody, count, rate)?;
    Ok(sent.busy.as_secs_f64() * 1e6 / f64::from(count))
}

fn fail_over(site: &Site, kind: Kind, entries: u32) -> Result<FailOver> {
    let effective = rig::fail_over(site, kind, entries, FILL)?;
    let millis = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let fail_over = FailOver {
        name: kind.name(),
        entries,
        flipped_ms: effective.flipped.map(millis),
        all_ms: millis(effective.all),
        cost: effective.busy.as_secs_f64() * 1e6 / f64::from(entries),
    };
    eprintln!(
        "{}: {entries} entries effective after {:.1} ms, packets handled after {:?} ms",
        fail_over.name, fail_over.all_ms, fail_over.flipped_ms
    );
    Ok(fail_over)
}
