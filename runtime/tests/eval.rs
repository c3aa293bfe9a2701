//! Average precision against pycocotools' own figures.

use serde_json::Value;
use tobiuo::Detection;
use tobiuo::eval::{Annotations, Evaluator};

/// Made by `golden/coco_ap.py`.
const GOLDEN: &str = include_str!("golden/coco_ap.json");

fn number(v: &Value) -> Option<f64> {
    v.as_f64()
}

#[test]
fn agrees_with_pycocotools() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let annotations = Annotations::parse(golden["truth"].to_string().as_bytes()).unwrap();
    let classes = annotations.categories.len();
    let mut evaluator = Evaluator::new(classes);
    for picture in &annotations.pictures {
        let found: Vec<Detection> = golden["detections"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| d["image_id"].as_u64() == Some(picture.id))
            .map(|d| {
                let [x, y, w, h] = [0, 1, 2, 3].map(|i| d["bbox"][i].as_f64().unwrap() as f32);
                Detection {
                    class: d["category_id"].as_u64().unwrap() as u32,
                    score: d["score"].as_f64().unwrap() as f32,
                    left: x,
                    top: y,
                    right: x + w,
                    bottom: y + h,
                }
            })
            .collect();
        evaluator.add(&picture.truths, &found);
    }
    let report = evaluator.report();
    let check = |what: &str, got: Option<f64>, want: &Value| match (got, number(want)) {
        (Some(got), Some(want)) => assert!((got - want).abs() < 1e-9, "{what}: {got}, not {want}"),
        (got, want) => assert_eq!(got, want, "{what}"),
    };
    check("AP50:95", report.ap, &golden["ap"]);
    check("AP50", report.ap50, &golden["ap50"]);
    check("AP75", report.ap75, &golden["ap75"]);
    for (i, class) in report.classes.iter().enumerate() {
        let want = &golden["classes"][i];
        check(&format!("AP50:95 of class {i}"), class.ap, &want["ap"]);
        check(&format!("AP50 of class {i}"), class.ap50, &want["ap50"]);
        check(&format!("AP75 of class {i}"), class.ap75, &want["ap75"]);
    }
    assert!(report.classes[classes - 1].ap.is_none(), "the last class has no truth");
}
