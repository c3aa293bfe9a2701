//! Windows over two spatial axes, as the references of the convolutions walk them.

/// Sizes of a convolution's spatial axes.
pub(crate) struct Windows {
    /// Input height and width.
    pub input: [usize; 2],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Steps down and across.
    pub strides: [usize; 2],
    /// Padding above and to the left.
    pub pads: [usize; 2],
    /// Dilation down and across.
    pub dilations: [usize; 2],
    /// A transposed convolution: strides and dilations step through the output.
    pub transposed: bool,
}

impl Windows {
    /// For an output row and column: each tap that falls on the picture (row-major in the
    /// kernel) and the input pixel there.
    pub fn taps(&self, row: usize, column: usize) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        for r in 0..self.kernel[0] {
            let Some(y) = self.source(0, row, r) else { continue };
            for s in 0..self.kernel[1] {
                let Some(x) = self.source(1, column, s) else { continue };
                out.push((r * self.kernel[1] + s, y * self.input[1] + x));
            }
        }
        out
    }

    fn source(&self, axis: usize, at: usize, tap: usize) -> Option<usize> {
        let (stride, dilation, pad) = (self.strides[axis], self.dilations[axis], self.pads[axis]);
        let i = if self.transposed {
            let scaled = (at + pad).checked_sub(tap * dilation)?;
            if !scaled.is_multiple_of(stride) {
                return None;
            }
            scaled / stride
        } else {
            (at * stride + tap * dilation).checked_sub(pad)?
        };
        (i < self.input[axis]).then_some(i)
    }
}
