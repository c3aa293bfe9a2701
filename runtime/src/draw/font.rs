//! A 5x8 bitmap font for ASCII, drawn in `font.txt`: twelve bands of eight glyphs, from the
//! space on; the last one is the box that stands for everything else.

/// Glyph width, pixels, without the gap to the next.
pub(crate) const WIDTH: usize = 5;
/// Glyph height, pixels, without the gap to the next line.
pub(crate) const HEIGHT: usize = 8;

/// Columns of a line of `font.txt`, with its end.
const LINE: usize = 8 * (WIDTH + 1);
/// Bytes of a band with the empty line after it.
const BAND: usize = LINE * HEIGHT + 1;

/// Per glyph, per row, bit `x` set where there is ink.
static GLYPHS: [[u8; HEIGHT]; 96] = parse(include_bytes!("font.txt"));

const fn parse(art: &[u8]) -> [[u8; HEIGHT]; 96] {
    let mut glyphs = [[0; HEIGHT]; 96];
    let mut glyph = 0;
    while glyph < 96 {
        let mut y = 0;
        while y < HEIGHT {
            let mut x = 0;
            while x < WIDTH {
                let at = (glyph / 8) * BAND + y * LINE + (glyph % 8) * (WIDTH + 1) + x;
                match art[at] {
                    b'#' => glyphs[glyph][y] |= 1 << x,
                    b'.' => {}
                    _ => panic!("font.txt: neither # nor ."),
                }
                x += 1;
            }
            y += 1;
        }
        glyph += 1;
    }
    glyphs
}

/// The rows of a character, a box for what is not printable ASCII.
pub(crate) fn glyph(c: char) -> &'static [u8; HEIGHT] {
    let index = match c {
        ' '..='~' => c as usize - ' ' as usize,
        _ => 95,
    };
    &GLYPHS[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_glyph_is_its_own() {
        for (i, glyph) in GLYPHS.iter().enumerate() {
            let ink: u32 = glyph.iter().map(|r| r.count_ones()).sum();
            assert!((i == 0) == (ink == 0), "glyph {i}");
            assert_eq!(GLYPHS.iter().position(|g| g == glyph), Some(i));
        }
    }

    #[test]
    fn rows_run_from_the_left() {
        assert_eq!(glyph('L')[0], 0b00001);
        assert_eq!(glyph('L')[6], 0b11111);
        assert_eq!(glyph('é'), glyph('\u{7f}'));
    }
}
