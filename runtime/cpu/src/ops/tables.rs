//! Where elements come from along each axis, as the kernels of Pad and Resize have it, for
//! other devices.

use tobiuo_ops::{Fact, Pad, Resize, ResizeMode};

use super::mapped::{FIXED, pad_table};
use super::resize::{nearest_table, pass};
use crate::CpuError;

/// Along one axis: the input element that each output element is a copy of; `None` where it has
/// the op's fixed value.
pub type Sources = Vec<Option<usize>>;

/// Along one axis: each output element is a weighted sum of neighbours.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    /// Neighbours in a sum.
    pub taps: usize,
    /// The first neighbour of each output element; `None` where it is the extrapolation value.
    pub starts: Sources,
    /// `taps` weights for each output element.
    pub weights: Vec<f32>,
}

fn sources(table: Vec<usize>) -> Sources {
    table.into_iter().map(|s| (s != FIXED).then_some(s)).collect()
}

/// The table of an axis that is padded from `from` elements to `to`; `None` when it is not.
///
/// # Errors
///
/// The table does not fit memory.
pub fn pad(op: &Pad, axis: usize, from: usize, to: usize) -> Result<Option<Sources>, CpuError> {
    Ok(pad_table(op, axis, from, to)?.map(sources))
}

/// The table of an axis under nearest resampling.
///
/// # Errors
///
/// The mode is another, or the table does not fit memory.
pub fn nearest(op: &Resize, axis: usize, x: &Fact) -> Result<Sources, CpuError> {
    let ResizeMode::Nearest { rounding } = op.mode else {
        return Err(CpuError("resampling by weights has no table of sources".into()));
    };
    nearest_table(op, axis, x, rounding).map(sources)
}

/// The sums of an axis under linear or cubic resampling; `None` when they change nothing.
///
/// # Errors
///
/// The weights do not fit memory.
pub fn neighbours(op: &Resize, axis: usize, x: &Fact) -> Result<Option<Neighbours>, CpuError> {
    let pass = pass(op, axis, x)?;
    Ok(pass.map(|p| Neighbours { taps: p.taps, starts: sources(p.starts), weights: p.weights }))
}
