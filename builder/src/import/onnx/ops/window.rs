//! What convolutions and pools share: kernel, strides, dilations, pads, auto_pad.

use super::super::context::Context;
use super::super::stop::{Res, invalid, unsupported};

/// How a window is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoPad {
    /// As the attribute `pads` says.
    Explicit,
    /// Output size is input size over stride; the odd element at the end.
    SameUpper,
    /// As `SameUpper`, the odd element at the beginning.
    SameLower,
    /// Not at all.
    Valid,
}

/// A window's attributes, one entry per spatial axis (`pads`: two).
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Window {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub auto_pad: AutoPad,
    pub pads: Vec<usize>,
}

/// A list attribute of positive numbers, one per spatial axis.
fn positive(c: &Context<'_, '_>, name: &str, axes: usize) -> Res<Option<Vec<usize>>> {
    let Some(v) = c.attributes.ints(name)? else { return Ok(None) };
    if v.len() != axes {
        return invalid(format!("{name} {v:?} needs {axes} numbers, one per spatial axis"));
    }
    let out: Option<Vec<usize>> =
        v.iter().map(|&x| usize::try_from(x).ok().filter(|&x| x > 0)).collect();
    out.map_or_else(|| invalid(format!("{name} {v:?} must be at least 1 each")), |v| Ok(Some(v)))
}

impl Window {
    /// Read from a node; `kernel` is the weight's, where there is a weight. `shape` is x's.
    pub fn read(c: &Context<'_, '_>, shape: &[usize], kernel: Option<&[usize]>) -> Res<Window> {
        if shape.len() < 3 {
            return invalid(format!("x {shape:?} must be [N, C, spatial...]"));
        }
        let axes = shape.len() - 2;
        let given = positive(c, "kernel_shape", axes)?;
        let kernel = match (given, kernel) {
            (Some(g), Some(k)) if g != k => {
                return invalid(format!("kernel_shape {g:?} differs from the weight's {k:?}"));
            }
            (_, Some(k)) => k.to_vec(),
            (Some(g), None) => g,
            (None, None) => return invalid("kernel_shape is missing"),
        };
        let strides = positive(c, "strides", axes)?.unwrap_or_else(|| vec![1; axes]);
        let dilations = positive(c, "dilations", axes)?.unwrap_or_else(|| vec![1; axes]);
        let auto_pad = match c.attributes.string_or("auto_pad", "NOTSET")? {
            "NOTSET" | "" => AutoPad::Explicit,
            "SAME_UPPER" => AutoPad::SameUpper,
            "SAME_LOWER" => AutoPad::SameLower,
            "VALID" => AutoPad::Valid,
            other => return invalid(format!("auto_pad '{other}' is not in the standard")),
        };
        let mut pads = vec![0; 2 * axes];
        if let Some(given) = c.attributes.ints("pads")? {
            if given.len() != 2 * axes {
                return invalid(format!("pads {given:?} needs {} numbers", 2 * axes));
            }
            // Beside an automatic mode the standard ignores them.
            if auto_pad == AutoPad::Explicit {
                for (out, &p) in pads.iter_mut().zip(given) {
                    *out = match usize::try_from(p) {
                        Ok(p) => p,
                        Err(_) => return unsupported(format!("pads {given:?} below 0"), ""),
                    };
                }
            }
        }
        Ok(Window { kernel, strides, dilations, auto_pad, pads })
    }

    /// The extent a window covers along an axis.
    pub fn extent(&self, axis: usize) -> Res<usize> {
        let e = (self.kernel[axis].max(1) - 1).checked_mul(self.dilations[axis]);
        match e.and_then(|e| e.checked_add(1)) {
            Some(e) => Ok(e),
            None => invalid(format!("kernel {:?} is too large", self.kernel)),
        }
    }

    /// Pads of a forward window over a tensor of some shape, the automatic modes resolved.
    pub fn resolve(&mut self, shape: &[usize]) -> Res<()> {
        if !matches!(self.auto_pad, AutoPad::SameUpper | AutoPad::SameLower) {
            return Ok(());
        }
        let axes = self.kernel.len();
        for axis in 0..axes {
            let (size, stride) = (shape[2 + axis], self.strides[axis]);
            let out = size.div_ceil(stride);
            let covered = out.saturating_sub(1).saturating_mul(stride);
            let total = covered.saturating_add(self.extent(axis)?).saturating_sub(size);
            (self.pads[axis], self.pads[axes + axis]) = self.distribute(total);
        }
        Ok(())
    }

    /// Splits an axis's padding into begin and end.
    pub fn distribute(&self, total: usize) -> (usize, usize) {
        match self.auto_pad {
            AutoPad::SameUpper => (total / 2, total - total / 2),
            _ => (total - total / 2, total / 2),
        }
    }
}
