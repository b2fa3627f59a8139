//! The result as tables and as a picture, and where they go.
//!
//! `docs/benchmarks.md` has words around the tables; what stands between the two marks is replaced.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::bulk::Rates;
use crate::chart;
use crate::kernel::Program;
use crate::population::Kind;
use crate::search_time::{Times, Way};
use crate::statistics::Samples;
use crate::{NODES, OWN_ENTRIES};

const BEGIN: &str = "<!-- search: begin -->\n";
const END: &str = "<!-- search: end -->\n";

/// The rows of the table of times.
const ROWS: [(Way, &str); 11] = [
    (Way::Chains, "(a) chains, as the reference"),
    (Way::Kernel(Program::TableChained), "(b) node table, kernel"),
    (Way::Kernel(Program::TableHashed), "(b) with its SipHash"),
    (Way::Kernel(Program::TableFree), "(b) overlapping"),
    (Way::Kernel(Program::MapChained), "`BPF_MAP_TYPE_HASH`"),
    (Way::Kernel(Program::MapFree), "`BPF_MAP_TYPE_HASH` overlapping"),
    (Way::UserLookup, "(c) node table, user space"),
    (Way::UserGet, "(c) `get`: SipHash, whole entry"),
    (Way::Kernel(Program::Chase), "one dependent miss, kernel"),
    (Way::UserChase, "one dependent miss, user space"),
    (Way::Kernel(Program::Empty), "empty loop, kernel (taken off)"),
];

/// All tables, in Markdown.
pub fn tables(times: &[Times], rates: &Rates) -> String {
    let mut text = machine();
    for (kind, name) in [(Kind::Hit, "Hits"), (Kind::Miss, "Misses")] {
        let _ = writeln!(text, "\n{name}, ns a search: median (min–max)\n");
        text.push_str(&table_of_times(times, kind));
    }
    text.push_str(&table_of_ratios(times));
    text.push_str(&table_of_layouts(times));
    text.push_str(&table_of_rates(rates));
    text
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = kernel.trim().split('-').next().unwrap_or_default();
    format!("Machine: {cores} cores (virtual), Linux {version}.\n")
}

fn cell(samples: Option<&Samples>) -> String {
    match samples {
        Some(samples) => {
            let (least, most) = samples.range();
            format!("{} ({}–{})", figure(samples.median()), figure(least), figure(most))
        }
        None => "–".into(),
    }
}

/// Three digits are all that such a measurement has.
fn figure(value: f64) -> String {
    match value {
        _ if value.is_nan() => "–".into(),
        _ if value.abs() < 10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn head(first: &str, times: &[Times]) -> String {
    let mut text = format!("| {first} |");
    for time in times {
        let _ = write!(text, " {} |", count(time.entries));
    }
    let _ = writeln!(text, "\n| --- |{}", " ---: |".repeat(times.len()));
    text
}

/// A number of entries, short.
pub fn count(entries: u32) -> String {
    match entries {
        _ if entries.is_multiple_of(1_000_000) => format!("{}M", entries / 1_000_000),
        _ if entries.is_multiple_of(1000) => format!("{}k", entries / 1000),
        _ => entries.to_string(),
    }
}

fn table_of_times(times: &[Times], kind: Kind) -> String {
    let mut text = head("entries", times);
    for (way, name) in ROWS {
        let measured = times.iter().any(|time| time.of(way, kind).is_some());
        if !measured || kind == Kind::Miss && !way.searches() {
            continue;
        }
        let cells: Vec<_> = times.iter().map(|time| cell(time.of(way, kind))).collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    if kind == Kind::Hit {
        let load = |time: &Times| format!("{:.2}", f64::from(time.entries) / f64::from(time.slots));
        let loads: Vec<_> = times.iter().map(load).collect();
        let _ = writeln!(text, "| node table's load | {} |", loads.join(" | "));
        let refused: Vec<_> = times.iter().map(|time| time.refused.to_string()).collect();
        let _ = writeln!(text, "| entries without room | {} |", refused.join(" | "));
    }
    text
}

fn table_of_ratios(times: &[Times]) -> String {
    const TABLE: Way = Way::Kernel(Program::TableChained);
    const HASHED: Way = Way::Kernel(Program::TableHashed);
    const MAP: Way = Way::Kernel(Program::MapChained);
    const FREE: Way = Way::Kernel(Program::TableFree);
    const MAP_FREE: Way = Way::Kernel(Program::MapFree);
    const CHASE: Way = Way::Kernel(Program::Chase);
    let ratios = [
        ("node table ÷ one dependent miss, hits", TABLE, CHASE, Kind::Hit),
        ("node table ÷ one dependent miss, misses", TABLE, CHASE, Kind::Miss),
        ("hash map ÷ node table, hits", MAP, TABLE, Kind::Hit),
        ("hash map ÷ node table with SipHash, hits", MAP, HASHED, Kind::Hit),
        ("hash map ÷ node table, overlapping, hits", MAP_FREE, FREE, Kind::Hit),
        ("hash map ÷ node table, overlapping, misses", MAP_FREE, FREE, Kind::Miss),
        ("chains ÷ node table, hits", Way::Chains, TABLE, Kind::Hit),
        ("chains ÷ node table, misses", Way::Chains, TABLE, Kind::Miss),
    ];
    let mut text = format!("\nRatios of the medians\n\n{}", head("entries", times));
    for (name, over, under, kind) in ratios {
        let ratio = |time: &Times| figure(time.median(over, kind) / time.median(under, kind));
        let cells: Vec<_> = times.iter().map(ratio).collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text
}

/// The time of a hit when each node has its own entries, and when it has those of all nodes.
fn table_of_layouts(times: &[Times]) -> String {
    let at = |entries| times.iter().find(|time| time.entries == entries);
    let mut text = String::from(
        "\nLayouts, three nodes with so many own entries each: median ns of a hit\n\n\
         | own entries | chains, all in each (1B) | chains, own only (5B) | node table, all in each | \
         node table, own only |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for own in times.iter().filter(|time| at(time.entries * NODES).is_some()) {
        let median =
            |entries, way| figure(at(entries).map_or(f64::NAN, |t| t.median(way, Kind::Hit)));
        let (one, all) = (own.entries, own.entries * NODES);
        if !OWN_ENTRIES.contains(&one) {
            continue;
        }
        let table = Way::Kernel(Program::TableChained);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            count(one),
            median(all, Way::Chains),
            median(one, Way::Chains),
            median(all, table),
            median(one, table)
        );
    }
    text
}

fn table_of_rates(rates: &Rates) -> String {
    let mut text = format!(
        "\nBulk work at {} entries, millions of entries a second: median (min–max)\n\n\
         | work | node table | `BPF_MAP_TYPE_HASH`, batch calls | ratio |\n\
         | --- | ---: | ---: | ---: |\n",
        count(rates.entries)
    );
    for (name, table, map) in [
        ("install all", &rates.install, &rates.map_update),
        ("read all (`scan`)", &rates.scan, &rates.map_lookup),
        ("look for silent ones (`expire`, none is)", &rates.expire, &rates.map_lookup),
        ("take all out", &rates.clear, &rates.map_delete),
    ] {
        let ratio = figure(table.median() / map.median());
        let _ =
            writeln!(text, "| {name} | {} | {} | {ratio} |", cell(Some(table)), cell(Some(map)));
    }
    text
}

/// Puts the tables and the picture into `docs/`.
pub fn write(times: &[Times], rates: &Rates) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = docs.join("benchmarks.md");
    let text = std::fs::read_to_string(&page).context("docs/benchmarks.md")?;
    let (before, rest) = text.split_once(BEGIN).context("docs/benchmarks.md has no begin mark")?;
    let (_, after) = rest.split_once(END).context("docs/benchmarks.md has no end mark")?;
    let tables = tables(times, rates);
    std::fs::write(&page, format!("{before}{BEGIN}\n{tables}\n{END}{after}"))?;
    std::fs::write(docs.join("search-time.svg"), chart::svg(times))?;
    Ok(())
}
