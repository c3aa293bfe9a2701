//! Depthwise convolution: `cuda/depthwise.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::defines::{Defines, ceil_div};
use super::numbers::{EXACT, Ends, NUMBERS, Numbers, activated, define_exact, kind, scaled};
use super::reference::{activate, load, reach, store};
use super::window::Windows;
use super::{Argument, Candidate, Extents, Family, Target};

pub(super) const VECTOR: &str = include_str!("../cuda/vector.cuh");
const SOURCE: &str = include_str!("../cuda/depthwise.cu");

/// A depthwise convolution between NHWC tensors: output channel c is made from input channel
/// c / multiplier.
///
/// Inputs: x, and the residual where there is one. Constants: weights `[kh * kw, channels]` in
/// the layer's type, bias `[channels]` f32; of integers i8 weights, and multiplier and bias
/// `[channels, 2]` f32, the arithmetic being `tobiuo_ops::QuantConv`'s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthwiseLayer {
    /// x's elements: f16, f32, i8 or u8.
    pub dtype: DType,
    /// Pictures.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Output channels as stored, a multiple of 8.
    pub channels: usize,
    /// Output channels made from each input channel.
    pub multiplier: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Elements from one output pixel to the next.
    pub y_pitch: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Steps down and across.
    pub strides: [usize; 2],
    /// Padding above and to the left.
    pub pads: [usize; 2],
    /// Dilation down and across.
    pub dilations: [usize; 2],
    /// Elements from one residual pixel to the next, where there is a residual.
    pub residual_pitch: Option<usize>,
    /// Fused.
    pub activation: Option<Activation>,
    /// Where x, the residual or results are integers; else all are of the layer's type and the
    /// activation is last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Ends>,
}

impl Family for DepthwiseLayer {
    fn name(&self) -> &'static str {
        if self.integer() { "depthwise_i8" } else { "depthwise" }
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let mut out = Vec::new();
        for columns in [1, 2, 4, 7] {
            if columns > self.output[1] || columns * self.kernel[1] > 28 {
                continue;
            }
            for threads in [64, 128, 256] {
                out.push(self.candidate(columns, threads, target));
            }
        }
        out
    }

    fn extents(&self) -> Extents {
        let pixels = self.batch * self.input[0] * self.input[1];
        let last = self.batch * self.output[0] * self.output[1] - 1;
        let ends = self.ends();
        let mut inputs = vec![reach((pixels - 1) * self.x_pitch, self.channels_read(), self.dtype)];
        let residual = |p| reach(last * p, self.channels, ends.residual.dtype);
        inputs.extend(self.residual_pitch.map(residual));
        let taps = self.kernel[0] * self.kernel[1];
        let end = if self.integer() { 8 } else { 4 };
        Extents {
            inputs,
            constants: vec![taps * self.channels * self.dtype.size(), self.channels * end],
            outputs: vec![reach(last * self.y_pitch, self.channels, ends.y.dtype)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let weight = if self.integer() { DType::I8 } else { self.dtype };
        let (x, w) = (load(inputs[0], self.dtype), load(constants[0], weight));
        let bias = load(constants[1], DType::F32);
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        let windows = Windows {
            input: self.input,
            kernel: self.kernel,
            strides: self.strides,
            pads: self.pads,
            dilations: self.dilations,
            transposed: false,
        };
        let ends = self.ends();
        let zero = f64::from(ends.x_zero_point);
        for pixel in 0..self.batch * oh * ow {
            let (image, row, column) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let taps = windows.taps(row, column);
            for c in 0..self.channels {
                // Integers add up exactly in f64 too.
                let mut sum = if self.integer() { 0.0 } else { bias[c] };
                for &(tap, at) in &taps {
                    let at = (image * ih * iw + at) * self.x_pitch + c / self.multiplier;
                    sum += (x[at] - zero) * w[tap * self.channels + c];
                }
                let residual = self.residual_pitch.map(|pitch| pixel * pitch + c);
                let at = pixel * self.y_pitch + c;
                if self.integer() {
                    let add = |v| residual.map_or(v, |i| ends.residual.add_to(v, inputs[1], i));
                    let v = scaled(sum as i32, constants[1], c);
                    let v = match ends.residual_last {
                        true => add(activated(self.activation, v)),
                        false => activated(self.activation, add(v)),
                    };
                    ends.y.store(&mut outputs[0], at, v);
                    continue;
                }
                let add = residual.map_or(0.0, |i| f64::from(ends.residual.real(inputs[1], i)));
                let value = match ends.residual_last {
                    true => activate(self.activation, sum) + add,
                    false => activate(self.activation, sum + add),
                };
                match ends.y.is_integer() {
                    true => ends.y.store(&mut outputs[0], at, value as f32),
                    false => store(&mut outputs[0], ends.y.dtype, at, value),
                }
            }
        }
    }
}

impl DepthwiseLayer {
    /// Products of integers.
    pub(crate) fn integer(&self) -> bool {
        !self.dtype.is_float()
    }

    pub(crate) fn ends(&self) -> Ends {
        let own = Numbers::float(self.dtype);
        self.ends.unwrap_or(Ends { x_zero_point: 0, y: own, residual: own, residual_last: false })
    }

    /// Input channels read of a pixel.
    pub fn channels_read(&self) -> usize {
        (self.channels - 1) / self.multiplier + 1
    }

    fn candidate(&self, columns: usize, threads: usize, target: &Target) -> Candidate {
        let [oh, ow] = self.output;
        let work = self.batch * oh * ceil_div(ow, columns) * (self.channels / 8);
        let mut d = Defines::new(target, self.dtype == DType::F16);
        d.all(&[
            ("T_F16", usize::from(self.dtype == DType::F16)),
            ("T_KIND", kind(self.dtype)),
            ("RESIDUAL_LAST", usize::from(self.ends().residual_last)),
            ("BATCH", self.batch),
            ("IH", self.input[0]),
            ("IW", self.input[1]),
            ("OH", oh),
            ("OW", ow),
            ("C_STORED", self.channels),
            ("MULTIPLIER", self.multiplier),
            ("LDX", self.x_pitch),
            ("LDY", self.y_pitch),
            ("KH", self.kernel[0]),
            ("KW", self.kernel[1]),
            ("SH", self.strides[0]),
            ("SW", self.strides[1]),
            ("PT", self.pads[0]),
            ("PL", self.pads[1]),
            ("DH", self.dilations[0]),
            ("DW", self.dilations[1]),
            ("RESIDUAL", usize::from(self.residual_pitch.is_some())),
            ("LDR", self.residual_pitch.unwrap_or(0)),
            ("COLS", columns),
            ("THREADS", threads),
        ])
        .set("X_ZERO", format!("({})", self.ends().x_zero_point))
        .activation(self.activation);
        self.ends().y.define("Y", &mut d);
        self.ends().residual.define("R", &mut d);
        let exact = if self.integer() { EXACT } else { "" };
        define_exact(&mut d);
        let blocks = ceil_div(work, threads);
        let pixels = self.dtype.size() * self.input[0] * self.input[1]
            + self.ends().y.dtype.size() * oh * ow;
        let bytes = self.channels * self.batch * pixels;
        let per_thread =
            (self.kernel[0] * ((columns - 1) * self.strides[1] + self.kernel[1])) as f64;
        let full = (blocks * threads) as f64 / (f64::from(target.sm_count) * 1024.0);
        let residual =
            if self.residual_pitch.is_some() { Argument::Input(1) } else { Argument::Null };
        Candidate {
            label: format!("columns {columns} threads {threads}"),
            source: d.source(&[NUMBERS, exact, VECTOR, SOURCE]),
            grid: [blocks as u32, 1, 1],
            block: threads as u32,
            shared: 0,
            specific: false,
            arguments: vec![
                Argument::Input(0),
                Argument::Constant(0),
                Argument::Constant(1),
                Argument::Output(0),
                residual,
            ],
            scratch: 0,
            zeroed: 0,
            predicted_us: 1.5
                + bytes as f64 / (target.bandwidth_gbs * 1e3)
                + full.ceil().max(1.0) * per_thread * 0.03,
        }
    }
}
