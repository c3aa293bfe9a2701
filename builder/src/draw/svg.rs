//! A layout as SVG.

use std::fmt::Write;

use super::Drawing;
use super::layout::{BOX_WIDTH, Layout, Point};

const MARGIN: f64 = 20.0;
const LINE: f64 = 16.0;
/// Between rows of boxes.
const GAP: f64 = 46.0;
/// Lines of a box that are shown; its tooltip has all.
const LINES: usize = 3;

/// Text as XML holds it; what XML cannot hold at all was replaced before.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What fits a box's width, `most` characters.
fn fit(text: &str, most: usize) -> String {
    let n = text.chars().count();
    if n <= most {
        return text.to_string();
    }
    // Names of layers differ at their end.
    let tail: String = text.chars().skip(n - most + 1).collect();
    format!("…{tail}")
}

pub(super) fn render(drawing: &Drawing, layout: &Layout) -> String {
    let lines = drawing.boxes.iter().map(|b| b.lines.len()).max().unwrap_or(0).clamp(2, LINES);
    let box_height = lines as f64 * LINE + 12.0;
    let row = box_height + GAP;
    let centre = |p: usize| (layout.x[p] + MARGIN, layout.layer[p] as f64 * row + MARGIN);
    let right = layout.x.iter().fold(0.0f64, |m, &x| m.max(x));
    let (width, height) =
        (right + BOX_WIDTH + 2.0 * MARGIN, layout.layers as f64 * row + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#666\"/></marker>\
         </defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (route, (_, _, text)) in layout.routes.iter().zip(&drawing.arrows) {
        let (x, y) = centre(route[0]);
        let mut at = (x, y + box_height);
        let _ = write!(out, "<path fill=\"none\" stroke=\"#666\" marker-end=\"url(#tip)\" d=\"");
        let _ = write!(out, "M{:.0} {:.0}", at.0, at.1);
        for &p in &route[1..] {
            let (x, y) = centre(p);
            let bend = (y - at.1) / 2.0;
            let (c1, c2) = (at.1 + bend, y - bend);
            let _ = write!(out, "C{:.0} {c1:.0} {x:.0} {c2:.0} {x:.0} {y:.0}", at.0);
            at = (x, y);
            if layout.points[p] == Point::Waypoint {
                at.1 = y + box_height;
                let _ = write!(out, "V{:.0}", at.1);
            }
        }
        let _ = writeln!(out, "\"><title>{}</title></path>", escape(text));
        let next = centre(route[1]);
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"#666\" font-size=\"10\">{}</text>",
            (x + next.0) / 2.0 + 4.0,
            (y + box_height + next.1) / 2.0,
            escape(text)
        );
    }
    for (p, point) in layout.points.iter().enumerate() {
        let Point::Box(b) = *point else { continue };
        let (b, (x, y)) = (&drawing.boxes[b], centre(p));
        let _ = writeln!(
            out,
            "<g><title>{}</title><rect x=\"{:.0}\" y=\"{y:.0}\" width=\"{BOX_WIDTH}\" \
             height=\"{box_height}\" rx=\"6\" fill=\"{}\" stroke=\"#666\"/>",
            escape(&b.lines.join("\n")),
            x - BOX_WIDTH / 2.0,
            b.kind.colour(),
        );
        for (i, line) in b.lines.iter().take(LINES).enumerate() {
            let (font, most) = match i {
                0 => ("font-weight=\"bold\"", 28),
                _ => ("font-size=\"11\"", 32),
            };
            let _ = writeln!(
                out,
                "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\" {font}>{}</text>",
                y + LINE * (i + 1) as f64 + 2.0,
                escape(&fit(line, most))
            );
        }
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}
