//! Functions of one or two pictures: `cuda/elementwise.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::{INPUT, OUTPUT, per_thread};
use crate::memory::{each_index, lower, rows, upper};
use crate::reference::{activate, load_at, store};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/elementwise.cu");

/// What an [`ElementwiseLayer`] computes of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ElementwiseOp {
    None,
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Pow,
}

/// `act(a op b)` or `act(a)`. Inputs: a, b. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElementwiseLayer {
    /// f16 or f32.
    pub dtype: DType,
    /// Pixels of all pictures.
    pub pixels: usize,
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Channels that mean something; those stored beyond are written as zeros.
    pub valid: usize,
    /// Elements from one pixel of a to the next.
    pub a_pitch: usize,
    /// Elements from one pixel of b to the next; 0: one row shared by all pixels.
    pub b_pitch: usize,
    /// Elements from one pixel of y to the next.
    pub y_pitch: usize,
    /// The function.
    pub op: ElementwiseOp,
    /// Applied to the result.
    pub activation: Option<Activation>,
}

impl Family for ElementwiseLayer {
    fn name(&self) -> &'static str {
        "elementwise"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let binary = self.op != ElementwiseOp::None;
        let bytes = self.dtype.size() * self.channels * self.pixels * (2 + usize::from(binary));
        let b = if binary { Argument::Input(1) } else { Argument::Null };
        let work = self.pixels * (self.channels / 8);
        per_thread(work, bytes, target, self.dtype, SOURCE, &[INPUT, b, OUTPUT], |d| {
            d.all(&[
                ("PIXELS", self.pixels),
                ("C_STORED", self.channels),
                ("C_VALID", self.valid),
                ("LDA", self.a_pitch),
                ("LDB", self.b_pitch),
                ("LDY", self.y_pitch),
                ("B_ROW", usize::from(self.b_pitch == 0)),
                ("OP", self.op as usize),
            ])
            .activation(self.activation);
        })
    }
    fn extents(&self) -> Extents {
        let bytes = |pixels, pitch| rows(self.dtype, pixels, pitch, self.channels);
        let mut inputs = vec![bytes(self.pixels, self.a_pitch)];
        if self.op != ElementwiseOp::None {
            let shared = self.b_pitch == 0 && self.pixels > 0;
            inputs.push(bytes(if shared { 1 } else { self.pixels }, self.b_pitch));
        }
        Extents { inputs, constants: vec![], outputs: vec![bytes(self.pixels, self.y_pitch)] }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        each_index(&[self.pixels, self.channels], |i| {
            let (pixel, c) = (i[0], i[1]);
            let a = load_at(inputs[0], self.dtype, pixel * self.a_pitch + c);
            let b = inputs.get(1).map_or(0.0, |b| load_at(b, self.dtype, pixel * self.b_pitch + c));
            let value = match self.op {
                ElementwiseOp::None => a,
                ElementwiseOp::Add => a + b,
                ElementwiseOp::Sub => a - b,
                ElementwiseOp::Mul => a * b,
                ElementwiseOp::Div => a / b,
                ElementwiseOp::Min => lower(a, b),
                ElementwiseOp::Max => upper(a, b),
                ElementwiseOp::Pow => a.powf(b),
            };
            let value = if c < self.valid { activate(self.activation, value) } else { 0.0 };
            store(&mut outputs[0], self.dtype, pixel * self.y_pitch + c, value);
        });
    }
}
