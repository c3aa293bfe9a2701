//! Boxes and labels drawn on RGB pictures, without allocating.

mod font;

use crate::detect::Detection;

/// Colours of the classes, in turn: light enough for black text on every one.
const COLOURS: [[u8; 3]; 12] = [
    [255, 99, 71],
    [64, 200, 255],
    [144, 238, 100],
    [255, 200, 60],
    [230, 140, 255],
    [90, 230, 200],
    [255, 150, 190],
    [200, 210, 90],
    [150, 170, 255],
    [255, 165, 80],
    [180, 230, 230],
    [220, 190, 160],
];

/// The colour of a class, R, G, B.
pub fn class_colour(class: u32) -> [u8; 3] {
    COLOURS[class as usize % COLOURS.len()]
}

/// A picture of packed R, G, B bytes, row after row, that is drawn on.
#[derive(Debug)]
pub struct Canvas<'a> {
    pixels: &'a mut [u8],
    width: usize,
    height: usize,
}

impl<'a> Canvas<'a> {
    /// A canvas over `width * height * 3` bytes; `None` when there are fewer.
    pub fn new(pixels: &'a mut [u8], width: u32, height: u32) -> Option<Canvas<'a>> {
        let (width, height) = (width as usize, height as usize);
        let need = width.checked_mul(height)?.checked_mul(3)?;
        Some(Canvas { pixels: pixels.get_mut(..need)?, width, height })
    }

    /// Fills the part of `[left, right) x [top, bottom)` that lies on the canvas.
    pub fn fill(&mut self, left: i32, top: i32, right: i32, bottom: i32, colour: [u8; 3]) {
        let clip = |v: i32, end: usize| usize::try_from(v).unwrap_or(0).min(end);
        let (x0, x1) = (clip(left, self.width), clip(right, self.width));
        if x0 >= x1 {
            return;
        }
        for y in clip(top, self.height)..clip(bottom, self.height) {
            let row = &mut self.pixels[(y * self.width + x0) * 3..(y * self.width + x1) * 3];
            for p in row.as_chunks_mut::<3>().0 {
                *p = colour;
            }
        }
    }

    /// The outline of a box, drawn inwards from its edges, `thickness` pixels wide.
    pub fn outline(
        &mut self,
        [left, top, right, bottom]: [i32; 4],
        thickness: i32,
        colour: [u8; 3],
    ) {
        let t = thickness.min(right.saturating_sub(left)).min(bottom.saturating_sub(top));
        self.fill(left, top, right, top.saturating_add(t), colour);
        self.fill(left, bottom.saturating_sub(t), right, bottom, colour);
        self.fill(left, top, left.saturating_add(t), bottom, colour);
        self.fill(right.saturating_sub(t), top, right, bottom, colour);
    }

    /// Text with its top left corner at `(x, y)`; each dot of the font is `scale` pixels
    /// wide. A character is `6 * scale` pixels wide and `8 * scale` high.
    pub fn text(&mut self, x: i32, y: i32, scale: i32, colour: [u8; 3], text: &str) {
        let mut pen = x;
        for c in text.chars() {
            if pen >= self.width as i32 {
                break;
            }
            for (row, bits) in font::glyph(c).iter().enumerate() {
                for column in 0..font::WIDTH as i32 {
                    if bits >> column & 1 == 1 {
                        let left = pen + column * scale;
                        let top = y.saturating_add(row as i32 * scale);
                        self.fill(left, top, left + scale, top.saturating_add(scale), colour);
                    }
                }
            }
            pen += text_width(1, scale);
        }
    }

    /// A detection: its box and, above it (or in it, at the picture's upper edge), a plate
    /// with `caption`.
    pub fn detection(&mut self, detection: &Detection, caption: &str) {
        let d = detection;
        let edges = [d.left, d.top, d.right, d.bottom].map(|v| v.round() as i32);
        let [left, top, ..] = edges;
        self.outline(edges, 1 + self.scale(), class_colour(d.class));
        let height = 10 * self.scale();
        self.plate(left, if top >= height { top - height } else { top }, d.class, caption);
    }

    /// Black text on a plate in a class's colour, moved to lie on the picture sideways.
    pub fn plate(&mut self, x: i32, y: i32, class: u32, caption: &str) {
        let scale = self.scale();
        let (w, h) = (text_width(caption.chars().count(), scale) + scale, 10 * scale);
        let x = x.min(self.width as i32 - w).max(0);
        self.fill(x, y, x.saturating_add(w), y.saturating_add(h), class_colour(class));
        self.text(x + scale, y.saturating_add(scale), scale, [0, 0, 0], caption);
    }

    /// Pixels of a dot of the font: it grows with the picture, so that 4K frames stay readable.
    fn scale(&self) -> i32 {
        1 + self.height as i32 / 720
    }
}

/// The width of so many characters, pixels.
fn text_width(characters: usize, scale: i32) -> i32 {
    let one = (font::WIDTH as i32 + 1) * scale;
    i32::try_from(characters).unwrap_or(i32::MAX).saturating_mul(one).min(1 << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(width: usize, height: usize, f: impl Fn(&mut Canvas<'_>)) -> Vec<String> {
        let mut pixels = vec![0; width * height * 3];
        f(&mut Canvas::new(&mut pixels, width as u32, height as u32).unwrap());
        pixels
            .chunks(width * 3)
            .map(|row| row.chunks(3).map(|p| if p[0] > 0 { '#' } else { '.' }).collect())
            .collect()
    }

    #[test]
    fn an_outline_is_clipped() {
        let got = drawn(6, 5, |c| c.outline([1, 1, 5, 4], 1, [9, 9, 9]));
        assert_eq!(got, ["......", ".####.", ".#..#.", ".####.", "......"]);
        let got = drawn(6, 3, |c| c.outline([-2, -2, 3, 2], 1, [9, 9, 9]));
        assert_eq!(got, ["..#...", "###...", "......"]);
        drawn(4, 4, |c| c.outline([i32::MIN, i32::MIN, i32::MAX, i32::MAX], 3, [9, 9, 9]));
    }

    #[test]
    fn text_is_drawn_where_it_should_be() {
        let got = drawn(13, 9, |c| c.text(1, 1, 1, [1, 1, 1], "Ti"));
        assert_eq!(
            got,
            [
                ".............",
                ".#####...#...",
                "...#.........",
                "...#....##...",
                "...#.....#...",
                "...#.....#...",
                "...#.....#...",
                "...#....###..",
                ".............",
            ]
        );
    }

    #[test]
    fn detections_anywhere_do_not_panic() {
        for (left, top) in [(-50.0, -50.0), (0.0, 0.0), (35.0, 2.0), (500.0, 500.0)] {
            let d = Detection {
                class: 77,
                score: 0.5,
                left,
                top,
                right: left + 30.0,
                bottom: top + 20.0,
            };
            drawn(40, 30, |c| c.detection(&d, "a very long caption \u{1f600}"));
        }
    }

    #[test]
    fn a_canvas_needs_its_bytes() {
        assert!(Canvas::new(&mut [0; 11], 2, 2).is_none());
        assert!(Canvas::new(&mut [0; 12], u32::MAX, u32::MAX).is_none());
    }
}
