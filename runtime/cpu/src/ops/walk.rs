//! Walking over tensors: broadcast and permuted axes, typed access, sharing of work.

use bytemuck::Pod;
use rayon::prelude::*;
use rten_simd::{Isa, SimdOp};
use tobiuo_ops::MAX_RANK;
use tobiuo_tensor::{TensorView, TensorViewMut};

use crate::CpuError;

/// The most axes a walk can have: a tile has two for each axis.
const MAX_AXES: usize = 2 * MAX_RANK;

/// Elements of work for which a second core is asked; handing over costs microseconds.
const PARALLEL: usize = 1 << 16;

/// The elements of an operand, by a type of their size.
pub(crate) fn slice<T: Pod>(view: TensorView<'_>) -> &[T] {
    bytemuck::cast_slice(view.data.bytes())
}

/// The elements of an output, by a type of their size.
pub(crate) fn slice_mut<'a, T: Pod>(view: &'a mut TensorViewMut<'_>) -> &'a mut [T] {
    bytemuck::cast_slice_mut(view.data.bytes_mut())
}

/// Runs `$body` with `$t` an unsigned integer of the element size of `$dtype`: for kernels
/// that only move elements.
macro_rules! by_size {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype.size() {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            _ => {
                type $t = u64;
                $body
            }
        }
    };
}
pub(crate) use by_size;

/// Runs `f` on parts of `out` that are whole multiples of `unit` elements, on all cores when
/// `work` (in element operations) is large. The number beside a part is its first unit.
pub(crate) fn parts<T: Send>(
    out: &mut [T],
    unit: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let units = out.len() / unit.max(1);
    let threads = rayon::current_num_threads();
    if work < PARALLEL || units < 2 || threads == 1 {
        return f(0, out);
    }
    // A few parts per thread, so that one that is held up does not hold up all; none smaller
    // than is worth its hand-over.
    let wanted = (4 * threads).min(work / (PARALLEL / 4)).max(1);
    share(out, units.div_ceil(wanted), unit, &f);
}

/// Runs `f` on parts of so many units on all cores. Takes the function as an object, because
/// rayon's machinery is compiled anew for every type of function it is given.
fn share<T: Send>(
    out: &mut [T],
    units_per_part: usize,
    unit: usize,
    f: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    out.par_chunks_mut(units_per_part * unit)
        .enumerate()
        .for_each(|(i, part)| f(i * units_per_part, part));
}

/// Runs a loop compiled for the machine's widest vectors.
///
/// The closure, and everything in it that shall be vectorised, must be `#[inline(always)]`.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    struct Run<F>(F);
    impl<R, F: FnOnce() -> R> SimdOp for Run<F> {
        type Output = R;
        #[inline(always)]
        fn eval<I: Isa>(self, _isa: I) -> R {
            (self.0)()
        }
    }
    Run(f).dispatch()
}

/// A vector of `len` elements, or an error where there is no such memory.
pub(crate) fn table<T>(len: usize, values: impl Iterator<Item = T>) -> Result<Vec<T>, CpuError> {
    let mut table = Vec::new();
    table
        .try_reserve_exact(len)
        .map_err(|_| CpuError(format!("out of memory: a table of {len} entries is needed")))?;
    table.extend(values.take(len));
    Ok(table)
}

/// The axes of a row-major walk in which `K` operands move by strides of their own; axes that
/// all operands run through in one go are merged.
#[derive(Clone, Debug)]
pub(crate) struct Axes<const K: usize> {
    /// Extents and strides (elements), outermost first; at least one axis, none of extent 1
    /// but for a single element.
    axes: Vec<(usize, [isize; K])>,
}

impl<const K: usize> Axes<K> {
    /// The axes of these extents and strides.
    pub fn new(axes: impl Iterator<Item = (usize, [isize; K])>) -> Axes<K> {
        let mut merged: Vec<(usize, [isize; K])> = Vec::new();
        for (len, strides) in axes.filter(|a| a.0 != 1) {
            if let Some((last_len, last)) = merged.last_mut()
                && (0..K).all(|k| last[k] == strides[k] * len as isize)
            {
                (*last_len, *last) = (*last_len * len, strides);
            } else {
                merged.push((len, strides));
            }
        }
        if merged.is_empty() {
            merged.push((1, [1; K]));
        }
        debug_assert!(merged.len() <= MAX_AXES);
        Axes { axes: merged }
    }

    /// The axes of `shape`, to which operands of these shapes broadcast.
    pub fn broadcast(shape: &[usize], operands: [&[usize]; K]) -> Axes<K> {
        let mut strides = vec![[0; K]; shape.len()];
        for (k, operand) in operands.into_iter().enumerate() {
            let lead = shape.len() - operand.len();
            let mut stride = 1;
            for (i, &len) in operand.iter().enumerate().rev() {
                if len != 1 {
                    strides[lead + i][k] = stride;
                    stride *= len as isize;
                }
            }
        }
        Axes::new(shape.iter().copied().zip(strides))
    }

    pub fn get(&self) -> &[(usize, [isize; K])] {
        &self.axes
    }

    /// Walks over `count` elements from element `first` on: for each stretch along the last
    /// axis, `f` gets its place (elements after `first`), its length, and the operands'
    /// offsets. The last axis' strides are [`Axes::step`].
    #[inline(always)]
    pub fn walk(&self, first: usize, count: usize, mut f: impl FnMut(usize, usize, [isize; K])) {
        let (outer, row) = match self.axes.split_last() {
            Some((last, outer)) => (outer, last.0),
            None => return,
        };
        if count == 0 || row == 0 {
            return;
        }
        let mut index = [0usize; MAX_AXES];
        let mut offset = [0isize; K];
        let mut column = first % row;
        let mut rest = first / row;
        for (i, &(len, strides)) in outer.iter().enumerate().rev() {
            index[i] = rest % len;
            rest /= len;
            for k in 0..K {
                offset[k] += index[i] as isize * strides[k];
            }
        }
        let step = self.step();
        let mut done = 0;
        loop {
            let len = (row - column).min(count - done);
            let mut at = offset;
            for k in 0..K {
                at[k] += column as isize * step[k];
            }
            f(done, len, at);
            done += len;
            if done == count {
                return;
            }
            column = 0;
            // The next row: the odometer's last wheel turns, and those before it on a carry.
            for (i, &(len, strides)) in outer.iter().enumerate().rev() {
                index[i] += 1;
                for k in 0..K {
                    offset[k] += strides[k];
                }
                if index[i] < len {
                    break;
                }
                index[i] = 0;
                for k in 0..K {
                    offset[k] -= len as isize * strides[k];
                }
            }
        }
    }

    /// The last axis' strides.
    #[inline(always)]
    pub fn step(&self) -> [isize; K] {
        self.axes.last().map_or([1; K], |a| a.1)
    }
}
