use std::io::Cursor;
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::files::Naming;
use super::video::{Annotator, Jpeg};
use super::{Sink, StreamInfo, write_file};
use crate::pipeline::FrameResult;
use crate::{Error, ErrorKind};

/// Annotated pictures, JPEG or PNG, one file per frame.
pub struct Pictures {
    naming: Naming,
    png: bool,
    /// Frames whose number is a multiple of it are written.
    every: u64,
    written: u64,
    annotator: Annotator,
    jpeg: Jpeg,
    bytes: Vec<u8>,
}

impl Pictures {
    /// JPEGs in a folder, named as the frames are, else by number.
    pub fn folder(folder: &str) -> Pictures {
        Self::with(Naming::Folder(folder.into(), "jpg"), false)
    }

    /// Files by a pattern with `%i` for the frame's number; PNG where it ends in `.png`.
    pub fn pattern(pattern: &str) -> Result<Pictures, Error> {
        let png = Path::new(pattern).extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
        Ok(Self::with(Naming::parse(pattern)?, png))
    }

    /// Writes only each `n`th frame.
    pub fn every(mut self, n: u64) -> Pictures {
        self.every = n.max(1);
        self
    }

    fn with(naming: Naming, png: bool) -> Pictures {
        Pictures {
            naming,
            png,
            every: 1,
            written: 0,
            annotator: Annotator::default(),
            jpeg: Jpeg::default(),
            bytes: Vec::new(),
        }
    }
}

impl Sink for Pictures {
    fn start(&mut self, info: &StreamInfo<'_>) -> Result<(), Error> {
        self.annotator.start(info);
        self.naming.prepare()
    }

    fn write(&mut self, result: &FrameResult) -> Result<(), Error> {
        if !result.number().is_multiple_of(self.every) {
            return Ok(());
        }
        let path = self.naming.path(result, self.written)?;
        let rgb = self.annotator.draw(result);
        let (width, height) = (result.format().width, result.format().height);
        if self.png {
            self.bytes.clear();
            PngEncoder::new(Cursor::new(&mut self.bytes))
                .write_image(rgb, width, height, ExtendedColorType::Rgb8)
                .map_err(|e| Error::caused(ErrorKind::Other, path.display(), e))?;
            write_file(&path, &self.bytes)?;
        } else {
            write_file(&path, self.jpeg.encode(rgb, width, height, &path)?)?;
        }
        self.written += 1;
        Ok(())
    }

    fn describe(&self) -> String {
        self.naming.describe(self.written)
    }
}
