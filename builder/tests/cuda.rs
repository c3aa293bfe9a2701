//! CUDA engines from the command line, on a machine without a GPU: the stand-in driver runs
//! every kernel's reference.

use std::collections::HashSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use tobiuo_engine::{EngineFile, Program};
use tobiuo_standin::{Description, Standin};

mod place;
use place::{Place, model, number};

#[test]
fn kernels_are_timed_once_and_engines_verify() {
    let place = Place::new(Standin::new());
    let first = place.build("detector.onnx", "a.tobiuo", &["--batch", "1,2"]);
    assert!(first["device"].as_str().unwrap().starts_with("cuda:0 ("), "{first}");
    assert!(first["device_why"].as_str().unwrap().contains("first GPU"), "{first}");
    assert_eq!(first["precision"], "fp16");
    let cuda = &first["cuda"];
    assert_eq!(cuda["device"]["tuned"], true);
    assert_eq!(cuda["device"]["sm"], 87);
    let tuning = &cuda["tuning"];
    assert!(number(&tuning["timed"]) > 10 && number(&tuning["compiled"]) > 10, "{tuning}");
    assert_eq!(number(&tuning["timed_before"]), 0);
    let plans = cuda["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 2);
    for plan in plans {
        assert!(plan["estimated_us"].as_f64().unwrap() > 0.0);
        assert!(plan["network_us"].as_f64().unwrap() > 0.0);
        for layer in plan["layers"].as_array().unwrap() {
            assert!(number(&layer["tactic"]["nanoseconds"]) > 0, "{layer}");
            assert!(!layer["tactic"]["label"].as_str().unwrap().is_empty());
        }
    }
    let many = |l: &&Value| !l["tactic"]["runners_up"].as_array().unwrap().is_empty();
    assert!(plans[0]["layers"].as_array().unwrap().iter().any(|l| many(&l)));
    assert!(Path::new(&place.path("cache/tobiuo/tactics.jsonl")).exists());
    let file = EngineFile::open(place.path("a.tobiuo")).unwrap();
    for plan in &file.manifest().plans {
        let Program::Cuda(program) = &plan.program else { panic!("{plan:?}") };
        assert!(program.vision.is_some(), "frames become pictures on the device");
    }

    // A second round added to the first of layers with more candidates than that has.
    let text = std::fs::read_to_string(place.path("cache/tobiuo/tactics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |l: &Value| l["of"].as_str().unwrap().to_string();
    let known: HashSet<String> = lines.iter().map(of).collect();
    let tried: Vec<usize> = (lines.iter().filter(|l| of(l).starts_with("tried ")))
        .map(|l| {
            let keys = l["what"].as_str().unwrap().split(' ').map(|w| w.split_once(':').unwrap().1);
            let keys: HashSet<&str> = keys.collect();
            assert!(keys.iter().all(|&k| known.contains(k)), "{l}");
            keys.len()
        })
        .collect();
    assert!(tried.iter().any(|&n| n > 20) && tried.iter().all(|&n| n <= 24), "{tried:?}");

    // The cache knows all of it: the same engine, and nothing measured.
    let second = place.build("detector.onnx", "b.tobiuo", &["--batch", "1,2"]);
    let tuning = &second["cuda"]["tuning"];
    assert_eq!((number(&tuning["timed"]), number(&tuning["compiled"])), (0, 0), "{tuning}");
    assert!(number(&tuning["timed_before"]) > 10);
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"), "another engine from the cache");
    // And the engine that is there is what it would make.
    let third = place.build("detector.onnx", "b.tobiuo", &["--batch", "1,2"]);
    assert_eq!(third["reused"], true);
    let other = place.build("detector.onnx", "b.tobiuo", &["--effort", "max"]);
    assert_eq!(other["reused"], false);
    let fp32 = place.build("detector.onnx", "b.tobiuo", &["-m", "fp32", "-g", "0"]);
    assert_eq!((&fp32["reused"], &fp32["precision"]), (&Value::Bool(false), &"fp32".into()));

    let m = model("detector.onnx");
    for engine in ["a.tobiuo", "b.tobiuo"] {
        let e = place.path(engine);
        let verify = ["verify", &e, m.to_str().unwrap(), "--layers", "--samples", "1", "--json"];
        let found: Value = serde_json::from_str(&place.ends(0, &verify)).unwrap();
        assert_eq!(found["ok"], true, "{found}");
        let plan = &found["plans"][0];
        assert!(plan["layers"].as_array().unwrap().len() >= 8, "{plan}");
        assert!(plan["first_difference"].is_null());
    }
    assert_eq!(place.files(), ["a.tobiuo", "b.tobiuo", "cache"]);
}

#[test]
fn records_give_the_same_engine() {
    let place = Place::new(Standin::new());
    let record = place.path("r.json");
    place.build("detector.onnx", "a.tobiuo", &["--record", &record, "--tactic-cache", "none"]);
    let replayed = ["--replay", &record, "--tactic-cache", "none"];
    let report = place.build("detector.onnx", "b.tobiuo", &replayed);
    assert_eq!(number(&report["cuda"]["tuning"]["timed"]), 0);
    assert_eq!(report["cuda"]["device"]["tuned"], true);
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"), "replayed");
    assert_eq!(place.files(), ["a.tobiuo", "b.tobiuo", "r.json"], "no cache was wanted");

    let (m, c) = (model("classifier.onnx"), model("detector.onnx"));
    let (m, c, e) = (m.to_str().unwrap(), c.to_str().unwrap(), place.path("x.tobiuo"));
    let with = |m: &str, more: &[&str]| {
        let begin = ["build", m, "-o", &e, "--replay", &record];
        [&begin, more].concat().iter().map(|s| s.to_string()).collect::<Vec<_>>()
    };
    fn strs(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }
    let said = place.ends(2, &strs(&with(m, &[])));
    assert!(said.contains("model: recorded"), "{said}");
    let said = place.ends(2, &strs(&with(c, &["--precision", "fp32"])));
    assert!(said.contains("precision: recorded fp16, here fp32"), "{said}");
    let said = place.ends(2, &strs(&with(c, &["--batch", "1,2"])));
    assert!(said.contains("batch sizes: recorded [1], here [1, 2]"), "{said}");

    // Damage: an error, never an engine.
    let good = std::fs::read_to_string(&record).unwrap();
    for (bad, status) in [
        ("", 4),
        ("{}", 4),
        ("[1]", 4),
        (&good[..good.len() / 2], 4),
        (&good.replacen("\"format\": 1", "\"format\": 2", 1), 4),
        (&good.replace("\"source\": \"", "\"source\": \"0"), 2),
        (&good.replace("\"stream\": 0", "\"stream\": 7000000000"), 2),
    ] {
        std::fs::write(&record, bad).unwrap();
        let said = place.ends(status, &strs(&with(c, &[])));
        assert!(said.contains("record"), "{said}");
    }
    std::fs::write(&record, good).unwrap();
    let other = strs(&with(c, &[])).iter().map(|s| s.to_string()).collect::<Vec<_>>();
    let place = place.on(Standin::new().device("h200"));
    let said = place.ends(3, &strs(&other));
    assert!(said.contains("architecture: recorded sm_87, here sm_90"), "{said}");

    // The architecture alone, without driver and device.
    let place = place.on(Standin::new().without_driver());
    place.build("detector.onnx", "b.tobiuo", &["--device", "sm_87", "--replay", &record]);
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"), "replayed without the device");
    assert!(!place.files().contains(&"x.tobiuo".to_string()));
}

#[test]
fn without_the_device_engines_are_untuned_and_say_so() {
    let place = Place::new(Standin::new().without_driver());
    let report = place.build("classifier.onnx", "a.tobiuo", &["--device", "sm_87"]);
    let device = &report["cuda"]["device"];
    assert_eq!((&device["tuned"], &device["sm"]), (&Value::Bool(false), &87.into()));
    assert_eq!(report["device"], "sm_87");
    assert!(report["cuda"]["plans"][0]["estimated_us"].is_null());
    let again = place.build("classifier.onnx", "b.tobiuo", &["--device", "sm_87"]);
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"), "{again}");
    let m = model("classifier.onnx");
    let m = m.to_str().unwrap();
    let e = place.path("c.tobiuo");
    let said = place.ends(0, &["build", m, "-o", &e, "--device", "sm_72"]);
    assert!(said.contains("UNTUNED") && said.contains("not by timing"), "{said}");
    // Without the option there is the CPU.
    let said = place.ends(0, &["build", m, "-o", &e]);
    assert!(said.contains("for cpu") && said.contains("no GPU can be used"), "{said}");
    let said = place.ends(5, &["build", m, "-o", &e, "--device", "cuda"]);
    assert!(said.contains("libcuda.so.1") && said.contains("--device cpu"), "{said}");
    let said = place.ends(2, &["build", m, "-o", &e, "--record", &place.path("r")]);
    assert!(said.contains("for CUDA engines"), "{said}");
    let said = place.ends(5, &["build", m, "-o", &e, "--device", "sm_42"]);
    assert!(said.contains("sm_72, sm_87, sm_90, sm_110"), "{said}");
    // An untuned engine runs on a device of its kind, a tuned build is another engine.
    let place = place.on(Standin::new());
    place.ends(0, &["verify", &place.path("a.tobiuo"), m, "--samples", "1"]);
    let tuned = place.build("classifier.onnx", "a.tobiuo", &["--device", "sm_87"]);
    assert_eq!(tuned["reused"], false);
    assert_eq!(tuned["cuda"]["device"]["tuned"], true);
    let fast = place.build("classifier.onnx", "a.tobiuo", &["--effort", "fast"]);
    assert_eq!(fast["cuda"]["device"]["tuned"], false);
    assert_eq!(number(&fast["cuda"]["tuning"]["timed"]), 0);
}

#[test]
fn a_missing_or_unfit_compiler_is_named() {
    let m = model("classifier.onnx");
    let m = m.to_str().unwrap();
    let place = Place::new(Standin::new().without_nvrtc());
    let e = place.path("a.tobiuo");
    let said = place.ends(5, &["build", m, "-o", &e]);
    assert!(said.contains("NVRTC"), "{said}");
    // NVRTC 12.6 does not know Thor.
    let place = Place::new(Standin::new().without_driver());
    let e = place.path("a.tobiuo");
    let said = place.ends(5, &["build", m, "-o", &e, "--device", "sm_110"]);
    assert!(said.contains("NVRTC 13") && said.contains("sm_110"), "{said}");
    assert_eq!(place.files().iter().filter(|f| f.as_str() != "cache").count(), 0);
}

#[test]
fn memory_has_a_limit() {
    let place = Place::new(Standin::new());
    let m = model("classifier.onnx");
    let m = m.to_str().unwrap();
    let e = place.path("a.tobiuo");
    // The cost model chooses, so that every build chooses alike.
    let limited = |limit: u64| {
        let text = limit.to_string();
        let options = ["--no-cache", "--effort", "fast", "--memory-limit", &text];
        place.build("classifier.onnx", "a.tobiuo", &options)
    };
    let needs = |report: &Value| -> (u64, u64) {
        let cuda = &report["cuda"];
        let memory = &cuda["plans"][0]["memory"];
        let of = |key: &str| number(&memory[key]);
        (number(&cuda["weights"]) + of("arena") + of("bound"), of("scratch"))
    };
    let (fixed, scratch) = needs(&limited(64 << 20));
    // Exactly what it takes is enough, with scratch memory or without it.
    assert_eq!(needs(&limited(fixed + scratch)), (fixed, scratch));
    assert_eq!(needs(&limited(fixed)), (fixed, 0));
    std::fs::remove_file(&e).unwrap();
    let less = (fixed - 1).to_string();
    let said = place.ends(8, &["build", m, "-o", &e, "--memory-limit", &less]);
    assert!(said.contains(&fixed.to_string()) && said.contains(&less), "{said}");
    assert!(!Path::new(&e).exists());
    for bad in ["0", "many", "-1G"] {
        let said = place.ends(2, &["build", m, "-o", &e, "--memory-limit", bad]);
        assert!(said.contains("512M"), "{said}");
    }
    let workspace = place.build("classifier.onnx", "a.tobiuo", &["-w", "1"]);
    assert_eq!(workspace["reused"], false);
}

#[test]
fn a_named_cache_is_used_or_is_an_error() {
    let place = Place::new(Standin::new());
    let cache = place.path("mine/times.jsonl");
    let with = ["--tactic-cache", cache.as_str(), "--effort", "default"];
    place.build("classifier.onnx", "a.tobiuo", &with);
    assert!(Path::new(&place.path("mine/times.cubins")).is_dir());
    // Lines that make no sense are a warning, and measured again.
    let text = std::fs::read_to_string(&cache).unwrap();
    let (kept, _) = text.split_at(text.len() / 2);
    std::fs::write(&cache, kept).unwrap();
    let m = model("classifier.onnx");
    let m = m.to_str().unwrap();
    let e = place.path("b.tobiuo");
    let said = place.ends(0, &[&["build", m, "-o", &e][..], &with].concat());
    assert!(said.contains("times.jsonl") && said.contains("make no sense"), "{said}");
    let report = place.build("classifier.onnx", "c.tobiuo", &with);
    assert_eq!(number(&report["cuda"]["tuning"]["timed"]), 0);
    // Where it can only be read, a build goes on without keeping anything; root may always write.
    let set = |mode: u32| {
        std::fs::set_permissions(place.path("mine"), Permissions::from_mode(mode)).unwrap();
    };
    std::fs::remove_dir_all(place.path("mine/times.cubins")).unwrap();
    set(0o555);
    let locked = std::fs::File::create(place.path("mine/probe")).is_err();
    let said = place.ends(0, &[&["build", m, "-o", &e, "--no-cache"][..], &with].concat());
    set(0o755);
    assert!(!locked || said.contains("times.cubins: compiled kernels are not kept"), "{said}");
    // A folder is no file, nor is what has no end; what is something else is left as it is.
    std::fs::create_dir(place.path("folder")).unwrap();
    let named = |status: i32, cache: &str| {
        place.ends(status, &["build", m, "-o", &e, "--no-cache", "--tactic-cache", cache])
    };
    for special in [place.path("folder"), "/dev/zero".into()] {
        let said = named(2, &special);
        assert!(said.contains(&special) && said.contains("not a regular file"), "{said}");
    }
    let notes = place.path("notes.txt");
    std::fs::write(&notes, "{\"frame\":1}\nto be kept\n").unwrap();
    let said = named(2, &notes);
    assert!(said.contains("notes.txt") && said.contains("something else"), "{said}");
    assert_eq!(place.bytes("notes.txt"), b"{\"frame\":1}\nto be kept\n");
    // Where there is no room for compiled kernels, it is that folder that is named.
    std::fs::write(place.path("other.cubins"), "").unwrap();
    let said = named(1, &place.path("other.jsonl"));
    assert!(said.contains("other.cubins: compiled kernels"), "{said}");
    assert!(place.ends(2, &["build", m, "-o", &e, "--effort", "mad"]).contains("default"));
}

/// A driver between the one that this program starts with and the one that engines load on.
#[test]
fn a_driver_that_no_engine_loads_on_is_refused_before_the_build() {
    let old = Description { driver: 12010, ..Description::default() };
    let place = Place::new(Standin::new().with(&old));
    let (m, e) = (model("classifier.onnx"), place.path("a.tobiuo"));
    let m = m.to_str().unwrap();
    let said = place.ends(5, &["build", m, "-o", &e, "--device", "cuda"]);
    assert!(said.contains("CUDA 12.1") && said.contains("JetPack 6"), "{said}");
    assert!(place.files().is_empty(), "{:?}", place.files());
    // The CPU, and said why.
    let said = place.ends(0, &["build", m, "-o", &e]);
    assert!(said.contains("for cpu") && said.contains("CUDA 12.1"), "{said}");
}

#[test]
fn a_kernel_that_faults_while_it_is_timed_is_named() {
    let place = Place::new(Standin::new().fail("kernel#5:700"));
    let (m, e) = (model("classifier.onnx"), place.path("a.tobiuo"));
    let said = place.ends(5, &["build", m.to_str().unwrap(), "-o", &e]);
    assert!(said.contains("timing layer '") && said.contains("' with "), "{said}");
    assert!(said.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{said}");
}

#[test]
fn launches_are_drawn() {
    let place = Place::new(Standin::new().without_driver());
    let report = place.build("classifier.onnx", "a.tobiuo", &["--device", "sm_87"]);
    let launches = report["cuda"]["plans"][0]["layers"].as_array().unwrap().len();
    let (e, dot) = (place.path("a.tobiuo"), place.path("a.dot"));
    let said = place.ends(0, &["draw", &e, "-o", &dot]);
    let (inputs, outputs) = (1, 1);
    assert!(said.contains(&format!("{} boxes", inputs + launches + outputs)), "{said}");
    let text = String::from_utf8(place.bytes("a.dot")).unwrap();
    let first = &report["cuda"]["plans"][0]["layers"][0];
    assert!(text.contains(first["family"].as_str().unwrap()), "{text}");
    assert!(text.matches(" -> ").count() > launches, "each is joined to the next: {text}");
    place.ends(0, &["draw", &e, "-o", &place.path("a.svg")]);
    let svg = String::from_utf8(place.bytes("a.svg")).unwrap();
    let label = first["tactic"]["label"].as_str().unwrap();
    assert!(svg.contains(&format!("{} {label}", first["family"].as_str().unwrap())), "{svg}");
}

#[test]
fn the_device_is_checked_when_an_engine_is_verified() {
    let place = Place::new(Standin::new());
    place.build("classifier.onnx", "a.tobiuo", &[]);
    let (m, e) = (model("classifier.onnx"), place.path("a.tobiuo"));
    let verify = ["verify", &e, m.to_str().unwrap()];
    let found = place.ends(0, &verify);
    assert!(found.contains("same class on top"), "{found}");
    let h200 = place.on(Standin::new().device("h200"));
    let said = h200.ends(3, &verify);
    assert!(said.contains("compute capability"), "{said}");
    let none = h200.on(Standin::new().without_driver());
    none.ends(5, &verify);
}

/// Engines for a Jetson that is not here, by its data sheet.
#[test]
fn modules_are_built_for_by_name() {
    let place = Place::new(Standin::new().without_driver());
    // NVRTC 12's code does not load on the last driver for Xavier.
    let xavier = place.build("classifier.onnx", "x.tobiuo", &["--device", "xavier-nx"]);
    let driver = &xavier["cuda"]["driver"];
    assert_eq!((&driver["oldest"], &driver["jetpack"]), (&"12.0".into(), &Value::Null));
    let warning = driver["warning"].as_str().unwrap();
    assert!(warning.contains("no JetPack") && warning.contains("NVRTC 11.4 to 11.8"), "{warning}");
    std::fs::remove_file(place.path("x.tobiuo")).unwrap();
    let report = place.build("detector.onnx", "nano.tobiuo", &["--device", "orin-nano-8gb"]);
    let driver = &report["cuda"]["driver"];
    assert_eq!((&driver["oldest"], &driver["jetpack"]), (&"12.2".into(), &"6".into()));
    assert_eq!(driver["warning"], Value::Null);
    let device = &report["cuda"]["device"];
    assert_eq!((&device["name"], &device["sm"]), (&"Jetson Orin Nano 8GB".into(), &87.into()));
    assert_eq!((&device["tuned"], &device["sm_count"]), (&Value::Bool(false), &8.into()));
    assert_eq!(report["cuda"]["bandwidth_gbs"], 102.0);
    place.build("detector.onnx", "again.tobiuo", &["--device", "orin-nano-8gb"]);
    assert!(place.bytes("nano.tobiuo") == place.bytes("again.tobiuo"));
    let agx = place.build("detector.onnx", "agx.tobiuo", &["--device", "agx-orin-64gb"]);
    assert_eq!(agx["cuda"]["device"]["sm_count"], 16);
    let (m, e) = (model("detector.onnx"), place.path("x.tobiuo"));
    let m = m.to_str().unwrap();
    let said = place.ends(5, &["build", m, "-o", &e, "--device", "tx2"]);
    assert!(said.contains("6.2") && said.contains("7.2 and later"), "{said}");
    let said = place.ends(2, &["build", m, "-o", &e, "--device", "orin"]);
    assert!(said.contains("orin-nano-8gb") && said.contains("agx-thor"), "{said}");
    // They run on an Orin.
    let place = place.on(Standin::new());
    for engine in ["nano.tobiuo", "agx.tobiuo"] {
        place.ends(0, &["verify", &place.path(engine), m, "--samples", "1"]);
    }
}

#[test]
fn a_build_ends_within_its_time_and_the_next_goes_on() {
    let place = Place::new(Standin::new());
    let now = place.build("classifier.onnx", "a.tobiuo", &["--time-limit", "0"]);
    let tuning = &now["cuda"]["tuning"];
    assert_eq!(tuning["untimed"], tuning["distinct"], "{tuning}");
    assert_eq!(now["cuda"]["device"]["tuned"], false);
    let m = model("classifier.onnx");
    let m = m.to_str().unwrap();
    place.ends(0, &["verify", &place.path("a.tobiuo"), m, "--samples", "1"]);
    // A little at a time, until it is the engine that a build without a limit makes.
    let (mut left, mut builds) = (number(&tuning["untimed"]), 0);
    while left > 0 {
        let limit = format!("{}s", 1 << builds);
        let step = place.build("classifier.onnx", "a.tobiuo", &["--time-limit", &limit]);
        assert_eq!(step["reused"], false, "what is not all timed is not kept");
        let untimed = number(&step["cuda"]["tuning"]["untimed"]);
        assert!(untimed <= left, "{untimed} untimed after {left}");
        let engine = EngineFile::open(place.path("a.tobiuo")).unwrap();
        let notes = engine.manifest().provenance.notes.join("; ");
        let some = step["cuda"]["device"]["tuned"] == true && untimed > 0;
        assert_eq!(notes.contains("partly tuned"), some, "{notes}");
        left = untimed;
        builds += 1;
        assert!(builds < 12, "it does not get on: {left} left");
    }
    let done = place.build("classifier.onnx", "a.tobiuo", &["--time-limit", "60"]);
    let again = place.build("classifier.onnx", "a.tobiuo", &[]);
    assert_eq!(again["reused"], true, "{done}");
}

#[test]
fn layers_are_joined_where_that_is_faster_and_as_a_record_says() {
    let place = Place::new(Standin::new());
    let record = place.path("r.json");
    let with = ["--record", &record, "--batch", "1,2"];
    let report = place.build("bottlenecks.onnx", "a.tobiuo", &with);
    let text = std::fs::read_to_string(&record).unwrap();
    let recorded: Value = serde_json::from_str(&text).unwrap();
    let plans = report["cuda"]["plans"].as_array().unwrap();
    for (plan, told) in plans.iter().zip(recorded["plans"].as_array().unwrap()) {
        let joins = told["joined"].as_array().expect("some are joined");
        let layers = plan["layers"].as_array().unwrap();
        let joined = layers
            .iter()
            .filter(|l| ["conv_pair", "conv_chain"].map(Value::from).contains(&l["family"]))
            .collect::<Vec<_>>();
        assert_eq!(joined.len(), joins.len());
        for (layer, names) in joined.iter().zip(joins) {
            let names = names.as_array().unwrap().iter().map(|n| n.as_str().unwrap());
            let names: Vec<&str> = names.collect();
            assert_eq!(layer["name"], names.join(" + "));
        }
    }
    let m = model("bottlenecks.onnx");
    let m = m.to_str().unwrap();
    let verify = ["verify", &place.path("a.tobiuo"), m, "--layers", "--samples", "1", "--json"];
    let found: Value = serde_json::from_str(&place.ends(0, &verify)).unwrap();
    assert_eq!(found["ok"], true, "{found}");

    // From the cache, and by the record: the same bytes.
    place.build("bottlenecks.onnx", "b.tobiuo", &["--batch", "1,2", "--no-cache"]);
    assert!(place.bytes("a.tobiuo") == place.bytes("b.tobiuo"), "from the cache");
    let replay = ["--replay", &record, "--batch", "1,2", "--tactic-cache", "none"];
    let replayed = place.build("bottlenecks.onnx", "c.tobiuo", &replay);
    assert_eq!(number(&replayed["cuda"]["tuning"]["timed"]), 0);
    assert!(place.bytes("a.tobiuo") == place.bytes("c.tobiuo"), "replayed");

    // A record that joins what cannot be joined.
    let pair = recorded["plans"][0]["joined"][0].as_array().unwrap();
    let wrong = text.replace(pair[0].as_str().unwrap(), "Conv_0");
    std::fs::write(&record, wrong).unwrap();
    let e = place.path("x.tobiuo");
    let said = place.ends(2, &["build", m, "-o", &e, "--replay", &record, "--batch", "1,2"]);
    assert!(said.contains("cannot be joined") && said.contains("Conv_0"), "{said}");
    assert!(!place.files().contains(&"x.tobiuo".to_string()));
}
