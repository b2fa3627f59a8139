//! The picture: time from the decision against the number of entries, both on logarithmic axes.

use std::fmt::Write as _;

use crate::axis::Axis;
use crate::report::points;
use crate::{MEASURES, Sample};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 220.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// One for each measure.
const COLOURS: [&str; 3] = ["#1f618d", "#148f77", "#b9770e"];

/// The picture as SVG.
pub fn svg(samples: &[Sample]) -> String {
    let all = || (0..MEASURES.len()).flat_map(|measure| points(samples, measure));
    let least = |part: fn((f64, f64)) -> f64| all().map(part).fold(f64::MAX, f64::min).max(1.0);
    let most = |part: fn((f64, f64)) -> f64| all().map(part).fold(10.0, f64::max);
    let x = Axis {
        low: least(|point| point.0).min(1e9) * 0.8,
        high: most(|point| point.0) * 1.25,
        start: LEFT,
        end: WIDTH - RIGHT,
    };
    let y = Axis {
        low: 10f64.powf(least(|point| point.1).min(1e9).log10().floor()),
        high: 10f64.powf(most(|point| point.1).log10().ceil()),
        start: HEIGHT - BOTTOM,
        end: TOP,
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    frame(&mut text, &x, &y);
    for (measure, ((_, name), colour)) in MEASURES.iter().zip(COLOURS).enumerate() {
        let places = points(samples, measure);
        for (entries, micros) in &places {
            let _ = writeln!(
                text,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x.at(*entries),
                y.at(micros.max(1.0))
            );
        }
        let note = if places.is_empty() { " (not reported)" } else { "" };
        let (at, over) = (WIDTH - RIGHT + 16.0, TOP + 14.0 + measure as f64 * 24.0);
        let _ = writeln!(
            text,
            "<circle cx=\"{at}\" cy=\"{}\" r=\"4\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{over}\" font-size=\"12\">{name}{note}</text>",
            over - 4.0,
            at + 12.0
        );
    }
    text.push_str("</svg>\n");
    text
}

fn frame(text: &mut String, x: &Axis, y: &Axis) {
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = writeln!(
        text,
        "<text x=\"{middle}\" y=\"28\" text-anchor=\"middle\" font-size=\"16\">Time of a takeover, from \
         the decision</text>\n<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">entries</text>\n\
         <text x=\"22\" y=\"{mid}\" text-anchor=\"middle\" transform=\"rotate(-90 22 {mid})\">\
         microseconds</text>",
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
    for value in x.decades() {
        let at = x.at(value);
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
}
