//! Element type changed.

use tobiuo_ops::Fact;
use tobiuo_tensor::{DType, TensorViewMut, ViewData, ViewDataMut, f16};

use super::walk::parts;
use crate::{Inputs, Kernel};

struct Cast;

pub(super) fn prepare(x: &Fact, to: DType) -> Box<dyn Kernel> {
    if x.dtype == to { super::copy::reshape() } else { Box::new(Cast) }
}

fn convert<A: Copy + Sync, B: Send>(from: &[A], to: &mut [B], f: impl Fn(A) -> B + Sync) {
    let work = to.len();
    parts(to, 1, work, |first, part| {
        part.iter_mut().zip(&from[first..]).for_each(|(o, &x)| *o = f(x));
    });
}

impl Kernel for Cast {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let from = inputs.get(0).expect("never in place").data;
        let to = &mut outputs[0].data;
        // Rust's `as` truncates floats towards zero and stays in the target's range; integers
        // keep their low bits.
        macro_rules! from {
            ($v:expr, $t:ty) => {
                match to {
                    ViewDataMut::F32(o) => convert($v, o, |x: $t| x as f32),
                    ViewDataMut::F16(o) => convert($v, o, |x: $t| f16::from_f64(x as f64)),
                    ViewDataMut::I64(o) => convert($v, o, |x: $t| x as i64),
                    ViewDataMut::I32(o) => convert($v, o, |x: $t| x as i32),
                    ViewDataMut::I8(o) => convert($v, o, |x: $t| x as i8),
                    ViewDataMut::U8(o) => convert($v, o, |x: $t| x as u8),
                    ViewDataMut::Bool(o) => convert($v, o, |x: $t| u8::from(x != 0 as $t)),
                }
            };
        }
        match from {
            ViewData::F32(v) => from!(v, f32),
            ViewData::I64(v) => from!(v, i64),
            ViewData::I32(v) => from!(v, i32),
            ViewData::I8(v) => from!(v, i8),
            ViewData::U8(v) => from!(v, u8),
            ViewData::Bool(v) => match to {
                // A boolean is 0 or 1, whatever its byte is.
                ViewDataMut::F32(o) => convert(v, o, |x| f32::from(u8::from(x != 0))),
                ViewDataMut::F16(o) => convert(v, o, |x| f16::from(u8::from(x != 0))),
                ViewDataMut::I64(o) => convert(v, o, |x| i64::from(x != 0)),
                ViewDataMut::I32(o) => convert(v, o, |x| i32::from(x != 0)),
                ViewDataMut::I8(o) => convert(v, o, |x| i8::from(x != 0)),
                ViewDataMut::U8(o) | ViewDataMut::Bool(o) => convert(v, o, |x| u8::from(x != 0)),
            },
            ViewData::F16(v) => match to {
                ViewDataMut::F32(o) => convert(v, o, |x: f16| x.to_f32()),
                ViewDataMut::F16(o) => convert(v, o, |x| x),
                ViewDataMut::I64(o) => convert(v, o, |x: f16| x.to_f32() as i64),
                ViewDataMut::I32(o) => convert(v, o, |x: f16| x.to_f32() as i32),
                ViewDataMut::I8(o) => convert(v, o, |x: f16| x.to_f32() as i8),
                ViewDataMut::U8(o) => convert(v, o, |x: f16| x.to_f32() as u8),
                ViewDataMut::Bool(o) => convert(v, o, |x: f16| u8::from(x.to_f32() != 0.0)),
            },
        }
    }
}
