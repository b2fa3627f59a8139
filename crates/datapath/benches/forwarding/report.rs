//! The result as tables, and where they go.
//!
//! All figures are in `docs/forwarding.json`; `docs/benchmarks.md` has words around the tables that are made of them,
//! and what stands between the two marks is replaced. A page without marks gets them at its end.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::runs::{Forwarding, Kind, Known, Opening};
use crate::spread::{median, spread};

const BEGIN: &str = "<!-- forwarding: begin -->\n";
const END: &str = "<!-- forwarding: end -->\n";

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// Packets of known flows.
    pub forwarding: Vec<Forwarding>,
    /// First packets.
    pub opening: Vec<Opening>,
}

/// All tables, in Markdown.
pub fn tables(results: &Results) -> String {
    let mut text = String::new();
    head(
        &mut text,
        "A packet of a known flow, ns of processor time with generator and sink: median (min–max)",
    );
    let mut shapes: Vec<Known> = results.forwarding.iter().map(|run| run.known).collect();
    shapes.sort_unstable();
    shapes.dedup();
    for shape in shapes {
        let of = |kind| {
            let same = |run: &&Forwarding| (run.kind, run.known) == (kind, shape);
            results.forwarding.iter().filter(same).map(|run| run.nanos).collect::<Vec<f64>>()
        };
        row(&mut text, &name(shape), of);
    }
    head(&mut text, "A first packet (TCP SYN) while the events are read, ns: median (min–max)");
    let mut rules: Vec<u32> = results.opening.iter().map(|run| run.rules).collect();
    rules.sort_unstable();
    rules.dedup();
    for rules in rules {
        let runs = |kind: Kind| {
            let same = move |run: &&Opening| (run.kind, run.rules) == (kind, rules);
            results.opening.iter().filter(same)
        };
        row(&mut text, &format!("{rules} rules"), |kind| runs(kind).map(|run| run.nanos).collect());
        row(&mut text, "— of that, the reader", |kind| {
            runs(kind).map(|run| run.reader_nanos).collect()
        });
    }
    text
}

fn name(shape: Known) -> String {
    let Known { translated, rules, in_order, flows } = shape;
    let mut name = if flows == 1 { "1 flow".to_owned() } else { format!("{flows} flows") };
    for (holds, words) in [
        (rules > 1, format!(", {rules} rules")),
        (in_order, ", in the order in which they began".to_owned()),
        (translated, ", translated".to_owned()),
    ] {
        name += if holds { &words } else { "" };
    }
    name
}

fn head(text: &mut String, title: &str) {
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let _ = writeln!(
        text,
        "\n{title}\n\n| | {} | nftables ÷ Testudo | redirect ÷ Testudo |\n| --- | ---: | ---: | ---: | ---: | ---: |",
        names.join(" | ")
    );
}

fn row(text: &mut String, title: &str, of: impl Fn(Kind) -> Vec<f64>) {
    let cells: Vec<String> = Kind::ALL.iter().map(|kind| spread(of(*kind), 0)).collect();
    let ratio = |over: Kind| match (median(of(over)), median(of(Kind::Testudo))) {
        (Some(over), Some(ours)) if ours > 0.0 => format!("{:.2}", over / ours),
        _ => "–".to_owned(),
    };
    let _ = writeln!(
        text,
        "| {title} | {} | {} | {} |",
        cells.join(" | "),
        ratio(Kind::Nftables),
        ratio(Kind::Redirect)
    );
}

/// Puts the figures and the tables into `docs/`.
pub fn write(results: &Results) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let figures = serde_json::to_string_pretty(results)?;
    std::fs::write(docs.join("forwarding.json"), figures + "\n")?;
    let page = docs.join("benchmarks.md");
    let mut text = std::fs::read_to_string(&page).context("docs/benchmarks.md")?;
    if !text.contains(BEGIN) {
        let _ = write!(text, "\n## Forwarding, beside nftables\n\n{BEGIN}{END}");
    }
    let (before, rest) = text.split_once(BEGIN).context("docs/benchmarks.md has no begin mark")?;
    let (_, after) = rest.split_once(END).context("docs/benchmarks.md has no end mark")?;
    std::fs::write(&page, format!("{before}{BEGIN}{}\n{END}{after}", tables(results)))?;
    Ok(())
}
