//! Where a value's elements lie: strided views of buffers, and their algebra.
//!
//! Movement ops (Transpose, Slice, Expand, most Reshapes) only change the view. A copy is made
//! where a consumer needs a layout that the view does not have.

use tobiuo_ops::Slice;
use tobiuo_tensor::DType;

/// A buffer's number in the lowering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub usize);

impl BufferId {
    /// Numbers from here on are packed constants rather than buffers. Only the lowering itself
    /// sees them: its layers name constants as what they are.
    const CONSTANTS: usize = usize::MAX / 2;

    /// The memory of a packed constant.
    pub fn of_constant(number: usize) -> BufferId {
        BufferId(BufferId::CONSTANTS + number)
    }

    /// The packed constant that this is the memory of.
    pub fn constant(self) -> Option<usize> {
        self.0.checked_sub(BufferId::CONSTANTS)
    }
}

/// A strided view: element `[i, j, ...]` is at `offset + i * strides[0] + j * strides[1] ...`
/// elements from the buffer's start.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The memory.
    pub buffer: BufferId,
    /// Element type.
    pub dtype: DType,
    /// First element.
    pub offset: i64,
    /// Logical extents, outermost first.
    pub shape: Vec<usize>,
    /// Elements per index step; 0 broadcasts.
    pub strides: Vec<i64>,
    /// Channels that are stored behind each pixel from this view's first channel on, for a
    /// picture `[N, C, H, W]` with channels fastest; at least C, the excess being padding that
    /// may be read and written.
    pub channels_stored: usize,
}

/// Channels that pictures are padded to a multiple of.
pub fn granule(dtype: DType) -> usize {
    if dtype.size() == 1 { 16 } else { 8 }
}

/// Row-major strides.
pub fn dense(shape: &[usize]) -> Vec<i64> {
    let mut out = vec![1i64; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        out[i] = out[i + 1] * shape[i + 1].max(1) as i64;
    }
    out
}

/// Strides of `[N, C, H, W]` with channels fastest and `pitch` elements per pixel.
pub fn channels_last(shape: &[usize], pitch: usize) -> Vec<i64> {
    let (h, w) = (shape[2] as i64, shape[3] as i64);
    let pitch = pitch as i64;
    vec![h * w * pitch, 1, w * pitch, pitch]
}

impl View {
    /// True when the elements follow one another in row-major order.
    pub fn is_dense(&self) -> bool {
        let want = dense(&self.shape);
        (0..self.shape.len()).all(|i| self.shape[i] == 1 || self.strides[i] == want[i])
    }

    /// Elements from one pixel to the next when this is a picture with channels fastest that
    /// the NHWC kernels can take: 16-byte aligned, rows and pictures contiguous.
    pub fn pixel_pitch(&self) -> Option<usize> {
        if self.shape.len() != 4 {
            return None;
        }
        let [n, c, h, w] = [self.shape[0], self.shape[1], self.shape[2], self.shape[3]];
        let size = |axis: usize| self.shape[axis] == 1;
        // The innermost axis with more than one index fixes the pitch.
        let pitch = if !size(3) {
            self.strides[3]
        } else if !size(2) {
            self.strides[2]
        } else if !size(0) {
            self.strides[0]
        } else {
            self.channels_stored.max(c) as i64
        };
        let ok = (size(1) || self.strides[1] == 1)
            && (size(2) || self.strides[2] == w as i64 * pitch)
            && (size(0) || n == 1 || self.strides[0] == (h * w) as i64 * pitch);
        let align = match self.dtype {
            DType::F16 => 8,
            DType::I8 | DType::U8 => 16,
            _ => 4,
        };
        let small = pitch == 4 && self.channels_stored == 4 && align < 16;
        (ok && pitch > 0 && (small || (pitch % align == 0 && self.offset % align == 0)))
            .then_some(pitch as usize)
    }

    /// Axes permuted.
    pub fn transposed(&self, perm: &[usize]) -> View {
        View {
            shape: perm.iter().map(|&p| self.shape[p]).collect(),
            strides: perm.iter().map(|&p| self.strides[p]).collect(),
            channels_stored: 0,
            ..self.clone()
        }
    }

    /// A strided part.
    pub fn sliced(&self, slice: &Slice) -> View {
        let mut out = self.clone();
        for (i, &start) in slice.starts.iter().enumerate() {
            out.offset += start as i64 * self.strides[i];
            out.strides[i] = self.strides[i] * slice.steps[i];
            out.shape[i] = slice.lens[i];
        }
        let whole_pixels = slice.steps.iter().all(|&s| s == 1);
        out.channels_stored = if whole_pixels && self.shape.len() == 4 {
            // Behind the part lie other channels: only its own may be written.
            if slice.starts[1] + slice.lens[1] == self.shape[1] {
                self.channels_stored.saturating_sub(slice.starts[1])
            } else {
                slice.lens[1]
            }
        } else {
            0
        };
        out
    }

    /// Broadcast to a shape (numpy's rule).
    pub fn expanded(&self, shape: &[usize]) -> View {
        let lead = shape.len() - self.shape.len();
        let strides = (0..shape.len())
            .map(|i| {
                if i < lead || self.shape[i - lead] != shape[i] {
                    0
                } else {
                    self.strides[i - lead]
                }
            })
            .collect();
        View { shape: shape.to_vec(), strides, channels_stored: 0, ..self.clone() }
    }

    /// The same elements in another shape, when that is a view too.
    pub fn reshaped(&self, shape: &[usize]) -> Option<View> {
        let channels = if shape.len() == 4 && self.shape.len() >= 2 && shape[1] == self.shape[1] {
            self.channels_stored
        } else {
            0
        };
        // Elements in order can be divided anew in any way.
        let numel = |shape: &[usize]| shape.iter().product::<usize>();
        if self.is_dense() && numel(&self.shape) == numel(shape) {
            let strides = dense(shape);
            return Some(View {
                shape: shape.to_vec(),
                strides,
                channels_stored: channels,
                ..self.clone()
            });
        }
        let factors = refine(&self.shape, shape)?;
        let strides = split(&self.shape, &self.strides, &factors);
        let merged = merge(shape, &factors, &strides)?;
        Some(View {
            shape: shape.to_vec(),
            strides: merged,
            channels_stored: channels,
            ..self.clone()
        })
    }
}

/// The extents of the coarsest box that both shapes are merges of, or `None` when there is
/// none (a boundary of one shape cuts an axis of the other unevenly).
pub fn refine(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    if a.iter().product::<usize>() != b.iter().product::<usize>() || a.contains(&0) {
        return None;
    }
    let (mut i, mut j) = (0, 0);
    let (mut left_a, mut left_b) = (1, 1);
    let mut out = Vec::new();
    loop {
        while left_a == 1 && i < a.len() {
            left_a = a[i];
            i += 1;
        }
        while left_b == 1 && j < b.len() {
            left_b = b[j];
            j += 1;
        }
        if left_a == 1 && left_b == 1 {
            return Some(out);
        }
        let (small, large) = (left_a.min(left_b), left_a.max(left_b));
        // The factor is the inner part here or there: outermost first, take what both share.
        if small == 1 || large % small != 0 {
            return None;
        }
        out.push(small);
        left_a /= small;
        left_b /= small;
    }
}

/// Strides of each factor, outermost first, of axes that are products of the factors.
pub fn split(shape: &[usize], strides: &[i64], factors: &[usize]) -> Vec<i64> {
    let mut out = vec![0; factors.len()];
    let mut f = factors.len();
    for axis in (0..shape.len()).rev() {
        let mut covered = 1;
        while covered < shape[axis] {
            f -= 1;
            out[f] = strides[axis] * covered as i64;
            covered *= factors[f];
        }
    }
    out
}

/// Strides of axes that are products of the factors, or `None` where neighbours do not merge.
fn merge(shape: &[usize], factors: &[usize], strides: &[i64]) -> Option<Vec<i64>> {
    let mut out = vec![0; shape.len()];
    let mut f = factors.len();
    for axis in (0..shape.len()).rev() {
        let (mut covered, mut inner) = (1, None);
        while covered < shape[axis] {
            f -= 1;
            match inner {
                None => inner = Some(strides[f]),
                Some(first) if strides[f] == first * covered as i64 => {}
                Some(_) => return None,
            }
            covered *= factors[f];
        }
        out[axis] = inner.unwrap_or(0);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(c: usize, h: usize, w: usize, pitch: usize) -> View {
        let shape = vec![1, c, h, w];
        View {
            buffer: BufferId(0),
            dtype: DType::F16,
            offset: 0,
            strides: channels_last(&shape, pitch),
            shape,
            channels_stored: pitch,
        }
    }

    #[test]
    fn space_to_depth_is_views_until_the_merge() {
        let x = picture(64, 26, 26, 64);
        assert_eq!(x.pixel_pitch(), Some(64));
        let split = x.reshaped(&[1, 64, 13, 2, 13, 2]).unwrap();
        assert_eq!(split.strides[1..], [1, 26 * 64 * 2, 26 * 64, 128, 64]);
        let t = split.transposed(&[0, 3, 5, 1, 2, 4]);
        assert!(t.reshaped(&[1, 256, 13, 13]).is_none());
        assert_eq!(refine(&t.shape, &[1, 256, 13, 13]), Some(vec![2, 2, 64, 13, 13]));
    }

    #[test]
    fn flattening_pixels_of_channels_last_is_a_view() {
        let x = picture(16, 4, 5, 16);
        let flat = x.reshaped(&[1, 16, 20]).unwrap();
        assert_eq!(flat.strides[1..], [1, 16]);
        assert!(x.reshaped(&[1, 320]).is_none());
        assert!(picture(16, 1, 1, 16).reshaped(&[1, 16]).unwrap().is_dense());
        let rows = View { shape: vec![6, 4], strides: vec![4, 1], ..x };
        assert_eq!(rows.reshaped(&[4, 6]).unwrap().strides, [6, 1]);
    }

    #[test]
    fn uneven_boundaries_do_not_refine() {
        assert_eq!(refine(&[6, 4], &[4, 6]), None);
        assert_eq!(refine(&[6, 4], &[3, 8]), Some(vec![3, 2, 4]));
        assert_eq!(refine(&[1, 1], &[1]), Some(vec![]));
    }

    #[test]
    fn channel_slices_keep_the_pitch() {
        let x = picture(64, 4, 4, 64);
        let part = x.sliced(&Slice {
            starts: vec![0, 32, 0, 0],
            steps: vec![1; 4],
            lens: vec![1, 32, 4, 4],
        });
        assert_eq!(part.pixel_pitch(), Some(64));
        assert_eq!((part.offset, part.channels_stored), (32, 32));
    }
}
