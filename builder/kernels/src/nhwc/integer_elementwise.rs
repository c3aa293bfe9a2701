//! Functions of one or two pictures of which one at least holds integers:
//! `cuda/integer_elementwise.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::{ElementwiseOp, INPUT, OUTPUT, per_thread};
use crate::memory::{each_index, rows};
use crate::numbers::{activated, define_exact};
use crate::reference::store;
use crate::{Argument, Candidate, Extents, Family, Numbers, Target};

const SOURCE: &str = concat!(
    include_str!("../../cuda/exact.cuh"),
    include_str!("../../cuda/integer_elementwise.cu")
);

/// `act(a op b)` or `act(a)`: sums, differences, products and extremes of integers and floats,
/// quantisation and its reverse. Inputs: a, b. Output: y. The arithmetic is
/// `tobiuo_ops::QuantBinary`'s, and `tobiuo_ops::Op::Quantize`'s for a float alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntegerElementwiseLayer {
    /// Pixels of all pictures.
    pub pixels: usize,
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Channels that mean something; those stored beyond are written as the number 0.
    pub valid: usize,
    /// How a is.
    pub a: Numbers,
    /// How b is.
    pub b: Numbers,
    /// How results are stored.
    pub y: Numbers,
    /// Elements from one pixel of a to the next.
    pub a_pitch: usize,
    /// Elements from one pixel of b to the next; 0: one row shared by all pixels.
    pub b_pitch: usize,
    /// Elements from one pixel of y to the next.
    pub y_pitch: usize,
    /// The function: `None`, `Add`, `Sub`, `Mul`, `Min` or `Max`.
    pub op: ElementwiseOp,
    /// Applied to the result.
    pub activation: Option<Activation>,
}

impl IntegerElementwiseLayer {
    /// A float alone is divided by the scale of the integers that it becomes.
    fn divided(&self) -> bool {
        self.op == ElementwiseOp::None && !self.a.is_integer() && self.y.is_integer()
    }
}

impl Family for IntegerElementwiseLayer {
    fn name(&self) -> &'static str {
        "elementwise_i8"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let binary = self.op != ElementwiseOp::None;
        let element = self.a.dtype.size()
            + self.y.dtype.size()
            + if binary { self.b.dtype.size() } else { 0 };
        let b = if binary { Argument::Input(1) } else { Argument::Null };
        let work = self.pixels * (self.channels / 8);
        let bytes = element * self.channels * self.pixels;
        // The element type that the sources' helpers are made for.
        let dtype = DType::F16;
        per_thread(work, bytes, target, dtype, SOURCE, &[INPUT, b, OUTPUT], |d| {
            d.all(&[
                ("PIXELS", self.pixels),
                ("C_STORED", self.channels),
                ("C_VALID", self.valid),
                ("LDA", self.a_pitch),
                ("LDB", self.b_pitch),
                ("LDY", self.y_pitch),
                ("B_ROW", usize::from(self.b_pitch == 0)),
                ("OP", self.op as usize),
                ("DIVIDED", usize::from(self.divided())),
            ])
            .activation(self.activation);
            self.a.define("A", d);
            self.b.define("B", d);
            self.y.define("Y", d);
            define_exact(d);
        })
    }

    fn extents(&self) -> Extents {
        let bytes = |n: Numbers, pixels, pitch| rows(n.dtype, pixels, pitch, self.channels);
        let mut inputs = vec![bytes(self.a, self.pixels, self.a_pitch)];
        if self.op != ElementwiseOp::None {
            let shared = self.b_pitch == 0 && self.pixels > 0;
            inputs.push(bytes(self.b, if shared { 1 } else { self.pixels }, self.b_pitch));
        }
        let outputs = vec![bytes(self.y, self.pixels, self.y_pitch)];
        Extents { inputs, constants: vec![], outputs }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        each_index(&[self.pixels, self.channels], |i| {
            let (pixel, c) = (i[0], i[1]);
            let a = self.a.real(inputs[0], pixel * self.a_pitch + c);
            let b = inputs.get(1).map_or(0.0, |b| self.b.real(b, pixel * self.b_pitch + c));
            let v = match self.op {
                ElementwiseOp::None => a,
                ElementwiseOp::Add => a + b,
                ElementwiseOp::Sub => a - b,
                ElementwiseOp::Mul => a * b,
                ElementwiseOp::Min => a.min(b),
                ElementwiseOp::Max => a.max(b),
                other => unreachable!("no integers are computed by {other:?}"),
            };
            let v = if c < self.valid { activated(self.activation, v) } else { 0.0 };
            let at = pixel * self.y_pitch + c;
            if !self.divided() {
                return self.y.store(&mut outputs[0], at, v);
            }
            let q = (v / self.y.scale).round_ties_even() as i32;
            let (low, high) = if self.y.dtype == DType::U8 { (0, 255) } else { (-128, 127) };
            let q = q.saturating_add(self.y.zero_point).clamp(low, high);
            store(&mut outputs[0], self.y.dtype, at, f64::from(q));
        });
    }
}
