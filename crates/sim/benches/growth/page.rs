//! The result as tables and a picture, and where they go: between two marks of `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::mesh::Cost;
use crate::{PLANS, Sample, chart, micros};

const BEGIN: &str = "<!-- growth: begin -->\n";
const END: &str = "<!-- growth: end -->\n";

/// What of a cost is shown.
pub type Measure = (&'static str, fn(&Cost) -> f64);

/// For each connection, as the mean of all nodes.
pub const MEASURES: [Measure; 4] = [
    ("bytes sent", |cost| cost.bytes as f64),
    ("µs, all", |cost| micros(cost.told + cost.heard)),
    ("µs, telling", |cost| micros(cost.told)),
    ("µs, being told", |cost| micros(cost.heard)),
];

/// The median of the rounds, with the smallest and the largest.
pub fn median(costs: &[Cost], of: fn(&Cost) -> f64) -> [f64; 3] {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    [at(values.len() / 2), at(0), at(values.len().saturating_sub(1))]
}

/// The tables, in Markdown.
pub fn tables(samples: &[Sample]) -> String {
    let mut text = String::from(
        "\nA node, for each connection that it handles: median (min–max)\n\n| nodes |",
    );
    samples.iter().for_each(|sample| write!(text, " {} |", sample.nodes).expect("a string"));
    let _ = writeln!(text, "\n| --- |{}", " ---: |".repeat(samples.len()));
    for (plan, (name, _)) in PLANS.iter().enumerate() {
        for (what, of) in MEASURES {
            let _ = write!(text, "| `{name}`, {what} |");
            for sample in samples {
                let [median, least, most] = median(&sample.costs[plan], of);
                let digits = if most >= 100.0 { 0 } else { 2 };
                let _ = write!(text, " {median:.digits$} ({least:.digits$}–{most:.digits$}) |");
            }
            text.push('\n');
        }
    }
    let _ = write!(text, "\nA node, each second, without connections\n\n| nodes |");
    samples.iter().for_each(|sample| write!(text, " {} |", sample.nodes).expect("a string"));
    let _ =
        write!(text, "\n| --- |{}\n| heartbeats, bytes sent |", " ---: |".repeat(samples.len()));
    samples.iter().for_each(|s| write!(text, " {} |", s.standing.heartbeats).expect("a string"));
    text.push_str("\n| streams, bytes sent |");
    samples.iter().for_each(|s| write!(text, " {} |", s.standing.streams).expect("a string"));
    text.push('\n');
    text
}

/// Puts tables and picture into `docs/`.
pub fn write(samples: &[Sample]) -> io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = docs.join("benchmarks.md");
    let text = std::fs::read_to_string(&page)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        return Err(io::Error::other(
            "docs/benchmarks.md has no marks for the growth of a cluster",
        ));
    };
    std::fs::write(&page, format!("{before}{BEGIN}{}\n{END}{after}", tables(samples)))?;
    std::fs::write(docs.join("growth.svg"), chart::svg(samples))
}
