//! Convolutions that read or store floats as a network's inputs and outputs are.

use super::layers::{MOST_WORK, Window, conv_of, either};
use super::{Random, general, integers, layers};
use crate::{ConvLayer, Layer, Numbers, Planes};

/// Of f16: first ones that read floats of any strides, and others that store them.
pub(super) fn floats(random: &mut Random) -> Layer {
    if random.once_in(2) {
        return first(random);
    }
    stored(random, layers::conv)
}

/// Of integers, which store floats.
pub(super) fn integers(random: &mut Random) -> Layer {
    stored(random, |random| {
        loop {
            match integers::conv(random) {
                Layer::Conv(conv) if conv.integer() => return Layer::Conv(conv),
                _ => {}
            }
        }
    })
}

fn first(random: &mut Random) -> Layer {
    loop {
        let mut w = Window::random(random, 4);
        w.dilations[1] = 1;
        let filters = random.from_to(1, 64);
        let mut layer = conv_of(random, &w, (4, 4), (filters, false));
        if random.once_in(3) {
            let y = integers::integer(random);
            layer.y = integers::numbers(random, y, 2.0);
            layer.y_pitch = layer.y_pitch.next_multiple_of(16);
            layer.activation = integers::activation(random);
            layer = layers::whole_results(layer);
        }
        let channels = random.from_to(1, 4);
        let dims = [layer.batch, channels, layer.input[0], layer.input[1]];
        let dtype = either(random);
        let x = general::strided(random, &dims, dtype, true);
        if let Some(layer) = layer.with_planes(Planes { channels, x })
            && w.macs(4 * layer.filters_stored) <= MOST_WORK
        {
            return Layer::Conv(layer);
        }
    }
}

/// A convolution's results so far apart that none lies on another.
pub(super) fn in_planes(random: &mut Random, conv: &ConvLayer) -> Option<ConvLayer> {
    let [h, w] = conv.output;
    let dtype = either(random);
    let to = general::strided(random, &[conv.batch, conv.filters, h * w], dtype, false);
    let steps = <[i64; 3]>::try_from(to.strides).ok()?.map(|step| step as usize);
    conv.with_y_planes(dtype, steps)
}

fn stored(random: &mut Random, make: impl Fn(&mut Random) -> Layer) -> Layer {
    loop {
        let Layer::Conv(conv) = make(random) else { continue };
        let conv = ConvLayer { pooled: false, y: Numbers::F16, ..conv };
        if let Some(conv) = in_planes(random, &conv) {
            return Layer::Conv(conv);
        }
    }
}
