//! Greedy non-maximum suppression, one class at a time.

/// A box above the score threshold, in pixels of the network's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub score: f32,
    pub class: u32,
    pub anchor: u32,
    pub bounds: [f32; 4],
}

impl Candidate {
    /// Best first; ties in the order of anchor, then class, so that results are stable.
    pub fn order(&self, other: &Candidate) -> std::cmp::Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(self.anchor.cmp(&other.anchor))
            .then(self.class.cmp(&other.class))
    }

    fn area(&self) -> f32 {
        let [left, top, right, bottom] = self.bounds;
        (right - left) * (bottom - top)
    }
}

/// No box.
const NONE: u32 = u32::MAX;

/// The suppression's own memory.
pub(crate) struct Suppression {
    /// Per class, the position among the kept of the one kept last.
    last: Vec<u32>,
    /// Per kept box: its area, and the one of its class that was kept before it.
    kept: Vec<(f32, u32)>,
}

impl Suppression {
    pub fn new(classes: usize, max_detections: usize) -> Self {
        Self { last: vec![NONE; classes], kept: Vec::with_capacity(max_detections) }
    }

    /// Moves the boxes to keep to the front of `candidates`, which are sorted, best first,
    /// and returns how many they are. Allocates nothing.
    pub fn run(&mut self, candidates: &mut [Candidate], iou: f32, max: usize) -> usize {
        self.last.fill(NONE);
        self.kept.clear();
        for i in 0..candidates.len() {
            if self.kept.len() == max.min(self.kept.capacity()) {
                break;
            }
            let c = candidates[i];
            let area = c.area();
            let mut k = self.last[c.class as usize];
            while k != NONE {
                let (other_area, before) = self.kept[k as usize];
                if overlap(&c.bounds, area, &candidates[k as usize].bounds, other_area) > iou {
                    break;
                }
                k = before;
            }
            if k == NONE {
                let n = self.kept.len();
                candidates[n] = c;
                self.kept.push((area, self.last[c.class as usize]));
                self.last[c.class as usize] = n as u32;
            }
        }
        self.kept.len()
    }
}

/// Intersection over union of two boxes with known areas.
fn overlap(a: &[f32; 4], area_a: f32, b: &[f32; 4], area_b: f32) -> f32 {
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let both = w * h;
    both / (area_a + area_b - both)
}
