//! Manifests made by an attacker, or by a builder with a mistake, in files whose hashes are
//! right: an error, or an engine that is valid by a second opinion. Never a panic.

mod common;
#[path = "common/oracle.rs"]
mod oracle;

use std::collections::BTreeMap;

use common::Random;
use serde_json::{Value, json};
use tobiuo_engine::format::SectionKind;
use tobiuo_engine::{EngineErrorKind, EngineFile, assemble};

const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    63,
    64,
    65,
    127,
    128,
    256,
    1000,
    4096,
    65_536,
    1 << 31,
    1 << 32,
    (1 << 53) - 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 63,
    u64::MAX,
];

/// JSON pointers to every value of a document, and to every number.
struct Places {
    all: Vec<String>,
    numbers: Vec<String>,
}

impl Places {
    fn of(document: &Value) -> Places {
        let mut places = Places { all: vec![], numbers: vec![] };
        places.collect(document, String::new());
        places
    }

    fn collect(&mut self, value: &Value, here: String) {
        match value {
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, v)| self.collect(v, format!("{here}/{i}")));
            }
            Value::Object(fields) => {
                fields.iter().for_each(|(k, v)| self.collect(v, format!("{here}/{k}")));
            }
            Value::Number(_) => self.numbers.push(here.clone()),
            _ => (),
        }
        self.all.push(here);
    }
}

/// Changes one value: numbers mostly, because they pass the parser. Does nothing where an
/// earlier change took the place away.
fn mutate(document: &mut Value, places: &Places, random: &mut Random) {
    let kind = random.below(12);
    if kind < 9 {
        let path = &places.numbers[random.below(places.numbers.len())];
        let another =
            document.pointer(&places.numbers[random.below(places.numbers.len())]).cloned();
        let (Some(value), Some(another)) = (document.pointer_mut(path), another) else { return };
        let Some(old) = value.as_u64() else {
            *value = [json!(0), json!(1e30), json!("nan"), json!("-inf"), json!(-1)]
                [random.below(5)]
            .clone();
            return;
        };
        *value = match kind {
            0 => json!(NUMBERS[random.below(NUMBERS.len())]),
            1 => json!(old.wrapping_add(1)),
            2 => json!(old.saturating_sub(1)),
            3 => json!(old.wrapping_add(64)),
            4 => json!(old.wrapping_sub(64)),
            5 => json!(old.saturating_mul(2)),
            6 => json!(random.next() >> random.below(64)),
            _ => another,
        };
        return;
    }
    let another = document.pointer(&places.all[random.below(places.all.len())]).cloned();
    let value = document.pointer_mut(&places.all[random.below(places.all.len())]);
    let (Some(value), Some(another)) = (value, another) else { return };
    let kind = random.below(5);
    match (kind, value) {
        (0, value) => *value = another,
        (1, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.below(items.len()));
        }
        (1, Value::Object(fields)) if !fields.is_empty() => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            fields.remove(&keys[random.below(keys.len())]);
        }
        (2, Value::Array(items)) if !items.is_empty() => {
            let copy = items[random.below(items.len())].clone();
            items.insert(random.below(items.len() + 1), copy);
        }
        (3, Value::Array(items)) if items.len() > 1 => {
            let (a, b) = (random.below(items.len()), random.below(items.len()));
            items.swap(a, b);
        }
        (_, value) => {
            *value = [
                Value::Null,
                json!(true),
                json!(-1),
                json!(1e300),
                json!(""),
                json!("f32"),
                json!([]),
                json!({}),
            ][random.below(8)]
            .clone();
        }
    }
}

#[test]
fn twelve_thousand_changed_manifests_are_refused_or_valid() {
    let weights = common::weights();
    let valid = serde_json::to_value(common::manifest()).unwrap();
    let places = Places::of(&valid);
    let mut random = Random(4);
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let (mut valid_ones, mut judged) = (0, 0);
    for round in 0..12_000 {
        let mut document = valid.clone();
        for _ in 0..=random.below(2) {
            mutate(&mut document, &places, &mut random);
        }
        let json = serde_json::to_vec(&document).unwrap();
        let file = assemble(&json, &[(SectionKind::Weights, &weights)]);
        match EngineFile::from_bytes(&file) {
            Ok(engine) => {
                valid_ones += 1;
                judged += u32::from(oracle::check(engine.manifest(), weights.len()));
                // What was accepted is what was written, exactly.
                let again = serde_json::to_value(engine.manifest()).unwrap();
                let again = serde_json::from_value(again).unwrap();
                assert_eq!(engine.manifest(), &again, "round {round}");
            }
            Err(e) => {
                assert!(
                    matches!(e.kind(), EngineErrorKind::Inconsistent | EngineErrorKind::Limit),
                    "round {round}: {e:?}"
                );
                assert_eq!(e.exit_status(), 4);
                let place: String = e.place().chars().take_while(|c| !c.is_numeric()).collect();
                *ends.entry(place).or_default() += 1;
            }
        }
    }
    eprintln!("{valid_ones} valid, {judged} of them judged; refused at: {ends:#?}");
    // The mutations must reach the checks behind the parser, and not only break things.
    let parsed: u32 = ends.iter().filter(|(place, _)| *place != "manifest").map(|(_, n)| n).sum();
    assert!(parsed > 5_000, "{ends:?}");
    assert!(valid_ones > 500 && judged > 500, "{valid_ones}, {judged}");
}

#[test]
fn any_bytes_as_manifest_are_refused() {
    let text = serde_json::to_vec(&common::manifest()).unwrap();
    let mut random = Random(5);
    for _ in 0..3_000 {
        let mut json = text.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(json.len());
            match random.below(4) {
                0 => json[at] = random.next() as u8,
                1 => json.truncate(at),
                2 => json.insert(at, b"[{\"0,-e.}]"[random.below(10)]),
                _ => {
                    json.remove(at);
                }
            }
            if json.is_empty() {
                break;
            }
        }
        let file = assemble(&json, &[(SectionKind::Weights, &common::weights())]);
        if let Ok(engine) = EngineFile::from_bytes(&file) {
            // A letter of a name, a digit that does no harm.
            oracle::check(engine.manifest(), common::WEIGHTS);
        }
    }
}
