//! An engine made by the builder, damaged in ten thousand ways: an error each time. Never a crash,
//! a hang, or another answer.

mod common;

use std::time::{Duration, Instant};

use common::{Random, answer, engine_of, small_model};
use tobiuo::Engine;

const MUTANTS: usize = 10_000;

/// One way to damage a file.
fn mutant(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    match random.below(8) {
        0 => bytes[random.below(good.len())] ^= 1 << random.below(8),
        1 => bytes[random.below(good.len())] = random.next() as u8,
        2 => bytes.truncate(random.below(good.len())),
        3 => {
            // A run of bytes overwritten with noise or with one value.
            let at = random.below(good.len());
            let len = (1 + random.below(256)).min(good.len() - at);
            let same = random.below(2) == 0;
            let value = random.next() as u8;
            bytes[at..at + len].fill_with(|| if same { value } else { random.next() as u8 });
        }
        4 => {
            let (a, b) = (random.below(good.len()), random.below(good.len()));
            bytes.swap(a, b);
        }
        5 => {
            let at = random.below(good.len());
            bytes.insert(at, random.next() as u8);
        }
        6 => {
            bytes.remove(random.below(good.len()));
        }
        _ => {
            // In the head and the manifest, where structure is.
            let at = random.below(good.len().min(4096));
            bytes[at] = bytes[at].wrapping_add(1 + random.below(255) as u8);
        }
    }
    bytes
}

#[test]
fn ten_thousand_mutants_are_refused() {
    let good = engine_of(&small_model());
    let right = answer(&Engine::from_bytes(&good).expect("the engine loads")).expect("it runs");
    let mut random = Random(1);
    for i in 0..MUTANTS {
        let mut bytes = mutant(&good, &mut random);
        while bytes == good {
            bytes = mutant(&good, &mut random);
        }
        let begun = Instant::now();
        match Engine::from_bytes(&bytes) {
            Err(e) => assert!(!e.to_string().is_empty(), "mutant {i}: an error without words"),
            // Any byte that changed must be noticed; were one not, the answer must be right.
            Ok(engine) => {
                assert_eq!(answer(&engine).expect("it runs"), right, "mutant {i} answers wrong");
                panic!("mutant {i} differs from the engine and was not noticed");
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "mutant {i} took {:?}", begun.elapsed());
    }
}
