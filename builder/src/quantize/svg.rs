//! Accuracy against latency as a picture.

use std::fmt::Write;

use super::report::GateReport;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const BOTTOM: f64 = 60.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 30.0;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Lowest and highest with some room.
fn span(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    let room = ((high - low) * 0.1).max(high.abs() * 1e-3).max(1e-6);
    (low - room, high + room)
}

/// Four to ten round numbers from `low` to `high`, and the decimals that they need.
fn ticks(low: f64, high: f64) -> (Vec<f64>, usize) {
    let rough = (high - low) / 8.0;
    let power = rough.log10().floor();
    let unit = 10f64.powf(power);
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * unit).into_iter().find(|&s| s >= rough);
    let step = step.unwrap_or(10.0 * unit);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    ((first..=last).map(|i| i as f64 * step).collect(), decimals)
}

/// Where the label of the point `(x, y)` begins: at the first of eight places around it where none
/// of the others is, whose boxes (left, top, right, bottom) are in `taken`.
fn place(x: f64, y: f64, label: &str, taken: &mut Vec<[f64; 4]>) -> (f64, f64) {
    let (width, height) = (6.6 * label.chars().count() as f64, 12.0);
    let (right, left) = (x + 6.0, x - 6.0 - width);
    let places = [
        (right, y - 6.0),
        (right, y + 15.0),
        (left, y - 6.0),
        (left, y + 15.0),
        (right, y - 19.0),
        (right, y + 28.0),
        (left, y - 19.0),
        (left, y + 28.0),
    ];
    let box_at = |(left, base): (f64, f64)| [left, base - height, left + width, base];
    let meets =
        |a: &[f64; 4], b: &[f64; 4]| a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    let inside = |b: &[f64; 4]| b[0] >= LEFT && b[2] <= WIDTH && b[1] >= TOP - 12.0;
    let free =
        |p: &&(f64, f64)| inside(&box_at(**p)) && !taken.iter().any(|t| meets(t, &box_at(**p)));
    let at = *places.iter().find(free).unwrap_or(&places[0]);
    taken.push(box_at(at));
    at
}

/// The picture: one point a step, from all layers on integers (0) on, and the network in floats.
pub fn draw(title: &str, g: &GateReport) -> String {
    let floor = g.baseline - if g.metric == "output error" { -g.allowed } else { g.allowed };
    let xs = || g.steps.iter().map(|s| s.microseconds).chain([g.baseline_microseconds]);
    let ys = || g.steps.iter().map(|s| s.value).chain([g.baseline, floor]);
    let finite = |v: &f64| v.is_finite();
    let (x0, x1) = span(xs().filter(finite).collect::<Vec<_>>().into_iter());
    let (y0, y1) = span(ys().filter(finite).collect::<Vec<_>>().into_iter());
    let x = |v: f64| LEFT + (v - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| HEIGHT - BOTTOM - (v - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" \
         font-size=\"14\">{}</text>\n<text x=\"{:.1}\" y=\"22\" text-anchor=\"end\" \
         fill=\"#36c\">step: layers on integers</text>\n",
        escape(title),
        WIDTH - RIGHT
    );
    let (values, decimals) = ticks(y0, y1);
    for v in values {
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{v:.decimals$}</text>",
            WIDTH - RIGHT,
            y(v),
            y(v),
            LEFT - 6.0,
            y(v) + 4.0
        );
    }
    let (values, decimals) = ticks(x0, x1);
    for v in values {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{v:.decimals$}</text>",
            x(v),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">microseconds \
         ({})</text>\n<text transform=\"translate(16 {:.1}) rotate(-90)\" \
         text-anchor=\"middle\">{}</text>\n<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" \
         y2=\"{:.1}\" stroke=\"#c33\" stroke-dasharray=\"5 4\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" \
         text-anchor=\"end\" fill=\"#c33\">allowed</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0,
        escape(&g.clock),
        (TOP + HEIGHT - BOTTOM) / 2.0,
        escape(&g.metric),
        WIDTH - RIGHT,
        y(floor),
        y(floor),
        WIDTH - RIGHT,
        y(floor) - 4.0
    );
    let points: Vec<String> = (g.steps.iter())
        .filter(|s| s.value.is_finite())
        .map(|s| format!("{:.1},{:.1}", x(s.microseconds), y(s.value)))
        .collect();
    let _ =
        writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"#36c\"/>", points.join(" "));
    let mut taken: Vec<[f64; 4]> = Vec::new();
    let mut dot = |vx: f64, vy: f64, label: &str, colour: &str| {
        if vx.is_finite() && vy.is_finite() {
            let (x, y) = (x(vx), y(vy));
            let (left, base) = place(x, y, label, &mut taken);
            let _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>\n<text \
                 x=\"{left:.1}\" y=\"{base:.1}\">{label}</text>"
            );
        }
    };
    for (i, s) in g.steps.iter().enumerate() {
        dot(s.microseconds, s.value, &format!("{i}: {}", s.int8_layers), "#36c");
    }
    dot(g.baseline_microseconds, g.baseline, "in floats", "#333");
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_do_not_lie_over_one_another() {
        let mut taken = Vec::new();
        let points = [(300.0, 200.0), (303.0, 202.0), (310.0, 195.0), (306.0, 210.0), (85.0, 45.0)];
        for (x, y) in points {
            place(x, y, "10: 46", &mut taken);
        }
        for (i, a) in taken.iter().enumerate() {
            assert!(a[0] >= LEFT && a[2] <= WIDTH);
            for b in &taken[..i] {
                let apart = a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
                assert!(apart, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn axes_have_round_numbers() {
        let shown = |low, high| {
            let (values, decimals) = ticks(low, high);
            values.iter().map(|v| format!("{v:.decimals$}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(0.8650, 0.8771), "0.866 0.868 0.870 0.872 0.874 0.876");
        assert_eq!(shown(515.4, 789.2), "550 600 650 700 750");
        assert_eq!(shown(-0.4, 7.3), "0 1 2 3 4 5 6 7");
        assert_eq!(shown(99_000.0, 101_000.0), "99000 99500 100000 100500 101000");
        for k in 0..200 {
            let (low, high) = (0.1 * f64::from(k), 0.1 * f64::from(k) + 1.3f64.powi(k % 40 - 20));
            let (values, _) = ticks(low, high);
            assert!((3..=10).contains(&values.len()), "{low} {high}: {values:?}");
            assert!(values.iter().all(|v| (low - 1e-9..=high + 1e-9).contains(v)));
        }
    }
}
