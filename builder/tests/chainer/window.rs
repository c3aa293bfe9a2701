//! Windows over pictures, as Chainer defines them, in plain loops.

use serde_json::{Value, json};

/// An element of a picture `[C, H, W]`, or `outside` behind its edges.
pub fn at(x: &[f32], shape: [usize; 3], c: usize, y: i64, xx: i64, outside: f64) -> f64 {
    let [_, h, w] = shape;
    if y < 0 || xx < 0 || y >= h as i64 || xx >= w as i64 {
        return outside;
    }
    f64::from(x[(c * h + y as usize) * w + xx as usize])
}

/// A window's parameters, height first.
#[derive(Clone, Copy)]
pub struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 2],
    pub dilation: [usize; 2],
    pub cover_all: bool,
}

pub const UNIT: Window =
    Window { kernel: [3, 3], stride: [1, 1], pad: [0, 0], dilation: [1, 1], cover_all: false };

impl Window {
    pub fn out(&self, shape: [usize; 3], axis: usize) -> usize {
        let extent = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
        let reach = shape[1 + axis] + 2 * self.pad[axis] - extent;
        let more = if self.cover_all { self.stride[axis] - 1 } else { 0 };
        (reach + more) / self.stride[axis] + 1
    }

    /// Where a tap of a window lies.
    pub fn place(&self, axis: usize, window: usize, tap: usize) -> i64 {
        (window * self.stride[axis] + tap * self.dilation[axis]) as i64 - self.pad[axis] as i64
    }

    pub fn pooling(&self) -> Value {
        json!({
            "window_height": self.kernel[0], "window_width": self.kernel[1],
            "stride_y": self.stride[0], "stride_x": self.stride[1],
            "pad_h": self.pad[0], "pad_w": self.pad[1], "cover_all": self.cover_all,
        })
    }

    pub fn convolution(&self, n_out: usize, groups: usize) -> Value {
        json!({
            "kernel_h": self.kernel[0], "kernel_w": self.kernel[1],
            "stride_y": self.stride[0], "stride_x": self.stride[1],
            "pad_h": self.pad[0], "pad_w": self.pad[1],
            "dilation_y": self.dilation[0], "dilation_x": self.dilation[1],
            "cover_all": self.cover_all, "n_out": n_out, "groups": groups,
        })
    }

    /// Pooling by a fold over each window.
    pub fn pool(
        &self,
        x: &[f32],
        shape: [usize; 3],
        outside: f64,
        fold: fn(&[f64]) -> f64,
    ) -> Vec<f32> {
        let mut out = Vec::new();
        for c in 0..shape[0] {
            for y in 0..self.out(shape, 0) {
                for xx in 0..self.out(shape, 1) {
                    let mut taps = Vec::new();
                    for i in 0..self.kernel[0] {
                        for j in 0..self.kernel[1] {
                            let (y, xx) = (self.place(0, y, i), self.place(1, xx, j));
                            taps.push(at(x, shape, c, y, xx, outside));
                        }
                    }
                    out.push(fold(&taps) as f32);
                }
            }
        }
        out
    }
}
