use tobiuo_engine::manifest::Detect;

use super::nms::{Candidate, Suppression};
use super::{Detection, Placement};

/// Boxes that enter the suppression; of more, the best stay. The figure is Ultralytics'.
const MAX_CANDIDATES: usize = 30_000;

/// How boxes are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DetectOptions {
    /// Boxes with a score not above this are dropped.
    pub score_threshold: f32,
    /// Of two boxes of one class that overlap by more (IoU), the lower scored is dropped.
    pub iou_threshold: f32,
    /// At most this many boxes are kept, best first.
    pub max_detections: usize,
    /// Every class above the threshold makes a box, not only an anchor's best: what
    /// evaluation uses.
    pub multi_label: bool,
}

impl From<&Detect> for DetectOptions {
    fn from(d: &Detect) -> Self {
        Self {
            score_threshold: d.score_threshold,
            iou_threshold: d.iou_threshold,
            max_detections: d.max_detections,
            multi_label: false,
        }
    }
}

/// Decodes the output of one detector; all memory is taken when it is made.
pub struct Detector {
    classes: usize,
    anchors: usize,
    transposed: bool,
    options: DetectOptions,
    /// Best score of each anchor.
    best: Vec<f32>,
    /// Capacity is twice the limit (or enough for all), so that choosing the best of too
    /// many happens rarely.
    candidates: Vec<Candidate>,
    limit: usize,
    suppression: Suppression,
}

impl Detector {
    /// A decoder for `[1, 4 + classes, anchors]` (or `[1, anchors, 4 + classes]` when
    /// `transposed`). `max_detections` is brought to 1..=30,000.
    pub fn new(classes: usize, anchors: usize, transposed: bool, options: DetectOptions) -> Self {
        let most = if options.multi_label { classes * anchors } else { anchors };
        let limit = most.min(MAX_CANDIDATES);
        let options = DetectOptions {
            max_detections: options.max_detections.clamp(1, MAX_CANDIDATES),
            ..options
        };
        Self {
            classes,
            anchors,
            transposed,
            options,
            best: vec![0.0; anchors],
            candidates: Vec::with_capacity(most.min(2 * limit).max(1)),
            limit,
            suppression: Suppression::new(classes, options.max_detections),
        }
    }

    /// How boxes are chosen.
    pub fn options(&self) -> &DetectOptions {
        &self.options
    }

    /// The boxes of one item of the output, best first, in pixels of the frame, into `out`
    /// (cleared first). Allocates nothing when `out` has room for `max_detections`.
    ///
    /// Boxes and scores that are not finite are dropped, as are boxes that lie outside the
    /// frame. Panics when `output` is not `(4 + classes) * anchors` long.
    pub fn decode(&mut self, output: &[f32], placement: &Placement, out: &mut Vec<Detection>) {
        assert_eq!(output.len(), (4 + self.classes) * self.anchors, "the output's length");
        out.clear();
        self.candidates.clear();
        let mut floor = self.options.score_threshold;
        if self.transposed {
            self.gather_transposed(output, &mut floor);
        } else {
            self.gather(output, &mut floor);
        }
        if self.candidates.len() > self.limit {
            self.keep_best();
        }
        self.candidates.sort_unstable_by(Candidate::order);
        let options = &self.options;
        let kept = self.suppression.run(
            &mut self.candidates,
            options.iou_threshold,
            options.max_detections,
        );
        for c in &self.candidates[..kept] {
            let [left, top, right, bottom] = placement.to_frame(c.bounds);
            if left < right && top < bottom {
                let (class, score) = (c.class, c.score);
                out.push(Detection { class, score, left, top, right, bottom });
            }
        }
    }

    fn gather(&mut self, output: &[f32], floor: &mut f32) {
        let (boxes, scores) = output.split_at(4 * self.anchors);
        // Most anchors see nothing, so one pass takes the maximum over classes, eight or
        // sixteen anchors at a time, and only the few above the threshold are looked at
        // again. NaN never wins a `>`.
        self.best.fill(f32::NEG_INFINITY);
        for row in scores.chunks_exact(self.anchors.max(1)) {
            for (best, &s) in self.best.iter_mut().zip(row) {
                *best = if s > *best { s } else { *best };
            }
        }
        let anchors = self.anchors;
        for a in 0..anchors {
            if self.best[a] > *floor {
                let at = |row: usize| boxes[row * anchors + a];
                let bounds = [at(0), at(1), at(2), at(3)];
                let score = |class: usize| scores[class * anchors + a];
                self.add(a, bounds, score, floor);
            }
        }
    }

    fn gather_transposed(&mut self, output: &[f32], floor: &mut f32) {
        for (a, row) in output.chunks_exact(4 + self.classes).enumerate() {
            let best = row[4..].iter().fold(f32::NEG_INFINITY, |b, &s| if s > b { s } else { b });
            if best > *floor {
                self.add(a, [row[0], row[1], row[2], row[3]], |class| row[4 + class], floor);
            }
        }
    }

    /// Adds an anchor's box once for its best class, or for every class above the floor.
    fn add(
        &mut self,
        anchor: usize,
        [x, y, w, h]: [f32; 4],
        score: impl Fn(usize) -> f32,
        floor: &mut f32,
    ) {
        let bounds = [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0];
        // Also false when one of them is NaN or infinite.
        let sane = w > 0.0 && h > 0.0 && bounds.iter().all(|v| v.is_finite());
        if !sane {
            return;
        }
        let anchor = anchor as u32;
        if self.options.multi_label {
            for class in 0..self.classes {
                let s = score(class);
                if s > *floor && s.is_finite() {
                    self.push(Candidate { score: s, class: class as u32, anchor, bounds }, floor);
                }
            }
        } else {
            let mut top = (0, f32::NEG_INFINITY);
            for class in 0..self.classes {
                let s = score(class);
                top = if s > top.1 { (class, s) } else { top };
            }
            if top.1.is_finite() {
                self.push(Candidate { score: top.1, class: top.0 as u32, anchor, bounds }, floor);
            }
        }
    }

    fn push(&mut self, candidate: Candidate, floor: &mut f32) {
        if self.candidates.len() == self.candidates.capacity() {
            // What comes later with a score below the worst one kept could not stay.
            *floor = floor.max(self.keep_best().next_down());
            if candidate.score <= *floor {
                return;
            }
        }
        self.candidates.push(candidate);
    }

    /// Drops all but the best `limit` candidates; the score of the worst one kept.
    fn keep_best(&mut self) -> f32 {
        let (_, worst, _) =
            self.candidates.select_nth_unstable_by(self.limit - 1, Candidate::order);
        let score = worst.score;
        self.candidates.truncate(self.limit);
        score
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
