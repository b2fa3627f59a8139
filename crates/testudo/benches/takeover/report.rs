//! The result as a table and a picture, and where they go.
//!
//! `docs/benchmarks.md` has words around the table; what stands between the two marks is replaced. A
//! page without marks gets them at its end.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::regression::{Line, line};
use crate::{MEASURES, Sample, chart};

const BEGIN: &str = "<!-- takeover: begin -->\n";
const END: &str = "<!-- takeover: end -->\n";

/// The samples of one measure: entries and microseconds.
pub fn points(samples: &[Sample], measure: usize) -> Vec<(f64, f64)> {
    let points = samples.iter().map(|s| Some((f64::from(s.entries), s.micros[measure]?)));
    points.flatten().collect()
}

/// The table, in Markdown.
pub fn tables(samples: &[Sample]) -> String {
    let mut sizes: Vec<u32> = samples.iter().map(|sample| sample.entries).collect();
    sizes.dedup();
    let mut text = String::from("\nµs from the decision: median (min–max)\n\n| entries |");
    for size in &sizes {
        let _ = write!(text, " {size} |");
    }
    let _ =
        writeln!(text, " slope, ns an entry |\n| --- |{} ---: |", " ---: |".repeat(sizes.len()));
    for (measure, (_, name)) in MEASURES.iter().enumerate() {
        let all = points(samples, measure);
        let cell = |size: &u32| {
            let of_size = all.iter().filter(|(entries, _)| *entries == f64::from(*size));
            range(of_size.map(|(_, micros)| *micros).collect())
        };
        let cells: Vec<String> = sizes.iter().map(cell).collect();
        let slope = line(&all).map_or("–".into(), |Line { slope, margin, .. }| {
            format!("{:.3} ± {:.3}", slope * 1e3, margin * 1e3)
        });
        let _ = writeln!(text, "| {name} | {} | {slope} |", cells.join(" | "));
    }
    let cell = |size: &u32| {
        let of_size = samples.iter().filter(|sample| sample.entries == *size);
        range(of_size.map(|sample| sample.blackout_ms).collect())
    };
    let cells: Vec<String> = sizes.iter().map(cell).collect();
    let _ = writeln!(text, "| longest silence of a flow, ms | {} | |", cells.join(" | "));
    text
}

fn range(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied();
    match (at(0), at(values.len() / 2), values.last()) {
        (Some(least), Some(median), Some(most)) => format!("{median:.0} ({least:.0}–{most:.0})"),
        _ => "–".into(),
    }
}

/// Puts the table and the picture into `docs/`.
pub fn write(samples: &[Sample]) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = docs.join("benchmarks.md");
    let mut text = std::fs::read_to_string(&page).context("docs/benchmarks.md")?;
    if !text.contains(BEGIN) {
        let _ = write!(
            text,
            "\n## Takeover time\n\n![Time of a takeover](takeover-time.svg)\n\n{BEGIN}{END}"
        );
    }
    let (before, rest) = text.split_once(BEGIN).context("docs/benchmarks.md has no begin mark")?;
    let (_, after) = rest.split_once(END).context("docs/benchmarks.md has no end mark")?;
    std::fs::write(&page, format!("{before}{BEGIN}{}\n{END}{after}", tables(samples)))?;
    std::fs::write(docs.join("takeover-time.svg"), chart::svg(samples))?;
    Ok(())
}
