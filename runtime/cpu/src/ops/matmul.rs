//! Gemm and MatMul, f32.

use tobiuo_ops::{Activation, Fact, Gemm};
use tobiuo_tensor::{DType, TensorView, TensorViewMut, strides};

use super::activation::apply;
use super::f32s::{f32s, f32s_mut, lanes, par_blocks, scratch_f32};
use super::gemv::gemv;
use super::patches::Patches;
use super::product::{Job, Product, Right};
use super::tiles::{Finish, Residual, Rows, VECTORS};
use crate::{CpuError, Inputs, Kernel};

struct MatMulKernel {
    /// Rows, depth and columns of each product.
    m: usize,
    k: usize,
    n: usize,
    /// Operand a's steps between rows and between depths, elements.
    a_steps: [usize; 2],
    b_transposed: bool,
    /// Where each product's operands begin, elements.
    places: Vec<[usize; 2]>,
    alpha: f32,
    c: Option<Addend>,
    activation: Option<Activation>,
    how: How,
}

/// `beta * c`, broadcast.
struct Addend {
    beta: f32,
    /// Steps between rows and between columns, elements.
    steps: [usize; 2],
}

enum How {
    /// One row: a is the vector, b the matrix.
    Row,
    /// One column: b is the vector, a the matrix.
    Column,
    General {
        product: Box<Product>,
        /// All products' packed rows of a, when it is constant.
        a: Option<Vec<f32>>,
        /// b's packed columns, when it is constant and the same for all products.
        b: Option<Vec<f32>>,
    },
    /// Nothing to sum.
    Empty,
}

fn floats(name: &str, inputs: &[Fact]) -> Result<(), CpuError> {
    match inputs.iter().find(|i| i.dtype != DType::F32) {
        Some(i) => Err(CpuError(format!("{name} of {} is not supported, only of f32", i.dtype))),
        None => Ok(()),
    }
}

pub(crate) fn prepare_gemm(
    gemm: &Gemm,
    inputs: &[Fact],
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    floats("Gemm", inputs)?;
    let (a, b) = (&inputs[0].shape, &inputs[1].shape);
    let (m, k) = if gemm.trans_a { (a[1], a[0]) } else { (a[0], a[1]) };
    let n = if gemm.trans_b { b[0] } else { b[1] };
    let c = inputs.get(2).map(|c| {
        let s = strides(&c.shape);
        // Axes from the right; broadcast ones have step 0.
        let step = |from_right: usize| match c.shape.len().checked_sub(from_right) {
            Some(axis) if c.shape[axis] != 1 => s[axis],
            _ => 0,
        };
        Addend { beta: gemm.beta, steps: [step(2), step(1)] }
    });
    MatMulKernel {
        m,
        k,
        n,
        a_steps: if gemm.trans_a { [1, m] } else { [k, 1] },
        b_transposed: gemm.trans_b,
        places: vec![[0, 0]],
        alpha: gemm.alpha,
        c,
        activation: gemm.activation,
        how: How::Empty,
    }
    .finish(constants)
}

pub(crate) fn prepare(
    inputs: &[Fact],
    out: &Fact,
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    floats("MatMul", inputs)?;
    let (a, b) = (&inputs[0].shape, &inputs[1].shape);
    let vector = [a.len() == 1, b.len() == 1];
    let k = a[a.len() - 1];
    let m = if vector[0] { 1 } else { a[a.len() - 2] };
    let n = if vector[1] { 1 } else { b[b.len() - 1] };
    // The output's batch axes; each operand's step along them.
    let batch = &out.shape[..out.shape.len() - usize::from(!vector[0]) - usize::from(!vector[1])];
    let steps = |shape: &[usize]| -> Vec<usize> {
        let own = &shape[..shape.len().saturating_sub(2)];
        let all = strides(shape);
        let missing = batch.len() - own.len();
        let step = |(i, &d): (usize, &usize)| if d == 1 { 0 } else { all[i] };
        std::iter::repeat_n(0, missing).chain(own.iter().enumerate().map(step)).collect()
    };
    let steps = [steps(a), steps(b)];
    let index = strides(batch);
    let places = (0..batch.iter().product())
        .map(|i: usize| {
            [0, 1].map(|o| (0..batch.len()).map(|x| i / index[x] % batch[x] * steps[o][x]).sum())
        })
        .collect();
    MatMulKernel {
        m,
        k,
        n,
        a_steps: [k, 1],
        b_transposed: false,
        places,
        alpha: 1.0,
        c: None,
        activation: None,
        how: How::Empty,
    }
    .finish(constants)
}

impl MatMulKernel {
    /// Chooses how, and packs what is constant.
    fn finish(mut self, constants: &[Option<TensorView<'_>>]) -> Result<Box<dyn Kernel>, CpuError> {
        let constant = |i: usize| constants.get(i).copied().flatten().map(f32s);
        let vector_a = self.a_steps[1] == 1 || self.k == 1;
        self.how = if self.k == 0 || self.m == 0 || self.n == 0 {
            How::Empty
        } else if self.m == 1 && vector_a {
            How::Row
        } else if self.n == 1 {
            How::Column
        } else {
            let patches = Patches::matrix(self.k, self.n, self.b_transposed, lanes() * VECTORS);
            let product = Product::new(self.m, patches, self.places.len());
            let a = constant(0).map(|a| {
                let mut packed = vec![0.0; self.places.len() * product.left_len()];
                self.pack_a(&product, a, &mut packed);
                packed
            });
            let same = self.places.iter().all(|p| p[1] == 0);
            let b = constant(1).filter(|_| same).map(|b| product.pack_columns(b));
            How::General { product: Box::new(product), a, b }
        };
        Ok(Box::new(self))
    }

    fn pack_a(&self, product: &Product, a: &[f32], packed: &mut [f32]) {
        let [row, depth] = self.a_steps;
        for (packed, place) in packed.chunks_exact_mut(product.left_len()).zip(&self.places) {
            let (outer, inner) = ([1, 0], [self.k, depth]);
            let from = Rows { data: &a[place[0]..], row, outer, inner, scale: self.alpha };
            product.pack_left(packed, &from);
        }
    }

    /// Writes what the products are added to.
    fn begin(&self, c: Option<&[f32]>, out: &mut [f32]) {
        let (Some(add), Some(c)) = (&self.c, c) else { return out.fill(0.0) };
        for (r, row) in out.chunks_exact_mut(self.n.max(1)).enumerate() {
            let c = &c[r % self.m.max(1) * add.steps[0]..];
            match add.steps[1] {
                0 => row.fill(add.beta * c[0]),
                _ => row.iter_mut().zip(c).for_each(|(o, c)| *o = add.beta * c),
            }
        }
    }

    fn scratch_parts(&self) -> [usize; 2] {
        match &self.how {
            How::General { product, a, .. } => {
                let dynamic = if a.is_some() { 0 } else { product.left_len() * self.places.len() };
                [dynamic, product.scratch_len()]
            }
            _ => [0, 0],
        }
    }
}

impl Kernel for MatMulKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let operand = |i: usize| inputs.get(i).map(f32s);
        const PLAIN: &str = "a matrix product does not run in place";
        let c = operand(2);
        let out = f32s_mut(&mut outputs[0]);
        match &self.how {
            How::Empty => self.begin(c, out),
            How::Row | How::Column => {
                self.begin(c, out);
                let (a, b) = (operand(0).expect(PLAIN), operand(1).expect(PLAIN));
                for (out, place) in out.chunks_exact_mut(self.m * self.n).zip(&self.places) {
                    let a = &a[place[0]..][..self.m * self.k];
                    let b = &b[place[1]..][..self.k * self.n];
                    if matches!(self.how, How::Row) {
                        gemv(self.alpha, a, b, self.b_transposed, out);
                    } else {
                        gemv(self.alpha, b, a, self.a_steps[1] == 1, out);
                    }
                }
            }
            How::General { product, a, b } => {
                let [dynamic, _] = self.scratch_parts();
                let (packed, scratch) = scratch_f32(scratch).split_at_mut(dynamic);
                let left: &[f32] = match a {
                    Some(a) => a,
                    None => {
                        self.pack_a(product, operand(0).expect(PLAIN), packed);
                        packed
                    }
                };
                let right = b.is_none().then(|| operand(1).expect(PLAIN));
                let residual = if self.c.is_some() {
                    self.begin(c, out);
                    Residual::InPlace
                } else {
                    Residual::None
                };
                let finish =
                    Finish { bias: None, row_len: self.n, residual, activation: self.activation };
                let len = product.left_len();
                let job = |i: usize| Job {
                    left: &left[i * len..(i + 1) * len],
                    right: match (b, right) {
                        (Some(b), _) => Right::Packed(b),
                        (None, right) => {
                            let from = self.places[i][1];
                            let b = right.expect("given when b is not packed");
                            Right::Image(&b[from..from + self.k * self.n])
                        }
                    },
                    finish,
                };
                return product.run(&job, out, scratch);
            }
        }
        if let Some(act) = self.activation {
            par_blocks(out, |_, block| apply(act, block));
        }
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch_parts().iter().sum::<usize>() * 4
    }

    fn reads(&self, operand: usize) -> bool {
        match (&self.how, operand) {
            (How::General { a, .. }, 0) => a.is_none(),
            (How::General { b, .. }, 1) => b.is_none(),
            _ => true,
        }
    }
}
