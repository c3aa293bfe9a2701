//! Fully connected layers at small batch: `cuda/gemv.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::defines::{Defines, ceil_div};
use super::depthwise::VECTOR;
use super::reference::{activate, load, reach, store};
use super::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../cuda/gemv.cu");

/// `y [batch, outputs] = act(x [batch, depth] * w^T + bias)`, batch 1 to 4.
///
/// Input: x. Constants: w `[outputs, depth]` in x's type; bias `[outputs]` f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GemvLayer {
    /// f16 or f32.
    pub dtype: DType,
    /// Rows of x.
    pub batch: usize,
    /// Elements of a row as stored, a multiple of 8.
    pub depth: usize,
    /// Elements from one row of x to the next.
    pub x_pitch: usize,
    /// Rows of w.
    pub outputs: usize,
    /// Elements from one row of y to the next.
    pub y_pitch: usize,
    /// y is f32 whatever x is.
    pub y_f32: bool,
    /// Applied last.
    pub activation: Option<Activation>,
}

impl Family for GemvLayer {
    fn name(&self) -> &'static str {
        "gemv"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let mut out = Vec::new();
        let piece = 16 / self.dtype.size();
        for (warps, split, rows, unroll) in [
            (4, 1, 1, 4),
            (4, 1, 2, 4),
            (4, 2, 1, 4),
            (4, 2, 2, 2),
            (4, 4, 1, 2),
            (4, 4, 1, 4),
            (4, 4, 2, 4),
            (8, 8, 1, 4),
            (8, 8, 2, 4),
            (8, 8, 4, 2),
            (8, 4, 2, 4),
            (4, 4, 4, 2),
        ] {
            if rows * self.batch > 16 || (split - 1) * 32 * piece >= self.depth {
                continue;
            }
            let mut d = Defines::new(target, self.dtype == DType::F16);
            d.all(&[
                ("T_F16", usize::from(self.dtype == DType::F16)),
                ("BATCH", self.batch),
                ("K_STORED", self.depth),
                ("LDX", self.x_pitch),
                ("O", self.outputs),
                ("LDY", self.y_pitch),
                ("Y_F32", usize::from(self.y_f32)),
                ("WARPS", warps),
                ("SPLIT", split),
                ("ROWS", rows),
                ("UNROLL", unroll),
            ])
            .activation(self.activation);
            let blocks = ceil_div(self.outputs, warps / split * rows);
            let bytes = (self.outputs * self.depth * self.dtype.size()) as f64;
            let passes = ceil_div(self.depth / piece, 32 * split * unroll) as f64;
            let waves = blocks as f64 * (warps * 32) as f64 / (f64::from(target.sm_count) * 1536.0);
            out.push(Candidate {
                label: format!("warps {warps} split {split} rows {rows} unroll {unroll}"),
                source: d.source(&[VECTOR, SOURCE]),
                grid: [blocks as u32, 1, 1],
                block: (warps * 32) as u32,
                shared: 0,
                specific: false,
                arguments: vec![
                    Argument::Input(0),
                    Argument::Constant(0),
                    Argument::Constant(1),
                    Argument::Output(0),
                ],
                scratch: 0,
                zeroed: 0,
                predicted_us: 1.5
                    + (bytes / (target.bandwidth_gbs * 0.9e3)).max(waves.ceil() * passes * 0.8),
            });
        }
        out
    }

    fn extents(&self) -> Extents {
        let last = self.batch - 1;
        Extents {
            inputs: vec![reach(last * self.x_pitch, self.depth, self.dtype)],
            constants: vec![self.outputs * self.depth * self.dtype.size(), self.outputs * 4],
            outputs: vec![reach(last * self.y_pitch, self.outputs, self.y_type())],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let (x, w) = (load(inputs[0], self.dtype), load(constants[0], self.dtype));
        let bias = load(constants[1], DType::F32);
        for row in 0..self.batch {
            let x = &x[row * self.x_pitch..][..self.depth];
            for (o, w) in w.chunks_exact(self.depth).enumerate() {
                let sum = bias[o] + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
                let value = activate(self.activation, sum);
                store(&mut outputs[0], self.y_type(), row * self.y_pitch + o, value);
            }
        }
    }
}

impl GemvLayer {
    fn y_type(&self) -> DType {
        if self.y_f32 { DType::F32 } else { self.dtype }
    }
}
