//! No changed byte goes unnoticed.

mod common;

use common::Random;
use tobiuo_engine::format::{ENTRY_LEN, HEADER_LEN};
use tobiuo_engine::{EngineError, EngineErrorKind, EngineFile, encode};

fn engine() -> Vec<u8> {
    encode(&common::manifest(), &common::weights()).unwrap()
}

/// Loads bytes that are not the engine's: must be an error that says why, with status 4.
fn refused(bytes: &[u8], how: impl Fn() -> String) -> EngineError {
    match EngineFile::from_bytes(bytes) {
        Ok(_) => panic!("{}: loads", how()),
        Err(e) => {
            assert_eq!(e.exit_status(), 4, "{}: {e}", how());
            assert!(!e.reason().is_empty());
            e
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let engine = engine();
    for len in 0..engine.len() {
        let e = refused(&engine[..len], || format!("the first {len} bytes"));
        assert_eq!(e.kind(), EngineErrorKind::Truncated, "the first {len} bytes: {e}");
    }
    for more in [1, 7, 4096, 100_000] {
        let mut longer = engine.clone();
        longer.resize(engine.len() + more, 0);
        let e = refused(&longer, || format!("{more} bytes more"));
        assert_eq!(e.kind(), EngineErrorKind::Damaged);
        assert_eq!(e.offset(), Some(engine.len() as u64));
    }
}

#[test]
fn every_changed_bit_of_the_head_is_refused() {
    let engine = engine();
    for bit in 0..8 * (HEADER_LEN + ENTRY_LEN) {
        let mut changed = engine.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(&changed, || format!("bit {bit}"));
    }
}

#[test]
fn every_changed_byte_behind_the_head_is_refused_and_placed() {
    let engine = engine();
    let weights = engine.len() - common::WEIGHTS;
    let manifest_end = engine[..weights].iter().rposition(|&b| b == b'}').unwrap() + 1;
    let mut random = Random(1);
    let padding = (manifest_end..weights).step_by(31);
    for at in (HEADER_LEN + ENTRY_LEN..manifest_end).chain(padding).chain(weights..engine.len()) {
        let mut changed = engine.clone();
        changed[at] ^= 1 + random.below(255) as u8;
        let e = refused(&changed, || format!("byte {at}"));
        assert_eq!(e.kind(), EngineErrorKind::Damaged, "byte {at}: {e}");
        let (place, offset) = match at {
            _ if at < manifest_end => ("manifest", HEADER_LEN + ENTRY_LEN),
            _ if at < weights => ("padding before section 0", at),
            _ => ("weights section (section 0, 768 bytes)", weights),
        };
        assert_eq!((e.place(), e.offset()), (place, Some(offset as u64)), "byte {at}");
    }
}

/// One change of a file's bytes, of any kind.
fn mutate(engine: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = engine.to_vec();
    // Mostly where something stands: the padding is most of a small engine.
    let anywhere = |random: &mut Random| match random.below(4) {
        0 => random.below(HEADER_LEN + ENTRY_LEN),
        1 => engine.len() - 1 - random.below(common::WEIGHTS),
        2 => random.below(8192).min(engine.len() - 1),
        _ => random.below(engine.len()),
    };
    let at = anywhere(random);
    let longest = [1, 8, 64, 4096][random.below(4)];
    let n = (1 + random.below(longest)).min(out.len() - at);
    match random.below(9) {
        0 => out[at] ^= 1 << random.below(8),
        1 => out[at] = [0, 0xff, 0x7f, 0x80, b'0', b'"'][random.below(6)],
        2 => out[at..at + n].fill_with(|| random.next() as u8),
        3 => out[at..at + n].fill(0),
        4 => {
            out.drain(at..at + n);
        }
        5 => {
            let extra: Vec<u8> = (0..n).map(|_| random.next() as u8).collect();
            out.splice(at..at, extra);
        }
        6 => {
            let from = anywhere(random);
            let n = n.min(out.len() - from);
            out.copy_within(from..from + n, at);
        }
        7 => {
            // A number of the head, as 64 bits, becomes another.
            let field = 8 * random.below((HEADER_LEN + ENTRY_LEN) / 8);
            let old = u64::from_le_bytes(out[field..field + 8].try_into().unwrap());
            let new = match random.below(5) {
                0 => u64::MAX - random.below(3) as u64,
                1 => old.wrapping_add(1),
                2 => old.wrapping_sub(1),
                3 => old ^ 1 << random.below(64),
                _ => random.next() >> random.below(64),
            };
            out[field..field + 8].copy_from_slice(&new.to_le_bytes());
        }
        _ => {
            let from = anywhere(random);
            out.swap(at, from);
        }
    }
    out
}

#[test]
fn twelve_thousand_mutants_are_refused() {
    let engine = engine();
    let mut random = Random(2);
    let (mut refusals, mut unchanged) = (0, 0);
    let mut round = 0;
    while refusals < 12_000 {
        round += 1;
        let mut mutant = mutate(&engine, &mut random);
        for _ in 0..random.below(3) {
            mutant = mutate(&mutant, &mut random);
        }
        if mutant == engine {
            EngineFile::from_bytes(&mutant).unwrap();
            unchanged += 1;
            continue;
        }
        refused(&mutant, || format!("mutant {round}"));
        refusals += 1;
    }
    assert!(unchanged < refusals / 2, "mutations must change something");
}

#[test]
fn damage_is_found_in_files_and_by_many_threads_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.tobiuo");
    let mut manifest = common::manifest();
    let weights = common::weights().repeat(8 << 10); // 6 MiB
    manifest.labels.clear();
    let engine = encode(&manifest, &weights).unwrap();
    let begin = engine.len() - weights.len();
    let mut random = Random(3);
    let mut places: Vec<usize> = (0..12).map(|_| begin + random.below(weights.len())).collect();
    places.extend([begin, engine.len() - 1]);
    for at in places {
        let mut changed = engine.clone();
        changed[at] ^= 0x40;
        std::fs::write(&path, &changed).unwrap();
        let e = EngineFile::open(&path).unwrap_err();
        assert_eq!(e.kind(), EngineErrorKind::Damaged, "{e}");
        assert_eq!(e.offset(), Some(begin as u64));
        assert_eq!(e.path(), Some(&*path));
        assert!(e.to_string().starts_with(path.to_str().unwrap()), "{e}");
    }
    std::fs::write(&path, &engine).unwrap();
    assert_eq!(EngineFile::open(&path).unwrap().weights(), weights);
}
