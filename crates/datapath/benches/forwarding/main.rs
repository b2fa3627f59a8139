//! Forwarding: Testudo beside nftables with connection tracking, on one machine, in one run.
//!
//! `cargo bench -p testudo-datapath --bench forwarding` sends the same packets by the same generator through the same links to
//! a Linux gateway, to Testudo's datapath, and to a program that does nothing but send each packet on; and counts the
//! processor time of a packet. Generator and sink are in all figures. A run counts only if every packet arrived.
//!
//! Measured are packets of known flows, few and many, translated and not; and first packets, while somebody reads
//! the events of new flows: `conntrack -E`, and a thread that reads Testudo's. Its processor time counts.
//!
//! After `--`: `--quick` measures little, `--rounds N` so often, `--known` no first packets, `--first` no others, `--flows N` so many known
//! flows only, `--write` puts the result into `docs/`. Without cargo's `--bench`, as under `cargo test --benches`, it
//! is always quick. Needs root and the programs `ip`, `ethtool`, `nft` and `conntrack`, and says so without them.
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
use runs::{Kind, Known, Plan};
use site::Site;
use traffic::Traffic;

/// What is needed besides the kernel; Debian's packages iproute2, ethtool, nftables, conntrack.
const PROGRAMS: [(&str, &str); 4] =
    [("ip", "-V"), ("ethtool", "--version"), ("nft", "--version"), ("conntrack", "--version")];

fn full() -> Plan {
    let known = [
        Known::flows(1),
        Known::flows(100_000),
        Known::flows(1_000_000),
        Known { in_order: true, ..Known::flows(100_000) },
        Known { in_order: true, ..Known::flows(1_000_000) },
        Known { rules: 100, ..Known::flows(1) },
        Known { rules: 1000, ..Known::flows(1) },
        Known { rules: 100, ..Known::flows(100_000) },
        Known { rules: 1000, ..Known::flows(100_000) },
        Known { translated: true, ..Known::flows(1) },
        Known { translated: true, ..Known::flows(100_000) },
    ];
    let rules = vec![1, 100, 1000];
    Plan { rounds: 5, packets: 2_000_000, known: known.to_vec(), new_flows: 400_000, rules }
}

fn quick() -> Plan {
    let known = [
        Known::flows(1),
        Known::flows(5_000),
        Known { rules: 100, ..Known::flows(1) },
        Known { translated: true, ..Known::flows(2_000) },
    ];
    let rules = vec![1, 100];
    Plan { rounds: 1, packets: 20_000, known: known.to_vec(), new_flows: 5_000, rules }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1);
    let number = |flag: &str| match value(flag) {
        Some(text) => {
            text.parse().map(Some).with_context(|| format!("{flag} {text}; expected a number"))
        }
        None => Ok(None),
    };
    let mut plan = if has("--quick") || !has("--bench") { quick() } else { full() };
    if has("--known") {
        plan.rules.clear();
    }
    if has("--first") {
        plan.known.clear();
    }
    if let Some(flows) = number("--flows")? {
        plan.rules.clear();
        plan.known.retain(|shape| shape.flows as usize == flows);
    }
    plan.rounds = number("--rounds")?.unwrap_or(plan.rounds);
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
    let most = plan.known.iter().map(|shape| shape.flows).max().unwrap_or(1).max(plan.new_flows);
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
