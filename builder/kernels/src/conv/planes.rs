//! What a first convolution reads where that is not f16 pixels: floats as they were given.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::ConvLayer;
use crate::Strided;
use crate::defines::Defines;
use crate::memory::each_index;
use crate::numbers::kind;
use crate::reference::{load_at, store};

/// A picture of at most 4 channels with any strides, of f32 or f16: as a network's input comes,
/// in planes or not. Its elements are rounded to f16 when they are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planes {
    /// Channels that there are; the layer's others count as zero.
    pub channels: usize,
    /// Where the elements lie, over `[N, C, H, W]`.
    pub x: Strided,
}

impl Planes {
    pub(crate) fn dims(&self, layer: &ConvLayer) -> [usize; 4] {
        [layer.batch, self.channels, layer.input[0], layer.input[1]]
    }

    /// Bytes from the address to behind the last element.
    pub(super) fn bytes(&self, layer: &ConvLayer) -> usize {
        self.x.bytes(&self.dims(layer))
    }

    /// The f16 pixels that are read, 4 channels each.
    pub(super) fn pixels(&self, layer: &ConvLayer, memory: &[u8]) -> Vec<u8> {
        let [ih, iw] = layer.input;
        let mut out = vec![0; layer.batch * ih * iw * 8];
        each_index(&self.dims(layer), |i| {
            let pixel = (i[0] * ih + i[2]) * iw + i[3];
            let value = load_at(memory, self.x.dtype, self.x.at(i));
            store(&mut out, DType::F16, pixel * 4 + i[1], value);
        });
        out
    }
}

/// `PLANES`, and for kernels that read such pictures where the elements lie; without planes that of
/// pixels `pitch` elements apart.
pub(crate) fn define(
    planes: Option<&Planes>,
    (input, pitch): ([usize; 2], usize),
    d: &mut Defines,
) {
    let [ih, iw] = input;
    let pixels = [ih * iw * pitch, 1, iw * pitch, pitch].map(|s| s as i64);
    let strides = planes.map_or(&pixels[..], |p| &p.x.strides);
    for (axis, stride) in ["N", "C", "H", "W"].iter().zip(strides) {
        d.set(&format!("X_STEP_{axis}"), format_args!("({stride})"));
    }
    d.all(&[
        ("PLANES", usize::from(planes.is_some())),
        ("PLANE_KIND", planes.map_or(1, |p| kind(p.x.dtype))),
        ("PLANE_CHANNELS", planes.map_or(0, |p| p.channels)),
        ("X_OFFSET", planes.map_or(0, |p| p.x.offset)),
    ]);
}

impl ConvLayer {
    /// The layer reading such a picture instead of f16 pixels, where kernels can.
    pub fn with_planes(&self, planes: Planes) -> Option<ConvLayer> {
        let x = &planes.x;
        let kinds = matches!(x.dtype, DType::F32 | DType::F16) && x.strides.len() == 4;
        let channels = (1..=self.channels).contains(&planes.channels);
        // Kernels count elements in 32 bits, and have a row of blocks for each picture.
        let within = kinds
            && i32::try_from(planes.bytes(self)).is_ok()
            && [self.batch, self.output[0] / 2].iter().all(|&n| n < 1 << 16);
        (channels && within && self.is_first())
            .then(|| ConvLayer { planes: Some(Box::new(planes)), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{GENERATORS, POISON, Random};
    use crate::{Layer, PermuteLayer, Target};

    fn layers() -> impl Iterator<Item = (Layer, ConvLayer)> {
        let (_, make) = GENERATORS.iter().find(|(name, _)| *name == "conv_planes").unwrap();
        let mut random = Random::new(11);
        (0..20).map(move |_| {
            let layer = make(&mut random);
            let Layer::Conv(conv) = layer.clone() else { panic!("{layer:?}") };
            (layer, conv)
        })
    }

    #[test]
    fn a_copy_and_a_convolution_of_pixels_give_the_same_bits() {
        for (layer, conv) in layers() {
            let planes = conv.planes.clone().unwrap();
            let [ih, iw] = conv.input;
            let copy = Layer::Permute(PermuteLayer {
                from: planes.x.dtype,
                to: DType::F16,
                dims: vec![conv.batch, 4, ih, iw],
                x_offset: planes.x.offset,
                x_strides: planes.x.strides.clone(),
                y_strides: [ih * iw * 4, 1, iw * 4, 4].map(|s| s as i64).to_vec(),
                valid: Some((1, planes.channels)),
            });
            let memory = layer.random_memory(&mut Random::new(5));
            let inputs: Vec<&[u8]> = memory.inputs.iter().map(Vec::as_slice).collect();
            let constants: Vec<&[u8]> = memory.constants.iter().map(Vec::as_slice).collect();
            let fresh = |layer: &Layer| vec![vec![POISON; layer.extents().outputs[0]]];
            let (mut got, mut pixels) = (fresh(&layer), fresh(&copy));
            layer.reference(&inputs, &constants, &mut got);
            copy.reference(&inputs, &[], &mut pixels);
            let plain = Layer::Conv(ConvLayer { planes: None, ..conv });
            let mut want = fresh(&plain);
            plain.reference(&[&pixels[0]], &constants, &mut want);
            assert!(got == want, "{layer:?}");
        }
    }

    #[test]
    fn every_gpu_has_kernels_and_they_take_no_more_than_a_block_may() {
        for (layer, conv) in layers() {
            for sm in [72, 87, 90, 110] {
                let target = Target::of_sm(sm).unwrap();
                let candidates = layer.candidates(&target);
                assert!(!candidates.is_empty(), "sm_{sm}: {layer:?}");
                let first = |label: &str| label.starts_with("first") && label.ends_with("planes");
                assert!(sm < 80 || candidates.iter().all(|c| first(&c.label)));
            }
            let wide = ConvLayer { kernel: [5, 5], planes: None, ..conv.clone() };
            assert_eq!(wide.with_planes(*conv.planes.unwrap()), None);
        }
    }
}
