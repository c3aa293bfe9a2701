use super::*;

/// xorshift64*, for repeatable outputs.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// An output of clustered boxes, so that many overlap.
fn output(classes: usize, anchors: usize, seed: u64, busy: f32) -> Vec<f32> {
    let mut rng = Rng(seed * 2 + 1);
    let mut out = vec![0.0; (4 + classes) * anchors];
    for a in 0..anchors {
        let cluster = (rng.next() * 12.0).floor();
        out[a] = 20.0 + cluster * 25.0 + rng.next() * 12.0;
        out[anchors + a] = 20.0 + (cluster * 7.0 % 12.0) * 20.0 + rng.next() * 12.0;
        out[2 * anchors + a] = 20.0 + rng.next() * 30.0;
        out[3 * anchors + a] = 20.0 + rng.next() * 30.0;
        for c in 0..classes {
            let s = rng.next();
            out[(4 + c) * anchors + a] = if rng.next() < busy { s } else { s * 0.01 };
        }
    }
    out
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[(i % rows) * cols + i / rows]).collect()
}

/// The plain form: every pair compared, nothing clever.
fn plain(
    x: &[f32],
    classes: usize,
    anchors: usize,
    o: &DetectOptions,
    p: &Placement,
) -> Vec<Detection> {
    let mut all = Vec::new();
    for a in 0..anchors {
        let best = (0..classes)
            .max_by(|&i, &j| {
                x[(4 + i) * anchors + a].total_cmp(&x[(4 + j) * anchors + a]).then(j.cmp(&i))
            })
            .unwrap();
        for c in 0..classes {
            let score = x[(4 + c) * anchors + a];
            if score > o.score_threshold && (o.multi_label || c == best) {
                let [cx, cy, w, h] = [0, 1, 2, 3].map(|r| x[r * anchors + a]);
                all.push(Detection {
                    class: c as u32,
                    score,
                    left: cx - w / 2.0,
                    top: cy - h / 2.0,
                    right: cx + w / 2.0,
                    bottom: cy + h / 2.0,
                });
            }
        }
    }
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    all.truncate(MAX_CANDIDATES);
    let mut kept: Vec<Detection> = Vec::new();
    for d in all {
        let clear = kept.iter().all(|k| k.class != d.class || k.iou(&d) <= o.iou_threshold);
        if clear && kept.len() < o.max_detections {
            kept.push(d);
        }
    }
    kept.iter()
        .filter_map(|d| {
            let [left, top, right, bottom] = p.to_frame([d.left, d.top, d.right, d.bottom]);
            (left < right && top < bottom).then_some(Detection { left, top, right, bottom, ..*d })
        })
        .collect()
}

fn letterbox() -> Placement {
    Placement {
        scale_x: 0.5,
        scale_y: 0.5,
        offset_x: 0.0,
        offset_y: 40.0,
        frame_width: 640,
        frame_height: 480,
    }
}

#[test]
fn agrees_with_the_plain_form() {
    for seed in 0..40 {
        let classes = 1 + (seed as usize * 7) % 12;
        let anchors = 1 + (seed as usize * 53) % 900;
        let x = output(classes, anchors, seed, 0.3);
        for multi_label in [false, true] {
            let o = DetectOptions {
                score_threshold: 0.1 + 0.02 * (seed % 10) as f32,
                iou_threshold: 0.3 + 0.05 * (seed % 8) as f32,
                max_detections: if seed % 3 == 0 { 5 } else { 300 },
                multi_label,
            };
            let want = plain(&x, classes, anchors, &o, &letterbox());
            let mut got = Vec::new();
            Detector::new(classes, anchors, false, o).decode(&x, &letterbox(), &mut got);
            assert_eq!(got, want, "seed {seed} multi {multi_label}");
            let swapped = transpose(&x, 4 + classes, anchors);
            Detector::new(classes, anchors, true, o).decode(&swapped, &letterbox(), &mut got);
            assert_eq!(got, want, "seed {seed} multi {multi_label}, transposed");
        }
    }
}

#[test]
fn of_too_many_candidates_the_best_stay() {
    // 20 classes x 8000 anchors, all above the threshold: 160,000 candidates.
    let (classes, anchors) = (20, 8000);
    let x = output(classes, anchors, 3, 1.0);
    let o = DetectOptions {
        score_threshold: 0.001,
        iou_threshold: 0.7,
        max_detections: 300,
        multi_label: true,
    };
    let want = plain(&x, classes, anchors, &o, &letterbox());
    let mut detector = Detector::new(classes, anchors, false, o);
    let before = detector.candidates.capacity();
    let mut got = Vec::with_capacity(300);
    detector.decode(&x, &letterbox(), &mut got);
    assert_eq!(detector.candidates.capacity(), before, "no growth");
    // Equal scores at the edge of the limit may be cut differently; the kept ones may not.
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(&want) {
        assert_eq!(g.score, w.score);
    }
}

#[test]
fn what_is_not_finite_is_dropped() {
    let (classes, anchors) = (2, 6);
    let mut x = vec![0.0; 6 * anchors];
    for a in 0..anchors {
        x[a] = 30.0 + 60.0 * a as f32;
        x[anchors + a] = 100.0;
        x[2 * anchors + a] = 20.0;
        x[3 * anchors + a] = 20.0;
        x[4 * anchors + a] = 0.9;
    }
    x[0] = f32::NAN;
    x[anchors + 1] = f32::INFINITY;
    x[2 * anchors + 2] = -5.0;
    x[5 * anchors + 3] = f32::NAN;
    x[5 * anchors + 4] = f32::INFINITY;
    for multi_label in [false, true] {
        let o = DetectOptions {
            score_threshold: 0.5,
            iou_threshold: 0.5,
            max_detections: 10,
            multi_label,
        };
        let mut got = Vec::new();
        let place = Placement::identity(640, 480);
        Detector::new(classes, anchors, false, o).decode(&x, &place, &mut got);
        // Anchor 3's NaN class loses to its sound one; anchor 4's infinite best class is no
        // score, its sound one counts only where every class does.
        let lefts: Vec<f32> = got.iter().map(|d| d.left).collect();
        let want: &[f32] = if multi_label { &[200.0, 260.0, 320.0] } else { &[200.0, 320.0] };
        assert_eq!(lefts, want, "multi {multi_label}");
    }
}

#[test]
fn no_anchors_no_classes_no_boxes() {
    let o = DetectOptions {
        score_threshold: 0.5,
        iou_threshold: 0.5,
        max_detections: 0,
        multi_label: true,
    };
    let mut got = Vec::new();
    Detector::new(3, 0, false, o).decode(&[], &Placement::identity(8, 8), &mut got);
    Detector::new(0, 2, false, o).decode(&[1.0; 8], &Placement::identity(8, 8), &mut got);
    assert!(got.is_empty());
}

/// Run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn time_of_80_classes_8400_anchors() {
    let x = output(80, 8400, 1, 0.0005);
    let o = DetectOptions {
        score_threshold: 0.25,
        iou_threshold: 0.45,
        max_detections: 300,
        multi_label: false,
    };
    let mut d = Detector::new(80, 8400, false, o);
    let mut out = Vec::with_capacity(300);
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let t = std::time::Instant::now();
            d.decode(&x, &letterbox(), &mut out);
            t.elapsed()
        })
        .collect();
    times.sort();
    println!("median {:?}, {} boxes", times[100], out.len());
}
