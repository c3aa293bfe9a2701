//! Pad and nearest Resize: along each axis, a table says which input element an output
//! element is a copy of, or that it has a fixed value.

use bytemuck::Pod;
use tobiuo_ops::{Fact, Pad, PadMode};
use tobiuo_tensor::{DType, TensorViewMut, f16};

use super::walk::{by_size, parts, slice, slice_mut, table};
use crate::{CpuError, Inputs, Kernel};

/// In a table: no input element, the fixed value.
pub(super) const FIXED: usize = usize::MAX;

/// Where an axis' output elements come from.
enum Source {
    /// Element `i` from element `i`.
    Same,
    Table(Vec<usize>),
}

struct Axis {
    len: usize,
    stride: usize,
    source: Source,
}

impl Axis {
    #[inline(always)]
    fn source(&self, i: usize) -> usize {
        match &self.source {
            Source::Same => i,
            Source::Table(t) => t[i],
        }
    }
}

/// How the last axis is copied.
enum Row {
    /// Output elements `from..to` are as many consecutive input elements from `at` on; those
    /// outside go by the table.
    Run { from: usize, to: usize, at: usize },
    /// Every input element this often.
    Repeat(usize),
    /// By the table.
    Any,
}

pub(super) struct Mapped {
    dtype: DType,
    /// Outermost first; the last is copied as `row` says.
    axes: Vec<Axis>,
    row: Row,
    fixed: f32,
    rows: usize,
}

pub(super) fn pad(a: &Pad, x: &Fact, out: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    let fixed = if let PadMode::Constant { value } = a.mode { value } else { 0.0 };
    let tables = (0..x.shape.len())
        .map(|axis| pad_table(a, axis, x.shape[axis], out.shape[axis]))
        .collect::<Result<Vec<_>, CpuError>>()?;
    Ok(Box::new(Mapped::new(x, out, tables, fixed)))
}

/// For an axis of `from` elements padded to `len`, the input element that each output element
/// is a copy of, [`FIXED`] where it has the fixed value; `None` when the axis is not padded.
pub(super) fn pad_table(
    a: &Pad,
    axis: usize,
    from: usize,
    len: usize,
) -> Result<Option<Vec<usize>>, CpuError> {
    let (begin, end) = (a.begins[axis] as isize, a.ends[axis] as isize);
    if begin == 0 && end == 0 {
        return Ok(None);
    }
    // What is cropped away is gone before the padding is made from the rest.
    let crop = (-begin).max(0);
    let left = from as isize - crop - (-end).max(0);
    let source = |i: usize| {
        let inside = padded_index(i as isize - begin.max(0), left, a.mode);
        inside.map_or(FIXED, |s| (s + crop) as usize)
    };
    table(len, (0..len).map(source)).map(Some)
}

/// The element of `0..len` that padding element `i` copies.
fn padded_index(i: isize, len: isize, mode: PadMode) -> Option<isize> {
    if (0..len).contains(&i) {
        return Some(i);
    }
    match mode {
        PadMode::Constant { .. } => None,
        PadMode::Edge => Some(i.clamp(0, len - 1)),
        PadMode::Wrap => Some(i.rem_euclid(len)),
        PadMode::Reflect if len == 1 => Some(0),
        PadMode::Reflect => {
            let i = i.rem_euclid(2 * (len - 1));
            Some(i.min(2 * (len - 1) - i))
        }
    }
}

impl Mapped {
    /// A kernel for one table per axis; an axis without one is copied as it is.
    pub fn new(x: &Fact, out: &Fact, tables: Vec<Option<Vec<usize>>>, fixed: f32) -> Mapped {
        let mut axes: Vec<Axis> = Vec::new();
        let mut stride: usize = x.shape.iter().product();
        for (axis, entries) in tables.into_iter().enumerate() {
            stride = stride.checked_div(x.shape[axis]).unwrap_or(0);
            let len = out.shape[axis];
            let same =
                |t: &Vec<usize>| len == x.shape[axis] && t.iter().enumerate().all(|(i, &s)| i == s);
            let source = match entries.filter(|t| !same(t)) {
                Some(t) => Source::Table(t),
                None => Source::Same,
            };
            // Neighbours that are copied as they are become one axis.
            match (axes.last_mut(), &source) {
                (Some(last), Source::Same) if matches!(last.source, Source::Same) => {
                    last.len *= len;
                    last.stride = stride;
                }
                _ => axes.push(Axis { len, stride, source }),
            }
        }
        if axes.is_empty() {
            axes.push(Axis { len: 1, stride: 1, source: Source::Same });
        }
        let last = &axes[axes.len() - 1];
        let row = match &last.source {
            Source::Same => Row::Run { from: 0, to: last.len, at: 0 },
            Source::Table(t) => row_of(t, x.shape.last().copied().unwrap_or(1)),
        };
        let rows = axes[..axes.len() - 1].iter().map(|a| a.len).product();
        Mapped { dtype: x.dtype, axes, row, fixed, rows }
    }

    /// The fixed value as an element of the output's type.
    fn fixed_bytes(&self) -> [u8; 8] {
        fn put<const N: usize>(bytes: [u8; N]) -> [u8; 8] {
            let mut out = [0; 8];
            out[..N].copy_from_slice(&bytes);
            out
        }
        let v = self.fixed;
        match self.dtype {
            DType::F32 => put(v.to_ne_bytes()),
            DType::F16 => put(f16::from_f32(v).to_ne_bytes()),
            DType::I64 => put((v as i64).to_ne_bytes()),
            DType::I32 => put((v as i32).to_ne_bytes()),
            DType::I8 => put((v as i8).to_ne_bytes()),
            DType::U8 => put((v as u8).to_ne_bytes()),
            _ => put([u8::from(v != 0.0)]),
        }
    }

    fn copy<T: Pod + Send + Sync>(&self, x: &[T], out: &mut [T]) {
        let fixed: T = bytemuck::pod_read_unaligned(&self.fixed_bytes()[..size_of::<T>()]);
        let Some((last, outer)) = self.axes.split_last() else { return };
        let width = last.len;
        if width == 0 || self.rows == 0 {
            return;
        }
        parts(out, width, self.rows * width, |first, part| {
            let mut before: Option<(Option<usize>, usize)> = None;
            for r in 0..part.len() / width {
                // The row's place in the input, axis by axis from the last.
                let (mut rest, mut from) = (first + r, Some(0));
                for axis in outer.iter().rev() {
                    let s = axis.source(rest % axis.len);
                    rest /= axis.len;
                    from = from.filter(|_| s != FIXED).map(|f| f + s * axis.stride);
                }
                let at = r * width;
                match before {
                    // The same row again (an enlarged picture): copy what was made.
                    Some((f, source)) if f == from => {
                        part.copy_within(source..source + width, at);
                    }
                    _ => match from {
                        Some(from) => self.row(&x[from..], &mut part[at..at + width], fixed),
                        None => part[at..at + width].fill(fixed),
                    },
                }
                before = Some((from, at));
            }
        });
    }

    fn row<T: Copy>(&self, x: &[T], out: &mut [T], fixed: T) {
        let axis = &self.axes[self.axes.len() - 1];
        let lookup = |out: &mut [T], first: usize| {
            if let Source::Table(t) = &axis.source {
                for (o, &s) in out.iter_mut().zip(&t[first..]) {
                    *o = if s == FIXED { fixed } else { x[s] };
                }
            }
        };
        match self.row {
            Row::Run { from, to, at } => {
                lookup(&mut out[..from], 0);
                out[from..to].copy_from_slice(&x[at..at + to - from]);
                lookup(&mut out[to..], to);
            }
            Row::Repeat(2) => {
                for (pair, &v) in out.chunks_exact_mut(2).zip(x) {
                    pair[0] = v;
                    pair[1] = v;
                }
            }
            Row::Repeat(n) => out.chunks_exact_mut(n).zip(x).for_each(|(o, &v)| o.fill(v)),
            Row::Any => lookup(out, 0),
        }
    }
}

/// The form of a table of the last axis, of `len` input elements.
fn row_of(t: &[usize], len: usize) -> Row {
    if len > 0 && t.len().is_multiple_of(len) && !t.is_empty() {
        let n = t.len() / len;
        if t.iter().enumerate().all(|(i, &s)| s == i / n) {
            return Row::Repeat(n);
        }
    }
    // The longest stretch of consecutive elements.
    let (mut best, mut start) = (0..0, 0);
    for i in 0..t.len() {
        if i > start && (t[i] == FIXED || t[i - 1] == FIXED || t[i] != t[i - 1] + 1) {
            start = i;
        }
        if t[i] != FIXED && i + 1 - start > best.len() {
            best = start..i + 1;
        }
    }
    if best.len() >= 8 {
        Row::Run { from: best.start, to: best.end, at: t[best.start] }
    } else {
        Row::Any
    }
}

impl Kernel for Mapped {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x = inputs.get(0).expect("never in place");
        by_size!(self.dtype, T => self.copy::<T>(slice(x), slice_mut(&mut outputs[0])));
    }
}
