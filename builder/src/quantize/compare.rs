//! How far outputs are from those of the network in floats.

use tobiuo_engine::Task;
use tobiuo_tensor::Tensor;

/// Noise and signal, summed over samples, of each part of the outputs that is judged by itself.
#[derive(Clone, Debug, Default)]
pub struct OutputError {
    parts: Vec<[f64; 2]>,
}

impl OutputError {
    /// Adds a sample. Of a detector, boxes and scores are judged apart: an anchor's box counts
    /// as much as its best score, in units of the box's size, because nobody looks at the boxes
    /// where nothing is.
    pub fn add(&mut self, task: Option<&Task>, reference: &[Tensor], got: &[Tensor]) {
        let mut parts = Vec::new();
        for (i, (r, g)) in reference.iter().zip(got).enumerate() {
            match task {
                Some(Task::Detect(d)) if d.output == i => {
                    parts.extend(detections(r, g, d.classes, d.transposed));
                }
                // Other outputs of a detector or classifier are not what is judged.
                Some(Task::Detect(_)) => {}
                Some(Task::Classify { output }) if *output != i => {}
                _ => {
                    let (r, g) = (r.to_f64(), g.to_f64());
                    let noise = r.iter().zip(&g).map(|(a, b)| (a - b) * (a - b)).sum();
                    parts.push([noise, r.iter().map(|a| a * a).sum()]);
                }
            }
        }
        if self.parts.is_empty() {
            self.parts = vec![[0.0; 2]; parts.len()];
        }
        for (sum, part) in self.parts.iter_mut().zip(parts) {
            sum[0] += part[0];
            sum[1] += part[1];
        }
    }

    /// Noise over signal, as amplitudes, the mean of the parts; 0.01 is 40 dB. Infinite where
    /// something is not a number.
    pub fn relative(&self) -> f64 {
        let one = |&[noise, signal]: &[f64; 2]| match (noise > 0.0, signal > 0.0) {
            (true, true) => (noise / signal).sqrt(),
            (true, false) => f64::INFINITY,
            (false, _) if noise == 0.0 => 0.0,
            _ => f64::INFINITY,
        };
        let sum: f64 = self.parts.iter().map(one).sum();
        sum / self.parts.len().max(1) as f64
    }
}

fn detections(r: &Tensor, g: &Tensor, classes: usize, transposed: bool) -> [[f64; 2]; 2] {
    let (reference, got) = (r.to_f64(), g.to_f64());
    let rows = 4 + classes;
    let anchors = reference.len() / rows.max(1);
    // Items one behind the other, or one item: rows and anchors of each.
    let items = r.shape().first().copied().unwrap_or(1).max(1);
    let anchors = anchors / items;
    let at = |item: usize, row: usize, anchor: usize| {
        let base = item * rows * anchors;
        base + if transposed { anchor * rows + row } else { row * anchors + anchor }
    };
    let (mut boxes, mut scores) = ([0.0; 2], [0.0; 2]);
    for item in 0..items {
        for a in 0..anchors {
            let mut best = 0.0f64;
            for row in 4..rows {
                let i = at(item, row, a);
                let d = reference[i] - got[i];
                scores[0] += d * d;
                scores[1] += reference[i] * reference[i];
                best = best.max(reference[i]);
            }
            let size = |row| reference[at(item, row, a)].abs().max(1.0);
            let area = size(2) * size(3);
            for row in 0..4 {
                let i = at(item, row, a);
                let d = reference[i] - got[i];
                boxes[0] += best * d * d / area;
                boxes[1] += best;
            }
        }
    }
    [boxes, scores]
}

#[cfg(test)]
mod tests {
    use super::*;
    use tobiuo_engine::Detect;

    #[test]
    fn noise_over_signal() {
        let mut e = OutputError::default();
        let t = |v: Vec<f32>| [Tensor::f32([1, v.len()], v)];
        e.add(None, &t(vec![3.0, 4.0]), &t(vec![3.0, 4.5]));
        assert!((e.relative() - 0.1).abs() < 1e-12);
        e.add(None, &t(vec![0.0, 0.0]), &t(vec![f32::NAN, 0.0]));
        assert_eq!(e.relative(), f64::INFINITY);
        assert_eq!(OutputError::default().relative(), 0.0);
    }

    #[test]
    fn boxes_where_nothing_is_do_not_count() {
        let detect = Detect {
            output: 0,
            classes: 1,
            transposed: false,
            score_threshold: 0.25,
            iou_threshold: 0.7,
            max_detections: 300,
        };
        let task = Task::Detect(detect);
        // Two anchors: one with score 1, one with 0; boxes of 10 x 10.
        let at = |dx: [f32; 2]| {
            let v = vec![dx[0], dx[1], 5.0, 5.0, 10.0, 10.0, 10.0, 10.0, 1.0, 0.0];
            [Tensor::f32([1, 5, 2], v)]
        };
        let error = |dx| {
            let mut e = OutputError::default();
            e.add(Some(&task), &at([0.0, 0.0]), &at(dx));
            e.relative()
        };
        assert_eq!(error([0.0, 100.0]), 0.0);
        // A box off by 2 of 10 in one of four rows: sqrt(0.04 / 4), one of two parts.
        assert!((error([2.0, 0.0]) - 0.05).abs() < 1e-12);
    }
}
