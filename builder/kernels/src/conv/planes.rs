//! Floats as a network's inputs and outputs are: a first convolution reads them so, a last one stores
//! them so, and neither needs a copy.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::ConvLayer;
use crate::defines::Defines;
use crate::memory::each_index;
use crate::numbers::{Numbers, kind};
use crate::reference::{load_at, store};
use crate::{Family, Strided};

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

/// The source of what stores results so.
pub(crate) const STORE: &str = include_str!("../../cuda/planes.cuh");

/// `Y_PLANES`, and how far results are apart there.
pub(crate) fn define_results(y_planes: Option<[usize; 3]>, d: &mut Defines) {
    let [picture, filter, pixel] = y_planes.unwrap_or_default();
    d.all(&[
        ("Y_PLANES", usize::from(y_planes.is_some())),
        ("Y_STEP_N", picture),
        ("Y_STEP_C", filter),
        ("Y_STEP_P", pixel),
    ]);
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

    /// The layer storing floats of a type so far apart from picture to picture, filter to filter and
    /// pixel to pixel, where kernels can.
    pub fn with_y_planes(&self, dtype: DType, steps: [usize; 3]) -> Option<ConvLayer> {
        let floats = dtype.is_float() && matches!(self.y.dtype, DType::F16 | DType::F32);
        let fits = floats && !self.pooled && self.planes.is_none();
        fits.then(|| ConvLayer {
            y: Numbers::float(dtype),
            y_pitch: self.filters_stored,
            y_planes: Some(steps),
            ..self.clone()
        })
    }

    /// Bytes from the address of such results to behind the last one.
    pub(super) fn y_planes_bytes(&self, steps: [usize; 3]) -> usize {
        let [h, w] = self.output;
        let last = [self.batch, self.filters, h * w].map(|n| n - 1);
        let last: usize = last.iter().zip(steps).map(|(n, step)| n * step).sum();
        (last + 1) * self.y.dtype.size()
    }

    /// All results as pixels, then each to its place.
    pub(super) fn y_planes_reference(
        &self,
        (inputs, constants): (&[&[u8]], &[&[u8]]),
        steps: [usize; 3],
        y: &mut [u8],
    ) {
        let pixels = ConvLayer { y_planes: None, ..self.clone() };
        let mut results = vec![vec![0; pixels.extents().outputs[0]]];
        pixels.reference(inputs, constants, &mut results);
        let (size, [h, w]) = (self.y.dtype.size(), self.output);
        each_index(&[self.batch, self.filters, h * w], |i| {
            let to: usize = i.iter().zip(steps).map(|(n, step)| n * step).sum();
            let from = (i[0] * h * w + i[2]) * self.y_pitch + i[1];
            y[to * size..][..size].copy_from_slice(&results[0][from * size..][..size]);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{GENERATORS, POISON, Random};
    use crate::{Layer, PermuteLayer, Target};

    /// Layers of a generator.
    fn layers(of: &str) -> impl Iterator<Item = ConvLayer> {
        let (_, make) = GENERATORS.iter().find(|(name, _)| *name == of).unwrap();
        let mut random = Random::new(11);
        (0..40).map(move |_| match make(&mut random) {
            Layer::Conv(conv) => conv,
            other => panic!("{other:?}"),
        })
    }

    /// Memory of what a layer writes.
    fn fresh(layer: &Layer) -> Vec<Vec<u8>> {
        vec![vec![POISON; layer.extents().outputs[0]]]
    }

    fn slices(memory: &[Vec<u8>]) -> Vec<&[u8]> {
        memory.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn a_copy_and_a_convolution_of_pixels_give_the_same_bits() {
        for conv in layers("conv_planes") {
            let Some(planes) = conv.planes.clone() else { continue };
            let layer = Layer::Conv(conv.clone());
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
            let (inputs, constants) = (slices(&memory.inputs), slices(&memory.constants));
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
    fn results_in_planes_are_those_in_pixels_and_nothing_else_is_written() {
        for conv in layers("conv_planes").chain(layers("conv_planes_i8")) {
            let Some(steps) = conv.y_planes else { continue };
            let layer = Layer::Conv(conv.clone());
            let plain = ConvLayer { y_planes: None, y: Numbers::F32, ..conv.clone() };
            let memory = layer.random_memory(&mut Random::new(5));
            let (inputs, constants) = (slices(&memory.inputs), slices(&memory.constants));
            let plain = Layer::Conv(plain);
            let (mut got, mut pixels) = (fresh(&layer), fresh(&plain));
            layer.reference(&inputs, &constants, &mut got);
            plain.reference(&inputs, &constants, &mut pixels);
            let (size, [h, w]) = (conv.y.dtype.size(), conv.output);
            let mut want = fresh(&layer);
            for pixel in 0..conv.batch * h * w {
                for filter in 0..conv.filters {
                    let value = load_at(&pixels[0], DType::F32, pixel * conv.y_pitch + filter);
                    let parts = [pixel / (h * w), filter, pixel % (h * w)];
                    let at = (0..3).map(|i| parts[i] * steps[i]).sum();
                    assert_eq!(want[0][at * size..][..size], [POISON; 4][..size], "twice");
                    store(&mut want[0], conv.y.dtype, at, value);
                }
            }
            // Through f32 what is stored as f16 is rounded twice.
            let apart = |(a, b): (f64, f64)| (a - b).abs() > 1e-3 * (1.0 + b.abs());
            for i in 0..want[0].len() / size {
                let [g, n] = [&got, &want].map(|v| load_at(&v[0], conv.y.dtype, i));
                assert!(g.is_nan() == n.is_nan() && !apart((g, n)), "{layer:?}: {g} {n}");
            }
        }
    }

    #[test]
    fn every_gpu_has_kernels() {
        for conv in layers("conv_planes").chain(layers("conv_planes_i8")) {
            let layer = Layer::Conv(conv.clone());
            for sm in [72, 87, 90, 110] {
                let target = Target::of_sm(sm).unwrap();
                let candidates = layer.candidates(&target);
                assert!(!candidates.is_empty(), "sm_{sm}: {layer:?}");
                let first = |label: &str| label.starts_with("first") && label.ends_with("planes");
                let reads = conv.planes.is_some();
                assert!(sm < 80 || candidates.iter().all(|c| first(&c.label) == reads));
            }
            let Some(planes) = conv.planes else { continue };
            let wide = ConvLayer { kernel: [5, 5], planes: None, ..conv };
            assert_eq!(wide.with_planes(*planes), None);
        }
    }
}
