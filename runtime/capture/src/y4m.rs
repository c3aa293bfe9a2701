//! `.y4m`: YUV4MPEG2, 8 bits.
//!
//! Video-range 4:2:0 comes out as I420, 4:2:2 as YUYV and mono as grey, byte for byte. What has
//! no [`PixelFormat`] of its own (4:4:4, 4:1:1, full range, 4:2:2 of odd width) comes out as RGB,
//! with chroma repeated.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::{Pacer, monotonic_ns};
use crate::error::{CaptureError, CaptureErrorKind as Kind};
use crate::file::FileWindow;
use crate::format::{FrameFormat, FrameMeta, PixelFormat, Read};
use crate::{Source, SourceConfig};

/// The longest header line that is looked at.
const MAX_LINE: usize = 1024;

/// What the stream header tells.
#[derive(Debug, Clone, PartialEq)]
struct Header {
    width: u32,
    height: u32,
    rate: Option<f64>,
    /// How many pixels share a chroma sample, across and down; `None` without chroma.
    shared: Option<(u32, u32)>,
    full_range: bool,
    interlaced: bool,
    /// The shape of a pixel, when it is told and not square.
    aspect: Option<(u32, u32)>,
}

impl Header {
    /// Reads a header line without its end; the error is a reason.
    fn parse(line: &[u8]) -> Result<Self, (Kind, String)> {
        let damaged = |reason: &str| (Kind::Damaged, reason.to_owned());
        let line = str::from_utf8(line).map_err(|_| damaged("the header is not text"))?;
        let mut fields = line.split(' ').filter(|field| !field.is_empty());
        if fields.next() != Some("YUV4MPEG2") {
            return Err(damaged("no YUV4MPEG2 header"));
        }
        let mut header = Self {
            width: 0,
            height: 0,
            rate: None,
            shared: Some((2, 2)),
            full_range: false,
            interlaced: false,
            aspect: None,
        };
        for field in fields {
            let (name, value) = field.split_at_checked(1).unwrap_or((field, ""));
            let number = || value.parse().map_err(|_| damaged(&format!("bad field `{field}`")));
            match name {
                "W" => header.width = number()?,
                "H" => header.height = number()?,
                "F" => {
                    header.rate = ratio(value)
                        .map(|(count, time)| f64::from(count) / f64::from(time))
                        .filter(|rate| (0.001..=10_000.0).contains(rate));
                }
                "I" => header.interlaced = !matches!(value, "p" | "?" | ""),
                "A" => header.aspect = ratio(value).filter(|(across, down)| across != down),
                "C" => header.shared = chroma(value)?,
                "X" if value == "COLORRANGE=FULL" => header.full_range = true,
                _ => {}
            }
        }
        if header.width == 0 || header.height == 0 {
            return Err(damaged("the header tells no width or height"));
        }
        Ok(header)
    }

    /// How its frames are handed out.
    fn output(&self) -> PixelFormat {
        match self.shared {
            None => PixelFormat::Gray8,
            Some((2, 2)) if !self.full_range => PixelFormat::I420,
            Some((2, 1)) if !self.full_range && self.width.is_multiple_of(2) => PixelFormat::Yuyv,
            Some(_) => PixelFormat::Rgb8,
        }
    }

    /// The bytes of a frame in the file.
    fn frame_bytes(&self) -> usize {
        let (w, h) = (self.width as usize, self.height as usize);
        w * h + self.chroma_size().map_or(0, |(cw, ch)| 2 * cw * ch)
    }

    fn chroma_size(&self) -> Option<(usize, usize)> {
        let (across, down) = self.shared?;
        Some((self.width.div_ceil(across) as usize, self.height.div_ceil(down) as usize))
    }
}

fn ratio(text: &str) -> Option<(u32, u32)> {
    let (a, b) = text.split_once(':')?;
    let (a, b) = (a.parse().ok()?, b.parse().ok()?);
    (a > 0 && b > 0).then_some((a, b))
}

/// The sampling that a `C` field names.
fn chroma(value: &str) -> Result<Option<(u32, u32)>, (Kind, String)> {
    match value {
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => Ok(Some((2, 2))),
        "422" => Ok(Some((2, 1))),
        "444" => Ok(Some((1, 1))),
        "411" => Ok(Some((4, 1))),
        "mono" => Ok(None),
        _ => Err((Kind::Unsupported, format!("colours of the sort `C{value}`"))),
    }
}

/// A Y4M file.
pub(crate) struct Y4m {
    file: FileWindow,
    header: Header,
    format: FrameFormat,
    pacer: Option<Pacer>,
    rate: Option<f64>,
    /// A frame as it lies in the file, when it is not handed out so.
    planes: Vec<u8>,
    first: u64,
    at: u64,
    sequence: u64,
    loop_: bool,
    skip_damaged: bool,
}

impl Y4m {
    /// Opens a file.
    pub(crate) fn open(path: &Path, cfg: &SourceConfig) -> Result<Self, CaptureError> {
        let mut file = FileWindow::open(path)?;
        let bytes = file.at(0, MAX_LINE)?;
        let line = &bytes[..bytes.len().min(MAX_LINE)];
        let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
            return Err(file.damaged(0, "no YUV4MPEG2 header line"));
        };
        let header = Header::parse(&line[..end]).map_err(|(kind, reason)| {
            let error = file.damaged(0, reason).of_kind(kind);
            match kind {
                Kind::Unsupported => error.remedy(
                    "convert the file to 8-bit 4:2:0, for instance by ffmpeg -pix_fmt yuv420p",
                ),
                _ => error,
            }
        })?;
        let format = FrameFormat::new(header.output(), header.width, header.height);
        // The frame of the file, too, is within the limit on RGB ones.
        let limit = PixelFormat::Rgb8.frame_bytes(header.width, header.height);
        if format.frame_bytes().is_none() || limit.is_none() {
            return Err(file.damaged(0, format!("frames of {format} are too large")));
        }
        if header.interlaced {
            log::warn!("{}: interlaced; its frames are shown with both fields", file.name());
        }
        let direct = matches!(format.pixel, PixelFormat::I420 | PixelFormat::Gray8);
        let planes = vec![0; if direct { 0 } else { header.frame_bytes() }];
        let rate = cfg.rate.or(header.rate);
        let pacer = cfg.realtime.then(|| Pacer::new(rate.unwrap_or(30.0)));
        let first = end as u64 + 1;
        Ok(Self {
            file,
            header,
            format,
            pacer,
            rate,
            planes,
            first,
            at: first,
            sequence: 0,
            loop_: cfg.loop_,
            skip_damaged: cfg.skip_damaged,
        })
    }

    /// Reads the next frame into `slot`; false at the end of the file.
    fn next(&mut self, slot: &mut [u8]) -> Result<bool, CaptureError> {
        let start = self.at;
        if start >= self.file.length() {
            return Ok(false);
        }
        let line = self.file.at(start, MAX_LINE)?;
        let line = &line[..line.len().min(MAX_LINE)];
        let end = line.iter().position(|&byte| byte == b'\n');
        let Some(end) = end.filter(|_| line.starts_with(b"FRAME")) else {
            self.at = self.file.length(); // Nothing behind this can be found.
            return Err(self.file.damaged(start, "no FRAME header where one should be"));
        };
        let data = start + end as u64 + 1;
        let bytes = self.header.frame_bytes();
        if self.file.length() - data < bytes as u64 {
            self.at = self.file.length();
            let reason = format!("frame {} is cut short by the file's end", self.sequence);
            return Err(self.file.damaged(start, reason));
        }
        if self.planes.is_empty() {
            self.file.read(data, &mut slot[..bytes])?;
        } else {
            self.file.read(data, &mut self.planes)?;
            match self.format.pixel {
                PixelFormat::Yuyv => self.pack(slot),
                _ => self.convert(slot),
            }
        }
        self.at = data + bytes as u64;
        Ok(true)
    }

    /// The three planes of the frame just read.
    fn split(&self) -> [&[u8]; 3] {
        let luma = self.header.width as usize * self.header.height as usize;
        let (cw, ch) = self.header.chroma_size().unwrap_or_default();
        let (y, chroma) = self.planes.split_at(luma);
        let (cb, cr) = chroma.split_at(cw * ch);
        [y, cb, cr]
    }

    /// 4:2:2 planes to YUYV.
    fn pack(&self, slot: &mut [u8]) {
        let [y, cb, cr] = self.split();
        let pairs = y.chunks_exact(2).zip(cb).zip(cr);
        for (out, ((y, cb), cr)) in slot.chunks_exact_mut(4).zip(pairs) {
            out.copy_from_slice(&[y[0], *cb, y[1], *cr]);
        }
    }

    /// Planes of any sampling to RGB, by BT.601.
    fn convert(&self, slot: &mut [u8]) {
        let [y, cb, cr] = self.split();
        let (across, down) = self.header.shared.unwrap_or((1, 1));
        let (across, down) = (across as usize, down as usize);
        let width = self.header.width as usize;
        let chroma_width = width.div_ceil(across);
        let full = self.header.full_range;
        for (row, (y, out)) in
            y.chunks_exact(width).zip(slot.chunks_exact_mut(width * 3)).enumerate()
        {
            let start = row / down * chroma_width;
            let (cb, cr) = (&cb[start..start + chroma_width], &cr[start..start + chroma_width]);
            for (x, (level, pixel)) in y.iter().zip(out.chunks_exact_mut(3)).enumerate() {
                pixel.copy_from_slice(&rgb(*level, cb[x / across], cr[x / across], full));
            }
        }
    }
}

/// BT.601 in 16-bit fixed point, of full or video range.
#[inline]
fn rgb(y: u8, cb: u8, cr: u8, full: bool) -> [u8; 3] {
    let (cb, cr) = (i32::from(cb) - 128, i32::from(cr) - 128);
    let (luma, red, green_b, green_r, blue) = if full {
        (i32::from(y) << 16, 91881, 22554, 46802, 116_130)
    } else {
        ((i32::from(y) - 16) * 76309, 104_597, 25675, 53279, 132_201)
    };
    [luma + red * cr, luma - green_b * cb - green_r * cr, luma + blue * cb]
        .map(|level| ((level + (1 << 15)) >> 16).clamp(0, 255) as u8)
}

impl Source for Y4m {
    fn describe(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(", {rate:.3} frames/s"));
        let aspect = self.header.aspect;
        let aspect = aspect.map_or(String::new(), |(w, h)| format!(", pixels {w}:{h}"));
        format!("{}: YUV4MPEG2, {}{rate}{aspect}", self.file.name(), self.format)
    }

    fn max_frame_bytes(&self) -> usize {
        self.format.frame_bytes().expect("checked when it was opened")
    }

    fn frame_rate(&self) -> Option<f64> {
        self.rate
    }

    fn is_live(&self) -> bool {
        false
    }

    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError> {
        let need = self.max_frame_bytes();
        if slot.len() < need {
            return Err(CaptureError::small_slot(self.file.name(), slot.len(), need));
        }
        if stop.load(Ordering::Relaxed) {
            return Err(CaptureError::stopped(self.file.name()));
        }
        loop {
            match self.next(slot) {
                Ok(true) => break,
                Ok(false) if self.loop_ && self.sequence > 0 => self.at = self.first,
                Ok(false) => return Ok(Read::End),
                Err(error) if self.skip_damaged => log::warn!("{error}; skipped"),
                Err(error) => return Err(error),
            }
        }
        let sequence = self.sequence;
        self.sequence += 1;
        let timestamp_ns = match &mut self.pacer {
            Some(pacer) => match pacer.wait(stop) {
                Some(due) => due,
                None => return Err(CaptureError::stopped(self.file.name())),
            },
            None => monotonic_ns(),
        };
        let format = self.format;
        Ok(Read::Frame(FrameMeta { format, sequence, timestamp_ns, dropped_before: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields() {
        let header = Header::parse(b"YUV4MPEG2 W352 H288 F30000:1001 It A128:117 C422 XYSCSS=422");
        let header = header.unwrap();
        assert_eq!((header.width, header.height), (352, 288));
        assert!((header.rate.unwrap() - 29.97).abs() < 0.001);
        assert!(header.interlaced);
        assert_eq!(header.aspect, Some((128, 117)));
        assert_eq!(header.output(), PixelFormat::Yuyv);
        let output = |line: &str| Header::parse(line.as_bytes()).map(|header| header.output());
        assert_eq!(output("YUV4MPEG2 W4 H4"), Ok(PixelFormat::I420));
        assert_eq!(output("YUV4MPEG2 W4 H4 Cmono"), Ok(PixelFormat::Gray8));
        assert_eq!(output("YUV4MPEG2 W4 H4 C444"), Ok(PixelFormat::Rgb8));
        assert_eq!(output("YUV4MPEG2 W5 H4 C422"), Ok(PixelFormat::Rgb8));
        assert_eq!(output("YUV4MPEG2 W4 H4 XCOLORRANGE=FULL"), Ok(PixelFormat::Rgb8));
        assert_eq!(output("YUV4MPEG2 W4 H4 C420p10").unwrap_err().0, Kind::Unsupported);
        for bad in ["YUV4MPEG2 W4", "YUV4MPEG2 Wx H4", "RIFF W4 H4", "YUV4MPEG2 W-4 H4", "", "é é"]
        {
            assert_eq!(output(bad).unwrap_err().0, Kind::Damaged, "{bad}");
        }
    }

    #[test]
    fn colours() {
        assert_eq!(rgb(16, 128, 128, false), [0, 0, 0]);
        assert_eq!(rgb(235, 128, 128, false), [255, 255, 255]);
        assert_eq!(rgb(81, 90, 240, false), [254, 0, 0]);
        assert_eq!(rgb(255, 128, 128, true), [255, 255, 255]);
    }
}
