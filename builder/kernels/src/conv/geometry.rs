//! Which tiles a convolution can take, and how many it takes of them.

use super::ConvLayer;
use super::tiles::Tile;
use crate::defines::ceil_div;

impl ConvLayer {
    /// False for a tile that wastes what a smaller one does not, or that the layer cannot use.
    pub(super) fn fits(&self, t: &Tile) -> bool {
        let wide = t.bn > 16 && t.bn / 2 >= self.filters.next_multiple_of(8);
        let least = if t.wgmma { 64 } else { 16 };
        let tall = t.bm > least && t.bm / 2 >= self.pixels();
        let short = t.wgmma && self.pixels() < 24;
        if wide || tall || short {
            return false;
        }
        // Windows lie within a tile.
        if self.pooled && (self.residual_pitch.is_some() || matches!(t.halo, Some([0, _]))) {
            return false;
        }
        let Some([height, width]) = t.halo else { return true };
        let taps = self.kernel[0] * self.kernel[1];
        // A patch is overwritten a whole round of taps after its last use.
        let ahead = t.stages - if t.wgmma { 2 } else { 1 };
        let [oh, ow] = self.output;
        let tiled = (height == 0 || 2 * oh > height) && (width == 0 || 2 * ow > width);
        // Rows of a patch hold all channels where a tile has such rows, or else 128 bytes of them.
        let depth = self.row(t);
        let rows = if t.row() < 128 {
            self.channels <= depth
        } else {
            2 * self.channels > depth || !self.integer()
        };
        self.strides == [1, 1]
            && self.channels.is_multiple_of(8)
            && self.channels >= 16
            && rows
            && taps > ahead
            && tiled
            && self.patch(t).0 <= 4 * t.bm
    }

    /// Steps through K.
    pub(super) fn steps(&self, t: &Tile) -> usize {
        let taps = self.kernel[0] * self.kernel[1];
        match t.halo {
            Some(_) => ceil_div(self.channels, self.row(t)) * taps,
            None => ceil_div(taps * self.channels, self.row(t)),
        }
    }

    /// Rows of a patch, and how many patches there are.
    pub(super) fn patch(&self, t: &Tile) -> (usize, usize) {
        let reach = |i: usize| (self.kernel[i] - 1) * self.dilations[i];
        let rows = match t.halo {
            None => return (0, 0),
            Some([0, _]) => t.bm + reach(0) * self.padded_width() + reach(1),
            Some([h, w]) => (h + reach(0)) * (w + reach(1)),
        };
        (rows, if self.channels > self.row(t) { 2 } else { 1 })
    }

    /// Pixels from one row of the padded picture to the next: rows share their padding.
    fn padded_width(&self) -> usize {
        let ([_, width], [_, left]) = (self.input, self.pads);
        let reach = (self.kernel[1] - 1) * self.dilations[1];
        let right = (self.output[1] + reach).saturating_sub(width + left);
        (width + left.max(right)).max(self.output[1])
    }

    /// Tiles over all pixels.
    pub(super) fn tiles_down(&self, t: &Tile) -> usize {
        let [oh, ow] = self.output;
        let reach = |i: usize| (self.kernel[i] - 1) * self.dilations[i];
        match t.halo {
            None => ceil_div(self.pixels(), t.bm),
            Some([0, _]) => {
                let width = self.padded_width();
                let rows = (self.batch - 1) * (oh + reach(0)) * width + (oh - 1) * width + ow;
                ceil_div(rows, t.bm)
            }
            Some([h, w]) => self.batch * ceil_div(oh, h) * ceil_div(ow, w),
        }
    }
}
