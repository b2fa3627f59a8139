//! Forwarding: Testudo beside nftables with connection tracking, on one machine, in one run.
//!
//! `cargo bench -p testudo-datapath --bench forwarding` sends the same packets by the same generator through the same links to
//! a Linux gateway, to Testudo's datapath, and to a program that does nothing but send each packet on; and counts the
//! processor time of a packet. Generator and sink are in all figures. A run counts only if every packet arrived.
//!
//! Measured are packets of known flows, few and many, translated and not; and first packets, while somebody reads
//! the events of new flows: `conntrack -E`, and a thread that reads Testudo's. Its processor time counts.
//!
//! After `--`: `--quick` measures little, `--rounds N` so often, `--known` no first packets, `--write` puts the result into `docs/`. Without cargo's `--bench`, as under
//! `cargo test --benches`, it is always quick. Needs root and the programs `ip`, `ethtool`, `nft` and `conntrack`, and
//! says so without them.
//!
//! Invariant: nothing of it is left on the machine: namespaces, programs, the kernel's limits.

mod gateway;
#[path = "../../../testudo/benches/replication/interrupt.rs"]
mod interrupt;
mod linux;
#[path = "../../../testudo/benches/replication/measure.rs"]
#[allow(dead_code, reason = "more is measured of daemons")]
mod measure;
#[path = "../../../testudo/src/lab/netns.rs"]
#[allow(dead_code, reason = "the lab does more with its namespaces")]
mod netns;
#[path = "../../../testudo/benches/replication/processors.rs"]
mod processors;
#[path = "../../../testudo/benches/replication/programs.rs"]
mod programs;
mod report;
mod runs;
mod site;
#[path = "../../../testudo/benches/replication/spread.rs"]
mod spread;
mod traffic;

use anyhow::{Context, Result};

use report::Results;
use runs::{Kind, Plan};
use site::Site;
use traffic::Traffic;

/// What is needed besides the kernel; Debian's packages iproute2, ethtool, nftables, conntrack.
const PROGRAMS: [(&str, &str); 4] =
    [("ip", "-V"), ("ethtool", "--version"), ("nft", "--version"), ("conntrack", "--version")];

const FULL: Plan = Plan {
    rounds: 5,
    packets: 2_000_000,
    flows: &[1, 100_000, 1_000_000],
    translated: &[1, 100_000],
    new_flows: 400_000,
    rules: &[1, 100, 1000],
};
const QUICK: Plan = Plan {
    rounds: 1,
    packets: 20_000,
    flows: &[1, 5_000],
    translated: &[1, 2_000],
    new_flows: 5_000,
    rules: &[1, 100],
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1);
    let mut plan = if has("--quick") || !has("--bench") { QUICK } else { FULL };
    if has("--known") {
        plan.rules = &[];
    }
    if let Some(rounds) = value("--rounds") {
        plan.rounds =
            rounds.parse().with_context(|| format!("--rounds {rounds}; expected a number"))?;
    }
    if let Some(missing) = programs::missing(&PROGRAMS) {
        println!("skipped: {missing}");
        return Ok(());
    }
    interrupt::listen()?;
    let mut results = Results::default();
    let measured = measure_all(&plan, &mut results);
    println!("{}", serde_json::to_string(&results)?);
    print!("{}", report::tables(&results));
    // What was measured before an error stands above.
    measured?;
    if has("--write") {
        report::write(&results)?;
    }
    Ok(())
}

fn measure_all(plan: &Plan, results: &mut Results) -> Result<()> {
    let site = Site::build()?;
    let _limits = linux::Limits::raise()?;
    let most = plan.flows.iter().copied().max().unwrap_or(1).max(plan.new_flows);
    let mut traffic = Traffic::new(&site, most)?;
    for round in 0..plan.rounds {
        // In turns, and each time another first.
        for index in 0..Kind::ALL.len() {
            let kind = Kind::ALL[(index + round) % Kind::ALL.len()];
            results.forwarding.extend(runs::forwarding(&site, &mut traffic, plan, kind)?);
            results.opening.extend(runs::opening(&site, &mut traffic, plan, kind)?);
        }
    }
    Ok(())
}
