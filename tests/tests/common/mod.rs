//! What the suites share.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use tobiuo::Engine;
use tobiuo_builder::{BuildOptions, build};
use tobiuo_tensor::ViewDataMut;

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_path_buf()
}

/// A small network that has convolutions, a concatenation, a resize and a softmax: a YOLO head
/// in small.
pub fn small_model() -> PathBuf {
    root().join("builder/tests/golden/onnx/chain_yolo_head/model.onnx")
}

/// The bytes of an engine made of a model.
pub fn engine_of(model: &Path) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder for the engine");
    let path = folder.path().join("model.tobiuo");
    build(model, &path, &BuildOptions::default(), &mut ()).expect("the model builds");
    std::fs::read(&path).expect("the engine is there")
}

/// Deterministic numbers (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }
}

/// Runs an engine on pseudo-random f32 inputs and gives all outputs' bytes.
pub fn answer(engine: &Engine) -> Result<Vec<Vec<u8>>, tobiuo::Error> {
    let mut context = engine.context()?;
    let mut random = Random(0x7469_6e79_6669_7368);
    for i in 0..engine.inputs().len() {
        if let ViewDataMut::F32(values) = context.input_at(i).data {
            values.iter_mut().for_each(|v| *v = random.below(2001) as f32 / 1000.0 - 1.0);
        }
    }
    context.run()?;
    Ok((0..engine.outputs().len())
        .map(|i| context.output_at(i).to_tensor().data().bytes().to_vec())
        .collect())
}
