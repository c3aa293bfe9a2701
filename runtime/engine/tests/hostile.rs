//! Manifests made by an attacker, or by a builder with a mistake, in files whose hashes are
//! right: an error, or an engine that is valid by a second opinion. Never a panic.

mod common;
#[path = "common/mutate.rs"]
mod mutate;
#[path = "common/oracle.rs"]
mod oracle;

use std::collections::BTreeMap;

use common::Random;
use mutate::{Places, mutate};
use tobiuo_engine::format::SectionKind;
use tobiuo_engine::{EngineErrorKind, EngineFile, assemble};

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
