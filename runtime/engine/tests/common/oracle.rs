//! A second, plain opinion on a plan that was found valid, written from the format's
//! description: one entry per byte of the arena instead of pieces, no code shared.

use std::collections::HashSet;

use tobiuo_engine::{Manifest, Place, Plan, Program};

/// Bytes of the largest arena that is worth an entry per byte.
const LARGEST: u64 = 4 << 20;

/// True when every plan was checked; panics on one that must not have been accepted.
pub fn check(manifest: &Manifest, weights: usize) -> bool {
    manifest.plans.iter().all(|plan| check_plan(plan, weights))
}

fn check_plan(plan: &Plan, weights: usize) -> bool {
    let range = |t: u32| {
        let d = &plan.tensors[t as usize];
        let bytes: u128 =
            d.shape.iter().map(|&n| n as u128).product::<u128>() * d.dtype.size() as u128;
        let (arena, at, len) = match d.place {
            Place::Arena(at) => (true, at, plan.arena),
            Place::Weights(at) => (false, at, weights as u64),
            Place::Bound => panic!("accepted a tensor without a place"),
        };
        assert_eq!(at % 64, 0, "{} is not aligned", d.name);
        assert!(at as u128 + bytes <= len as u128, "{} is out of bounds", d.name);
        (arena, at as usize..at as usize + bytes as usize)
    };
    (0..plan.tensors.len()).for_each(|t| {
        range(t as u32);
    });
    if plan.arena > LARGEST {
        return false;
    }
    let Program::Cpu(steps) = &plan.program else { return false };
    let written_by_step: HashSet<u32> = steps.iter().flat_map(|s| &s.outputs).copied().collect();
    // Who wrote a byte: which tensor.
    let mut owner: Vec<Option<u32>> = vec![None; plan.arena as usize];
    for &t in &plan.inputs {
        let (arena, bytes) = range(t);
        assert!(arena, "an input lies among the weights");
        assert!(owner[bytes.clone()].iter().all(Option::is_none), "inputs overlap");
        owner[bytes].fill(Some(t));
    }
    let read = |owner: &[Option<u32>], t: u32, explicit_views: &HashSet<u32>| {
        let (arena, bytes) = range(t);
        if !arena {
            return;
        }
        let own = written_by_step.contains(&t) && !explicit_views.contains(&t);
        for at in bytes {
            let writer = owner[at].unwrap_or_else(|| panic!("byte {at} of {t} was never written"));
            assert!(!own || writer == t, "{t} is read, byte {at} was overwritten by {writer}");
        }
    };
    let mut explicit_views = HashSet::new();
    for step in steps {
        step.inputs.iter().for_each(|&t| read(&owner, t, &explicit_views));
        let ranges: Vec<_> = step.outputs.iter().map(|&t| range(t)).collect();
        for (i, (arena, a)) in ranges.iter().enumerate() {
            assert!(arena, "an output lies among the weights");
            for (_, b) in &ranges[..i] {
                assert!(a.start.max(b.start) >= a.end.min(b.end), "outputs overlap");
            }
        }
        // A step whose output lies within or around its inputs, other than exactly on one,
        // is one that moves nothing.
        let moves_nothing = matches!(
            step.op.name(),
            "Concat" | "Slice" | "Reshape" | "Transpose" | "Expand" | "Tile" | "Cast" | "Pad"
        ) && step.inputs.iter().any(|&t| {
            let ((arena, a), (_, b)) = (range(t), &ranges[0]);
            arena && a.start.max(b.start) < a.end.min(b.end)
        });
        if moves_nothing {
            explicit_views.extend(&step.outputs);
            continue;
        }
        for &t in &step.outputs {
            let (_, bytes) = range(t);
            owner[bytes].fill(Some(t));
        }
    }
    plan.outputs.iter().for_each(|&t| read(&owner, t, &explicit_views));
    true
}
