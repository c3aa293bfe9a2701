//! Convolutions of 8-bit integers of any kind, by dp4a: `cuda/conv_dp4a.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::conv::{planes, weight_at};
use super::defines::{Defines, ceil_div};
use super::numbers::{EXACT, NUMBERS, Numbers, activated, define_exact, kind, scaled};
use super::reference::{load, reach};
use super::window::Windows;
use super::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../cuda/conv_dp4a.cu");

/// A convolution between NHWC tensors, x being integers: any number of groups, any kernel, any
/// zero point. Its arithmetic is `tobiuo_ops::QuantConv`'s.
///
/// Inputs: x, and the residual where there is one. Constants: weights `[groups * filters,
/// weight_pitch]` i8 with k ordered (kh, kw, c) and zeros behind; multiplier and bias `[groups *
/// filters, 2]` f32; where x has a zero point, the sums of each filter's weights `[groups *
/// filters]` i32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntegerConvLayer {
    /// x's elements: `I8` or `U8`.
    pub x: DType,
    /// The integer of x that stands for 0.
    pub x_zero_point: i32,
    /// Pictures.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
    /// Input channels of a group.
    pub channels: usize,
    /// Elements from one input pixel to the next, a multiple of 16.
    pub x_pitch: usize,
    /// Filters of a group.
    pub filters: usize,
    /// Output channels written: a multiple of 8, the excess as if multiplier and bias were zero.
    pub filters_stored: usize,
    /// Elements from one output pixel to the next, a multiple of 16 bytes.
    pub y_pitch: usize,
    /// Elements of a weight row, a multiple of 16; in blocks their rows.
    pub weight_pitch: usize,
    /// Weights lie as [`crate::ConvLayer::weight_at`] says; one group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocks: bool,
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
    /// How the residual is: f16 or integers.
    pub residual: Numbers,
    /// The residual is added behind the activation instead of before it.
    pub residual_last: bool,
    /// Fused.
    pub activation: Option<Activation>,
    /// How results are stored: f16 or integers.
    pub y: Numbers,
}

/// Pixels and filters of a block, and of a thread.
struct Tile {
    block: [usize; 2],
    thread: [usize; 2],
}

const fn tile(bm: usize, bn: usize, tm: usize, tn: usize) -> Tile {
    Tile { block: [bm, bn], thread: [tm, tn] }
}

const TILES: &[Tile] = &[
    tile(32, 16, 4, 4),
    tile(32, 32, 4, 4),
    tile(64, 16, 4, 4),
    tile(64, 32, 4, 4),
    tile(64, 64, 4, 4),
    tile(128, 16, 4, 4),
    tile(128, 32, 8, 4),
    tile(128, 64, 8, 4),
    tile(128, 128, 8, 8),
];

impl Family for IntegerConvLayer {
    fn name(&self) -> &'static str {
        "general_conv_i8"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        self.candidates_of((false, None), target)
    }

    fn extents(&self) -> Extents {
        let pixels = self.batch * self.input[0] * self.input[1];
        let last = self.pixels() - 1;
        let read = self.groups * self.channels;
        let mut inputs = vec![reach((pixels - 1) * self.x_pitch, read, self.x)];
        let added = |p| reach(last * p, self.filters_stored, self.residual.dtype);
        inputs.extend(self.residual_pitch.map(added));
        let filters = self.groups * self.filters;
        let weights = match self.blocks {
            true => self.depth().next_multiple_of(128) * self.weight_pitch,
            false => filters * self.weight_pitch,
        };
        let mut constants = vec![weights, filters * 8];
        if self.x_zero_point != 0 {
            constants.push(filters * 4);
        }
        Extents {
            inputs,
            constants,
            outputs: vec![reach(last * self.y_pitch, self.filters_stored, self.y.dtype)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let x: Vec<i32> = load(inputs[0], self.x).into_iter().map(|v| v as i32).collect();
        let w: Vec<i32> = load(constants[0], DType::I8).into_iter().map(|v| v as i32).collect();
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        // As the kernels do it: outside the picture lies the zero point, and its products with all
        // weights, whose sums are given, are taken off.
        let zero = self.x_zero_point;
        let totals: Vec<i32> = match zero {
            0 => Vec::new(),
            _ => load(constants[2], DType::I32).into_iter().map(|v| v as i32).collect(),
        };
        let of_filter = |f| (0..self.depth()).map(|k| w[self.weight_at(f, k)]).sum::<i32>();
        let all: Vec<i32> = (0..self.groups * self.filters).map(of_filter).collect();
        let windows = Windows {
            input: self.input,
            kernel: self.kernel,
            strides: self.strides,
            pads: self.pads,
            dilations: self.dilations,
            transposed: false,
        };
        for pixel in 0..self.pixels() {
            let (image, row, column) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let taps = windows.taps(row, column);
            for f in 0..self.filters_stored {
                let mut v = 0.0;
                if f < self.groups * self.filters {
                    let first = f / self.filters * self.channels;
                    let mut outside = all[f];
                    let mut sum = 0;
                    for &(tap, at) in &taps {
                        let at = (image * ih * iw + at) * self.x_pitch + first;
                        let x = &x[at..][..self.channels];
                        let weight = |c| w[self.weight_at(f, tap * self.channels + c)];
                        for (c, x) in x.iter().enumerate() {
                            sum += x * weight(c);
                            outside -= weight(c);
                        }
                    }
                    if zero != 0 {
                        sum += zero * outside - zero * totals[f];
                    }
                    v = scaled(sum, constants[1], f);
                }
                let add = |v: f32| match self.residual_pitch {
                    Some(pitch) => self.residual.add_to(v, inputs[1], pixel * pitch + f),
                    None => v,
                };
                let v = match self.residual_last {
                    true => add(activated(self.activation, v)),
                    false => activated(self.activation, add(v)),
                };
                self.y.store(&mut outputs[0], pixel * self.y_pitch + f, v);
            }
        }
    }
}

/// How results are stored: pooled or not, and [`crate::ConvLayer::y_planes`].
type Ends = (bool, Option<[usize; 3]>);

impl IntegerConvLayer {
    /// `ends`: whether of each 2 x 2 results only the largest is stored, and where they lie if not in
    /// pixels.
    pub(crate) fn candidates_of(&self, ends: Ends, target: &Target) -> Vec<Candidate> {
        let pixels = self.computed(ends.0);
        let fits = |t: &&Tile| {
            let [bm, bn] = t.block;
            (bn == 16 || bn / 2 < self.filters_of_tiles()) && (bm == 32 || bm / 2 < pixels)
        };
        let steps = [32, 64];
        let each = |t| steps.map(|bk| self.candidate(t, bk, ends, target));
        TILES.iter().filter(fits).flat_map(each).collect()
    }

    /// Pixels that are computed.
    fn computed(&self, pooled: bool) -> usize {
        let [oh, ow] = self.output;
        if pooled { self.batch * (oh / 2) * (ow / 2) * 4 } else { self.pixels() }
    }

    fn pixels(&self) -> usize {
        self.batch * self.output[0] * self.output[1]
    }

    fn weight_at(&self, filter: usize, k: usize) -> usize {
        match self.blocks {
            true => weight_at(filter, k, self.weight_pitch, 1),
            false => filter * self.weight_pitch + k,
        }
    }

    fn depth(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels
    }

    /// Filters that tiles have to cover: the last group's with the channels behind them.
    fn filters_of_tiles(&self) -> usize {
        self.filters_stored - (self.groups - 1) * self.filters
    }

    fn candidate(&self, t: &Tile, bk: usize, ends: Ends, target: &Target) -> Candidate {
        let (pooled, y_planes) = ends;
        let ([bm, bn], [tm, tn]) = (t.block, t.thread);
        let threads = bm / tm * (bn / tn);
        // Bytes of k that follow one another in x.
        let vector = match self.channels {
            c if c.is_multiple_of(16) => 16,
            c if c.is_multiple_of(4) => 4,
            _ => 1,
        };
        let mut d = Defines::new(target, false);
        d.all(&[
            ("BATCH", self.batch),
            ("IH", self.input[0]),
            ("IW", self.input[1]),
            ("OH", self.output[0]),
            ("OW", self.output[1]),
            ("GROUPS", self.groups),
            ("CG", self.channels),
            ("LDX", self.x_pitch),
            ("FILTERS", self.filters),
            ("FILTERS_STORED", self.filters_stored),
            ("LDY", self.y_pitch),
            ("LDW", self.weight_pitch),
            ("BLOCKS", usize::from(self.blocks)),
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
            ("RESIDUAL_LAST", usize::from(self.residual_last)),
            ("POOLED", usize::from(pooled)),
            ("X_KIND", kind(self.x)),
            ("BM", bm),
            ("BN", bn),
            ("TM", tm),
            ("TN", tn),
            ("BK", bk),
            ("VEC", vector),
        ])
        .set("X_ZERO", format!("({})", self.x_zero_point))
        .activation(self.activation);
        self.y.define("Y", &mut d);
        planes::define_results(y_planes, &mut d);
        self.residual.define("R", &mut d);
        define_exact(&mut d);
        let grid = [
            ceil_div(self.filters_of_tiles(), bn),
            ceil_div(self.computed(pooled), bm),
            self.groups,
        ];
        let blocks = grid.iter().product::<usize>() as f64;
        // 64 dot products of 4 a cycle; two blocks' worth of warps hide the loads.
        let per_sm = (blocks / f64::from(target.sm_count)).ceil();
        let steps = ceil_div(self.depth(), bk) as f64;
        let products = (bm * bn * bk) as f64 / 4.0 / 64.0;
        let loads = 350.0 + (bm * bk * 16 / vector) as f64 / 32.0;
        let cycles = steps * (per_sm * products).max((per_sm / 4.0).ceil() * loads);
        let residual =
            if self.residual_pitch.is_some() { Argument::Input(1) } else { Argument::Null };
        let totals = if self.x_zero_point == 0 { Argument::Null } else { Argument::Constant(2) };
        Candidate {
            label: format!("{bm}x{bn}x{bk} t{tm}x{tn}"),
            source: d.source(&[NUMBERS, planes::STORE, EXACT, SOURCE]),
            grid: grid.map(|n| n as u32),
            block: threads as u32,
            shared: 0,
            specific: false,
            arguments: vec![
                Argument::Input(0),
                Argument::Constant(0),
                Argument::Constant(1),
                totals,
                Argument::Output(0),
                residual,
            ],
            scratch: 0,
            zeroed: 0,
            predicted_us: 2.0 + cycles / (target.clock_ghz * 1e3),
        }
    }
}
