//! The picture: time of a hit against the number of entries, both on logarithmic axes.

use std::fmt::Write as _;

use crate::axis::Axis;
use crate::kernel::Program;
use crate::population::Kind;
use crate::report::count;
use crate::search_time::{Times, Way};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;

/// The figures of the reference, on its own hardware: entries and nanoseconds.
const REFERENCE: [(f64, f64); 2] = [(30_000.0, 2576.0), (90_000.0, 8718.0)];

/// A curve: which way to search, its name, colour, and how its line is dashed.
const CURVES: [(Way, &str, &str, &str); 5] = [
    (Way::Chains, "(a) chains, as the reference", "#b03a2e", ""),
    (Way::Kernel(Program::MapChained), "BPF_MAP_TYPE_HASH", "#b9770e", ""),
    (Way::Kernel(Program::TableChained), "(b) node table, kernel", "#1f618d", ""),
    (Way::UserLookup, "(c) node table, user space", "#148f77", ""),
    (Way::Kernel(Program::Chase), "one dependent cache miss", "#707b7c", "5 4"),
];

/// The picture as SVG.
pub fn svg(times: &[Times]) -> String {
    let entries = |time: Option<&Times>| time.map_or(1.0, |time| f64::from(time.entries));
    let medians = || {
        let ways = CURVES.iter().map(|(way, ..)| *way);
        ways.flat_map(|way| times.iter().map(move |time| time.median(way, Kind::Hit)))
            .filter(|median| *median > 0.0)
    };
    let least = medians().fold(10.0, f64::min);
    let most = medians().fold(10_000.0, f64::max);
    let x = Axis {
        low: entries(times.first()) * 0.8,
        high: entries(times.last()) * 1.25,
        start: LEFT,
        end: WIDTH - RIGHT,
    };
    let y = Axis {
        low: 10f64.powf(least.log10().floor()),
        high: 10f64.powf(most.log10().ceil()),
        start: HEIGHT - BOTTOM,
        end: TOP,
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    frame(&mut text, &x, &y, times);
    for (row, (way, name, colour, dash)) in CURVES.iter().enumerate() {
        let points: Vec<(f64, f64)> = times
            .iter()
            .map(|time| (f64::from(time.entries), time.median(*way, Kind::Hit)))
            .filter(|(_, median)| *median > 0.0)
            .map(|(entries, median)| (x.at(entries), y.at(median)))
            .collect();
        curve(&mut text, &points, colour, dash);
        legend(&mut text, row, name, colour);
    }
    let reference = REFERENCE.map(|(entries, nanos)| (x.at(entries), y.at(nanos)));
    for (at, over) in reference {
        let _ = writeln!(
            text,
            "<path d=\"M{:.1} {:.1}l10 10m0 -10l-10 10\" stroke=\"#222\" stroke-width=\"2\"/>",
            at - 5.0,
            over - 5.0
        );
    }
    legend(&mut text, CURVES.len(), "× the reference's own figures", "none");
    text.push_str("</svg>\n");
    text
}

fn frame(text: &mut String, x: &Axis, y: &Axis, times: &[Times]) {
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = writeln!(
        text,
        "<text x=\"{middle}\" y=\"28\" text-anchor=\"middle\" font-size=\"16\">Time of one search \
         that hits</text>\n<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">entries</text>\n\
         <text x=\"22\" y=\"{mid}\" text-anchor=\"middle\" transform=\"rotate(-90 22 {mid})\">\
         nanoseconds</text>",
        HEIGHT - 14.0,
        mid = (TOP + HEIGHT - BOTTOM) / 2.0
    );
    for value in y.decades() {
        let at = y.at(value);
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    // These lie too close to their neighbours for a label of their own.
    let labelled = |time: &&Times| !matches!(time.entries, 270_000 | 900_000 | 3_000_000);
    for time in times.iter().filter(labelled) {
        let at = x.at(f64::from(time.entries));
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0,
            count(time.entries)
        );
    }
}

fn curve(text: &mut String, points: &[(f64, f64)], colour: &str, dash: &str) {
    let list: Vec<String> = points.iter().map(|(at, over)| format!("{at:.1},{over:.1}")).collect();
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
         stroke-dasharray=\"{dash}\"/>",
        list.join(" ")
    );
    for (at, over) in points {
        let _ =
            writeln!(text, "<circle cx=\"{at:.1}\" cy=\"{over:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
}

fn legend(text: &mut String, row: usize, name: &str, colour: &str) {
    let (at, over) = (WIDTH - RIGHT + 16.0, TOP + 14.0 + row as f64 * 24.0);
    let _ = writeln!(
        text,
        "<rect x=\"{at}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>\
         <text x=\"{}\" y=\"{over}\" font-size=\"12\">{name}</text>",
        over - 6.0,
        at + 20.0
    );
}
