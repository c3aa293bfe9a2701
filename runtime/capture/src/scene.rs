//! The synthetic scene of `test://`: a wooden desk with things that move over it.
//!
//! Where a thing is depends on the frame's number and the frame's size only, so a test knows the
//! right boxes of every frame.

/// What a thing of the scene looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A red octagon with a white border and a white bar, like a stop sign.
    StopSign,
    /// A yellow disc, like a ball.
    Ball,
    /// A blue upright rectangle with a lighter band, like a can.
    Can,
    /// A green triangle with its point up.
    Triangle,
}

/// A thing in the scene and its box, in pixels; `right` and `bottom` are one past its last pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub shape: Shape,
    /// Its left edge.
    pub left: i32,
    /// Its upper edge.
    pub top: i32,
    /// One past its right edge.
    pub right: i32,
    /// One past its lower edge.
    pub bottom: i32,
}

/// The things of frame `number` in a scene of this size, in the order they are drawn: a later one
/// covers an earlier one. All lie wholly within the frame.
pub fn objects(width: u32, height: u32, number: u64) -> [Object; 4] {
    // Each goes to and fro at its own pace, across and down.
    let paths = [
        (Shape::Can, 5, 7, 131, 97, 40, 10),
        (Shape::Triangle, 6, 6, 173, 211, 90, 60),
        (Shape::Ball, 7, 7, 109, 61, 20, 25),
        (Shape::StopSign, 4, 4, 149, 127, 0, 90),
    ];
    let (w, h) = (width.max(1) as i32, height.max(1) as i32);
    let side = w.min(h);
    paths.map(|(shape, across, down, period_x, period_y, phase_x, phase_y)| {
        let size_x = (side / across).max(1);
        let size_y = if shape == Shape::Can { size_x * 2 } else { side / down }.clamp(1, h);
        let left = bounce(number, period_x, phase_x, w - size_x);
        let top = bounce(number, period_y, phase_y, h - size_y);
        Object { shape, left, top, right: left + size_x, bottom: top + size_y }
    })
}

/// A triangular wave from 0 to `reach` and back, in `2 * period` frames.
fn bounce(number: u64, period: u64, phase: u64, reach: i32) -> i32 {
    let at = (number.wrapping_add(phase)) % (2 * period);
    let up = if at < period { at } else { 2 * period - at };
    (up as i64 * i64::from(reach) / period as i64) as i32
}

/// The level of the desk's texture at a pixel, about -20..=20: grain along x, and specks.
pub(crate) fn grain(x: u32, y: u32) -> i32 {
    let hash = |mut v: u32| {
        v = (v ^ (v >> 16)).wrapping_mul(0x7feb_352d);
        v = (v ^ (v >> 15)).wrapping_mul(0x846c_a68b);
        v ^ (v >> 16)
    };
    let stripe = (hash(y / 3 + (x / 97) * 13) % 25) as i32 - 12;
    let speck =
        (hash(x.wrapping_mul(0x9e37).wrapping_add(y.wrapping_mul(0x79b9_7f4a))) % 17) as i32;
    stripe + speck - 8
}

/// The pixels, from..to, of a shape's row `y` counted from its top, and their colour; several
/// spans cover each other in order.
pub(crate) fn spans(object: &Object, y: i32) -> [(i32, i32, [u8; 3]); 3] {
    const NONE: (i32, i32, [u8; 3]) = (0, 0, [0; 3]);
    let (w, h) = (object.right - object.left, object.bottom - object.top);
    let (l, r) = (object.left, object.right);
    let inset = |by: i32| (l + by, r - by);
    match object.shape {
        Shape::StopSign => {
            let cut = |border: i32| {
                let corner = (h * 3 / 10).max(1);
                let from_edge = y.min(h - 1 - y) - border;
                match from_edge < 0 {
                    true => None,
                    false => Some((border + corner - from_edge - 1).max(border)),
                }
            };
            let border = (w / 16).max(1);
            let outer = cut(0).map_or((0, 0), inset);
            let inner = cut(border).map_or((0, 0), inset);
            let bar = y * 5 >= h * 2 && y * 5 < h * 3;
            let bar = if bar { inset(w / 5) } else { (0, 0) };
            [
                (outer.0, outer.1, [235, 235, 230]),
                (inner.0, inner.1, [190, 20, 30]),
                (bar.0, bar.1, [240, 240, 235]),
            ]
        }
        Shape::Ball => {
            let (from, to) = inset(round_cut(w, h, y));
            let third = (to - from) / 3;
            let light = y * 5 > h && y * 2 < h;
            let shine = if light { (from + third / 2, from + third) } else { (0, 0) };
            [(from, to, [225, 180, 30]), (shine.0, shine.1, [255, 240, 170]), NONE]
        }
        Shape::Can => {
            let band = y * 3 > h && y * 3 < h * 2;
            let band = if band { (l, r) } else { (0, 0) };
            [
                (l, r, [40, 70, 170]),
                (band.0, band.1, [190, 200, 220]),
                (r - w / 6, r, [25, 45, 110]),
            ]
        }
        Shape::Triangle => {
            let cut = (w / 2) * (h - 1 - y) / h.max(1);
            let (from, to) = inset(cut);
            [(from, to.max(from + 1), [50, 140, 60]), NONE, NONE]
        }
    }
}

/// How many pixels an ellipse of `w` x `h` leaves free at each end of its row `y`.
fn round_cut(w: i32, h: i32, y: i32) -> i32 {
    let down = f64::from(2 * y + 1 - h) / f64::from(h);
    let half = (1.0 - down * down).max(0.0).sqrt() * f64::from(w) / 2.0;
    ((f64::from(w) / 2.0 - half).round() as i32).min((w - 1) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_stay_within_and_move() {
        for (width, height) in [(640, 480), (1280, 720), (33, 17), (1, 1), (16384, 2)] {
            for number in (0..2000).chain([u64::MAX]) {
                for object in objects(width, height, number) {
                    assert!(object.left >= 0 && object.right <= width as i32, "{object:?}");
                    assert!(object.top >= 0 && object.bottom <= height as i32, "{object:?}");
                    assert!(object.left < object.right && object.top < object.bottom);
                    for y in 0..object.bottom - object.top {
                        for (from, to, _) in spans(&object, y) {
                            let outside = from < object.left || to > object.right;
                            assert!(from >= to || !outside, "{object:?} {y}");
                        }
                    }
                }
            }
        }
        assert_ne!(objects(640, 480, 0), objects(640, 480, 1));
    }
}
