//! INT8 engines for a GPU, on the stand-in driver: FP16 where it is faster, the gate's latency,
//! records.

use std::path::Path;

use serde_json::Value;
use tobiuo_engine::EngineFile;
use tobiuo_standin::Standin;
use tobiuo_tensor::{Tensor, npy};

mod place;
use place::{Place, number};

/// Every convolution of integers is slow.
const ALL: &str = r#"20:"x":"i8";20:"x":"u8""#;
/// One of them is, and those of floats are slower than the others.
const ONE: &str =
    r#"20:"x":"i8"&"filters":16;20:"x":"u8"&"filters":16;1:"x":"i8";1:"x":"u8";3:{"conv""#;
/// Those of floats are.
const FLOATS: &str = r#"1:"x":"i8";1:"x":"u8";3:{"conv""#;

/// A device whose kernels compute nothing: only their time counts.
fn device(slow: &str) -> Standin {
    Standin::new().idle().slow(slow)
}

/// Samples to calibrate the small detector on.
fn samples(place: &Place) -> String {
    let path = place.path("samples.npy");
    let values = (0..4 * 3 * 32 * 32).map(|i| ((i * 37 % 101) as f32) / 101.0).collect();
    npy::write(Path::new(&path), &Tensor::f32([4, 3, 32, 32], values)).unwrap();
    path
}

/// Calibrated once, on the CPU: kernels that compute nothing have nothing to count.
fn int8(place: &Place, engine: &str, more: &[&str]) -> Value {
    let (samples, cache) = (samples(place), place.path("calibration.txt"));
    let fixed = ["-m", "int8", "--calibration", &samples, "--calibration-cache", &cache];
    if !Path::new(&cache).exists() {
        let cpu = ["--device", "cpu", "--calibrator", "minmax"];
        place.build("detector.onnx", "cpu.tobiuo", &[&fixed[..], &cpu].concat());
    }
    place.build("detector.onnx", engine, &[&fixed[..], more].concat())
}

fn notes(place: &Place, engine: &str) -> String {
    EngineFile::open(place.path(engine)).unwrap().manifest().provenance.notes.join("\n")
}

/// What was decided for the first plan, after checking that it is the fastest.
fn speed(report: &Value) -> &Value {
    let speed = &report["int8"]["speed"][0];
    let tried = speed["tried"].as_array().unwrap();
    let us = |m: &Value| m["network_us"].as_f64().or(m["layers_us"].as_f64()).unwrap();
    let taken = tried.iter().find(|m| m["taken"] == true).unwrap();
    let best = tried.iter().map(us).fold(f64::INFINITY, f64::min);
    assert!(us(taken) <= best * 1.0021, "{speed}");
    assert_eq!(
        (&tried[0]["name"], &tried.last().unwrap()["name"]),
        (&"int8".into(), &"fp16".into())
    );
    speed
}

fn taken(speed: &Value) -> &Value {
    speed["tried"].as_array().unwrap().iter().find(|m| m["taken"] == true).unwrap()
}

#[test]
fn what_is_slower_on_integers_stays_in_fp16() {
    // All of them: the engine is as one in FP16.
    let place = Place::new(device(ALL));
    let report = int8(&place, "a.tobiuo", &[]);
    let all = speed(&report);
    assert_eq!((&all["measured"], &taken(all)["int8_layers"]), (&Value::Bool(true), &0.into()));
    assert!(number(&all["tried"][0]["int8_layers"]) > 3, "{all}");
    let first = &all["layers"][0];
    let us = |which: &str| first[which].as_f64().unwrap();
    assert!(us("fp16_us") * 5.0 < us("int8_us"), "{first}");
    let floats = |l: &&Value| l["int8"] == false && !l["reason"].as_str().unwrap().is_empty();
    let layers = report["int8"]["layers"].as_array().unwrap();
    assert!(layers.iter().all(|l| floats(&l)), "{layers:?}");
    let said = notes(&place, "a.tobiuo");
    let name = first["name"].as_str().unwrap();
    assert!(said.contains(name) && said.contains("us in FP16"), "{said}");

    // One of them: the others stay on integers.
    let place = Place::new(device(ONE));
    let report = int8(&place, "a.tobiuo", &[]);
    let one = speed(&report);
    let slow: Vec<&Value> = (one["layers"].as_array().unwrap().iter())
        .filter(|l| l["heavy"] == true && l["int8_us"].as_f64() > l["fp16_us"].as_f64())
        .collect();
    assert!(slow.iter().any(|l| l["reason"].as_str().unwrap().contains("faster in FP16")));
    assert_eq!(taken(one)["name"], "mixed", "{one}");
    assert!(number(&taken(one)["int8_layers"]) > 0, "{one}");

    // Floats are slow.
    let place = Place::new(device(FLOATS));
    let report = int8(&place, "a.tobiuo", &["--batch", "1,2"]);
    assert!(number(&taken(speed(&report))["int8_layers"]) > 0);
    assert_eq!(report["int8"]["speed"].as_array().unwrap().len(), 2, "a decision for each plan");
}

#[test]
fn the_same_is_decided_again() {
    let place = Place::new(device(ONE));
    let record = place.path("r.json");
    let first = int8(&place, "a.tobiuo", &["--batch", "1,2", "--record", &record]);
    let again = int8(&place, "b.tobiuo", &["--batch", "1,2"]);
    let tuning = &again["cuda"]["tuning"];
    assert_eq!((number(&tuning["timed"]), number(&tuning["compiled"])), (0, 0), "{tuning}");
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"), "another engine from the cache");
    // A record, where everything else would be decided otherwise.
    let place = place.on(device(ALL));
    let replay = ["--batch", "1,2", "--replay", &record, "--tactic-cache", "none"];
    let replayed = int8(&place, "c.tobiuo", &replay);
    assert_eq!(number(&replayed["cuda"]["tuning"]["timed"]), 0);
    assert!(place.bytes("a.tobiuo") == place.bytes("c.tobiuo"), "replayed");
    assert_eq!(first["int8"]["layers"], replayed["int8"]["layers"]);
}

/// Pictures and the cache that they gave are one calibration.
#[test]
fn a_record_gives_the_same_bytes_from_pictures_and_from_their_cache() {
    let place = Place::new(Standin::new());
    let (samples, cache) = (samples(&place), place.path("calibration.txt"));
    let record = place.path("r.json");
    let cached = ["-m", "int8", "--calibration-cache", &cache, "--effort", "fast"];
    let pictures = ["--calibration", &samples, "--calibrator", "minmax", "--record", &record];
    let seen = place.build("detector.onnx", "a.tobiuo", &[&cached[..], &pictures].concat());
    assert_eq!(seen["int8"]["from_cache"], false);
    let again =
        place.build("detector.onnx", "b.tobiuo", &[&cached[..], &["--replay", &record]].concat());
    assert_eq!(again["int8"]["from_cache"], true);
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"), "other bytes from the cache");
}

#[test]
fn gate_and_speed_go_together() {
    let place = Place::new(device(ONE));
    let record = place.path("r.json");
    let drop = ["--accuracy-drop", "0.0005", "--record", &record];
    let report = int8(&place, "a.tobiuo", &drop);
    let gate = &report["int8"]["gate"];
    assert_eq!((&gate["holds"], &gate["clock"]), (&Value::Bool(true), &"GPU".into()));
    let steps = gate["steps"].as_array().unwrap();
    assert!(steps.len() > 1, "{gate}");
    // Virtual microseconds of the stand-in, not this machine's.
    assert!(steps.iter().all(|s| s["microseconds"].as_f64().unwrap() > 20.0), "{gate}");
    let back: Vec<&str> = (steps.iter())
        .flat_map(|s| s["put_back"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    for layer in report["int8"]["layers"].as_array().unwrap() {
        if back.contains(&layer["name"].as_str().unwrap()) {
            assert!(layer["reason"].as_str().unwrap().contains("for accuracy"), "{layer}");
            assert_eq!(layer["int8"], false);
        }
    }
    let fast = speed(&report)["layers"].as_array().unwrap();
    assert!(fast.iter().all(|l| !back.contains(&l["name"].as_str().unwrap())), "{fast:?}");
    let replay = ["--accuracy-drop", "0.0005", "--replay", &record];
    let replayed = int8(&place, "b.tobiuo", &replay);
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"), "replayed");
    assert_eq!(&replayed["int8"]["gate"], gate);
}

#[test]
fn without_the_device_the_cost_model_decides() {
    let place = Place::new(Standin::new().without_driver());
    let report = int8(&place, "a.tobiuo", &["--device", "sm_87", "--accuracy-drop", "0.5"]);
    let speed = speed(&report);
    assert_eq!(speed["measured"], false);
    assert!(speed["tried"][0]["network_us"].is_null());
    assert_eq!(report["int8"]["gate"]["clock"], "GPU, predicted");
    int8(&place, "b.tobiuo", &["--device", "sm_87", "--accuracy-drop", "0.5"]);
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"));
}

#[test]
fn integers_are_verified_bit_for_bit() {
    let place = Place::new(device(ONE));
    let cache = place.path("calibration.txt");
    int8(&place, "a.tobiuo", &[]);
    let place = place.on(Standin::new());
    let (model, engine) = (place::model("detector.onnx"), place.path("a.tobiuo"));
    let verify = ["verify", &engine, model.to_str().unwrap(), "--samples", "2"];
    let said = place.ends(0, &verify);
    assert!(said.contains("SNR"), "{said}");
    let said = place.ends(2, &[&verify[..], &["--layers"]].concat());
    assert!(said.contains("--calibration-cache"), "{said}");
    let layers = ["--layers", "--calibration-cache", &cache, "--json"];
    let found = place.ends(0, &[&verify[..], &layers].concat());
    let found: Value = serde_json::from_str(&found).unwrap();
    let layers = found["plans"][0]["layers"].as_array().unwrap();
    let of = |op: &str| layers.iter().filter(|l| l["op"] == op).count();
    assert!(of("QuantConv") > 0 && of("Conv") > 0, "{layers:?}");
    // Other scales are another engine.
    let text = std::fs::read_to_string(&cache).unwrap();
    let model_hash = text.lines().nth(1).unwrap();
    std::fs::write(&cache, text.replace(model_hash, "model 00")).unwrap();
    let wrong = ["--layers", "--calibration-cache", &cache];
    let said = place.ends(2, &[&verify[..], &wrong].concat());
    assert!(said.contains("another model"), "{said}");
}
