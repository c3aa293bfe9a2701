//! A convolution's matrix of patches, packed block by block.
//!
//! Row `tap * channels + channel`, column `y * out_width + x`: the input's element under that
//! tap of the window at (y, x), or zero outside.

use std::ops::Range;

use rayon::prelude::*;
use rten_simd::Isa;
use rten_simd::ops::{BitOps, MaskOps, NumOps};
use tobiuo_ops::Conv;

use super::tiles::VECTORS;
use crate::CpuError;

/// Sizes of a convolution over two axes, per group. One axis is taken as height 1.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub batch: usize,
    pub groups: usize,
    /// Channels of a group.
    pub in_c: usize,
    pub out_c: usize,
    pub h: usize,
    pub w: usize,
    pub kh: usize,
    pub kw: usize,
    /// Strides, dilations and leading pads, y and x.
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub pad: [usize; 2],
    pub oh: usize,
    pub ow: usize,
}

impl Geometry {
    /// From shapes that `infer` has accepted.
    pub fn new(conv: &Conv, x: &[usize], weight: &[usize]) -> Result<Geometry, CpuError> {
        let bad = || CpuError(format!("Conv of {x:?} with {weight:?} is not over 1 or 2 axes"));
        let axes = x.len().checked_sub(2).filter(|n| (1..=2).contains(n)).ok_or_else(bad)?;
        let two = |v: &[usize], one: usize| if axes == 2 { [v[0], v[1]] } else { [one, v[0]] };
        let [h, w] = two(&x[2..], 1);
        let [kh, kw] = two(&conv.kernel, 1);
        let stride = two(&conv.strides, 1);
        let dilation = two(&conv.dilations, 1);
        let pad = two(&conv.pads, 0);
        let end = two(&conv.pads[axes..], 0);
        let out = |i: usize, size: usize, k: usize| {
            (size + pad[i] + end[i])
                .checked_sub((k - 1) * dilation[i] + 1)
                .map_or(0, |span| span / stride[i] + 1)
        };
        let groups = conv.groups;
        let g = Geometry {
            batch: x[0],
            groups,
            in_c: x[1] / groups,
            out_c: weight[0] / groups,
            oh: out(0, h, kh),
            ow: out(1, w, kw),
            h,
            w,
            kh,
            kw,
            stride,
            dilation,
            pad,
        };
        if g.depth() == 0 {
            return Err(CpuError("Conv over no channels is not supported".into()));
        }
        // Places are computed as i32.
        let far = [(h, pad[0] + end[0]), (w, pad[1] + end[1])];
        if far.iter().any(|(n, p)| n + p > 1 << 24) || g.columns() > 1 << 30 {
            return Err(CpuError(format!("Conv over {h} x {w} elements is too large")));
        }
        Ok(g)
    }

    /// Rows of the matrix of patches.
    pub fn depth(&self) -> usize {
        self.in_c * self.kh * self.kw
    }

    /// Its columns.
    pub fn columns(&self) -> usize {
        self.oh * self.ow
    }
}

/// One tap of the window.
struct Tap {
    /// Its place relative to the window's first element, y and x.
    dy: i32,
    dx: i32,
    /// [`Source::Shifted`]: what is added to a column's index to give the element's place in
    /// the image.
    shift: isize,
}

enum Source {
    /// 1x1, stride 1: the input's channels are the matrix's rows.
    Direct,
    /// The image's rows are as long as the output's, so that a tap's elements for
    /// neighbouring columns are neighbours too; what wraps around is masked.
    ///
    /// With strides the image is a copy of the input in phases: phase (py, px) of a channel
    /// holds its elements at (sy * i + py, sx * j + px).
    Shifted {
        /// The phases that are used.
        phases: Vec<[usize; 2]>,
        /// Height and width of one phase.
        size: [usize; 2],
    },
    /// Any other, row by row.
    General,
    /// A matrix, given by its columns.
    Transposed,
}

/// Tables to pack a convolution's patches.
pub(crate) struct Patches {
    geometry: Geometry,
    /// Columns of a tile.
    width: usize,
    taps: Vec<Tap>,
    source: Source,
    /// The input's coordinates under each column's window's first element, filled up to whole
    /// tiles with coordinates far outside.
    y: Vec<i32>,
    x: Vec<i32>,
}

const OUTSIDE: i32 = i32::MIN / 2;

impl Patches {
    pub fn new(g: &Geometry, width: usize) -> Patches {
        let [sy, sx] = g.stride;
        let direct =
            g.kh * g.kw == 1 && g.stride == [1, 1] && (g.oh, g.ow) == (g.h, g.w) && g.pad == [0, 0];
        let size = [g.h.div_ceil(sy), g.w.div_ceil(sx)];
        let mut phases: Vec<[usize; 2]> = Vec::new();
        let mut taps = Vec::new();
        for ky in 0..g.kh {
            for kx in 0..g.kw {
                let dy = (ky * g.dilation[0]) as isize - g.pad[0] as isize;
                let dx = (kx * g.dilation[1]) as isize - g.pad[1] as isize;
                let phase =
                    [dy.rem_euclid(sy as isize) as usize, dx.rem_euclid(sx as isize) as usize];
                let index = phases.iter().position(|p| *p == phase).unwrap_or_else(|| {
                    phases.push(phase);
                    phases.len() - 1
                });
                let (qy, qx) = (dy.div_euclid(sy as isize), dx.div_euclid(sx as isize));
                let shift = (index * size[0] * size[1]) as isize + qy * size[1] as isize + qx;
                taps.push(Tap {
                    dy: (ky * g.dilation[0]) as i32,
                    dx: (kx * g.dilation[1]) as i32,
                    shift,
                });
            }
        }
        let source = if direct {
            Source::Direct
        } else if size[1] == g.ow && g.ow > 0 {
            Source::Shifted { phases, size }
        } else {
            Source::General
        };
        let columns = g.columns();
        let table = |at: &dyn Fn(usize) -> i32| {
            (0..columns.next_multiple_of(width))
                .map(|n| if n < columns { at(n) } else { OUTSIDE })
                .collect()
        };
        let (y, x) = match source {
            Source::Shifted { .. } => (
                table(&|n| (n / g.ow * sy) as i32 - g.pad[0] as i32),
                table(&|n| (n % g.ow * sx) as i32 - g.pad[1] as i32),
            ),
            _ => (Vec::new(), Vec::new()),
        };
        Patches { geometry: g.clone(), width, taps, source, y, x }
    }

    /// The columns of a `depth x columns` matrix, which is given row by row, or column by
    /// column when `transposed`.
    pub fn matrix(depth: usize, columns: usize, transposed: bool, width: usize) -> Patches {
        let geometry = Geometry {
            batch: 1,
            groups: 1,
            in_c: depth,
            out_c: 0,
            h: 1,
            w: columns,
            kh: 1,
            kw: 1,
            stride: [1, 1],
            dilation: [1, 1],
            pad: [0, 0],
            oh: 1,
            ow: columns,
        };
        let taps = vec![Tap { dy: 0, dx: 0, shift: 0 }];
        let source = if transposed { Source::Transposed } else { Source::Direct };
        Patches { geometry, width, taps, source, y: Vec::new(), x: Vec::new() }
    }

    /// Rows of the matrix of patches.
    pub fn depth(&self) -> usize {
        self.geometry.depth()
    }

    /// Its columns.
    pub fn columns(&self) -> usize {
        self.geometry.columns()
    }

    /// Floats of an image that [`Patches::image`] makes; 0 where it takes the input as it is.
    pub fn image_len(&self) -> usize {
        match &self.source {
            Source::Shifted { phases, size } if self.geometry.stride != [1, 1] => {
                self.geometry.in_c * phases.len() * size[0] * size[1]
            }
            _ => 0,
        }
    }

    /// The image that patches are taken from: a job's input, or its copy in phases.
    pub fn image<'a>(&self, input: &'a [f32], copy: &'a mut [f32], parallel: bool) -> &'a [f32] {
        let Source::Shifted { phases, size } = &self.source else { return input };
        let g = &self.geometry;
        if g.stride == [1, 1] {
            return input;
        }
        let (plane, channel) = (size[0] * size[1], phases.len() * size[0] * size[1]);
        let copy = &mut copy[..g.in_c * channel];
        let fill = |(to, from): (&mut [f32], &[f32])| {
            for (to, [py, px]) in to.chunks_exact_mut(plane).zip(phases) {
                let rows = from.chunks_exact(g.w).skip(*py).step_by(g.stride[0]);
                for (to, from) in to.chunks_exact_mut(size[1]).zip(rows) {
                    spread(to, &from[(*px).min(from.len())..], g.stride[1]);
                }
            }
        };
        if parallel && copy.len() >= 1 << 15 {
            let grain = ((1 << 14) / channel).max(1);
            copy.par_chunks_exact_mut(channel)
                .zip(input.par_chunks_exact(g.h * g.w))
                .with_min_len(grain)
                .for_each(fill);
        } else {
            copy.chunks_exact_mut(channel).zip(input.chunks_exact(g.h * g.w)).for_each(fill);
        }
        copy
    }

    /// First column of tile `tile`. The last tile ends with the last column, where there are
    /// as many columns as a tile has, and overlaps the one before.
    fn first_column(&self, tile: usize) -> usize {
        (tile * self.width).min(self.columns().saturating_sub(self.width))
    }

    /// Packs tile `tile`: for each depth its columns. Columns beyond the last are zeros.
    #[inline(always)]
    pub fn pack<I: Isa>(
        &self,
        isa: I,
        image: &[f32],
        tile: usize,
        depths: Range<usize>,
        packed: &mut [f32],
    ) {
        let c = self.geometry.in_c;
        let mut rest = packed;
        for (t, tap) in self.taps.iter().enumerate() {
            let channels =
                depths.start.saturating_sub(t * c).min(c)..depths.end.saturating_sub(t * c).min(c);
            if channels.is_empty() {
                continue;
            }
            let (here, tail) = rest.split_at_mut(channels.len() * self.width);
            rest = tail;
            match &self.source {
                Source::Direct => self.pack_direct(isa, image, tile, channels, here),
                Source::Shifted { phases, size } => {
                    let stride = phases.len() * size[0] * size[1];
                    self.pack_shifted(isa, image, stride, tap, tile, channels, here);
                }
                Source::Transposed => self.pack_transposed(image, tile, channels, here),
                Source::General => self.pack_general(image, tap, tile, channels, here),
            }
        }
    }

    #[inline(always)]
    fn pack_direct<I: Isa>(
        &self,
        isa: I,
        image: &[f32],
        tile: usize,
        channels: Range<usize>,
        packed: &mut [f32],
    ) {
        let ops = isa.f32();
        let width = VECTORS * ops.len();
        let plane = self.geometry.columns();
        let at = self.first_column(tile);
        let n = (plane - at).min(width);
        let rows = image[channels.start * plane..channels.end * plane].chunks_exact(plane);
        for (to, from) in packed.chunks_exact_mut(width).zip(rows) {
            if n == width {
                for v in 0..VECTORS {
                    let x = ops.load(&from[at + v * ops.len()..]);
                    ops.store(x, &mut to[v * ops.len()..]);
                }
            } else {
                to[..n].copy_from_slice(&from[at..]);
                to[n..].fill(0.0);
            }
        }
    }

    #[inline(always)]
    fn pack_transposed(
        &self,
        image: &[f32],
        tile: usize,
        depths: Range<usize>,
        packed: &mut [f32],
    ) {
        let (width, depth) = (self.width, self.geometry.in_c);
        let at = self.first_column(tile);
        for lane in 0..width {
            let to = packed.iter_mut().skip(lane).step_by(width);
            match image.chunks_exact(depth).nth(at + lane) {
                Some(column) => {
                    to.zip(&column[depths.clone()]).for_each(|(to, &from)| *to = from);
                }
                None => to.for_each(|to| *to = 0.0),
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn pack_shifted<I: Isa>(
        &self,
        isa: I,
        image: &[f32],
        stride: usize,
        tap: &Tap,
        tile: usize,
        channels: Range<usize>,
        packed: &mut [f32],
    ) {
        let (ops, ints, masks) = (isa.f32(), isa.i32(), isa.m32());
        let width = VECTORS * ops.len();
        let at = self.first_column(tile);
        // Loops rather than closures: those would not be compiled for this instruction set.
        let none = ints.lt(ints.zero(), ints.zero());
        let mut inside = [none; VECTORS];
        for (v, inside) in inside.iter_mut().enumerate() {
            let from = at + v * ints.len();
            let y = ints.add(ints.load(&self.y[from..]), ints.splat(tap.dy));
            let x = ints.add(ints.load(&self.x[from..]), ints.splat(tap.dx));
            let zero = ints.zero();
            *inside = masks.and(
                masks.and(ints.ge(y, zero), ints.lt(y, ints.splat(self.geometry.h as i32))),
                masks.and(ints.ge(x, zero), ints.lt(x, ints.splat(self.geometry.w as i32))),
            );
        }
        let zero = ops.zero();
        let first = at as isize + tap.shift;
        for (to, c) in packed.chunks_exact_mut(width).zip(channels) {
            let begin = (c * stride) as isize + first;
            let slice = usize::try_from(begin).ok().and_then(|b| image.get(b..b + width));
            let from = match slice {
                Some(from) => from,
                // Partly before the first channel or behind the last.
                None => {
                    for (l, to) in to.iter_mut().enumerate() {
                        let i = usize::try_from(begin + l as isize).ok();
                        *to = i.and_then(|i| image.get(i)).copied().unwrap_or(0.0);
                    }
                    for v in 0..VECTORS {
                        let to = &mut to[v * ops.len()..];
                        ops.store(ops.select(ops.load(to), zero, inside[v]), to);
                    }
                    continue;
                }
            };
            for v in 0..VECTORS {
                let x = ops.load(&from[v * ops.len()..]);
                ops.store(ops.select(x, zero, inside[v]), &mut to[v * ops.len()..]);
            }
        }
    }

    #[inline(always)]
    fn pack_general(
        &self,
        image: &[f32],
        tap: &Tap,
        tile: usize,
        channels: Range<usize>,
        packed: &mut [f32],
    ) {
        let g = &self.geometry;
        let (width, plane) = (self.width, g.h * g.w);
        let mut n = self.first_column(tile);
        let end = (n + width).min(g.columns());
        let mut lane = 0;
        // A part of one row of the output at a time.
        while n < end {
            let (oy, ox) = (n / g.ow, n % g.ow);
            let len = (g.ow - ox).min(end - n);
            let y = (oy * g.stride[0]) as isize + tap.dy as isize - g.pad[0] as isize;
            let x = (ox * g.stride[1]) as isize + tap.dx as isize - g.pad[1] as isize;
            let step = g.stride[1] as isize;
            // Lanes whose element lies inside its row.
            let lo = div_up((-x).max(0), step).min(len as isize);
            let hi = if (0..g.h as isize).contains(&y) {
                div_up((g.w as isize - x).max(0), step).clamp(lo, len as isize)
            } else {
                lo
            };
            let (lo, hi) = (lo as usize, hi as usize);
            for (to, c) in packed.chunks_exact_mut(width).zip(channels.clone()) {
                let to = &mut to[lane..lane + len];
                to[..lo].fill(0.0);
                if lo < hi {
                    let from = c * plane + (y * g.w as isize + x + lo as isize * step) as usize;
                    spread(&mut to[lo..hi], &image[from..], g.stride[1]);
                }
                to[hi..].fill(0.0);
            }
            n += len;
            lane += len;
        }
        if lane < width {
            for to in packed.chunks_exact_mut(width) {
                to[lane..].fill(0.0);
            }
        }
    }
}

/// Every `step`th element of `from`, as many as fit `to`; what is missing stays.
#[inline(always)]
pub(crate) fn spread(to: &mut [f32], from: &[f32], step: usize) {
    match step {
        1 => {
            let n = to.len().min(from.len());
            to[..n].copy_from_slice(&from[..n]);
        }
        2 => {
            let pairs = from.chunks_exact(2);
            let last = pairs.remainder();
            let whole = pairs.len();
            for (to, from) in to.iter_mut().zip(pairs) {
                *to = from[0];
            }
            if let (Some(to), [from]) = (to.get_mut(whole), last) {
                *to = *from;
            }
        }
        _ => {
            for (to, from) in to.iter_mut().zip(from.iter().step_by(step)) {
                *to = *from;
            }
        }
    }
}

/// `a / b` rounded up, `a` not negative.
fn div_up(a: isize, b: isize) -> isize {
    (a + b - 1) / b
}
