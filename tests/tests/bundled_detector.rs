//! The bundled detector, end to end: built, run on the bundled pictures, compared with what is
//! in them; the same bytes from the same model.

mod common;

use std::sync::atomic::AtomicBool;

use common::{engine_of, root};
use tobiuo::Engine;
use tobiuo::eval::{Annotations, EvalOptions, evaluate};

#[test]
fn finds_what_is_in_the_bundled_pictures() {
    let assets = root().join("examples/camera/assets");
    let engine = Engine::from_bytes(&engine_of(&assets.join("detector.onnx"))).expect("it loads");
    assert_eq!(engine.labels().len(), 10);
    let folder = assets.join("pictures");
    let annotations = Annotations::read(&folder.join("annotations.json")).expect("they are read");
    let stop = AtomicBool::new(false);
    let report = evaluate(&engine, &folder, annotations, &EvalOptions::default(), &stop, |_, _| {})
        .expect("it is evaluated");
    let (ap50, ap) = (report.ap50.unwrap_or(0.0), report.ap.unwrap_or(0.0));
    assert!(ap50 >= 0.9, "AP50 {ap50} on the bundled pictures");
    assert!(ap >= 0.62, "AP50:95 {ap} on the bundled pictures");
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let model = root().join("examples/camera/assets/detector.onnx");
    assert!(engine_of(&model) == engine_of(&model));
}
