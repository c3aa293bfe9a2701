//! The two lines that a candidate's source begins with.

use serde::{Deserialize, Serialize};

use super::{Argument, Candidate, Layer};

/// What a candidate's source begins with: this, the layer as JSON, and a line's end.
pub const LAYER_MARK: &str = "// layer: ";

/// What the second line begins with: this, a [`LaunchNote`] as JSON, and a line's end.
pub const LAUNCH_MARK: &str = "// launch: ";

/// How a kernel wants to be launched, as its source says it: for people, and for the stand-in
/// driver of machines without a GPU, which checks every launch against it and needs to know
/// which of the plain 64-bit arguments is what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchNote {
    /// Blocks in x, y, z; `None` where they depend on the arguments.
    pub grid: Option<[u32; 3]>,
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// What the arguments are.
    pub arguments: Vec<Argument>,
    /// Scratch memory, bytes.
    pub scratch: usize,
    /// Its first bytes, which are zero before and after every run.
    pub zeroed: usize,
}

impl LaunchNote {
    pub(crate) fn of(c: &Candidate) -> LaunchNote {
        LaunchNote {
            grid: Some(c.grid),
            block: [c.block, 1, 1],
            shared: c.shared,
            arguments: c.arguments.clone(),
            scratch: c.scratch,
            zeroed: c.zeroed,
        }
    }
}

/// Both lines, for the front of a source.
pub(crate) fn head(layer: &Layer, note: &LaunchNote) -> String {
    let layer = serde_json::to_string(layer).expect("layers are plain data");
    let note = serde_json::to_string(note).expect("notes are plain data");
    format!("{LAYER_MARK}{layer}\n{LAUNCH_MARK}{note}\n")
}

#[cfg(test)]
mod tests {
    use tobiuo_tensor::DType;

    use super::*;
    use crate::{PermuteLayer, Target};

    #[test]
    fn a_source_says_what_it_computes_and_how_it_is_launched() {
        let target = Target {
            sm: 87,
            sm_count: 8,
            shared_per_block: 166_912,
            shared_per_sm: 167_936,
            l2_bytes: 4 << 20,
            clock_ghz: 0.9,
            bandwidth_gbs: 100.0,
        };
        let layer = Layer::Permute(PermuteLayer {
            from: DType::F32,
            to: DType::F16,
            dims: vec![2, 3],
            x_offset: 0,
            x_strides: vec![3, 1],
            y_strides: vec![1, 2],
            valid: None,
        });
        let candidates = layer.candidates(&target);
        assert!(!candidates.is_empty());
        for candidate in candidates {
            let mut lines = candidate.source.lines();
            let first = lines.next().and_then(|l| l.strip_prefix(LAYER_MARK)).expect("the layer");
            assert_eq!(serde_json::from_str::<Layer>(first).expect("it is read"), layer);
            let second = lines.next().and_then(|l| l.strip_prefix(LAUNCH_MARK)).expect("the note");
            let note: LaunchNote = serde_json::from_str(second).expect("it is read");
            assert_eq!(note, LaunchNote::of(&candidate));
        }
    }
}
