use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tobiuo_capture::AviWriter;
use tobiuo_capture::jpeg::Encoder;

use super::{Sink, StreamInfo, label_of, make_parent};
use crate::draw::Canvas;
use crate::pipeline::FrameResult;
use crate::{Error, ErrorKind};

/// JPEG quality of annotated pictures and video.
const QUALITY: u8 = 90;

/// A still picture is shown again for at most so many seconds where frames are missing.
const LONGEST_GAP: f64 = 10.0;

/// Draws detections on a copy of the frame.
#[derive(Default)]
pub(crate) struct Annotator {
    rgb: Vec<u8>,
    caption: String,
    labels: Vec<String>,
}

impl Annotator {
    pub fn start(&mut self, info: &StreamInfo<'_>) {
        self.labels = (0..info.classes).map(|i| label_of(info.labels, i)).collect();
        let longest = self.labels.iter().map(String::len).max().unwrap_or(0);
        self.caption.reserve(longest + 32);
    }

    /// The annotated frame, packed R, G, B.
    pub fn draw(&mut self, result: &FrameResult) -> &[u8] {
        result.to_rgb(&mut self.rgb);
        let format = result.format();
        let Some(mut canvas) = Canvas::new(&mut self.rgb, format.width, format.height) else {
            return &self.rgb;
        };
        let label = |class: u32| self.labels.get(class as usize).map_or("?", String::as_str);
        // The best last, so that its caption is on top.
        for d in result.detections().iter().rev() {
            self.caption.clear();
            let _ = write!(self.caption, "{} {:.2}", label(d.class), d.score);
            canvas.detection(d, &self.caption);
        }
        for (i, c) in result.classes().iter().enumerate() {
            self.caption.clear();
            let _ = write!(self.caption, "{} {:.3}", label(c.class), c.score);
            canvas.plate(4, 4 + 12 * i as i32, c.class, &self.caption);
        }
        &self.rgb
    }
}

/// A JPEG encoder that follows the size of the frames.
#[derive(Default)]
pub(crate) struct Jpeg {
    encoder: Option<(u32, u32, Encoder)>,
    bytes: Vec<u8>,
}

impl Jpeg {
    /// The picture as a JPEG; `path` is for errors.
    pub fn encode(
        &mut self,
        rgb: &[u8],
        width: u32,
        height: u32,
        path: &Path,
    ) -> Result<&[u8], Error> {
        let failed = |e| Error::caused(ErrorKind::Other, path.display(), e);
        let encoder = match &mut self.encoder {
            Some((w, h, encoder)) if (*w, *h) == (width, height) => encoder,
            other => {
                let made = Encoder::new(width, height, QUALITY).map_err(failed)?;
                &mut other.insert((width, height, made)).2
            }
        };
        encoder.encode(rgb, &mut self.bytes).map_err(failed)?;
        Ok(&self.bytes)
    }
}

/// An annotated video: Motion-JPEG in an AVI, or raw JPEGs one after the other.
///
/// Where frames were dropped the one before is shown again, so that the video keeps time.
pub struct Video {
    path: PathBuf,
    raw: bool,
    annotator: Annotator,
    jpeg: Jpeg,
    rate: f64,
    out: Option<Out>,
    /// Of the frames: width, height.
    size: (u32, u32),
    last: u64,
}

enum Out {
    Avi(AviWriter),
    Raw(File),
}

impl Video {
    /// A video file, made or replaced when the first frame comes: an AVI, or raw
    /// Motion-JPEG where the name ends in `.mjpg` or `.mjpeg`.
    pub fn new(path: impl AsRef<Path>) -> Result<Video, Error> {
        let path = path.as_ref().to_path_buf();
        let raw = !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("avi"));
        Ok(Video {
            path,
            raw,
            annotator: Annotator::default(),
            jpeg: Jpeg::default(),
            rate: 30.0,
            out: None,
            size: (0, 0),
            last: 0,
        })
    }

    fn create(&mut self, width: u32, height: u32) -> Result<Out, Error> {
        if self.raw {
            let file = File::create(&self.path);
            return Ok(Out::Raw(file.map_err(|e| Error::io(&self.path, "cannot create", e))?));
        }
        AviWriter::create(&self.path, width, height, self.rate)
            .map(Out::Avi)
            .map_err(|e| Error::new(ErrorKind::Other, e.to_string()))
    }

    fn put(&mut self, times: u64) -> Result<(), Error> {
        for _ in 0..times {
            match self.out.as_mut() {
                Some(Out::Avi(avi)) => avi
                    .write(&self.jpeg.bytes)
                    .map_err(|e| Error::new(ErrorKind::Other, e.to_string()))?,
                Some(Out::Raw(file)) => file
                    .write_all(&self.jpeg.bytes)
                    .map_err(|e| Error::io(&self.path, "cannot write", e))?,
                None => {}
            }
        }
        Ok(())
    }
}

impl Sink for Video {
    fn start(&mut self, info: &StreamInfo<'_>) -> Result<(), Error> {
        self.annotator.start(info);
        self.rate = info.frame_rate.unwrap_or(30.0);
        make_parent(&self.path)
    }

    fn write(&mut self, result: &FrameResult) -> Result<(), Error> {
        let (width, height) = (result.format().width, result.format().height);
        if self.out.is_none() {
            self.out = Some(self.create(width, height)?);
            self.size = (width, height);
        } else if self.size != (width, height) {
            let (w, h) = self.size;
            return Err(Error::usage(format!(
                "{}: a frame of {width}x{height} pixels in a video of {w}x{h}; write pictures \
                 instead, as in out_%i.jpg",
                self.path.display()
            )));
        } else {
            let missing = result.number().saturating_sub(self.last + 1);
            self.put(missing.min((self.rate * LONGEST_GAP) as u64))?;
        }
        self.last = result.number();
        let rgb = self.annotator.draw(result);
        self.jpeg.encode(rgb, width, height, &self.path)?;
        self.put(1)
    }

    fn finish(&mut self) -> Result<(), Error> {
        match self.out.take() {
            Some(Out::Avi(avi)) => {
                avi.finish().map_err(|e| Error::new(ErrorKind::Other, e.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}
