//! YOLOv2's outputs as boxes (Redmon and Farhadi, "YOLO9000: Better, Faster, Stronger", 2017).
//!
//! ChainerCV's network ends in three tensors, for each of `cells x anchors` boxes: `locs`
//! `[N, K, 4]` (y, x, height, width), `objs` `[N, K]`, `confs` `[N, K, classes]`. Boxes are listed
//! cell by cell, row after row, a cell's anchors one after another.

/// Widths and heights of the anchors, in cells, height first; ChainerCV's YOLOv2 for VOC.
pub const ANCHORS: [[f32; 2]; 5] = [
    [1.73145, 1.3221],
    [4.00944, 3.19275],
    [8.09892, 5.05587],
    [4.84053, 9.47112],
    [10.0071, 11.2364],
];

/// The anchors of its smaller sibling, YOLOv2Tiny.
pub const ANCHORS_TINY: [[f32; 2]; 5] =
    [[1.19, 1.08], [4.41, 3.42], [11.38, 6.63], [5.11, 9.42], [10.52, 16.62]];

/// Where the boxes of a network's outputs lie on its input.
#[derive(Clone, Debug)]
pub struct Head {
    anchors: Vec<[f32; 2]>,
    /// Cells of the grid, rows and columns.
    rows: usize,
    columns: usize,
    /// Pixels of the input per cell, down and across.
    steps: [f32; 2],
    classes: usize,
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Head {
    /// For `boxes` boxes of `classes` classes on an input of `height` x `width`.
    ///
    /// # Errors
    ///
    /// When the boxes are not those of a grid of square cells with these anchors.
    pub fn new(
        anchors: Vec<[f32; 2]>,
        boxes: usize,
        classes: usize,
        [height, width]: [usize; 2],
    ) -> Result<Head, String> {
        let cells = boxes / anchors.len().max(1);
        let wrong = || {
            format!(
                "{boxes} boxes are no grid with {} anchors on a picture of {width} x {height}",
                anchors.len()
            )
        };
        if cells == 0 || cells * anchors.len() != boxes || classes == 0 {
            return Err(wrong());
        }
        let step = (height as f64 * width as f64 / cells as f64).sqrt();
        let rows = (height as f64 / step).round() as usize;
        let columns = (width as f64 / step).round() as usize;
        if rows * columns != cells {
            return Err(wrong());
        }
        let steps = [height as f32 / rows as f32, width as f32 / columns as f32];
        Ok(Head { anchors, rows, columns, steps, classes })
    }

    /// Number of boxes.
    pub fn boxes(&self) -> usize {
        self.rows * self.columns * self.anchors.len()
    }

    /// The outputs in the form that [`tobiuo::detect::Detector`] reads: `[boxes, 4 + classes]`,
    /// centre x and y, width and height in pixels of the input, then each class's score,
    /// `sigmoid(obj) * softmax(conf)`.
    pub fn to_rows(&self, locs: &[f32], objs: &[f32], confs: &[f32], out: &mut Vec<f32>) {
        out.clear();
        let per_box = locs.as_chunks::<4>().0.iter().zip(objs).zip(confs.chunks(self.classes));
        for (k, ((&[y, x, h, w], &obj), conf)) in per_box.enumerate() {
            let cell = k / self.anchors.len();
            let [anchor_h, anchor_w] = self.anchors[k % self.anchors.len()];
            let (row, column) = ((cell / self.columns) as f32, (cell % self.columns) as f32);
            out.push((column + sigmoid(x)) * self.steps[1]);
            out.push((row + sigmoid(y)) * self.steps[0]);
            out.push(anchor_w * w.exp() * self.steps[1]);
            out.push(anchor_h * h.exp() * self.steps[0]);
            // The largest is taken off first, so that no exponential overflows.
            let largest = conf.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = conf.iter().map(|c| (c - largest).exp()).sum();
            let object = sigmoid(obj);
            out.extend(conf.iter().map(|c| object * (c - largest).exp() / sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use tobiuo::detect::{DetectOptions, Detector, Placement};

    use super::*;

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() < 1e-3
    }

    #[test]
    fn a_grid_is_found_from_the_number_of_boxes() {
        let of = |boxes, hw| Head::new(ANCHORS.to_vec(), boxes, 20, hw);
        let head = of(845, [416, 416]).unwrap();
        assert_eq!((head.rows, head.columns, head.boxes()), (13, 13, 845));
        assert_eq!(head.steps, [32.0, 32.0]);
        let wide = of(10 * 20 * 5, [320, 640]).unwrap();
        assert_eq!((wide.rows, wide.columns), (10, 20));
        for (boxes, hw) in [(844, [416, 416]), (0, [416, 416]), (35, [416, 416])] {
            assert!(of(boxes, hw).unwrap_err().contains("no grid"));
        }
    }

    #[test]
    fn boxes_lie_where_their_cell_and_anchor_say() {
        let head = Head::new(ANCHORS.to_vec(), 2 * 3 * 5, 3, [64, 96]).unwrap();
        let n = head.boxes();
        let (mut locs, mut objs, mut confs) = (vec![0.0; 4 * n], vec![-20.0; n], vec![0.0; 3 * n]);
        // Row 1, column 2, anchor 1: centre in the middle of the cell, moved a bit, half as wide.
        let k = (3 + 2) * 5 + 1;
        locs[4 * k + 1] = 2.0;
        locs[4 * k + 3] = 0.5f32.ln();
        objs[k] = 1.0;
        confs[3 * k..3 * k + 3].copy_from_slice(&[90.0, 100.0, 80.0]);
        let mut rows = Vec::new();
        head.to_rows(&locs, &objs, &confs, &mut rows);
        assert_eq!(rows.len(), n * 7);
        let at = &rows[7 * k..7 * k + 7];
        assert!(near(at[0], (2.0 + sigmoid(2.0)) * 32.0) && near(at[1], 1.5 * 32.0));
        assert!(near(at[2], 3.19275 * 0.5 * 32.0) && near(at[3], 4.00944 * 32.0));
        assert!(near(at[5], sigmoid(1.0)) && at[4] < 1e-4 && at[6] < 1e-4);
        // The detector finds that box and nothing else.
        let options = DetectOptions {
            score_threshold: 0.5,
            iou_threshold: 0.45,
            max_detections: 10,
            multi_label: true,
        };
        let mut found = Vec::new();
        let placement = Placement::identity(96, 64);
        Detector::new(3, n, true, options).decode(&rows, &placement, &mut found);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class, 1);
        assert!(near(found[0].left, at[0] - at[2] / 2.0) && near(found[0].right, 96.0));
    }
}
