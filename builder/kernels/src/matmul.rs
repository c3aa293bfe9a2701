//! Matrix products of strided operands: `cuda/matmul.cu` over the tiles of `cuda/tile.cuh`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::defines::{Defines, ceil_div, float};
use super::depthwise::VECTOR;
use super::reference::{activate, load, load_at, reach, store};
use super::tile::{self, Layouts, Mode, Tile, Work};
use super::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../cuda/matmul.cu");

/// `y = act(alpha * a x b + beta * c)` for every index of the batch axes: a `[.., rows, depth]`,
/// b `[.., depth, columns]`, c `[rows, columns]`, y dense with rows `y_pitch` apart. Strides
/// are elements, none negative; 0 broadcasts.
///
/// Inputs: a, b, and c where it has strides. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatMulLayer {
    /// f16 or f32, of all operands.
    pub dtype: DType,
    /// Products of f32 in TF32.
    pub tf32: bool,
    /// Extents of the batch axes, outermost first.
    pub batch: Vec<usize>,
    /// Rows of a and y.
    pub rows: usize,
    /// Columns of b and y.
    pub columns: usize,
    /// Columns of a, rows of b.
    pub depth: usize,
    /// Strides of a's batch axes.
    pub a_batch: Vec<usize>,
    /// Strides of a's rows and depth.
    pub a: [usize; 2],
    /// Elements of a that may be loaded at once along its axis of stride 1, by the alignment of
    /// its address.
    pub a_vector: usize,
    /// Strides of b's batch axes.
    pub b_batch: Vec<usize>,
    /// Strides of b's depth and columns.
    pub b: [usize; 2],
    /// As `a_vector`.
    pub b_vector: usize,
    /// Strides of c's rows and columns, where there is one.
    pub c: Option<[usize; 2]>,
    /// Elements from one row of y to the next.
    pub y_pitch: usize,
    /// Factor of the product.
    #[serde(with = "tobiuo_ops::float")]
    pub alpha: f32,
    /// Factor of c.
    #[serde(with = "tobiuo_ops::float")]
    pub beta: f32,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// How pieces of an operand are loaded: along which axis, how many elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pieces {
    along_depth: bool,
    vector: usize,
}

impl Pieces {
    /// `depth` and `other`: extent and stride of the two axes.
    fn of(
        dtype: DType,
        aligned: usize,
        depth: [usize; 2],
        other: [usize; 2],
        batch: &[usize],
    ) -> Pieces {
        let along_depth = depth[1] == 1 || other[1] != 1;
        let (inner, outer) = if along_depth { (depth, other) } else { (other, depth) };
        // A piece is inside or outside as a whole.
        let fits = |v: usize| {
            aligned.is_multiple_of(v)
                && inner[0].is_multiple_of(v)
                && outer[1].is_multiple_of(v)
                && batch.iter().all(|s| s.is_multiple_of(v))
        };
        let most = if inner[1] == 1 { 16 / dtype.size() } else { 1 };
        let vector = [8, 4, 2].into_iter().find(|&v| v <= most && fits(v)).unwrap_or(1);
        Pieces { along_depth, vector }
    }
}

impl Family for MatMulLayer {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let Some(mode) = Mode::of(self.dtype, self.tf32, target) else { return vec![] };
        let (m, n, k) = (self.rows, self.columns, self.depth);
        let a =
            Pieces::of(self.dtype, self.a_vector, [k, self.a[1]], [m, self.a[0]], &self.a_batch);
        let b =
            Pieces::of(self.dtype, self.b_vector, [k, self.b[0]], [n, self.b[1]], &self.b_batch);
        let layouts = match mode {
            Mode::F16 => Layouts { a_by_k: !a.along_depth, b_by_n: b.along_depth },
            _ => Layouts::default(),
        };
        // cp.async copies as things lie, 4 bytes or more.
        let straight = |turned: bool, v: usize| (v == 1 || !turned) && v * self.dtype.size() >= 4;
        let same_type = (self.dtype == DType::F16) == (mode == Mode::F16);
        let through_async = target.sm >= 80
            && same_type
            && straight(!a.along_depth && !layouts.a_by_k, a.vector)
            && straight(b.along_depth && !layouts.b_by_n, b.vector);
        let products = self.batch.iter().product();
        let work = Work {
            rows: m,
            columns: n,
            depth: k,
            products,
            through_async,
            vectors: [a.vector, b.vector],
        };
        let list = |v: &[usize]| {
            // Arrays have at least one element.
            let numbers: Vec<String> = v.iter().chain([&1]).map(usize::to_string).collect();
            format!("{{{}}}", numbers.join(", "))
        };
        let candidate = |(tile, split): (Tile, usize)| {
            let shared = tile.shared(layouts);
            let tiles = ceil_div(m, tile.bm) * ceil_div(n, tile.bn) * products;
            let blocks = u32::try_from(tiles * split).ok().filter(|&b| b < 1 << 31)?;
            let (tickets, scratch) = tile.scratch(tiles, split);
            let mut d = Defines::new(target, self.dtype == DType::F16);
            tile.define(&mut d, layouts, split, through_async);
            d.all(&[
                ("T_F16", usize::from(self.dtype == DType::F16)),
                ("RIGHT_CONSTANT", 0),
                ("M_TOTAL", m),
                ("N_TOTAL", n),
                ("K_TOTAL", k),
                ("LDY", self.y_pitch),
                ("A_ALONG_M", usize::from(!a.along_depth)),
                ("A_VEC", a.vector),
                ("B_ALONG_K", usize::from(b.along_depth)),
                ("B_VEC", b.vector),
                ("HAS_C", usize::from(self.c.is_some())),
                ("BATCH_RANK", self.batch.len()),
            ]);
            let c = self.c.unwrap_or_default();
            let strides = [self.a, self.b, c].concat();
            for (name, stride) in ["A_M", "A_K", "B_K", "B_N", "C_M", "C_N"].iter().zip(strides) {
                d.set(name, stride);
            }
            d.set("BATCH_DIMS", list(&self.batch));
            d.set("A_BATCH", list(&self.a_batch)).set("B_BATCH", list(&self.b_batch));
            d.set("ALPHA", float(self.alpha)).set("BETA", float(self.beta));
            d.activation(self.activation);
            let third = if self.c.is_some() { Argument::Input(2) } else { Argument::Null };
            Some(Candidate {
                label: tile.label(split),
                source: d.source(&[VECTOR, tile::SOURCE, SOURCE]),
                specific: false,
                grid: [blocks, 1, 1],
                block: tile.threads() as u32,
                shared: shared as u32,
                arguments: vec![
                    Argument::Input(0),
                    Argument::Input(1),
                    third,
                    Argument::Output(0),
                    if split > 1 { Argument::Scratch(tickets) } else { Argument::Null },
                    if split > 1 { Argument::Scratch(0) } else { Argument::Null },
                ],
                scratch,
                zeroed: tickets,
                predicted_us: tile.predict(&work, split, shared, target),
            })
        };
        Tile::choices(mode, &work).into_iter().filter_map(candidate).collect()
    }

    fn extents(&self) -> Extents {
        let last = |batch: &[usize], [outer, inner]: [usize; 2], ends: [usize; 2]| {
            let lead: usize = self.batch.iter().zip(batch).map(|(d, s)| (d - 1) * s).sum();
            lead + (ends[0] - 1) * outer + (ends[1] - 1) * inner
        };
        let mut inputs = vec![
            reach(last(&self.a_batch, self.a, [self.rows, self.depth]), 1, self.dtype),
            reach(last(&self.b_batch, self.b, [self.depth, self.columns]), 1, self.dtype),
        ];
        let c = self.c.map(|c| reach(last(&[], c, [self.rows, self.columns]), 1, self.dtype));
        inputs.extend(c);
        let rows = self.batch.iter().product::<usize>() * self.rows;
        let y = reach((rows - 1) * self.y_pitch, self.columns, self.dtype);
        Extents { inputs, constants: vec![], outputs: vec![y] }
    }

    fn reference(&self, inputs: &[&[u8]], _constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let (a, b) = (load(inputs[0], self.dtype), load(inputs[1], self.dtype));
        for product in 0..self.batch.iter().product() {
            let (mut at_a, mut at_b, mut rest) = (0, 0, product);
            for (i, d) in self.batch.iter().enumerate().rev() {
                at_a += rest % d * self.a_batch[i];
                at_b += rest % d * self.b_batch[i];
                rest /= d;
            }
            for (m, n) in (0..self.rows).flat_map(|m| (0..self.columns).map(move |n| (m, n))) {
                let term = |k: usize| {
                    a[at_a + m * self.a[0] + k * self.a[1]]
                        * b[at_b + k * self.b[0] + n * self.b[1]]
                };
                let mut value = f64::from(self.alpha) * (0..self.depth).map(term).sum::<f64>();
                if let Some([down, across]) = self.c {
                    let c = load_at(inputs[2], self.dtype, m * down + n * across);
                    value += f64::from(self.beta) * c;
                }
                let at = (product * self.rows + m) * self.y_pitch + n;
                store(&mut outputs[0], self.dtype, at, activate(self.activation, value));
            }
        }
    }
}
