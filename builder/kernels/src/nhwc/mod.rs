//! Memory-bound layers over NHWC tensors, eight channels a thread: pools, element-wise work,
//! resampling.

mod elementwise;
mod global_pool;
mod integer_elementwise;
mod lookup;
mod pool;
mod resize;

pub use elementwise::{ElementwiseLayer, ElementwiseOp};
pub use global_pool::GlobalPoolLayer;
pub use integer_elementwise::IntegerElementwiseLayer;
pub use lookup::LookupLayer;
pub use pool::PoolLayer;
pub use resize::ResizeLayer;

use tobiuo_tensor::DType;

use crate::defines::float;
use crate::defines::{Defines, ceil_div};
use crate::depthwise::VECTOR;
use crate::numbers::{NUMBERS, Numbers, kind};
use crate::{Argument, Candidate, Mean, Target};

const INPUT: Argument = Argument::Input(0);
const OUTPUT: Argument = Argument::Output(0);

fn is_f16(dtype: DType) -> usize {
    usize::from(dtype == DType::F16)
}

/// What the kernels of means of integers want; for `count` elements the factor of their sum.
fn define_mean(d: &mut Defines, mean: Option<Mean>, dtype: DType, count: Option<usize>) {
    let x = mean.map_or((1.0, 0), |m| (m.x.scale, m.x.zero_point));
    let scale = count.map_or(x.0, |n| x.0 / n as f32);
    d.set("T_KIND", kind(dtype));
    d.set("X_SCALE", float(scale)).set("X_ZERO", format!("({})", x.1));
    mean.map_or(Numbers::float(dtype), |m| m.y).define("Y", d);
}

/// One candidate per block size of a kernel with one thread per 8 channels of a pixel.
fn per_thread(
    work: usize,
    bytes: usize,
    target: &Target,
    dtype: DType,
    source: &str,
    arguments: &[Argument],
    define: impl Fn(&mut Defines),
) -> Vec<Candidate> {
    let candidate = |threads: usize| {
        let mut d = Defines::new(target, dtype == DType::F16);
        define(&mut d);
        d.set("T_F16", is_f16(dtype)).set("T_KIND", kind(dtype)).set("THREADS", threads);
        Candidate {
            label: format!("threads {threads}"),
            source: d.source(&[NUMBERS, VECTOR, source]),
            grid: [ceil_div(work, threads) as u32, 1, 1],
            block: threads as u32,
            shared: 0,
            specific: false,
            arguments: arguments.to_vec(),
            scratch: 0,
            zeroed: 0,
            predicted_us: 1.5 + bytes as f64 / (target.bandwidth_gbs * 1e3) + threads as f64 * 1e-4,
        }
    };
    [64, 128, 256].into_iter().map(candidate).collect()
}

#[cfg(test)]
mod tests;
