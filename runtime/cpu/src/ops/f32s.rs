//! Small things that the f32 kernels share.

use rayon::prelude::*;
use rten_simd::ops::BitOps;
use rten_simd::{Isa, SimdOp};
use tobiuo_tensor::{TensorView, TensorViewMut, ViewData, ViewDataMut};

/// Elements that one core handles before a second is asked: about 20 µs of a light kernel.
pub(crate) const GRAIN: usize = 1 << 15;

/// The elements of an f32 operand. Kernels are prepared for types: others do not come.
#[track_caller]
pub(crate) fn f32s<'a>(view: TensorView<'a>) -> &'a [f32] {
    let ViewData::F32(v) = view.data else { unreachable!("prepared for f32") };
    v
}

/// The elements of an f32 output.
#[track_caller]
pub(crate) fn f32s_mut<'a>(view: &'a mut TensorViewMut<'_>) -> &'a mut [f32] {
    let ViewDataMut::F32(v) = &mut view.data else { unreachable!("prepared for f32") };
    v
}

/// Scratch memory as f32.
pub(crate) fn scratch_f32(bytes: &mut [u8]) -> &mut [f32] {
    let whole = bytes.len() / 4 * 4;
    bytemuck::cast_slice_mut(&mut bytes[..whole])
}

/// Runs `f` on blocks of `out`, on all cores when it is large. The argument beside the block
/// is the block's place in `out`.
pub(crate) fn par_blocks<T: Send>(out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    if out.len() < 2 * GRAIN || rayon::current_num_threads() == 1 {
        return f(0, out);
    }
    out.par_chunks_mut(GRAIN).enumerate().for_each(|(i, block)| f(i * GRAIN, block));
}

/// f32 lanes of this machine's vectors.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl SimdOp for Lanes {
        type Output = usize;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> usize {
            isa.f32().len()
        }
    }
    Lanes.dispatch()
}

/// Runs `f` on `parts` parts of `out`, each whole multiples of `unit` elements with its part
/// of the scratch memory. The number beside them is a part's first unit.
pub(crate) fn par_parts<T: Send, S: Send>(
    out: &mut [T],
    unit: usize,
    parts: usize,
    scratch: &mut [S],
    f: &(impl Fn(usize, &mut [T], &mut [S]) + Sync),
) {
    fn fork<T: Send, S: Send>(
        first: usize,
        (out, unit): (&mut [T], usize),
        parts: usize,
        scratch: &mut [S],
        f: &(impl Fn(usize, &mut [T], &mut [S]) + Sync),
    ) {
        if parts <= 1 {
            if !out.is_empty() {
                f(first, out, scratch);
            }
            return;
        }
        let left = parts / 2;
        let units = out.len() / unit * left / parts;
        let (out_a, out_b) = out.split_at_mut(units * unit);
        let (scratch_a, scratch_b) = scratch.split_at_mut(scratch.len() / parts * left);
        rayon::join(
            || fork(first, (out_a, unit), left, scratch_a, f),
            || fork(first + units, (out_b, unit), parts - left, scratch_b, f),
        );
    }
    fork(0, (out, unit), parts, scratch, f);
}
