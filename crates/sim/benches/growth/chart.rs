//! The picture: two panels, bytes and processor time of a node for each connection, against the number of
//! nodes; all axes logarithmic.

use std::fmt::Write as _;

use crate::axis::Axis;
use crate::page::{MEASURES, Measure, median};
use crate::{PLANS, Sample};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 60.0;
/// Where each panel begins and ends.
const PANELS: [(f64, f64); 2] = [(70.0, 410.0), (500.0, 840.0)];
/// One for each plan.
const COLOURS: [&str; 2] = ["#1f618d", "#b9770e"];

/// The picture as SVG.
pub fn svg(samples: &[Sample]) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    for ((measure, title), (start, end)) in
        MEASURES.iter().zip(["bytes sent", "µs of processor time"]).zip(PANELS)
    {
        panel(&mut text, samples, *measure, title, (start, end));
    }
    for (plan, ((name, _), colour)) in PLANS.iter().zip(COLOURS).enumerate() {
        let at = PANELS[0].0 + plan as f64 * 180.0;
        let _ = writeln!(
            text,
            "<circle cx=\"{at}\" cy=\"20\" r=\"4\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"24\">{name}</text>",
            at + 12.0
        );
    }
    text.push_str("</svg>\n");
    text
}

fn panel(text: &mut String, samples: &[Sample], measure: Measure, title: &str, span: (f64, f64)) {
    let (start, end) = span;
    let values = |plan: usize| {
        samples.iter().map(move |s| (f64::from(s.nodes), median(&s.costs[plan], measure.1)[0]))
    };
    let all = || (0..PLANS.len()).flat_map(values).map(|(_, value)| value.max(0.01));
    let low = 10f64.powf(all().fold(f64::MAX, f64::min).log10().floor());
    let high = 10f64.powf(all().fold(low * 10.0, f64::max).log10().ceil());
    let x = Axis { low: 1.7, high: 38.0, start, end };
    let y = Axis { low, high, start: HEIGHT - BOTTOM, end: TOP };
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"54\" text-anchor=\"middle\">{title} for each connection</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">nodes</text>",
        (start + end) / 2.0,
        (start + end) / 2.0,
        HEIGHT - 16.0
    );
    for value in y.decades() {
        let at = y.at(value);
        let _ = writeln!(
            text,
            "<line x1=\"{start}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            start - 8.0,
            at + 4.0
        );
    }
    for sample in samples {
        let at = x.at(f64::from(sample.nodes));
        let _ = writeln!(
            text,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 18.0,
            sample.nodes
        );
    }
    for (plan, colour) in COLOURS.iter().enumerate().take(PLANS.len()) {
        let places: Vec<_> =
            values(plan).map(|(nodes, value)| (x.at(nodes), y.at(value.max(0.01)))).collect();
        let line: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let line = line.join(" ");
        let _ = writeln!(text, "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\"/>");
        for (x, y) in places {
            let _ =
                writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
    }
}
