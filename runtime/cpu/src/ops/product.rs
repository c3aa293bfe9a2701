//! Products of packed rows (weights) with columns (patches of an image, or a matrix), divided
//! over the cores.

use std::ops::Range;

use rayon::prelude::*;
use rten_simd::{Isa, SimdOp};
use rten_tensor::NdTensorViewMut;
use rten_tensor::prelude::*;

use super::f32s::lanes;
use super::patches::Patches;
use super::tiles::{Finish, PackedColumns, PackedRows, Rows, VECTORS, multiply, tile_rows};

/// Bytes of packed columns that should stay in a core's own cache.
const BLOCK_BYTES: usize = 384 << 10;
/// Bytes of packed columns that all cores share.
const SHARED_BYTES: usize = 4 << 20;
/// Depth of one pass over the accumulators.
const DEPTH: usize = 640;

/// Sizes of a product and how its work is divided.
pub(crate) struct Product {
    rows: usize,
    depth: usize,
    columns: usize,
    lanes: usize,
    patches: Patches,
    split: Split,
}

/// How the work is divided.
#[derive(Debug)]
enum Split {
    /// Whole jobs, in so many parts.
    Jobs(usize),
    /// Columns of one job after the other, in so many parts that pack their own.
    Columns(usize),
    /// Rows of one job after the other; columns are packed first, together.
    Rows,
}

/// One product of several of the same sizes.
pub(crate) struct Job<'a> {
    /// The columns.
    pub right: Right<'a>,
    /// The rows, see [`PackedRows`].
    pub left: &'a [f32],
    pub finish: Finish<'a>,
}

/// A product's columns.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// To be packed by the product's [`Patches`].
    Image(&'a [f32]),
    /// Packed before by [`Product::pack_columns`].
    Packed(&'a [f32]),
}

impl Product {
    /// For `jobs` products of `rows` with the columns that `patches` gives.
    pub fn new(rows: usize, patches: Patches, jobs: usize) -> Product {
        let lanes = lanes();
        let (depth, columns) = (patches.depth(), patches.columns());
        let threads = rayon::current_num_threads();
        let tiles = columns.div_ceil(lanes * VECTORS);
        let split = if threads == 1 || rows * depth * columns < 1 << 15 {
            Split::Jobs(if jobs < 2 * threads { 1 } else { threads })
        } else if jobs >= 2 * threads {
            Split::Jobs(jobs.min(4 * threads))
        } else if tiles >= 8 * threads && rows * depth <= 1 << 20 {
            Split::Columns(4 * threads)
        } else if rows >= 4 * threads * tile_rows(lanes) || rows > columns {
            Split::Rows
        } else {
            Split::Columns(tiles.min(4 * threads))
        };
        Product { rows, depth, columns, lanes, patches, split }
    }

    /// Elements of one job's packed rows.
    pub fn left_len(&self) -> usize {
        PackedRows::len(self.rows, self.depth, self.lanes)
    }

    /// Packs one job's rows.
    pub fn pack_left(&self, packed: &mut [f32], from: &Rows<'_>) {
        PackedRows::pack(self.rows, self.lanes, packed, from);
    }

    /// Packs a job's columns for good.
    pub fn pack_columns(&self, image: &[f32]) -> Vec<f32> {
        let mut packed = vec![0.0; self.columns.div_ceil(self.width()) * self.depth * self.width()];
        Pack { product: self, image, tile: 0, depths: 0..self.depth, packed: &mut packed }
            .dispatch();
        packed
    }

    fn width(&self) -> usize {
        self.lanes * VECTORS
    }

    /// Depth of one pass and tiles of one block of columns: about as many bytes as a core's
    /// own cache holds, deep passes before many columns.
    fn block(&self) -> (usize, usize) {
        let all = self.columns.div_ceil(self.width()).max(1);
        let most = BLOCK_BYTES / (self.width() * 4);
        let deepest = (most / all.min(8)).max(DEPTH);
        let pass = self.depth.div_ceil(self.depth.div_ceil(deepest));
        (pass, (most / pass).clamp(1, all))
    }

    /// Floats that one part of a split needs for its columns.
    fn part_len(&self) -> usize {
        let (pass, tiles) = self.block();
        let all = self.columns.div_ceil(self.width());
        pass * tiles.min(all.max(1)) * self.width()
    }

    /// Tiles that are packed together for a split by rows.
    fn shared_tiles(&self) -> usize {
        let tile = self.depth * self.width();
        let all = self.columns.div_ceil(self.width());
        (SHARED_BYTES / (tile * 4)).clamp(1, all.max(1))
    }

    /// Floats of scratch memory: images, then columns.
    fn scratch_parts(&self) -> [usize; 2] {
        let image = self.patches.image_len();
        match self.split {
            Split::Jobs(parts) => [parts * image, parts * self.part_len()],
            Split::Columns(parts) => [image, parts * self.part_len()],
            Split::Rows => [image, self.shared_tiles() * self.depth * self.width()],
        }
    }

    /// Floats of scratch memory that [`Product::run`] needs.
    pub fn scratch_len(&self) -> usize {
        self.scratch_parts().iter().sum()
    }

    /// Computes all jobs' `rows x columns` outputs, one behind the other in `out`.
    pub fn run<'a>(
        &self,
        job: &(impl Fn(usize) -> Job<'a> + Sync),
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let size = self.rows * self.columns;
        if size == 0 {
            return;
        }
        let [images_len, columns_len] = self.scratch_parts();
        let (images, rest) = scratch.split_at_mut(images_len);
        let columns = &mut rest[..columns_len];
        let shape = [self.rows, self.columns];
        if let Split::Jobs(parts) = self.split {
            let jobs = 0..out.len() / size;
            return Slots { out, images, columns, jobs }.fork(parts, &|slots| {
                for (i, out) in slots.jobs.zip(slots.out.chunks_exact_mut(size)) {
                    let job = job(i);
                    let task = Task::new(self, &job, slots.images, false);
                    task.stripes(NdTensorViewMut::from_data(shape, out), 0, 1, slots.columns);
                }
            });
        }
        for (i, out) in out.chunks_exact_mut(size).enumerate() {
            let job = job(i);
            let task = Task::new(self, &job, images, true);
            match self.split {
                Split::Columns(parts) => {
                    task.stripes(NdTensorViewMut::from_data(shape, out), 0, parts, columns);
                }
                _ => task.rows(out, columns),
            }
        }
    }
}

/// What a part of a split by jobs works in.
struct Slots<'a> {
    out: &'a mut [f32],
    images: &'a mut [f32],
    columns: &'a mut [f32],
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
        let (columns_a, columns_b) = self.columns.split_at_mut(self.columns.len() / parts * left);
        let a =
            Slots { out: out_a, images: images_a, columns: columns_a, jobs: self.jobs.start..mid };
        let b =
            Slots { out: out_b, images: images_b, columns: columns_b, jobs: mid..self.jobs.end };
        rayon::join(|| a.fork(left, run), || b.fork(parts - left, run));
    }
}

/// A job under way.
struct Task<'a> {
    product: &'a Product,
    left: PackedRows<'a>,
    right: Right<'a>,
    finish: Finish<'a>,
}

impl<'a> Task<'a> {
    fn new(product: &'a Product, job: &Job<'a>, copy: &'a mut [f32], parallel: bool) -> Task<'a> {
        let right = match job.right {
            Right::Image(x) => Right::Image(product.patches.image(x, copy, parallel)),
            packed => packed,
        };
        let left = PackedRows::new(product.depth, product.lanes, job.left);
        Task { product, left, right, finish: job.finish }
    }

    /// Columns of the output, split in parts that pack their own. `out` begins at tile `tile`
    /// of the whole output.
    fn stripes(
        &self,
        out: NdTensorViewMut<'_, f32, 2>,
        tile: usize,
        parts: usize,
        columns: &mut [f32],
    ) {
        if parts <= 1 {
            return self.stripe(out, tile, columns);
        }
        let width = self.product.width();
        let left = parts / 2;
        let tiles = out.size(1).div_ceil(width) * left / parts;
        let (out_a, out_b) = out.split_at_mut(1, tiles * width);
        let (columns_a, columns_b) = columns.split_at_mut(columns.len() / parts * left);
        rayon::join(
            || self.stripes(out_a, tile, left, columns_a),
            || self.stripes(out_b, tile + tiles, parts - left, columns_b),
        );
    }

    /// Rows of the output in parallel, a block of columns after the other.
    fn rows(&self, out: &mut [f32], scratch: &mut [f32]) {
        let p = self.product;
        let (width, depth, columns) = (p.width(), p.depth, p.columns);
        let (pass, _) = p.block();
        let panel = tile_rows(p.lanes);
        let panels = p.rows.div_ceil(panel).div_ceil(4 * rayon::current_num_threads());
        let block = p.shared_tiles();
        for first in (0..columns.div_ceil(width)).step_by(block) {
            let here = first * width..((first + block) * width).min(columns);
            let tiles = here.len().div_ceil(width);
            let data = match self.right {
                Right::Packed(data) => &data[first * depth * width..][..tiles * depth * width],
                Right::Image(image) => {
                    let packed = &mut scratch[..tiles * depth * width];
                    // Packing takes about a microsecond for every 200 depths of a tile.
                    let grain = (4096 / depth).max(1);
                    let chunks = packed.par_chunks_mut(grain * depth * width).enumerate();
                    chunks.for_each(|(i, packed)| {
                        let tile = first + i * grain;
                        Pack { product: p, image, tile, depths: 0..depth, packed }.dispatch();
                    });
                    packed
                }
            };
            let columns = PackedColumns {
                data,
                depth,
                first_depth: 0,
                begin: here.start,
                len: here.len(),
                first_column: 0,
            };
            out.par_chunks_mut(panels * panel * p.columns).enumerate().for_each(|(i, out)| {
                let rows = out.len() / p.columns;
                let mut view = NdTensorViewMut::from_data([rows, p.columns], out);
                for at in (0..depth).step_by(pass) {
                    let depths = at..(at + pass).min(depth);
                    let out = view.view_mut();
                    Panels { task: self, out, first: i * panels, columns, depths }.dispatch();
                }
            });
        }
    }

    /// Packs and multiplies columns.
    fn stripe(&self, mut out: NdTensorViewMut<'_, f32, 2>, first_tile: usize, scratch: &mut [f32]) {
        let p = self.product;
        let width = p.width();
        let (pass, tiles) = p.block();
        let columns = out.size(1);
        for begin in (0..columns).step_by(tiles * width) {
            let here = begin..(begin + tiles * width).min(columns);
            let tile = first_tile + begin / width;
            for at in (0..p.depth).step_by(pass) {
                let depths = at..(at + pass).min(p.depth);
                let (data, depth, first_depth) = match self.right {
                    Right::Packed(data) => (&data[tile * p.depth * width..], p.depth, 0),
                    Right::Image(image) => {
                        let len = here.len().div_ceil(width) * depths.len() * width;
                        let packed = &mut scratch[..len];
                        Pack { product: p, image, tile, depths: depths.clone(), packed }.dispatch();
                        (&scratch[..len], depths.len(), at)
                    }
                };
                let columns = PackedColumns {
                    data,
                    depth,
                    first_depth,
                    begin,
                    len: here.len(),
                    first_column: first_tile * width,
                };
                let out = out.view_mut();
                Panels { task: self, out, first: 0, columns, depths }.dispatch();
            }
        }
    }
}

/// Packs the columns of whole tiles from `tile` on.
struct Pack<'a> {
    product: &'a Product,
    image: &'a [f32],
    tile: usize,
    depths: Range<usize>,
    packed: &'a mut [f32],
}

impl SimdOp for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let p = self.product;
        let tiles = self.packed.chunks_exact_mut(self.depths.len() * p.width());
        for (i, packed) in tiles.enumerate() {
            p.patches.pack(isa, self.image, self.tile + i, self.depths.clone(), packed);
        }
    }
}

/// Multiplies rows with packed columns, for `depths` of the product.
struct Panels<'a> {
    task: &'a Task<'a>,
    /// The rows.
    out: NdTensorViewMut<'a, f32, 2>,
    /// The rows' first panel.
    first: usize,
    columns: PackedColumns<'a>,
    depths: Range<usize>,
}

impl SimdOp for Panels<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let task = self.task;
        let panel = tile_rows(task.product.lanes);
        let last = self.depths.end == task.product.depth;
        let finish = task.finish.part(self.depths.start == 0, last);
        let mut rows = self.out.axis_iter_mut(0);
        let mut left = rows.len();
        for p in self.first.. {
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
            let (rows, depths) = ((task.left, p), self.depths.clone());
            multiply(isa, rows, self.columns, depths, &mut slices[..n], &finish);
        }
    }
}
