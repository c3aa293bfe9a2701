//! Families that work on rows of elements: reductions, softmax, normalisation, the place of
//! the largest, the k largest.

mod arg;
mod norm;
mod reduce;
mod softmax;
mod topk;

pub use arg::ArgReduceLayer;
pub use norm::NormLayer;
pub use reduce::ReduceLayer;
pub use softmax::SoftmaxLayer;
pub use topk::TopKLayer;

use tobiuo_tensor::DType;

use crate::defines::{Defines, ceil_div};
use crate::strided::{Strided, index_types, memory_type};
use crate::{Argument, Candidate, Target};

const SCALAR: &str = include_str!("../../cuda/scalar.cuh");
const ROWS: &str = include_str!("../../cuda/rows.cuh");

/// One candidate per number of threads that share a row.
fn candidates(
    target: &Target,
    [rows, count]: [usize; 2],
    bytes: usize,
    fast: bool,
    source: &str,
    arguments: &[Argument],
    define: impl Fn(&mut Defines) -> String,
) -> Vec<Candidate> {
    let shapes =
        [(1, 64), (1, 256), (4, 128), (8, 128), (32, 64), (32, 256), (128, 128), (512, 512)];
    let worth = |&(lanes, _): &(usize, usize)| {
        lanes == 1 && count <= 4096 || lanes > 1 && lanes <= 2 * count || lanes == 8
    };
    let candidate = |(lanes, threads): (usize, usize)| {
        let mut d = Defines::new(target, fast);
        let text = define(&mut d);
        d.all(&[("LANES", lanes), ("THREADS", threads), ("ROWS", rows), ("COUNT", count)]);
        let serial = ceil_div(count, lanes) as f64;
        let waves = (rows * lanes) as f64 / (target.sm_count as f64 * 1024.0);
        Candidate {
            label: format!("lanes {lanes} threads {threads}"),
            source: d.source(&[SCALAR, &text, ROWS, source]),
            grid: [ceil_div(rows, threads / lanes) as u32, 1, 1],
            block: threads as u32,
            shared: 0,
            specific: false,
            arguments: arguments.to_vec(),
            scratch: 0,
            zeroed: 0,
            predicted_us: 1.6
                + bytes as f64 / (target.bandwidth_gbs * 1e3)
                + serial * 0.02 * waves.max(1.0)
                + (lanes as f64).log2() * 0.05
                + threads as f64 * 1e-4,
        }
    };
    shapes.into_iter().filter(worth).map(candidate).collect()
}

/// `Index`, `Offset`, and the operands' types under the given names.
fn types(operands: &[(&str, &Strided, usize)]) -> String {
    let largest = operands.iter().map(|o| o.2).max().unwrap_or(0);
    let mut out = String::from(index_types(largest));
    for (name, operand, _) in operands {
        out.push_str(&format!("typedef {} {name};\n", memory_type(operand.dtype)));
    }
    out
}

/// Elements from an operand's address to the end of what is touched.
fn elements(operand: &Strided, dims: &[usize]) -> usize {
    operand.bytes(dims) / operand.dtype.size()
}

fn is_f16(operands: &[&Strided]) -> bool {
    operands.iter().any(|o| o.dtype == DType::F16)
}
