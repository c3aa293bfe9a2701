//! Convolution: patches times weights ([`tiles`]), with bias, residual and activation.
//!
//! The matrix of patches (`im2col`) never exists as a whole. Blocks of it are packed where
//! they are multiplied, see [`Patches`].

use std::ops::Range;

use rayon::prelude::*;
use rten_simd::{Isa, SimdOp};
use rten_tensor::NdTensorViewMut;
use rten_tensor::prelude::*;
use tobiuo_ops::{Activation, Conv, Fact};
use tobiuo_tensor::{DType, TensorView, TensorViewMut};

use super::f32s::{f32s, f32s_mut, lanes, scratch_f32};
use super::patches::{Geometry, Patches};
use super::tiles::{Finish, PackedColumns, PackedRows, Residual, VECTORS, multiply, tile_rows};
use crate::{CpuError, Inputs, Kernel};

/// Bytes of packed patches that should stay in a core's own cache.
const BLOCK_BYTES: usize = 384 << 10;
/// Bytes of packed patches that all cores share.
const SHARED_BYTES: usize = 4 << 20;
/// Depth of one pass over the accumulators.
const DEPTH: usize = 640;

pub(crate) struct ConvKernel {
    geometry: Geometry,
    patches: Patches,
    activation: Option<Activation>,
    residual: bool,
    /// All groups' packed weights, when they are constant.
    weights: Option<Vec<f32>>,
    split: Split,
    lanes: usize,
}

/// How the work is divided. A job is one group of one item.
enum Split {
    /// Whole jobs, in so many parts.
    Jobs(usize),
    /// Columns of one job after the other, in so many parts that pack their own patches.
    Columns(usize),
    /// Rows of one job after the other; patches are packed first, together.
    Rows,
}

pub(crate) fn prepare(
    conv: &Conv,
    inputs: &[Fact],
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    if let Some(i) = inputs.iter().find(|i| i.dtype != DType::F32) {
        return Err(CpuError(format!("Conv of {} is not supported, only of f32", i.dtype)));
    }
    let geometry = Geometry::new(conv, &inputs[0].shape, &inputs[1].shape)?;
    let lanes = lanes();
    let patches = Patches::new(&geometry, lanes * VECTORS);
    let threads = rayon::current_num_threads();
    let jobs = geometry.batch * geometry.groups;
    let tiles = geometry.columns().div_ceil(lanes * VECTORS);
    let split = if threads == 1 {
        Split::Jobs(1)
    } else if jobs >= 2 * threads {
        Split::Jobs(jobs.min(4 * threads))
    } else if tiles >= 8 * threads && geometry.out_c * geometry.depth() <= 1 << 20 {
        Split::Columns(4 * threads)
    } else {
        Split::Rows
    };
    let mut kernel = ConvKernel {
        geometry,
        patches,
        activation: conv.activation,
        residual: conv.residual,
        weights: None,
        split,
        lanes,
    };
    if let Some(w) = constants.get(1).copied().flatten() {
        let mut packed = vec![0.0; kernel.packed_len()];
        kernel.pack_weights(f32s(w), &mut packed);
        kernel.weights = Some(packed);
    }
    Ok(Box::new(kernel))
}

impl ConvKernel {
    /// Elements of one group's packed weights.
    fn group_len(&self) -> usize {
        PackedRows::len(self.geometry.out_c, self.geometry.depth(), self.lanes)
    }

    fn packed_len(&self) -> usize {
        self.geometry.groups * self.group_len()
    }

    fn pack_weights(&self, weights: &[f32], packed: &mut [f32]) {
        let g = &self.geometry;
        let (taps, depth) = (g.kh * g.kw, g.depth());
        let groups = packed.chunks_exact_mut(self.group_len());
        for (packed, w) in groups.zip(weights.chunks_exact(g.out_c * depth)) {
            // The model has channel before tap, patches have tap before channel.
            PackedRows::pack(g.out_c, depth, self.lanes, packed, |r, k| {
                w[r * depth + k % g.in_c * taps + k / g.in_c]
            });
        }
    }

    fn width(&self) -> usize {
        self.lanes * VECTORS
    }

    /// Depth of one pass and tiles of one block of columns.
    fn block(&self) -> (usize, usize) {
        let depth = self.geometry.depth();
        let pass = depth.div_ceil(depth.div_ceil(DEPTH));
        (pass, (BLOCK_BYTES / (pass * self.width() * 4)).max(1))
    }

    /// Floats that one part of a split needs for its patches.
    fn part_len(&self) -> usize {
        let (pass, tiles) = self.block();
        let all = self.geometry.columns().div_ceil(self.width());
        pass * tiles.min(all) * self.width()
    }

    /// Tiles that are packed together for a split by rows.
    fn shared_tiles(&self) -> usize {
        let tile = self.geometry.depth() * self.width();
        let all = self.geometry.columns().div_ceil(self.width());
        (SHARED_BYTES / (tile * 4)).clamp(1, all.max(1))
    }

    /// Floats of scratch memory: dynamic weights, then images, then patches.
    fn scratch_len(&self) -> [usize; 3] {
        let weights = if self.weights.is_none() { self.packed_len() } else { 0 };
        let image = self.patches.image_len();
        let (images, patches) = match self.split {
            Split::Jobs(parts) => (parts * image, parts * self.part_len()),
            Split::Columns(parts) => (image, parts * self.part_len()),
            Split::Rows => (image, self.shared_tiles() * self.geometry.depth() * self.width()),
        };
        [weights, images, patches]
    }
}

impl Kernel for ConvKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let g = &self.geometry;
        let [weights_len, images_len, patches_len] = self.scratch_len();
        let (packed, rest) = scratch_f32(scratch).split_at_mut(weights_len);
        let (images, rest) = rest.split_at_mut(images_len);
        let patches = &mut rest[..patches_len];
        let x = f32s(inputs.get(0).expect("Conv does not run in place"));
        let weights: &[f32] = match &self.weights {
            Some(w) => w,
            None => {
                self.pack_weights(f32s(inputs.get(1).expect("a weight")), packed);
                packed
            }
        };
        let bias = f32s(inputs.get(2).expect("a bias"));
        let residual = self.residual.then(|| inputs.get(3).map(f32s));
        let out = f32s_mut(&mut outputs[0]);

        let columns = g.columns();
        let (job_in, job_out) = (g.in_c * g.h * g.w, g.out_c * columns);
        if job_out == 0 {
            return;
        }
        let job = |i: usize| {
            let group = i % g.groups;
            let at = group * self.group_len();
            Job {
                conv: self,
                x: &x[i * job_in..(i + 1) * job_in],
                weights: PackedRows::new(
                    g.depth(),
                    self.lanes,
                    &weights[at..at + self.group_len()],
                ),
                finish: Finish {
                    bias: Some(&bias[group * g.out_c..(group + 1) * g.out_c]),
                    row_len: columns,
                    residual: match residual {
                        None => Residual::None,
                        Some(None) => Residual::InPlace,
                        Some(Some(r)) => Residual::From(&r[i * job_out..(i + 1) * job_out]),
                    },
                    activation: self.activation,
                },
            }
        };
        match self.split {
            Split::Jobs(parts) => {
                let count = out.len() / job_out;
                let slots = Slots { out, images, patches, jobs: 0..count };
                slots.fork(parts, &|slots| {
                    for (i, out) in slots.jobs.zip(slots.out.chunks_exact_mut(job_out)) {
                        let job = job(i);
                        let image = self.patches.image(job.x, slots.images, false);
                        let out = NdTensorViewMut::from_data([g.out_c, columns], out);
                        job.stripes(image, out, 0, 1, slots.patches);
                    }
                });
            }
            Split::Columns(parts) => {
                for (i, out) in out.chunks_exact_mut(job_out).enumerate() {
                    let job = job(i);
                    let image = self.patches.image(job.x, images, true);
                    let out = NdTensorViewMut::from_data([g.out_c, columns], out);
                    job.stripes(image, out, 0, parts, patches);
                }
            }
            Split::Rows => {
                for (i, out) in out.chunks_exact_mut(job_out).enumerate() {
                    let job = job(i);
                    let image = self.patches.image(job.x, images, true);
                    job.rows(image, out, patches);
                }
            }
        }
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch_len().iter().sum::<usize>() * 4
    }

    fn reads(&self, operand: usize) -> bool {
        !(operand == 1 && self.weights.is_some())
    }
}

/// What a part of a split by jobs works in.
struct Slots<'a> {
    out: &'a mut [f32],
    images: &'a mut [f32],
    patches: &'a mut [f32],
    jobs: Range<usize>,
}

impl Slots<'_> {
    fn fork(self, parts: usize, run: &(impl Fn(Slots<'_>) + Sync)) {
        if parts <= 1 {
            return run(self);
        }
        let left = parts / 2;
        let jobs = self.jobs.len() * left / parts;
        let mid = self.jobs.start + jobs;
        let (out_a, out_b) = self.out.split_at_mut(self.out.len() / self.jobs.len().max(1) * jobs);
        let (images_a, images_b) = self.images.split_at_mut(self.images.len() / parts * left);
        let (patches_a, patches_b) = self.patches.split_at_mut(self.patches.len() / parts * left);
        let a =
            Slots { out: out_a, images: images_a, patches: patches_a, jobs: self.jobs.start..mid };
        let b =
            Slots { out: out_b, images: images_b, patches: patches_b, jobs: mid..self.jobs.end };
        rayon::join(|| a.fork(left, run), || b.fork(parts - left, run));
    }
}

/// One group of one item.
struct Job<'a> {
    conv: &'a ConvKernel,
    x: &'a [f32],
    weights: PackedRows<'a>,
    finish: Finish<'a>,
}

impl Job<'_> {
    /// Columns of the output, split in parts that pack their own patches. `out` begins at
    /// tile `tile` of the whole output.
    fn stripes(
        &self,
        image: &[f32],
        out: NdTensorViewMut<'_, f32, 2>,
        tile: usize,
        parts: usize,
        patches: &mut [f32],
    ) {
        if parts <= 1 {
            return Stripe { job: self, image, out, tile, patches }.dispatch();
        }
        let width = self.conv.width();
        let left = parts / 2;
        let tiles = out.size(1).div_ceil(width) * left / parts;
        let (out_a, out_b) = out.split_at_mut(1, tiles * width);
        let (patches_a, patches_b) = patches.split_at_mut(patches.len() / parts * left);
        rayon::join(
            || self.stripes(image, out_a, tile, left, patches_a),
            || self.stripes(image, out_b, tile + tiles, parts - left, patches_b),
        );
    }

    /// Rows of the output in parallel, a block of columns after the other.
    fn rows(&self, image: &[f32], out: &mut [f32], patches: &mut [f32]) {
        let g = &self.conv.geometry;
        let (width, depth, columns) = (self.conv.width(), g.depth(), g.columns());
        let (pass, _) = self.conv.block();
        let panel = tile_rows(self.conv.lanes);
        let panels = g.out_c.div_ceil(panel).div_ceil(4 * rayon::current_num_threads());
        let block = self.conv.shared_tiles();
        for first in (0..columns.div_ceil(width)).step_by(block) {
            let here = first * width..((first + block) * width).min(columns);
            let tiles = here.len().div_ceil(width);
            let packed = &mut patches[..tiles * depth * width];
            // A tile takes about a microsecond for every 50 depths.
            let grain = (4096 / depth).max(1);
            packed.par_chunks_mut(grain * depth * width).enumerate().for_each(|(i, packed)| {
                Pack { job: self, image, tile: first + i * grain, packed }.dispatch();
            });
            let packed =
                PackedColumns { data: packed, depth, first_depth: 0, first_column: here.start };
            out.par_chunks_mut(panels * panel * columns).enumerate().for_each(|(i, out)| {
                let rows = out.len() / columns;
                let view = NdTensorViewMut::from_data([rows, columns], out);
                let view = view.split_at_mut(1, here.end).0.split_at_mut(1, here.start).1;
                Rows { job: self, out: view, panel: i * panels, packed, pass }.dispatch();
            });
        }
    }
}

/// Packs the patches of whole tiles from `tile` on, at full depth.
struct Pack<'a> {
    job: &'a Job<'a>,
    image: &'a [f32],
    tile: usize,
    packed: &'a mut [f32],
}

impl SimdOp for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let conv = self.job.conv;
        let depth = conv.geometry.depth();
        for (i, packed) in self.packed.chunks_exact_mut(depth * conv.width()).enumerate() {
            conv.patches.pack(isa, self.image, self.tile + i, 0..depth, packed);
        }
    }
}

/// Multiplies rows with packed columns.
struct Rows<'a> {
    job: &'a Job<'a>,
    /// The rows and the packed columns of the output.
    out: NdTensorViewMut<'a, f32, 2>,
    /// The rows' first panel.
    panel: usize,
    packed: PackedColumns<'a>,
    /// Depth of one pass.
    pass: usize,
}

impl SimdOp for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        for at in (0..self.packed.depth).step_by(self.pass) {
            let depths = at..(at + self.pass).min(self.packed.depth);
            panels(isa, self.job, &mut self.out, self.panel, self.packed, depths);
        }
    }
}

/// Packs and multiplies columns.
struct Stripe<'a> {
    job: &'a Job<'a>,
    image: &'a [f32],
    out: NdTensorViewMut<'a, f32, 2>,
    tile: usize,
    patches: &'a mut [f32],
}

impl SimdOp for Stripe<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let conv = self.job.conv;
        let width = conv.width();
        let (pass, tiles) = conv.block();
        let (depth, columns) = (conv.geometry.depth(), self.out.size(1));
        for begin in (0..columns).step_by(tiles * width) {
            let here = begin..(begin + tiles * width).min(columns);
            let first = self.tile + begin / width;
            let mut out = self.out.slice_mut((.., here.clone()));
            for at in (0..depth).step_by(pass) {
                let depths = at..(at + pass).min(depth);
                let each = depths.len() * width;
                let packed = &mut self.patches[..here.len().div_ceil(width) * each];
                for (i, packed) in packed.chunks_exact_mut(each).enumerate() {
                    conv.patches.pack(isa, self.image, first + i, depths.clone(), packed);
                }
                let packed = PackedColumns {
                    data: packed,
                    depth: depths.len(),
                    first_depth: at,
                    first_column: first * width,
                };
                panels(isa, self.job, &mut out, 0, packed, depths);
            }
        }
    }
}

/// Multiplies all rows of `out`, from panel `first` on, with packed columns.
#[inline(always)]
fn panels<I: Isa>(
    isa: I,
    job: &Job<'_>,
    out: &mut NdTensorViewMut<'_, f32, 2>,
    first: usize,
    columns: PackedColumns<'_>,
    depths: Range<usize>,
) {
    let panel = tile_rows(job.conv.lanes);
    let finish = job.finish.part(depths.start == 0, depths.end == job.conv.geometry.depth());
    let mut rows = out.axis_iter_mut(0);
    let mut left = rows.len();
    for p in first.. {
        if left == 0 {
            break;
        }
        let mut slices: [&mut [f32]; 8] = std::array::from_fn(|_| &mut [][..]);
        let n = left.min(panel);
        for (slice, row) in slices.iter_mut().zip(rows.by_ref().take(n)) {
            *slice = row.into_slice_mut().expect("rows are contiguous");
        }
        left -= n;
        let finish = finish.rows_from(p * panel);
        multiply(isa, (job.weights, p), columns, depths.clone(), &mut slices[..n], &finish);
    }
}
