//! Functions of single bytes by their tables: `cuda/lookup.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::{INPUT, OUTPUT, per_thread};
use crate::memory::{each_index, rows};
use crate::numbers::kind;
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/lookup.cu");

/// `table[x]`, or for signed bytes `table[x + 128]`. Input: x. Constant: the table's 256 elements.
/// Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupLayer {
    /// `I8` or `U8`.
    pub x: DType,
    /// The table's elements: `I8`, `U8`, `F16` or `F32`.
    pub y: DType,
    /// Pixels of all pictures.
    pub pixels: usize,
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Elements from one pixel of x to the next.
    pub x_pitch: usize,
    /// Elements from one pixel of y to the next.
    pub y_pitch: usize,
}

impl Family for LookupLayer {
    fn name(&self) -> &'static str {
        "lookup"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let work = self.pixels * (self.channels / 8);
        let bytes = (1 + self.y.size()) * self.channels * self.pixels;
        let arguments = [INPUT, Argument::Constant(0), OUTPUT];
        // The element type that the sources' helpers are made for.
        let dtype = DType::F16;
        per_thread(work, bytes, target, dtype, SOURCE, &arguments, |d| {
            d.all(&[
                ("PIXELS", self.pixels),
                ("C_STORED", self.channels),
                ("LDX", self.x_pitch),
                ("LDY", self.y_pitch),
                ("SIGNED", usize::from(self.x == DType::I8)),
                ("Y_KIND", kind(self.y)),
            ]);
        })
    }

    fn extents(&self) -> Extents {
        Extents {
            inputs: vec![rows(self.x, self.pixels, self.x_pitch, self.channels)],
            constants: vec![256 * self.y.size()],
            outputs: vec![rows(self.y, self.pixels, self.y_pitch, self.channels)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let size = self.y.size();
        let first = if self.x == DType::I8 { 128 } else { 0 };
        each_index(&[self.pixels, self.channels], |i| {
            let x = inputs[0][i[0] * self.x_pitch + i[1]].wrapping_add(first);
            let result = &constants[0][usize::from(x) * size..][..size];
            outputs[0][(i[0] * self.y_pitch + i[1]) * size..][..size].copy_from_slice(result);
        });
    }
}
