//! Fully connected layers at small batch: `cuda/gemv.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::defines::{Defines, ceil_div};
use super::depthwise::VECTOR;
use super::numbers::{EXACT, NUMBERS, Numbers, activated, define_exact, kind, scaled};
use super::reference::{activate, load, reach, store};
use super::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../cuda/gemv.cu");

/// `y [batch, outputs] = act(x [batch, depth] * w^T + bias)`, batch 1 to 4.
///
/// Input: x. Constants: w `[outputs, depth]` in x's type, bias `[outputs]` f32; of integers w in
/// i8, and multiplier and bias `[outputs, 2]` f32, the arithmetic being `tobiuo_ops::QuantGemm`'s
/// (x's zero point being 0).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GemvLayer {
    /// x's elements: f16, f32, i8 or u8.
    pub dtype: DType,
    /// Rows of x.
    pub batch: usize,
    /// Elements of a row as stored, a multiple of 8; of integers a multiple of 16.
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
    /// How results are stored where x's elements or they are integers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<Numbers>,
}

impl Family for GemvLayer {
    fn name(&self) -> &'static str {
        if self.integer() { "gemv_i8" } else { "gemv" }
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
                ("T_KIND", kind(self.dtype)),
                ("WARPS", warps),
                ("SPLIT", split),
                ("ROWS", rows),
                ("UNROLL", unroll),
            ])
            .activation(self.activation);
            self.numbers().define("Y", &mut d);
            define_exact(&mut d);
            let exact = if self.integer() { EXACT } else { "" };
            let blocks = ceil_div(self.outputs, warps / split * rows);
            let bytes = (self.outputs * self.depth * self.dtype.size()) as f64;
            let passes = ceil_div(self.depth / piece, 32 * split * unroll) as f64;
            let waves = blocks as f64 * (warps * 32) as f64 / (f64::from(target.sm_count) * 1536.0);
            out.push(Candidate {
                label: format!("warps {warps} split {split} rows {rows} unroll {unroll}"),
                source: d.source(&[NUMBERS, exact, VECTOR, SOURCE]),
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
        let end = if self.integer() { 8 } else { 4 };
        Extents {
            inputs: vec![reach(last * self.x_pitch, self.depth, self.dtype)],
            constants: vec![self.outputs * self.depth * self.dtype.size(), self.outputs * end],
            outputs: vec![reach(last * self.y_pitch, self.outputs, self.numbers().dtype)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let weight = if self.integer() { DType::I8 } else { self.dtype };
        let (x, w) = (load(inputs[0], self.dtype), load(constants[0], weight));
        let y = self.numbers();
        let bias = load(constants[1], DType::F32);
        for row in 0..self.batch {
            let x = &x[row * self.x_pitch..][..self.depth];
            for (o, w) in w.chunks_exact(self.depth).enumerate() {
                let sum = x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
                let at = row * self.y_pitch + o;
                if self.integer() {
                    // Integers add up exactly in f64 too.
                    let v = scaled(sum as i32, constants[1], o);
                    y.store(&mut outputs[0], at, activated(self.activation, v));
                    continue;
                }
                let value = activate(self.activation, bias[o] + sum);
                match y.is_integer() {
                    true => y.store(&mut outputs[0], at, value as f32),
                    false => store(&mut outputs[0], y.dtype, at, value),
                }
            }
        }
    }
}

impl GemvLayer {
    /// Products of integers.
    pub(crate) fn integer(&self) -> bool {
        !self.dtype.is_float()
    }

    /// How results are stored.
    pub(crate) fn numbers(&self) -> Numbers {
        let own = Numbers::float(if self.y_f32 { DType::F32 } else { self.dtype });
        self.y.unwrap_or(own)
    }
}
