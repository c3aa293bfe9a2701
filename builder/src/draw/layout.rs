//! Layered layout (after Sugiyama, Tagawa and Toda, 1981): boxes get layers by their longest
//! path, long arrows get a waypoint in each layer they cross, each layer is ordered by the
//! mean place of its neighbours.

use super::Drawing;

/// A point of the layout: a box, or a waypoint of an arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    Box(usize),
    Waypoint,
}

/// Points with their places.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    pub points: Vec<Point>,
    /// Centre of each point, pixels from the left.
    pub x: Vec<f64>,
    /// Layer of each point.
    pub layer: Vec<usize>,
    pub layers: usize,
    /// The points of each arrow, from box to box.
    pub routes: Vec<Vec<usize>>,
}

/// Arrows over more layers than all waypoints together may have go straight.
const WAYPOINTS: usize = 20_000;
const SWEEPS: usize = 6;
pub(super) const BOX_WIDTH: f64 = 210.0;
const GAP: f64 = 30.0;
const WAYPOINT_WIDTH: f64 = 24.0;

pub(super) fn layers(drawing: &Drawing) -> Layout {
    let n = drawing.boxes.len();
    let mut layer = vec![0usize; n];
    // Boxes come in topological order, so one sweep gives the longest paths.
    let mut arrows: Vec<usize> = (0..drawing.arrows.len()).collect();
    arrows.sort_by_key(|&a| drawing.arrows[a].1);
    for &a in &arrows {
        let (from, to, _) = drawing.arrows[a];
        layer[to] = layer[to].max(layer[from] + 1);
    }
    let mut out = Layout {
        points: (0..n).map(Point::Box).collect(),
        layers: layer.iter().max().map_or(0, |m| m + 1),
        layer,
        ..Layout::default()
    };
    for (from, to, _) in &drawing.arrows {
        let mut route = vec![*from];
        let span = out.layer[*from] + 1..out.layer[*to];
        if out.points.len() - n + span.len() <= WAYPOINTS {
            for l in span {
                route.push(out.points.len());
                out.points.push(Point::Waypoint);
                out.layer.push(l);
            }
        }
        route.push(*to);
        out.routes.push(route);
    }
    order_and_place(&mut out);
    out
}

fn order_and_place(out: &mut Layout) {
    let count = out.points.len();
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); out.layers];
    for p in 0..count {
        rows[out.layer[p]].push(p);
    }
    let (mut above, mut below) = (vec![Vec::new(); count], vec![Vec::new(); count]);
    for route in &out.routes {
        for pair in route.windows(2) {
            below[pair[0]].push(pair[1]);
            above[pair[1]].push(pair[0]);
        }
    }
    let width = |p: usize| match out.points[p] {
        Point::Box(_) => BOX_WIDTH + GAP,
        Point::Waypoint => WAYPOINT_WIDTH,
    };
    let mut x = vec![0.0; count];
    let spread = |row: &[usize], x: &mut [f64]| {
        let total: f64 = row.iter().map(|&p| width(p)).sum();
        let mut left = -total / 2.0;
        for &p in row {
            x[p] = left + width(p) / 2.0;
            left += width(p);
        }
    };
    rows.iter().for_each(|row| spread(row, &mut x));
    for sweep in 0..SWEEPS {
        let downwards = sweep % 2 == 0;
        let order: Vec<usize> =
            if downwards { (0..rows.len()).collect() } else { (0..rows.len()).rev().collect() };
        for l in order {
            let neighbours = if downwards { &above } else { &below };
            let mean = |p: usize| {
                let near = &neighbours[p];
                let sum: f64 = near.iter().map(|&q| x[q]).sum();
                if near.is_empty() { x[p] } else { sum / near.len() as f64 }
            };
            let mut keyed: Vec<(f64, usize)> = rows[l].iter().map(|&p| (mean(p), p)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            rows[l] = keyed.into_iter().map(|(_, p)| p).collect();
            spread(&rows[l], &mut x);
        }
    }
    let left = (0..count).map(|p| x[p] - width(p) / 2.0).fold(0.0, f64::min);
    x.iter_mut().for_each(|v| *v -= left);
    out.x = x;
}
