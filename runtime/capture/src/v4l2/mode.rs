//! What cameras offer, and which of it to take.

use std::fmt;

use crate::format::PixelFormat;

/// A V4L2 pixel format's four characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FourCc(pub(super) [u8; 4]);

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(String::from_utf8_lossy(&self.0).trim_end())
    }
}

/// How frames of a format are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// As they are.
    Raw(PixelFormat),
    /// Each a JPEG, decoded to RGB.
    Jpeg,
}

impl FourCc {
    /// How its frames are taken; `None` when they cannot be.
    pub(super) fn coding(self) -> Option<Coding> {
        Some(match &self.0 {
            b"YUYV" => Coding::Raw(PixelFormat::Yuyv),
            b"UYVY" => Coding::Raw(PixelFormat::Uyvy),
            b"NV12" => Coding::Raw(PixelFormat::Nv12),
            b"YU12" => Coding::Raw(PixelFormat::I420),
            b"RGB3" => Coding::Raw(PixelFormat::Rgb8),
            b"BGR3" => Coding::Raw(PixelFormat::Bgr8),
            b"GREY" => Coding::Raw(PixelFormat::Gray8),
            b"MJPG" | b"JPEG" => Coding::Jpeg,
            _ => return None,
        })
    }

    /// Whether it is a sensor's raw mosaic, which needs an image processor first.
    pub(super) fn is_bayer(self) -> bool {
        let (order, depth) = (&self.0[..2], &self.0[2..]);
        matches!(&self.0, b"BA81" | b"GBRG" | b"GRBG" | b"RGGB" | b"BYR2")
            || (matches!(order, b"BG" | b"GB" | b"BA" | b"GR" | b"RG")
                && matches!(depth, b"10" | b"12" | b"14" | b"16"))
            || (matches!(order, b"pB" | b"pG" | b"pg" | b"pR")
                && matches!(depth, b"AA" | b"CC" | b"EE"))
    }

    /// Which raw format to take when several are as good: the earlier the better.
    fn rank(self) -> u32 {
        match &self.0 {
            b"YUYV" => 0,
            b"UYVY" => 1,
            b"NV12" => 2,
            b"YU12" => 3,
            b"RGB3" => 4,
            b"BGR3" => 5,
            _ => 6,
        }
    }
}

/// A format and size that a camera offers, with its rates in frames a second, the highest first;
/// none when the driver does not tell.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mode {
    pub(super) fourcc: FourCc,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rates: Vec<f64>,
}

impl Mode {
    /// Whether it can give `rate`; a driver that does not tell is believed to.
    fn reaches(&self, rate: f64) -> bool {
        self.rates.first().is_none_or(|&most| most > rate * 0.98)
    }
}

/// Chooses among `modes` for frames of `width` x `height` pixels, `rate` a second.
///
/// The closest size goes first. Within it: raw colour frames that come fast enough, then JPEGs
/// that do (cameras send large raw frames slowly: 1080p YUYV is 5 a second over USB 2), then grey
/// ones, then whatever is fastest.
pub(super) fn choose(modes: &[Mode], width: u32, height: u32, rate: f64) -> Option<&Mode> {
    modes.iter().filter(|mode| mode.fourcc.coding().is_some()).min_by_key(|mode| {
        let distance = mode.width.abs_diff(width) as u64 + mode.height.abs_diff(height) as u64;
        // Of two sizes as far away, the larger: it can be shrunk.
        let smaller = (mode.width as u64 * mode.height as u64) < width as u64 * height as u64;
        let kind = match mode.fourcc.coding() {
            Some(Coding::Raw(PixelFormat::Gray8)) => 2,
            Some(Coding::Raw(_)) => 0,
            _ => 1,
        };
        let most = mode.rates.first().copied().unwrap_or(rate);
        let slowness = match mode.reaches(rate) {
            true => 0,
            false => 1 + (1e9 / most.max(1e-3)) as u64,
        };
        (distance, smaller, slowness, kind, mode.fourcc.rank())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(fourcc: &[u8; 4], width: u32, height: u32, rates: &[f64]) -> Mode {
        Mode { fourcc: FourCc(*fourcc), width, height, rates: rates.to_vec() }
    }

    fn chosen(modes: &[Mode], width: u32, height: u32, rate: f64) -> String {
        choose(modes, width, height, rate)
            .map_or("none".into(), |mode| format!("{} {}x{}", mode.fourcc, mode.width, mode.height))
    }

    /// A common USB 2 camera.
    fn usb() -> Vec<Mode> {
        vec![
            mode(b"MJPG", 1920, 1080, &[30.0]),
            mode(b"MJPG", 640, 480, &[60.0, 30.0]),
            mode(b"YUYV", 640, 480, &[30.0, 15.0]),
            mode(b"YUYV", 1280, 720, &[10.0]),
            mode(b"YUYV", 1920, 1080, &[5.0]),
            mode(b"MJPG", 1280, 720, &[30.0]),
            mode(b"H264", 640, 480, &[30.0]),
        ]
    }

    #[test]
    fn raw_when_fast_enough_else_jpeg() {
        assert_eq!(chosen(&usb(), 640, 480, 30.0), "YUYV 640x480");
        assert_eq!(chosen(&usb(), 640, 480, 60.0), "MJPG 640x480");
        assert_eq!(chosen(&usb(), 1920, 1080, 30.0), "MJPG 1920x1080");
        assert_eq!(chosen(&usb(), 1920, 1080, 5.0), "YUYV 1920x1080");
        assert_eq!(chosen(&usb(), 1280, 720, 120.0), "MJPG 1280x720");
    }

    #[test]
    fn the_closest_size_and_a_larger_one_of_two() {
        assert_eq!(chosen(&usb(), 800, 600, 30.0), "YUYV 640x480");
        let two = [mode(b"YUYV", 600, 440, &[]), mode(b"YUYV", 680, 520, &[])];
        assert_eq!(chosen(&two, 640, 480, 30.0), "YUYV 680x520");
    }

    #[test]
    fn grey_only_when_there_is_no_colour() {
        let modes = [mode(b"GREY", 640, 480, &[]), mode(b"MJPG", 640, 480, &[30.0])];
        assert_eq!(chosen(&modes, 640, 480, 30.0), "MJPG 640x480");
        assert_eq!(chosen(&modes[..1], 640, 480, 30.0), "GREY 640x480");
        assert_eq!(chosen(&[mode(b"RG10", 640, 480, &[])], 640, 480, 30.0), "none");
    }

    #[test]
    fn mosaics_are_known() {
        for bayer in [b"BA81", b"RGGB", b"RG10", b"BG12", b"pRAA", b"GB16", b"BYR2", b"RG12"] {
            assert!(FourCc(*bayer).is_bayer(), "{}", FourCc(*bayer));
        }
        for other in [b"YUYV", b"RGB3", b"BGR3", b"GREY", b"MJPG", b"NV12", b"H264"] {
            assert!(!FourCc(*other).is_bayer(), "{}", FourCc(*other));
        }
    }
}
