use serde_json::{Value, json};

use crate::detect::Detection;

/// IoU thresholds: 0.50, 0.55, ... 0.95.
const THRESHOLDS: usize = 10;
/// Recalls at which precision is read: 0.00, 0.01, ... 1.00.
const RECALLS: usize = 101;
/// Detections per picture and class that count.
const MAX_DETECTIONS: usize = 100;

/// The threshold, to the last bit as numpy's `linspace(0.5, 0.95, 10)` gives it.
fn threshold(t: usize) -> f64 {
    if t == THRESHOLDS - 1 { 0.95 } else { 0.5 + t as f64 * ((0.95 - 0.5) / 9.0) }
}

/// The recall, to the last bit as numpy's `linspace(0, 1, 101)` gives it.
fn recall(r: usize) -> f64 {
    if r == RECALLS - 1 { 1.0 } else { r as f64 * 0.01 }
}

/// A box that is really there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroundTruth {
    /// Class index.
    pub class: u32,
    /// Left, top, right, bottom, pixels.
    pub bounds: [f64; 4],
    /// A region of many: detections in it count neither as right nor as wrong.
    pub crowd: bool,
}

/// A detection that has met the truth.
struct Match {
    score: f32,
    /// Bit `t`: matched at threshold `t`.
    hit: u16,
    /// Bit `t`: what it matched there is a crowd.
    ignored: u16,
}

/// Gathers pictures and computes average precision over them.
///
/// Detections with equal scores count in the order in which they were added, so add
/// pictures in the order of their ids for pycocotools' very figures.
#[derive(Default)]
pub struct Evaluator {
    classes: Vec<ClassMatches>,
    pictures: usize,
}

#[derive(Default)]
struct ClassMatches {
    matches: Vec<Match>,
    truths: usize,
}

impl Evaluator {
    /// An evaluator for classes `0..classes`.
    pub fn new(classes: usize) -> Evaluator {
        Evaluator { classes: (0..classes).map(|_| ClassMatches::default()).collect(), pictures: 0 }
    }

    /// Adds a picture: what is on it and what was detected, in the same pixels. Boxes of
    /// classes that the evaluator does not have are passed over.
    pub fn add(&mut self, truths: &[GroundTruth], detections: &[Detection]) {
        self.pictures += 1;
        for (class, all) in self.classes.iter_mut().enumerate() {
            let mut own: Vec<&GroundTruth> =
                truths.iter().filter(|t| t.class as usize == class).collect();
            let mut found: Vec<&Detection> =
                detections.iter().filter(|d| d.class as usize == class).collect();
            all.truths += own.iter().filter(|t| !t.crowd).count();
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            found.truncate(MAX_DETECTIONS);
            // Crowds last: a detection meets one only when no single object takes it.
            own.sort_by_key(|t| t.crowd);
            let first = all.matches.len();
            all.matches.extend(found.iter().map(|d| Match { score: d.score, hit: 0, ignored: 0 }));
            let overlaps: Vec<f64> =
                found.iter().flat_map(|d| own.iter().map(|t| overlap(d, t))).collect();
            let mut taken = vec![false; own.len()];
            for t in 0..THRESHOLDS {
                taken.fill(false);
                for i in 0..found.len() {
                    let row = &overlaps[i * own.len()..(i + 1) * own.len()];
                    if let Some(g) = best_truth(row, &own, &taken, threshold(t)) {
                        taken[g] = true;
                        let m = &mut all.matches[first + i];
                        m.hit |= 1 << t;
                        m.ignored |= u16::from(own[g].crowd) << t;
                    }
                }
            }
        }
    }

    /// Average precision over everything added so far.
    pub fn report(&self) -> Report {
        let classes: Vec<ClassReport> = self.classes.iter().map(ClassMatches::report).collect();
        let mean = |f: fn(&ClassReport) -> Option<f64>| {
            let known: Vec<f64> = classes.iter().filter_map(f).collect();
            let sum: f64 = known.iter().sum();
            (!known.is_empty()).then(|| sum / known.len() as f64)
        };
        Report {
            pictures: self.pictures,
            ap: mean(|c| c.ap),
            ap50: mean(|c| c.ap50),
            ap75: mean(|c| c.ap75),
            classes,
        }
    }
}

impl ClassMatches {
    fn report(&self) -> ClassReport {
        let mut order: Vec<usize> = (0..self.matches.len()).collect();
        order.sort_by(|&a, &b| self.matches[b].score.total_cmp(&self.matches[a].score));
        let at = |t: usize| self.average_precision(&order, t);
        let known = self.truths > 0;
        ClassReport {
            truths: self.truths,
            detections: self.matches.len(),
            ap: known.then(|| (0..THRESHOLDS).map(at).sum::<f64>() / THRESHOLDS as f64),
            ap50: known.then(|| at(0)),
            ap75: known.then(|| at(5)),
        }
    }

    /// The mean over 101 recalls of the best precision at that recall or above it.
    fn average_precision(&self, order: &[usize], t: usize) -> f64 {
        let (mut right, mut wrong) = (0u64, 0u64);
        // (recall, precision) after each detection, best scored first.
        let mut curve: Vec<(f64, f64)> = Vec::with_capacity(order.len());
        for &i in order {
            let m = &self.matches[i];
            if m.ignored >> t & 1 == 0 {
                if m.hit >> t & 1 == 1 { right += 1 } else { wrong += 1 }
            }
            let seen = (right + wrong) as f64;
            let precision = right as f64 / (seen + f64::EPSILON);
            curve.push((right as f64 / self.truths as f64, precision));
        }
        let mut best = 0.0f64;
        for point in curve.iter_mut().rev() {
            best = best.max(point.1);
            point.1 = best;
        }
        let sum: f64 = (0..RECALLS)
            .map(|r| {
                let first = curve.partition_point(|p| p.0 < recall(r));
                curve.get(first).map_or(0.0, |p| p.1)
            })
            .sum();
        sum / RECALLS as f64
    }
}

/// The truth that a detection takes at an IoU threshold: the one that overlaps most and is
/// not taken. A crowd may be taken many times.
fn best_truth(row: &[f64], own: &[&GroundTruth], taken: &[bool], threshold: f64) -> Option<usize> {
    let mut floor = threshold.min(1.0 - 1e-10);
    let mut best: Option<usize> = None;
    for (g, truth) in own.iter().enumerate() {
        if taken[g] && !truth.crowd {
            continue;
        }
        if truth.crowd && best.is_some_and(|b| !own[b].crowd) {
            break;
        }
        if row[g] >= floor {
            floor = row[g];
            best = Some(g);
        }
    }
    best
}

/// Intersection over union; over the detection's own area where the truth is a crowd.
fn overlap(d: &Detection, t: &GroundTruth) -> f64 {
    let a = [d.left, d.top, d.right, d.bottom].map(f64::from);
    let b = t.bounds;
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let both = w * h;
    let area = |r: [f64; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let all = if t.crowd { area(a) } else { area(a) + area(b) - both };
    if all > 0.0 { both / all } else { 0.0 }
}

/// Average precision of one class; `None` where there is no truth of the class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassReport {
    /// Boxes that are really there, without crowds.
    pub truths: usize,
    /// Detections that count.
    pub detections: usize,
    /// AP50:95.
    pub ap: Option<f64>,
    /// AP at an IoU of 0.50.
    pub ap50: Option<f64>,
    /// AP at an IoU of 0.75.
    pub ap75: Option<f64>,
}

/// Average precision over pictures; means over the classes that have truths.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How many pictures.
    pub pictures: usize,
    /// AP50:95.
    pub ap: Option<f64>,
    /// AP at an IoU of 0.50.
    pub ap50: Option<f64>,
    /// AP at an IoU of 0.75.
    pub ap75: Option<f64>,
    /// By class index.
    pub classes: Vec<ClassReport>,
}

impl Report {
    /// The report as a document; `labels` names the classes. Keys: `pictures`, `truths`,
    /// `detections`, `ap50`, `ap75`, `ap50_95`, and per class `classes` [{`class`, `label`,
    /// the same}]. AP is 0..1, or null where there is no truth.
    pub fn to_json(&self, labels: &[String]) -> Value {
        let figure = |v: Option<f64>| v.map(|v| (v * 1e6).round() / 1e6);
        let classes: Vec<Value> = self
            .classes
            .iter()
            .enumerate()
            .map(|(i, c)| {
                json!({
                    "class": i,
                    "label": labels.get(i),
                    "truths": c.truths,
                    "detections": c.detections,
                    "ap50": figure(c.ap50),
                    "ap75": figure(c.ap75),
                    "ap50_95": figure(c.ap),
                })
            })
            .collect();
        json!({
            "pictures": self.pictures,
            "truths": self.classes.iter().map(|c| c.truths).sum::<usize>(),
            "detections": self.classes.iter().map(|c| c.detections).sum::<usize>(),
            "ap50": figure(self.ap50),
            "ap75": figure(self.ap75),
            "ap50_95": figure(self.ap),
            "classes": classes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(class: u32, [x, y, w, h]: [f64; 4]) -> GroundTruth {
        GroundTruth { class, bounds: [x, y, x + w, y + h], crowd: false }
    }

    fn found(class: u32, score: f32, [x, y, w, h]: [f32; 4]) -> Detection {
        Detection { class, score, left: x, top: y, right: x + w, bottom: y + h }
    }

    #[test]
    fn perfect_detections_score_one() {
        let mut e = Evaluator::new(2);
        e.add(&[truth(0, [0., 0., 10., 10.])], &[found(0, 0.9, [0., 0., 10., 10.])]);
        let r = e.report();
        assert!((r.ap.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(r.classes[1].ap, None, "no truth, no figure");
    }

    #[test]
    fn nothing_found_scores_zero_and_nothing_there_has_no_score() {
        let mut e = Evaluator::new(1);
        e.add(&[truth(0, [0., 0., 10., 10.])], &[]);
        assert_eq!(e.report().ap50, Some(0.0));
        let mut e = Evaluator::new(1);
        e.add(&[], &[found(0, 0.9, [0., 0., 10., 10.])]);
        assert_eq!(e.report().ap50, None);
    }

    #[test]
    fn by_hand_two_truths_one_wrong_between() {
        // Right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1. Interpolated: 1
        // for the 51 recalls 0.00..=0.50, 2/3 for the other 50.
        let mut e = Evaluator::new(1);
        e.add(
            &[truth(0, [0., 0., 10., 10.]), truth(0, [100., 0., 10., 10.])],
            &[
                found(0, 0.9, [0., 0., 10., 10.]),
                found(0, 0.8, [50., 50., 10., 10.]),
                found(0, 0.7, [100., 0., 10., 10.]),
            ],
        );
        let want = (51.0 + 50.0 * 2.0 / 3.0) / 101.0;
        assert!((e.report().ap50.unwrap() - want).abs() < 1e-12);
    }

    #[test]
    fn by_hand_thresholds() {
        // IoU 0.8 exactly (8 of 10 rows): a hit at 0.50..=0.75 surely, at 0.85 not.
        let mut e = Evaluator::new(1);
        e.add(&[truth(0, [0., 0., 10., 10.])], &[found(0, 0.9, [0., 0., 10., 8.1])]);
        assert!((e.report().ap.unwrap() - 0.7).abs() < 1e-12, "0.50 to 0.80: 7 of 10");
    }

    #[test]
    fn a_second_detection_of_one_truth_is_wrong() {
        let mut e = Evaluator::new(1);
        let box_ = [0., 0., 10., 10.];
        e.add(
            &[truth(0, [0., 0., 10., 10.]), truth(0, [100., 0., 10., 10.])],
            &[found(0, 0.9, box_), found(0, 0.8, box_)],
        );
        assert!((e.report().ap50.unwrap() - 51.0 / 101.0).abs() < 1e-12);
    }

    #[test]
    fn crowds_count_neither_way() {
        let mut e = Evaluator::new(1);
        let crowd = GroundTruth { class: 0, bounds: [50., 0., 150., 100.], crowd: true };
        e.add(
            &[truth(0, [0., 0., 10., 10.]), crowd],
            &[
                found(0, 0.9, [60., 10., 10., 10.]),
                found(0, 0.8, [90., 10., 10., 10.]),
                found(0, 0.7, [0., 0., 10., 10.]),
            ],
        );
        assert!((e.report().ap.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(e.report().classes[0].truths, 1);
    }
}
