//! Families with one thread per element (or per few neighbours) of the result, which read
//! other places of an operand: indexing, padding, resampling, windows of channels.

mod gather;
mod lrn;
mod remap;
mod resample;

pub use gather::GatherLayer;
pub use lrn::LrnLayer;
pub use remap::RemapLayer;
pub use resample::ResampleLayer;

use tobiuo_tensor::DType;

use crate::defines::{Defines, ceil_div};
use crate::strided::{Strided, index_types, memory_type};
use crate::{Argument, Candidate, Target};

const SCALAR: &str = include_str!("../../cuda/scalar.cuh");

/// Candidates with one thread per `vector` elements, for every vector up to the widest.
fn candidates(
    target: &Target,
    [total, widest]: [usize; 2],
    bytes: usize,
    source: &str,
    arguments: &[Argument],
    define: impl Fn(&mut Defines, usize) -> String,
) -> Vec<Candidate> {
    let mut vectors: Vec<usize> = [widest, 4, 1].into_iter().filter(|&v| v <= widest).collect();
    vectors.dedup();
    let mut out = Vec::new();
    for v in vectors {
        for threads in [64, 128, 256] {
            let mut d = Defines::new(target, false);
            let text = define(&mut d, v);
            d.all(&[("THREADS", threads), ("V", v), ("TOTAL", total / v)]);
            out.push(Candidate {
                label: format!("vector {v} threads {threads}"),
                source: d.source(&[SCALAR, &text, source]),
                grid: [ceil_div(total / v, threads) as u32, 1, 1],
                block: threads as u32,
                shared: 0,
                specific: false,
                arguments: arguments.to_vec(),
                scratch: 0,
                zeroed: 0,
                predicted_us: 1.6
                    + bytes as f64 / (target.bandwidth_gbs * 1e3) * (1.0 + 0.5 / v as f64)
                    + threads as f64 * 1e-4,
            });
        }
    }
    out
}

/// `Index`, `Offset`, and the operands' types under the given names.
fn types(operands: &[(&str, &Strided)], bytes: &[usize]) -> String {
    let largest = operands.iter().zip(bytes).map(|((_, o), b)| b / o.dtype.size()).max();
    let mut out = String::from(index_types(largest.unwrap_or(0)));
    for (name, operand) in operands {
        out.push_str(&format!("typedef {} {name};\n", memory_type(operand.dtype)));
    }
    out
}

/// An element of one type as one of another: the same bits, or between f32 and f16.
fn converted(from: DType, to: DType) -> String {
    match (from, to) {
        (DType::F16, DType::F32) => "to_f32(e)".into(),
        (DType::F32, DType::F16) => "to_f16(e)".into(),
        _ => "(e)".into(),
    }
}

/// An element copied, converted between f32 and f16 where the types differ.
fn copy(x: (&[u8], DType, usize), y: (&mut [u8], DType, usize)) {
    if x.1 == y.1 {
        let size = x.1.size();
        y.0[y.2 * size..][..size].copy_from_slice(&x.0[x.2 * size..][..size]);
    } else {
        crate::reference::store(y.0, y.1, y.2, crate::reference::load_at(x.0, x.1, x.2));
    }
}
