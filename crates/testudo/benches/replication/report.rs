//! The result as tables, and where they go.
//!
//! All figures are in `docs/replication.json`; `docs/benchmarks.md` has words around the tables that are
//! made of them, and what stands between the two marks is replaced. A page without marks gets them at
//! its end.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::lag::{Lag, SHARES};
use crate::rig::{self, Figures, KINDS, Run};
use crate::spread::{median, spread};
use crate::{FailOver, Results};

const BEGIN: &str = "<!-- replication: begin -->\n";
const END: &str = "<!-- replication: end -->\n";
/// Whom the others are compared with.
const OURS: &str = "Testudo";

/// A row of the table: its name, its number of digits, its figure; whether less is better.
type Row = (&'static str, usize, fn(&Figures) -> f64);

const ROWS: [Row; 10] = [
    ("daemons, µs of processor time", 2, |f| f.daemons.as_flattened().iter().sum()),
    ("— of the first, user", 2, |f| f.daemons[0][0]),
    ("— of the first, system", 2, |f| f.daemons[0][1]),
    ("— of the second, user", 2, |f| f.daemons[1][0]),
    ("— of the second, system", 2, |f| f.daemons[1][1]),
    ("packets with generator, µs", 2, |f| f.packets),
    ("whole machine, µs", 2, |f| f.machine),
    ("bytes on the wire", 0, |f| f.wire_bytes),
    ("memory of the first, bytes", 0, |f| f.memory[0]),
    ("memory of the second, bytes", 0, |f| f.memory[1]),
];

/// All tables, in Markdown.
pub fn tables(results: &Results) -> String {
    let mut text = String::new();
    common(&mut text, results);
    rising(&mut text, &results.rising);
    lags(&mut text, &results.lags);
    fail_overs(&mut text, &results.fail_overs);
    let generator = spread(results.generator.clone(), 2);
    let _ = writeln!(text, "\nSending the frames alone: {generator} µs a connection.");
    let of = |part: fn(&crate::table::Figures) -> f64, digits| {
        spread(results.table.iter().map(part).collect(), digits)
    };
    let flows = results.table.first().map_or(0, |table| table.flows);
    let _ = writeln!(
        text,
        "\nCommon table with {flows} flows: {} bytes a flow, {} ns for a new flow, {} ns for a change.",
        of(|t| t.memory, 1),
        of(|t| t.insert, 0),
        of(|t| t.update, 0)
    );
    text
}

fn names(of: impl Fn(&str) -> bool) -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name()).filter(|name| of(name)).collect()
}

fn head(text: &mut String, title: &str, columns: &[&str]) {
    let _ = writeln!(
        text,
        "\n{title}\n\n| | {} |\n| --- |{}",
        columns.join(" | "),
        " ---: |".repeat(columns.len())
    );
}

fn common(text: &mut String, results: &Results) {
    let names = names(|name| results.common.iter().any(|run| run.name == name));
    head(text, &format!("A connection at {} a second: median (min–max)", results.rate), &names);
    let values = |name: &str, part: fn(&Figures) -> f64| -> Vec<f64> {
        let runs = results.common.iter().filter(|run| run.name == name);
        runs.filter_map(|run| run.figures.as_ref()).map(part).collect()
    };
    for (row, digits, part) in ROWS {
        let cells: Vec<String> =
            names.iter().map(|name| spread(values(name, part), digits)).collect();
        let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
        let ours = median(values(OURS, part));
        if let Some(ours) = ours.filter(|_| !row.starts_with('—') && names.len() > 1) {
            let ratio = |name: &&str| {
                let theirs = median(values(name, part));
                theirs.filter(|_| ours > 0.0).map_or("–".into(), |t| format!("{:.1}", t / ours))
            };
            let cells: Vec<String> = names.iter().map(ratio).collect();
            let _ = writeln!(text, "| — ÷ {OURS} | {} |", cells.join(" | "));
        }
    }
    let counted: Vec<String> = names
        .iter()
        .map(|name| {
            let runs = || results.common.iter().filter(|run| run.name == *name);
            let counts = runs().filter(|run| run.figures.is_some()).count();
            format!("{counts} of {}", runs().count())
        })
        .collect();
    let _ = writeln!(text, "| runs with identical tables | {} |", counted.join(" | "));
}

fn rising(text: &mut String, runs: &[Run]) {
    let names = names(|name| runs.iter().any(|run| run.name == name));
    head(text, "The highest rate that was kept up with in every round", &names);
    let best = |name: &str| rig::best(runs, name);
    let row = |text: &mut String, title: &str, cell: &dyn Fn(&str) -> String| {
        let cells: Vec<String> = names.iter().map(|name| cell(name)).collect();
        let _ = writeln!(text, "| {title} | {} |", cells.join(" | "));
    };
    let figures = |name: &str, part: fn(&Figures) -> f64, digits| {
        let figures = best(name).into_iter().filter_map(|run| run.figures.as_ref());
        spread(figures.map(part).collect(), digits)
    };
    row(text, "connections a second", &|name| figures(name, |f| f.replicated_per_second, 0));
    row(text, "daemons there, µs a connection", &|name| {
        spread(best(name).iter().filter_map(|run| run.cost()).collect(), 2)
    });
    row(text, "packets with generator there, µs", &|name| figures(name, |f| f.packets, 2));
    row(text, "behind there, ms", &|name| figures(name, |f| f.behind_ms, 0));
    row(text, "why not more", &|name| {
        let of = || runs.iter().filter(|run| run.name == name);
        let lost = of().filter(|run| !run.kept_up()).map(why).next();
        let slow = of().any(|run| !run.reached()).then(|| SLOW.to_owned());
        lost.or(slow).unwrap_or("it was not tried".into())
    });
}

/// Why no more connections were opened, where nothing was lost.
const SLOW: &str = "the processor with the packets is full";

fn why(run: &Run) -> String {
    let found = match (&run.complaint, &run.figures) {
        (Some(complaint), _) => complaint.clone(),
        (_, Some(f)) => format!("{:.0} ms behind, {:?}", f.behind_ms, f.losses),
        _ => "no figures".into(),
    };
    format!("at {}: {found}", run.rate)
}

fn lags(text: &mut String, all: &[Lag]) {
    let names = names(|name| all.iter().any(|lag| lag.run.name == name));
    let title =
        "How long changes took until the second had said that it has them, ms: median (min–max)";
    head(text, title, &names);
    type Part = (&'static str, usize, fn(&Figures) -> Option<f64>);
    let parts: [Part; 3] = [
        ("connections a second", 0, |f| Some(f.sent_per_second)),
        ("half of them", 2, |f| f.delays_ms.map(|[half, _]| half)),
        ("99 of 100", 2, |f| f.delays_ms.map(|[_, most]| most)),
    ];
    for percent in SHARES {
        for (row, digits, part) in parts {
            let cell = |name: &&str| {
                let of = all.iter().filter(|lag| (lag.percent, lag.run.name) == (percent, *name));
                spread(of.filter_map(|lag| part(lag.run.figures.as_ref()?)).collect(), digits)
            };
            let cells: Vec<String> = names.iter().map(cell).collect();
            let _ = writeln!(
                text,
                "| {percent} % of the highest rate, {row} | {} |",
                cells.join(" | ")
            );
        }
    }
}

fn fail_overs(text: &mut String, all: &[FailOver]) {
    let names = names(|name| all.iter().any(|fail_over| fail_over.name == name));
    head(text, "Entries effective on the survivor, ms from its decision: median (min–max)", &names);
    let mut sizes: Vec<u32> = all.iter().map(|fail_over| fail_over.entries).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let values = |name: &str, part: &dyn Fn(&FailOver) -> Option<f64>| {
            let of = all.iter().filter(|f| f.entries == size && f.name == name);
            spread(of.filter_map(part).collect(), 1)
        };
        let row = |text: &mut String, title: &str, part: &dyn Fn(&FailOver) -> Option<f64>| {
            let cells: Vec<String> = names.iter().map(|name| values(name, part)).collect();
            let _ = writeln!(text, "| {size} entries, {title} | {} |", cells.join(" | "));
        };
        row(text, "all", &|fail_over| Some(fail_over.all_ms));
        row(text, "packets handled", &|fail_over| fail_over.flipped_ms);
    }
}

/// Puts the figures and the tables into `docs/`.
pub fn write(results: &Results) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let figures = serde_json::to_string_pretty(results)?;
    std::fs::write(docs.join("replication.json"), figures + "\n")?;
    let page = docs.join("benchmarks.md");
    let mut text = std::fs::read_to_string(&page).context("docs/benchmarks.md")?;
    if !text.contains(BEGIN) {
        let _ = write!(text, "\n## Replication, beside conntrackd\n\n{BEGIN}{END}");
    }
    let (before, rest) = text.split_once(BEGIN).context("docs/benchmarks.md has no begin mark")?;
    let (_, after) = rest.split_once(END).context("docs/benchmarks.md has no end mark")?;
    std::fs::write(&page, format!("{before}{BEGIN}{}\n{END}{after}", tables(results)))?;
    Ok(())
}
