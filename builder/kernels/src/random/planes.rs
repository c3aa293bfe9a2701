//! First convolutions that read floats as they were given.

use super::layers::{MOST_WORK, Window, conv_of, either};
use super::{Random, general, integers};
use crate::{Layer, Planes};

/// Floats of any strides in; f16 or integers out.
pub(super) fn conv(random: &mut Random) -> Layer {
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
