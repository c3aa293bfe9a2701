//! Convolutions of any kind: `cuda/general_conv.cu` over the tiles of `cuda/tile.cuh`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::conv::planes::{self, Planes};
use super::defines::{Defines, ceil_div};
use super::depthwise::VECTOR;
use super::numbers::{NUMBERS, Numbers};
use super::reference::{activate, load, load_at, reach, store};
use super::tile::{self, Layouts, Mode, Tile, Work};
use super::window::Windows;
use super::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../cuda/general_conv.cu");

/// A convolution or transposed convolution between NHWC tensors: any number of groups, any
/// kernel, f32 (also by TF32) or f16.
///
/// Inputs: x; the weights where they are no constants; the bias where it is no constant; the
/// residual where there is one. Constants: the weights, the bias, as far as they are constants.
/// Weights: `[groups, kh * kw * channels, weight_pitch]` in the layer's type with zeros behind
/// a row's filters; bias: `[groups * filters]` f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneralConvLayer {
    /// f16 or f32.
    pub dtype: DType,
    /// Products of f32 in TF32.
    pub tf32: bool,
    /// A transposed convolution.
    pub transposed: bool,
    /// Pictures.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
    /// Input channels of a group; of a single group as stored.
    pub channels: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Filters of a group.
    pub filters: usize,
    /// Output channels written: a multiple of 8, the excess as if weights and bias were zero.
    pub filters_stored: usize,
    /// Elements from one output pixel to the next.
    pub y_pitch: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Steps down and across (transposed: in the output).
    pub strides: [usize; 2],
    /// Padding above and to the left (transposed: cut off the output).
    pub pads: [usize; 2],
    /// Dilation down and across.
    pub dilations: [usize; 2],
    /// The weights are an operand, not a constant.
    pub weights_given: bool,
    /// The bias is an operand, not a constant.
    pub bias_given: bool,
    /// Elements from one residual pixel to the next, where there is a residual.
    pub residual_pitch: Option<usize>,
    /// Applied last.
    pub activation: Option<Activation>,
    /// The residual is added behind the activation instead of before it.
    pub residual_last: bool,
}

/// A phase of a transposed convolution along one axis: its taps are every `step`-th from
/// `first` on, each `advance` input rows before the last.
struct Phases {
    first: Vec<usize>,
    step: usize,
    advance: usize,
}

impl Phases {
    fn of(kernel: usize, stride: usize, dilation: usize, pad: usize) -> Phases {
        let shared = gcd(stride, dilation);
        let step = stride / shared;
        let starts = |t: usize, at: usize| {
            (at + pad + stride * dilation * kernel - t * dilation).is_multiple_of(stride)
        };
        let first = (0..stride)
            .map(|at| (0..step.min(kernel)).find(|&t| starts(t, at)).unwrap_or(kernel))
            .collect();
        Phases { first, step, advance: dilation / shared }
    }

    /// Taps of the phase that has the most.
    fn most(&self, kernel: usize) -> usize {
        self.first.iter().map(|&f| ceil_div(kernel - f, self.step)).max().unwrap_or(0)
    }

    fn list(&self) -> String {
        let numbers: Vec<String> = self.first.iter().map(usize::to_string).collect();
        format!("{{{}}}", numbers.join(", "))
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The largest number of elements that can be loaded at once from steps of these sizes.
pub(super) fn vector(dtype: DType, steps: &[usize]) -> usize {
    let most = 16 / dtype.size();
    [8, 4, 2, 1].into_iter().find(|v| *v <= most && steps.iter().all(|s| s % v == 0)).unwrap_or(1)
}

/// How the weights lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WeightOrder {
    /// `[depth, pitch]`, a group after the other.
    DepthFirst,
    /// As the tensor core convolutions take them ([`crate::ConvLayer::weight_at`]).
    Blocks {
        /// Rows of a block: filters.
        rows: usize,
    },
}

/// How results and residual are stored.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub y: Numbers,
    pub residual: Numbers,
    /// Of each 2 x 2 results only the largest is stored; FFMA only.
    pub pooled: bool,
    /// As [`crate::ConvLayer`] has it.
    pub y_planes: Option<[usize; 3]>,
}

impl Family for GeneralConvLayer {
    fn name(&self) -> &'static str {
        "general_conv"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let own = Numbers::float(self.dtype);
        let ends = Stored { y: own, residual: own, pooled: false, y_planes: None };
        self.ordered_candidates(WeightOrder::DepthFirst, (None, ends), target)
    }

    fn extents(&self) -> Extents {
        let pixels = self.batch * self.input[0] * self.input[1];
        let last = self.batch * self.output[0] * self.output[1] - 1;
        let weights = self.groups * self.depth() * self.weight_pitch() * self.dtype.size();
        let bias = self.groups * self.filters * 4;
        let read = self.groups * self.channels;
        let mut e = Extents {
            inputs: vec![reach((pixels - 1) * self.x_pitch, read, self.dtype)],
            constants: vec![],
            outputs: vec![reach(last * self.y_pitch, self.filters_stored, self.dtype)],
        };
        if self.weights_given { &mut e.inputs } else { &mut e.constants }.push(weights);
        if self.bias_given { &mut e.inputs } else { &mut e.constants }.push(bias);
        let residual = |p: usize| reach(last * p, self.filters_stored, self.dtype);
        e.inputs.extend(self.residual_pitch.map(residual));
        e
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let places = self.places();
        let get = |a: Argument| match a {
            Argument::Input(i) => inputs[i],
            Argument::Constant(i) => constants[i],
            _ => unreachable!("operands and constants only"),
        };
        let x = load(inputs[0], self.dtype);
        let w = load(get(places.weights), self.dtype);
        let bias = load(get(places.bias), DType::F32);
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        let windows = Windows {
            input: self.input,
            kernel: self.kernel,
            strides: self.strides,
            pads: self.pads,
            dilations: self.dilations,
            transposed: self.transposed,
        };
        let pitch = self.weight_pitch();
        for pixel in 0..self.batch * oh * ow {
            let (image, row, column) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let taps = windows.taps(row, column);
            let mut sums = vec![0.0; self.filters_stored];
            for group in 0..self.groups {
                let first = group * self.filters;
                let sums = &mut sums[first..first + self.filters];
                sums.copy_from_slice(&bias[first..first + self.filters]);
                for &(tap, at) in &taps {
                    let at = (image * ih * iw + at) * self.x_pitch + group * self.channels;
                    for (c, x) in x[at..at + self.channels].iter().enumerate() {
                        let k = group * self.depth() + tap * self.channels + c;
                        sums.iter_mut().zip(&w[k * pitch..]).for_each(|(s, w)| *s += x * w);
                    }
                }
            }
            for (f, sum) in sums.into_iter().enumerate() {
                let add = self.residual_pitch.map_or(0.0, |pitch| {
                    load_at(get(places.residual), self.dtype, pixel * pitch + f)
                });
                let value = if self.residual_last {
                    activate(self.activation, sum) + add
                } else {
                    activate(self.activation, sum + add)
                };
                store(&mut outputs[0], self.dtype, pixel * self.y_pitch + f, value);
            }
        }
    }
}

/// Where a layer's operands are.
struct Places {
    weights: Argument,
    bias: Argument,
    residual: Argument,
}

impl GeneralConvLayer {
    /// Elements of one row of the packed weights.
    pub fn weight_pitch(&self) -> usize {
        self.filters.next_multiple_of(8)
    }

    /// Rows of one group's packed weights.
    pub fn depth(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels
    }

    fn places(&self) -> Places {
        let (mut inputs, mut constants) = (1, 0);
        let mut next = |given: bool| {
            let counter = if given { &mut inputs } else { &mut constants };
            *counter += 1;
            if given { Argument::Input(*counter - 1) } else { Argument::Constant(*counter - 1) }
        };
        let (weights, bias) = (next(self.weights_given), next(self.bias_given));
        let residual = match self.residual_pitch {
            Some(_) => Argument::Input(inputs),
            None => Argument::Null,
        };
        Places { weights, bias, residual }
    }

    pub(super) fn ordered_candidates(
        &self,
        order: WeightOrder,
        (planes, ends): (Option<&Planes>, Stored),
        target: &Target,
    ) -> Vec<Candidate> {
        let Some(mode) = Mode::of(self.dtype, self.tf32, target) else { return vec![] };
        let x_vector = vector(self.dtype, &[self.channels, self.x_pitch]);
        let same_type = (self.dtype == DType::F16) == (mode == Mode::F16);
        let through_async = target.sm >= 80
            && same_type
            && x_vector * self.dtype.size() >= 4
            && order == WeightOrder::DepthFirst
            && planes.is_none();
        let rows = Phases::of(self.kernel[0], self.strides[0], self.dilations[0], self.pads[0]);
        let columns = Phases::of(self.kernel[1], self.strides[1], self.dilations[1], self.pads[1]);
        let [oh, ow] = self.output;
        let [sh, sw] = self.strides;
        let padding = self.filters_stored - self.groups * self.filters;
        let mut work = Work {
            rows: match ends.pooled {
                true => self.batch * (oh / 2) * (ow / 2) * 4,
                false => self.batch * oh * ow,
            },
            columns: self.filters + padding,
            depth: self.depth(),
            products: self.groups,
            through_async,
            vectors: [
                x_vector,
                if order == WeightOrder::DepthFirst { 16 / self.dtype.size() } else { 4 },
            ],
        };
        let mut most = self.kernel[0] * self.kernel[1];
        if self.transposed {
            most = rows.most(self.kernel[0]) * columns.most(self.kernel[1]);
            work.rows = self.batch * ceil_div(oh, sh) * ceil_div(ow, sw);
            work.products *= sh * sw;
            work.depth = most * self.channels;
        }
        let places = self.places();
        let candidate = |(tile, split): (Tile, usize)| {
            let layouts = Layouts::default();
            let shared = tile.shared(layouts);
            let tiles =
                ceil_div(work.rows, tile.bm) * ceil_div(work.columns, tile.bn) * work.products;
            let blocks = u32::try_from(tiles * split).ok().filter(|&b| b < 1 << 31)?;
            let (tickets, scratch) = tile.scratch(tiles, split);
            let mut d = Defines::new(target, self.dtype == DType::F16);
            tile.define(&mut d, layouts, split, through_async);
            d.all(&[
                ("T_F16", usize::from(self.dtype == DType::F16)),
                ("TRANSPOSED", usize::from(self.transposed)),
                ("BATCH", self.batch),
                ("IH", self.input[0]),
                ("IW", self.input[1]),
                ("OH", oh),
                ("OW", ow),
                ("GROUPS", self.groups),
                ("CG", self.channels),
                ("FILTERS", self.filters),
                ("FILTERS_TILED", work.columns),
                ("FILTERS_STORED", self.filters_stored),
                ("LDY", self.y_pitch),
                ("KH", self.kernel[0]),
                ("KW", self.kernel[1]),
                ("SH", sh),
                ("SW", sw),
                ("PT", self.pads[0]),
                ("PL", self.pads[1]),
                ("DH", self.dilations[0]),
                ("DW", self.dilations[1]),
                ("MOST_TAPS", most),
                ("RIGHT_CONSTANT", usize::from(!self.weights_given && !self.bias_given)),
                ("RESIDUAL", usize::from(self.residual_pitch.is_some())),
                ("LDR", self.residual_pitch.unwrap_or(0)),
                ("RESIDUAL_LAST", usize::from(self.residual_last)),
                ("POOLED", usize::from(ends.pooled)),
                ("VEC", x_vector),
            ]);
            match order {
                WeightOrder::DepthFirst => d.all(&[
                    ("W_BY_ROW", 0),
                    ("LDW", self.weight_pitch()),
                    ("W_VEC", 16 / self.dtype.size()),
                ]),
                WeightOrder::Blocks { rows } => {
                    d.all(&[("W_BY_ROW", 1), ("LDW", rows), ("W_VEC", 4)])
                }
            };
            if self.transposed {
                d.set("ROW_STEP", format_args!("(-{})", rows.advance));
                d.set("COLUMN_STEP", format_args!("(-{})", columns.advance));
                d.all(&[("ROW_TAP_STEP", rows.step), ("COLUMN_TAP_STEP", columns.step)]);
                d.set("FIRST_ROW_TAPS", rows.list()).set("FIRST_COLUMN_TAPS", columns.list());
            } else {
                d.all(&[("ROW_STEP", self.dilations[0]), ("COLUMN_STEP", self.dilations[1])]);
            }
            planes::define(planes, (self.input, self.x_pitch), &mut d);
            d.activation(self.activation);
            ends.y.define("Y", &mut d);
            planes::define_results(ends.y_planes, &mut d);
            ends.residual.define("R", &mut d);
            Some(Candidate {
                label: tile.label(split),
                source: d.source(&[VECTOR, NUMBERS, planes::STORE, tile::SOURCE, SOURCE]),
                specific: false,
                grid: [blocks, 1, 1],
                block: tile.threads() as u32,
                shared: shared as u32,
                arguments: vec![
                    Argument::Input(0),
                    places.weights,
                    places.bias,
                    Argument::Output(0),
                    places.residual,
                    if split > 1 { Argument::Scratch(tickets) } else { Argument::Null },
                    if split > 1 { Argument::Scratch(0) } else { Argument::Null },
                ],
                scratch,
                zeroed: tickets,
                predicted_us: tile.predict(&work, split, shared, target),
            })
        };
        // A thread keeps its column of the pixels' tile.
        // Tiles with whole windows are not the smallest.
        let least = if ends.pooled { 64 } else { 0 };
        let choices = Tile::choices(mode, &Work { rows: work.rows.max(least), ..work });
        let fits = |t: &Tile| {
            // And all rows of a window.
            let windows = mode == Mode::Ffma && t.bm.is_multiple_of(4 * t.split[0]);
            t.bk / x_vector <= t.threads() && (windows || !ends.pooled)
        };
        choices.into_iter().filter(|(t, _)| fits(t)).filter_map(candidate).collect()
    }
}
